"""Networks of one and four channels, of other orders, ranges and shapes, held against one that takes plain RGB.

Each odd network is the plain one behind a layer that undoes the oddity: what is said of a picture has to be the same.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from service.answer import Needs
from service.app import build, close
from service.ask import Ask
from service.contract import Facts
from service.engine.scheduler.run import Run
from service.explainers.base import Explainer, registry
from service.settings import Settings
from tests import tiny
from tests.conftest import encoded, photograph
from tests.parity import few

LUMA = (0.299, 0.587, 0.114)
# Methods whose maps are on the scale of the input.
SCALED = (
    *("attn-lrp", "deconvnet", "filters", "full-grad", "gradient-x-input", "guided-backprop", "guided-grad-cam"),
    *("lrp", "saliency", "smooth-grad", "var-grad"),
)


class Behind(nn.Module):
    """The tiny classifier, behind what makes its input of another."""

    def __init__(self, undo: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.net, self.undo = tiny.classifier(), undo

    def forward(self, x: Tensor) -> Tensor:
        return self.net(self.undo(x))


def plain() -> nn.Module:
    return Behind(lambda x: x)


def grey() -> nn.Module:
    return Behind(lambda x: x.expand(-1, 3, -1, -1))


def grey_by_luma() -> nn.Module:
    """Takes RGB, and sees only its luma."""
    weights = torch.tensor(LUMA).view(3, 1, 1)
    return Behind(lambda x: (x * weights).sum(1, keepdim=True).expand(-1, 3, -1, -1))


def alpha() -> nn.Module:
    return Behind(lambda x: x[:, :3])


def opacity() -> nn.Module:
    """Sees the fourth channel alone."""
    return Behind(lambda x: x[:, 3:].expand(-1, 3, -1, -1))


def blue_first() -> nn.Module:
    return Behind(lambda x: x.flip(1))


def bytes_() -> nn.Module:
    return Behind(lambda x: x / 255)


def symmetric() -> nn.Module:
    return Behind(lambda x: (x + 1) / 2)


SAME = "input_size = 32\nmean = 0.0\nstd = 1.0\n"
ENTRIES = {
    "plain": ("plain", SAME),
    "grey": ("grey", SAME + "channels = 1\n"),
    "grey-by-luma": ("grey_by_luma", SAME),
    "alpha": ("alpha", SAME + "channels = 4\n"),
    "opacity": ("opacity", SAME + "channels = 4\n"),
    "blue-first": ("blue_first", SAME + "order = 'bgr'\n"),
    "bytes": ("bytes_", SAME + "range = [0, 255]\n"),
    "symmetric": ("symmetric", SAME + "range = [-1, 1]\n"),
    "squash": ("plain", SAME + "fit = 'squash'\n"),
    "pad": ("plain", SAME + "fit = 'pad'\n"),
    "wide": ("plain", "input_size = [32, 64]\nmean = 0.0\nstd = 1.0\n"),
    "window": ("plain", SAME + "window = [0, 4095]\n"),
}


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("inputs")
    text = "".join(
        f"[models.{n}]\nfactory = 'tests.models.test_inputs:{f}'\n{more}" for n, (f, more) in ENTRIES.items()
    )
    (folder / "catalog.toml").write_text(text)
    context = build(Settings(catalog=folder / "catalog.toml", device="cpu"))
    context.store.start()
    assert context.store.wait(300)
    assert not {name: entry.error for name, entry in context.store.entries.items() if entry.error}
    yield context
    close(context)


PICTURE = photograph("chelsea").resize((90, 60))


def outputs(context: Any, model: str, picture: bytes) -> Any:
    plan = context.pipeline.plan(Ask(None, model=model, pictures=(picture,), top_k=5))
    found = context.pipeline.work(plan, Run(), Needs()).predictions
    return np.array([prediction.logit for prediction in sorted(found, key=lambda prediction: prediction.index)])


def maps_of(context: Any, model: str, explainer: Explainer, targets: tuple[int, ...] = ()) -> Any:
    ask = Ask(explainer, model=model, pictures=(encoded(PICTURE),), targets=targets)
    needs = Needs(pictures="best", encode=lambda drawing: b"drawn")
    return context.pipeline.work(context.pipeline.plan(ask), Run(), needs).maps


@pytest.mark.parametrize(
    ("one", "other", "tolerance"),
    [
        ("blue-first", "plain", 1e-5),
        ("bytes", "plain", 1e-4),
        ("symmetric", "plain", 1e-4),
        ("alpha", "plain", 1e-5),
        ("grey", "grey-by-luma", 0.01),  # a grey picture has 256 levels
    ],
)
def test_same_outputs_and_maps(context: Any, one: str, other: str, tolerance: float) -> None:
    data = encoded(PICTURE)
    expected = outputs(context, other, data)
    assert np.ptp(expected) > 0.05
    np.testing.assert_allclose(outputs(context, one, data), expected, atol=tolerance * np.abs(expected).max())
    for name, cls in registry().items():
        explainer = _cheap(cls)
        facts = [context.store.get(model).facts for model in (one, other)]
        if not all(_applies(explainer, fact) for fact in facts):
            continue
        if name in SCALED and one not in ("blue-first", "alpha"):
            continue  # these are on the scale of the input
        if one == "grey" and (name in ("blur-ig", "deep-lift") or "segments" in cls.model_fields):
            continue  # superpixels follow colours; levels decide which of a blur's equal neighbours a pool takes
        if name == "saliency":
            explainer = cls()
        if name in ("smooth-grad", "var-grad", "guided-ig"):
            continue  # noise is drawn channel by channel; a share of all channels goes first, by rounding where alike
        targets = (1,) if cls.takes_targets else ()
        maps = [
            np.stack([shown.heat.array for shown in maps_of(context, model, explainer, targets)])
            for model in (one, other)
        ]
        np.testing.assert_allclose(*maps, atol=20 * tolerance * max(np.abs(maps[1]).max(), 1e-6), err_msg=name)


def _cheap(cls: type[Explainer]) -> Explainer:
    given: dict[str, Any] = {}
    if "window" in cls.model_fields:
        given |= {"window": 16, "stride": 16, "fill": "#3366cc"}
    given |= {name: value for name, value in few(cls).items() if name != "channels"}
    given |= {name: "#3366cc" for name in ("baseline", "hidden") if _takes_a_colour(cls, name)}
    return cls.model_validate(given)


def _takes_a_colour(cls: type[Explainer], name: str) -> bool:
    return name in cls.model_fields and cls.model_fields[name].annotation is str


def _applies(explainer: Explainer, facts: Facts) -> bool:
    try:
        explainer.require(facts)
    except Exception:
        return False
    return True


@pytest.mark.parametrize("model", ["grey", "alpha", "blue-first", "wide"])
def test_every_method_answers_or_says_why_not(context: Any, model: str) -> None:
    facts = context.store.get(model).facts
    for cls in registry().values():
        explainer = _cheap(cls)
        if not _applies(explainer, facts):
            continue
        for shown in maps_of(context, model, explainer):
            assert np.isfinite(shown.heat.array).all(), cls.name
            assert shown.picture == b"drawn", cls.name


def test_saliency_of_a_grey_network(context: Any) -> None:
    """Its gradient is the sum of those of the three channels that see the grey value."""
    from service.explainers.gradient.saliency import Saliency

    found = maps_of(context, "grey", Saliency(sign="signed", score="logit"), (1,))[0].heat.array
    picture = PICTURE.resize((48, 32), Image.Resampling.BILINEAR).crop((8, 0, 40, 32)).convert("L")
    x = torch.from_numpy(np.asarray(picture, np.float32) / 255)[None, None].requires_grad_()
    (expected,) = torch.autograd.grad(grey().eval()(x)[0, 1], x)
    np.testing.assert_allclose(found, expected[0, 0].numpy(), atol=2e-3 * float(expected.abs().max()))


def test_transparency_reaches_a_network_of_four_channels(context: Any) -> None:
    half = PICTURE.convert("RGBA")
    half.putalpha(128)
    clear, opaque, none = (outputs(context, "opacity", encoded(p)) for p in (half, PICTURE.convert("RGBA"), PICTURE))
    np.testing.assert_allclose(opaque, none, atol=1e-6)
    assert np.abs(clear - opaque).max() > 0.01
    network = opacity().eval()
    with torch.no_grad():
        expected = network(torch.full((1, 4, 32, 32), 128 / 255))[0].numpy()
    np.testing.assert_allclose(clear, expected, atol=1e-4)


def test_an_edge_is_seen_where_the_whole_picture_is(context: Any) -> None:
    """A 2:1 picture with a red edge: a crop never sees it."""
    white = Image.new("RGB", (400, 200), "white")
    edged = white.copy()
    edged.paste("red", (0, 0, 40, 200))
    change = {
        name: np.abs(outputs(context, name, encoded(edged)) - outputs(context, name, encoded(white))).max()
        for name in ("plain", "squash", "pad", "wide")
    }
    assert change["plain"] < 1e-6
    assert min(change["squash"], change["pad"], change["wide"]) > 1e-3


def test_pictures_of_12_bits_through_a_window(context: Any) -> None:
    values = np.linspace(0, 4095, 64 * 64).reshape(64, 64)
    deep = Image.fromarray(values.astype(np.uint16))
    eight = Image.fromarray(np.rint(values / 4095 * 255).astype(np.uint8))
    expected = outputs(context, "plain", encoded(eight))
    np.testing.assert_allclose(outputs(context, "window", encoded(deep)), expected, atol=0.02 * np.abs(expected).max())
    assert np.abs(outputs(context, "plain", encoded(deep)) - expected).max() > 0.01


def test_two_models_of_one_file_have_two_versions(context: Any) -> None:
    versions = {name: entry.model.version for name, entry in context.store.entries.items()}
    assert len(set(versions.values())) == len(versions)


def test_one_bad_entry_leaves_the_others_serving(tmp_path: Path) -> None:
    (tmp_path / "catalog.toml").write_text(
        f"[models.good]\nfactory = 'tests.models.nets:small'\n{SAME}"
        f"[models.typo]\nfactory = 'tests.models.nets:small'\ninputsize = 32\n"
        f"[models.gone]\nfactory = 'tests.models.nothing:small'\n{SAME}"
        f"[models.'a.b']\nfactory = 'tests.models.nets:small'\n{SAME}"
    )
    context = build(Settings(catalog=tmp_path / "catalog.toml", device="cpu"))
    try:
        context.store.start()
        assert context.store.wait(120)
        found = {name: (entry.status, entry.error) for name, entry in context.store.entries.items()}
    finally:
        close(context)
    assert {name: status for name, (status, _) in found.items()} == {
        "good": "ready",
        "typo": "failed",
        "gone": "failed",
        "a.b": "failed",
    }
    assert "models.typo.inputsize: unknown key; did you mean 'input_size'?" in str(found["typo"][1])
    assert "models.gone.factory: 'tests.models.nothing:small' cannot be imported" in str(found["gone"][1])
    assert "models.a.b: a model name consists of letters" in str(found["a.b"][1])
