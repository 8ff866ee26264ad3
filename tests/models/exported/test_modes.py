"""What was written down while it trained is told from what evaluates."""

import pytest
import torch
from torch import Tensor, nn

from service.errors import CatalogError
from service.models.exported.modes import trained
from service.models.networks.forms import served
from tests.models.exported.doubles import X, saved


class Drops(nn.Module):
    def __init__(self, drop: float = 0.0, *, own: bool = False) -> None:
        super().__init__()
        self.norm, self.drop = nn.BatchNorm2d(3, track_running_stats=not own), nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.norm(x)).mean((2, 3))


@pytest.mark.filterwarnings("ignore")  # that TorchScript is deprecated
@pytest.mark.parametrize("form", ["exported", "decomposed", "traced"])
def test_what_was_written_down_while_it_trained_is_known(form: str) -> None:
    def written(network: nn.Module) -> nn.Module:
        if form == "traced":
            return torch.jit.trace(network, X, check_trace=False)
        program = torch.export.export(network, (X,), dynamic_shapes=({0: torch.export.Dim("batch")},))
        return torch.export.unflatten(saved(program.run_decompositions() if form == "decomposed" else program))

    for name, network in {"norm": Drops().train(), "dropout": Drops(0.5, own=True).train()}.items():
        assert name in str(trained(written(network)))
        with pytest.raises(CatalogError, match=rf"while it trained \(\w*{name}.*; call network.eval\(\), and export"):
            served(written(network), "m")
    for network in (Drops(0.5).eval(), Drops(own=True).train(), Drops(own=True).eval()):
        assert trained(written(network)) is None


@pytest.mark.filterwarnings("ignore")  # that TorchScript is deprecated
def test_what_a_script_does_by_its_mode_is_no_fault() -> None:
    assert trained(torch.jit.script(Drops(0.5).train())) is None
    assert trained(Drops(0.5).train()) is None
