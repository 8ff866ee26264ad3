"""Where an output holds maps, and what it is with others in their place."""

import pytest
import torch
from torch import Tensor

from service.contract import Layout

H, W, C = 2, 3, 4


def numbered(*shape: int) -> Tensor:
    return torch.arange(float(torch.Size(shape).numel())).view(shape)


CASES = {
    "chw": (Layout("chw", (H, W)), (C, H, W)),
    "hwc": (Layout("hwc", (H, W)), (H, W, C)),
    "ct": (Layout("ct", (H, W)), (C, H * W)),
    "tokens": (Layout("tokens", (H, W)), (H * W, C)),
    "tokens+2": (Layout("tokens", (H, W), 2), (2 + H * W, C)),
    "tokens+1, others behind": (Layout("tokens", (H, W), 1), (1 + H * W + 3, C)),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("pictures", [1, 5])
def test_filled_is_the_inverse_of_maps(case, pictures):
    layout, shape = CASES[case]
    output, maps = numbered(pictures, *shape), -1 - numbered(5, C, H, W)
    filled = layout.filled(output, maps)
    assert filled.shape == (5, *shape)
    assert filled.is_contiguous()
    assert torch.equal(layout.maps(filled), maps)
    # What is not a map's is the output's own.
    kept = filled >= 0
    assert torch.equal(filled[kept], output.expand(5, *shape)[kept])
    assert kept[0].sum() == output[0].numel() - C * H * W


@pytest.mark.parametrize("case", CASES)
def test_an_output_filled_with_its_own_maps_is_itself(case):
    layout, shape = CASES[case]
    output = numbered(2, *shape)
    assert torch.equal(layout.filled(output, layout.maps(output)), output)
