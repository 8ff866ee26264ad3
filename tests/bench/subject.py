"""The network that is measured, as our service has it and plain; pictures that no cache has seen."""

import io
import itertools
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import skimage.data
import torch
from PIL import Image, ImageEnhance
from torch import Tensor, nn

from service.app import build, close
from service.ask import Ask
from service.contract import Explanation, Facts
from service.engine.probe import ModelProbe
from service.engine.scheduler.run import Run
from service.explainers.base import Explainer
from service.images import decode, prepare, to_input
from service.models.catalogue import requested
from service.models.spec import ModelSpec
from service.settings import Settings
from tests import oracles

EMBEDDED = "efficientnet-lite0"
FACTORIES = {"tiny": ("tests.tiny:classifier", 32), "wide": ("tests.bench.subject:wide", 224)}
_numbers = itertools.count()


def wide(channels: int = 2048) -> nn.Module:
    """Return a quick network whose last feature map is as large as ResNet-50's, (2048, 7, 7)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = [nn.Conv2d(3, 16, 8, 8), nn.ReLU(), nn.Conv2d(16, channels, 4, 4), nn.ReLU()]
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10)).eval()


class Subject:
    """A network by name; `folder` keeps what a server in another process needs to load the same one."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder
        self.catalog: Path | None = None
        self.option = name
        if name in FACTORIES:
            factory, size = FACTORIES[name]
            self.catalog = folder / f"{name}.toml"
            self.catalog.write_text(f'[models.{name}]\nfactory = "{factory}"\ninput_size = {size}\n')
        elif name != EMBEDDED:
            # Random weights as they come give almost constant outputs; these depend on the picture. The server reads
            # them from a file, so that nothing of their making is in its memory.
            file = folder / f"{name}.safetensors"
            if not file.exists():
                (spec,) = requested((f"{name}=random",), None)[0].values()
                safetensors.torch.save_file(oracles.lively(spec.build().eval()).state_dict(), file)
            self.option = f"{name}={file}"
        self.spec: ModelSpec = requested((self.option,), self.catalog)[0][name]

    def settings(self, device: torch.device, **others: Any) -> Settings:
        """Return settings of a service of this one model."""
        # Measurements are made anew by every run of the benchmark, and then remembered for its other servers.
        kept = {"cache_dir": self.folder / "cache", "verify": False}
        return Settings(model=(self.option,), catalog=self.catalog, device=str(device), **kept, **others)

    def plain(self, device: torch.device) -> nn.Module:
        """Return a copy of the network for a peer alone, its parameters as they come."""
        return self.spec.build().eval().requires_grad_(True).to(device)

    def input(self, data: bytes) -> Tensor:
        """Return the input (1, 3, H, W) that our service makes of a picture."""
        decoded = decode(data, max_bytes=2**24, max_pixels=2**24)
        return to_input(prepare(decoded, self.spec.transform).seen, self.spec.transform)


@dataclass
class Ours:
    """Our service in this process, without HTTP."""

    subject: Subject
    context: Any
    runs: list[Run] = field(default_factory=list)

    @property
    def facts(self) -> Facts:
        """What the service knows of the network."""
        facts: Facts = self.context.store.get(None).facts
        return facts

    def explain(
        self, explainer: Explainer, x: Tensor, targets: Sequence[int] | None = None, precision: Any = None
    ) -> Explanation:
        """Explain a model input."""
        self.runs.append(Run())
        ask = Ask(explainer, targets=tuple(targets or ()), pictures=(b"",), precision=precision)
        plan = self.context.pipeline.plan(ask)
        probe = ModelProbe(plan.model, self.context.device, self.runs[-1], plan.precision)
        return explainer.explain(probe, x, plan.targets)

    def map_of(self, explainer: Explainer, target: int, precision: Any = None) -> Callable[[Tensor], Tensor]:
        """Return a contestant: the raw map of one target."""
        return lambda x: self.explain(explainer, x, [target], precision).maps[0].array


@contextmanager
def ours(subject: Subject, device: torch.device, **settings: Any) -> Iterator[Ours]:
    """Run a service in this process for as long as the block lasts."""
    context = build(subject.settings(device, **settings))
    try:
        context.store.start()
        settle(context)
        context.store.get(None)  # raises where it failed to load
        yield Ours(subject, context)
    finally:
        close(context)


def settle(context: Any) -> None:
    """Wait until models are loaded and the measurements that follow loading are over."""
    context.store.wait()
    if measuring := context.store.join(1800):
        raise RuntimeError(f"still at it after half an hour: {measuring}")


def picture() -> bytes:
    """Return another photograph each time: a random part, at a random brightness, as JPEG."""
    dice = random.Random(next(_numbers))
    whole = Image.fromarray(getattr(skimage.data, dice.choice(oracles.PHOTOGRAPHS))()[..., :3])
    width, height = (int(side * dice.uniform(0.7, 0.95)) for side in whole.size)
    left, top = dice.randrange(whole.width - width), dice.randrange(whole.height - height)
    part = whole.crop((left, top, left + width, top + height))
    buffer = io.BytesIO()
    ImageEnhance.Brightness(part).enhance(dice.uniform(0.7, 1.3)).save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def pictures(count: int) -> list[bytes]:
    """Return so many photographs, all different, also from those of earlier calls."""
    return [picture() for _ in range(count)]


def narrow_layer(facts: Facts, channels: int) -> str:
    """Return the last layer with spatial maps of at most so many channels."""
    plain = [info for info in facts.layers.values() if info.spatial and "#" not in info.path and "+" not in info.path]
    # Module containers and their last child are one tensor: any of their names will do.
    return [info for info in plain if info.shape[0] <= channels and info.shape[1] > 1][-1].path


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder that goes away again."""
    with tempfile.TemporaryDirectory(prefix="heatlens-bench-") as folder:
        yield Path(folder)
