"""Networks in the forms that people hand over become plain modules that evaluate in float32."""

import copy
import subprocess
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from service.errors import CatalogError
from service.models.networks.forms import BlackBox, aside, served, unwrapped
from service.models.networks.lively import lively
from tests.models import nets

X = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def seeded(make: Any) -> Any:
    torch.manual_seed(0)
    return make()


@pytest.mark.parametrize(
    ("name", "wrapper"), [("parallel", "DataParallel"), ("swa", "AveragedModel"), ("compiled", "OptimizedModule")]
)
def test_what_training_put_around_is_taken_off(name: str, wrapper: str) -> None:
    network, said = served(seeded(getattr(nets, name)), "m")
    assert type(network) is nets.Small
    assert said == [f"{wrapper} around the network was taken off"]
    torch.testing.assert_close(network(X), seeded(nets.small).eval()(X))


def test_parts_are_unwrapped_too() -> None:
    network = unwrapped(nets.inside())
    assert [path for path, _ in network.named_modules()] == ["", "body", "body.0", "body.1", "head"]
    assert isinstance(network.head, nn.Linear)


def test_compiled_in_place_and_by_decoration_stay_eager() -> None:
    """Nothing is compiled while it is served: a compiler that is called fails here."""

    def compiler(graph: Any, inputs: Any) -> Any:
        raise AssertionError("compiled")

    in_place = seeded(nets.small)
    in_place.compile(backend=compiler)
    network, _ = served(in_place, "m")
    network(X)

    class Decorated(nets.Small):
        @torch.compile(backend=compiler)
        def features(self, x: torch.Tensor) -> torch.Tensor:
            return super().features(x)

    try:
        network, _ = served(seeded(Decorated), "m")
        torch.testing.assert_close(network(X), seeded(nets.small).eval()(X))
    finally:
        torch.compiler.set_stance("default")


@pytest.mark.parametrize(("name", "tolerance"), [("half", 0.01), ("bfloat16", 0.05), ("double", 1e-6)])
def test_other_precisions_become_float32(name: str, tolerance: float) -> None:
    network, said = served(seeded(getattr(nets, name)), "m")
    assert {value.dtype for value in network.state_dict().values()} == {torch.float32, torch.int64}
    assert len(said) == 1
    assert "in float32" in said[0]
    torch.testing.assert_close(network(X), seeded(nets.small).eval()(X), atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("name", ["scripted", "traced", "exported"])
def test_graphs_become_black_boxes(name: str) -> None:
    network, said = served(seeded(getattr(nets, name)), "m")
    assert isinstance(network, BlackBox)
    assert "only methods without layers apply" in said[0]
    assert [path for path, _ in network.named_modules()] == [""]
    expected = seeded(nets.small).eval()
    network.eval()
    network.requires_grad_(False)
    torch.testing.assert_close(network.to(torch.device("cpu"))(X), expected(X))
    assert network.state_dict().keys() >= expected.state_dict().keys()
    x = X.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(network(x)[:, 0].sum(), x)
    assert float(gradient.abs().sum()) > 0
    torch.testing.assert_close(copy.deepcopy(network)(X), expected(X))


@pytest.mark.parametrize("name", ["quantised", "static"])
def test_int8_is_served_as_it_is(name: str) -> None:
    network, said = served(seeded(getattr(nets, name)), "m")
    assert network(X).shape == (3, 3)
    assert said == []


def test_train_that_forgets_to_return() -> None:
    network, _ = served(seeded(nets.no_return), "m")
    torch.testing.assert_close(network(X), seeded(nets.small).eval()(X))


class Trains(nets.Small):
    """Has a training loop of its own under the name that evaluation mode is set by."""

    def train(self, loader: Any, epochs: int = 1) -> Any:
        return [batch for _ in range(epochs) for batch in loader]


class Evals(nets.Small):
    def eval(self, loader: Any) -> float:  # type: ignore[override]
        return 0.5


@pytest.mark.parametrize("made", [Trains, Evals])
def test_train_and_eval_of_another_meaning(made: Any) -> None:
    network, said = served(seeded(made), "m")
    torch.testing.assert_close(network(X), seeded(nets.small).eval()(X))
    assert said == ["its own train() or eval() raises TypeError: its modules are told to evaluate without it"]
    assert lively(network, X) is network


def test_eval_that_forgets() -> None:
    network, said = served(seeded(nets.forgets), "m")
    assert said == ["eval() left 8 modules in training mode (such as 'the network itself'); they evaluate now"]
    torch.testing.assert_close(network(X), seeded(nets.small).eval()(X))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("lazy", "the size of 2 lazy layers is not known yet .*run the network once on an input in its factory"),
        ("meta", "lie on the meta device and have no values; make it on the CPU, or name a weights file"),
        ("bag", r"returned a Bag, not an nn\.Module; its attribute 'model' is one: return that"),
        ("export", r"returned a ExportedProgram, not an nn\.Module; name its file as the source"),
        ("state", r"returned a OrderedDict, not an nn\.Module; it holds weights: .* their file as `weights`"),
    ],
)
def test_refusals_name_the_remedy(name: str, says: str) -> None:
    with pytest.raises(CatalogError, match=f"model 'm': .*{says}"):
        served(getattr(nets, name)(), "m")


def test_no_parameter_needs_a_gradient() -> None:
    network, _ = served(nets.small(), "m")
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_prints_stay_out_of_the_output() -> None:
    """Python's prints, and those of libraries that write to the file itself."""
    code = (
        "import os\nfrom service.models.networks.forms import aside\n"
        "with aside():\n    print('python'); os.write(1, b'library\\n')\nprint('answer')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "answer\n"
    assert sorted(done.stderr.split()) == ["library", "python"]


def test_aside_gives_output_back_after_an_error(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="x"), aside():
        raise ValueError("x")
    print("here")
    assert capfd.readouterr().out == "here\n"


def test_weights_made_in_inference_mode_let_gradients_pass() -> None:
    with torch.inference_mode():
        made = seeded(nets.small)
        made.conv2.bias = made.bn2.bias  # of two layers
    network, said = served(made, "m")
    assert said == ["weights that were made in inference mode are copied, so that gradients can pass by them"]
    assert network.conv2.bias is network.bn2.bias
    x = X.clone().requires_grad_()
    network(x).sum().backward()
    assert x.grad.any()
