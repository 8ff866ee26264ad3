"""Networks that are exported, and what rules make of them."""

import io
import warnings

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from service.contract import Relevance, Rescale, Rule, Rules, Share
from service.engine.network.rules import rule_mode
from service.models.networks.forms import served

X = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
RULES: dict[str, Rules] = {
    "lrp": Relevance(convolution=Share("alpha-beta"), positive=True),
    "deep-lift": Rescale(),
    "guided": Rule("guided"),
}


class Attends(nn.Module):
    """Tokens that attend, by hand or by the function, and a norm."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patches, self.norm, self.fc = nn.Conv2d(3, 8, 4, 4), nn.LayerNorm(8), nn.Linear(8, 5)
        self.fused = fused

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.patches(x).flatten(2).mT)
        x = F.scaled_dot_product_attention(x, x, x) if self.fused else (x @ x.mT).softmax(-1) @ x
        return self.fc(F.gelu(x).mean(1))


def tiny() -> nn.Module:
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 8, 3, padding="same")
    return nn.Sequential(conv, nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Sigmoid(), nn.Flatten()).eval()


def served_export(network: nn.Module, *, decomposed: bool = False) -> nn.Module:
    """Return a network as it is served from its export's file."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(network, (X,), dynamic_shapes=({0: torch.export.Dim("batch")},))
        torch.export.save(program.run_decompositions() if decomposed else program, file)
        file.seek(0)
        return served(torch.export.unflatten(torch.export.load(file)), "m")[0]


def saved(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """Return what is read of a program's file."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(program, file)
        file.seek(0)
        return torch.export.load(file)


def slopes(network: nn.Module, rule: Rules) -> Tensor:
    x = X.clone().requires_grad_()
    with rule_mode(rule, x):
        y = network(x * 1)
    return torch.autograd.grad(y[:2, 1].sum(), x)[0]
