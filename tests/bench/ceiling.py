"""What this machine can do at most: the same rows in a plain loop, in the fastest of all ways that there are."""

import copy
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from service.engine.network.runtimes.kinds import KINDS
from service.explainers.cam.masking.masks import min_max
from service.explainers.perturbation.occlusion import starts
from service.process import ALL_THREADS, use_threads
from tests import oracles
from tests.bench import beside
from tests.bench.measure import Options, synchronise
from tests.bench.subject import Subject, pictures

DTYPES: Mapping[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
_TIMES, _FINALISTS = 3, 4  # that each setting is timed, and settings that race for the ceiling


def folded(model: nn.Module, x: Tensor) -> nn.Module:
    """Fold batch norms into the convolutions that feed them, in place; found by following one forward's tensors."""
    names = {module: name for name, module in model.named_modules()}
    made: dict[int, nn.Module] = {}
    kept: list[Tensor] = []
    pairs: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = []

    def watch(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(module, nn.BatchNorm2d) and isinstance(made.get(id(inputs[0])), nn.Conv2d):
            pairs.append((made[id(inputs[0])], module))
        made[id(output)] = module
        kept.append(output)

    leaves = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.BatchNorm2d)]
    handles = [module.register_forward_hook(watch) for module in leaves]
    with torch.no_grad():
        before = model(x)
        for handle in handles:
            handle.remove()
        for conv, norm in pairs:
            for old, new in ((conv, fuse_conv_bn_eval(conv, norm)), (norm, nn.Identity())):
                parent, _, leaf = names[old].rpartition(".")
                setattr(model.get_submodule(parent), leaf, new)
        if oracles.relative_error(model(x).cpu(), before.cpu()) > 1e-3:
            raise RuntimeError("folding changed the network")
    return model


@dataclass
class Setting:
    """One way to send rows through the network, at one batch size."""

    name: str
    run: Callable[[Tensor], object]
    batch: int
    rate: float = 0.0  # rows/s, the best of those timed


class Ceiling:
    """The changed pictures of one picture in a plain loop, as fast as this machine does them.

    The best of rows a batch, memory formats, and batch norms folded, in float32 and in the precision that the server
    reports; and of the runtimes that are installed, in float32. Each is timed three times, the best one counting, and
    the best four race: one lucky time makes no ceiling.
    """

    def __init__(self, options: Options, subject: Subject, rows_of: str | tuple[int, int], dtype: str) -> None:
        """Find the best one.

        Args:
            options: of the benchmark.
            subject: the network.
            rows_of: a layer, whose maps mask the picture; or window and stride of squares that cover it.
            dtype: as `usage.dtype` has it.
        """
        self.device = options.device
        use_threads(ALL_THREADS)  # no device thread works in this process
        self.x = subject.input(pictures(1)[0]).to(self.device)
        plain = subject.plain(self.device).requires_grad_(False)
        self.rows = self._masked(plain, rows_of) if isinstance(rows_of, str) else self._occluded(*rows_of)
        batches = options.pick((8, 32), (8, 16, 32, 64) if self.device.type == "cpu" else (32, 64, 128, 256, 512))
        span = options.pick(16, 64)
        settings: list[Setting] = []
        self.problems: dict[str, str] = {}
        for name, run in self._ways(plain, dtype):
            for batch in batches:
                settings.append(Setting(f"{name} {batch}", run, batch))
                for _ in range(options.pick(1, _TIMES)):
                    settings[-1].rate = max(settings[-1].rate, self._rate(settings[-1], max(2 * batch, span)))
        self.tried = {one.name: one.rate for one in settings}
        self.beside = self._beside(plain, span)
        finalists = sorted(settings, key=lambda one: -one.rate)[:_FINALISTS]
        raced: dict[str, list[float]] = {one.name: [] for one in finalists}
        for one in finalists * _TIMES:
            raced[one.name].append(self._rate(one, 2 * span))
        self.setting = max(finalists, key=lambda one: statistics.median(raced[one.name]))
        self.best = self.setting.name

    def _ways(self, plain: nn.Module, dtype: str) -> Iterator[tuple[str, Callable[[Tensor], object]]]:
        """Yield what runs rows (N, C, H, W) in float32."""
        networks = {"plain": plain, "folded": folded(copy.deepcopy(plain), self.x)}
        formats = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}
        for kind, (name, network), (order, memory) in itertools.product(
            {"float32", dtype} & DTYPES.keys(), networks.items(), formats.items()
        ):
            candidate = copy.deepcopy(network).to(dtype=DTYPES[kind], memory_format=memory)

            def eager(rows: Tensor, to=DTYPES[kind], memory=memory, candidate=candidate) -> object:
                return candidate(rows.to(to).contiguous(memory_format=memory))

            yield f"{name} {order} {kind}", eager
        for library in KINDS:
            if self.device.type != "cpu" or not library.installed():
                self.problems[library.name] = "not installed"
                continue
            with tempfile.TemporaryDirectory() as folder:
                try:
                    library.export(copy.deepcopy(plain), self.x.repeat(2, 1, 1, 1), Path(folder))
                    run = library.open(Path(folder), ALL_THREADS)
                    run(self.x)
                except Exception as error:  # of a library: the ceiling is without it, and says so
                    self.problems[library.name] = f"{type(error).__name__}: {error}".partition("\n")[0]
                    continue
                yield f"{library.name} float32", run

    def _beside(self, plain: nn.Module, span: int) -> dict[str, float]:
        """Return the rate, rows/s, of what is told and not counted."""
        if self.device.type != "cpu" or not beside.installed():
            self.problems[beside.NAME] = "not installed"
            return {}
        with tempfile.TemporaryDirectory() as folder:
            try:
                run = beside.opened(copy.deepcopy(plain), self.x, Path(folder), torch.get_num_threads())
            except Exception as error:  # of the library: nothing is told of it, and why
                self.problems[beside.NAME] = f"{type(error).__name__}: {error}".partition("\n")[0]
                return {}
            setting = Setting(beside.NAME, run, 8)
            return {beside.NAME: max(self._rate(setting, span) for _ in range(_TIMES))}

    def _masked(self, plain: nn.Module, layer: str) -> Callable[[int, int], Tensor]:
        a = oracles.layer_output(plain, self.x, layer)[0]
        size = self.x.shape[2:]

        def rows(i: int, j: int) -> Tensor:
            masks = a[[k % len(a) for k in range(i, j)]]
            return self.x * min_max(F.interpolate(masks[:, None], size, mode="bilinear")[:, 0])[:, None]

        return rows

    def _occluded(self, window: int, stride: int) -> Callable[[int, int], Tensor]:
        places = list(itertools.product(starts(self.x.shape[2], window, stride), repeat=2))

        def rows(i: int, j: int) -> Tensor:
            built = self.x.repeat(j - i, 1, 1, 1)
            for row in range(i, j):
                y, x = places[row % len(places)]
                built[row - i, :, y : y + window, x : x + window] = 0
            return built

        return rows

    @torch.inference_mode()
    def _rate(self, setting: Setting, count: int) -> float:
        setting.run(self.rows(0, setting.batch))
        synchronise(self.device)
        started = time.perf_counter()
        for i in range(0, count, setting.batch):
            setting.run(self.rows(i, i + setting.batch))
        synchronise(self.device)
        return -(-count // setting.batch) * setting.batch / (time.perf_counter() - started)

    def measure(self, count: int) -> float:
        """Return the rows per second over `count` rows of the best loop."""
        return self._rate(self.setting, count)
