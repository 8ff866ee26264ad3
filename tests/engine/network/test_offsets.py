import pytest
import torch
from torch import nn

from service.engine.network.offsets import offset_of

AFFINE = {
    "convolution": (nn.Conv2d(3, 4, 3, padding=1), (1, 3, 5, 5)),
    "convolution in groups": (nn.Conv2d(4, 4, 3, groups=2), (1, 4, 5, 5)),
    "transposed convolution": (nn.ConvTranspose2d(3, 4, 3), (1, 3, 5, 5)),
    "linear": (nn.Linear(3, 4), (1, 3)),
    "batch norm": (nn.BatchNorm2d(4), (1, 4, 2, 2)),
    "batch norm without scale": (nn.BatchNorm2d(4, affine=False), (1, 4, 2, 2)),
}


@pytest.mark.parametrize("name", AFFINE)
def test_an_offset_is_what_zeros_become(name):
    module, shape = AFFINE[name]
    torch.manual_seed(0)
    for tensor in (*module.parameters(), *(b for b in module.buffers() if b.is_floating_point())):
        tensor.detach().uniform_(0.5, 2)
    answer = module.eval()(torch.zeros(shape)).detach()
    found = offset_of(module)
    assert found.shape == (4,)
    torch.testing.assert_close(found, answer[0].flatten(1)[:, 0] if answer.ndim > 2 else answer[0])


@pytest.mark.parametrize(
    "module",
    [
        nn.Conv2d(3, 4, 3, bias=False),
        nn.Linear(3, 4, bias=False),
        nn.LayerNorm(4),
        nn.ReLU(),
        nn.BatchNorm2d(4, track_running_stats=False),
    ],
    ids=str,
)
def test_what_adds_nothing_or_is_not_affine_has_none(module):
    assert offset_of(module) is None
