import pytest
import torch

from service.errors import InvalidParameter
from service.explainers.perturbation.hsic import HSIC
from service.explainers.perturbation.sobol import Sobol
from service.faithfulness.ordering import enlarged
from tests import tiny
from tests.explainers.conftest import assert_close, tiny_input


@pytest.mark.parametrize("space", ["pixels", "normalised"])
@pytest.mark.parametrize("size", [(32, 32), (20, 33)])
def test_cells_are_dimmed_each_by_its_number(small, space, size):
    facts = small(tiny.classifier).facts
    x = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))
    dims = torch.rand(4, 25, generator=torch.Generator().manual_seed(1))
    dims[0] = 1
    found = Sobol(cells=5, space=space).dimmed(facts, x, dims)
    black = facts.colour((0, 0, 0)) if space == "pixels" else torch.zeros(3, 1, 1)
    for row, one in zip(found, dims, strict=True):
        for y in range(size[0]):
            for left in range(size[1]):
                dim = one[(2 * y + 1) * 5 // (2 * size[0]) * 5 + (2 * left + 1) * 5 // (2 * size[1])]
                expected = black[:, 0, 0] + dim * (x[0, :, y, left] - black[:, 0, 0])
                torch.testing.assert_close(row[:, y, left], expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(found[0], x[0])


def test_more_cells_than_pixels_are_refused(small):
    subject = small(tiny.classifier)
    x = tiny_input(size=12)
    with pytest.raises(InvalidParameter, match=r"16 cells .* \(12 x 12\); choose at most 12") as caught:
        HSIC(cells=16, samples=32).explain(subject.probe(), x, None)
    assert caught.value.errors[0].pointer == "/params/cells"


def test_values_are_laid_out_row_by_row():
    values = torch.arange(18).view(2, 9)
    assert_close(Sobol(cells=3).grids(values)[1], torch.tensor([[9.0, 10, 11], [12, 13, 14], [15, 16, 17]]))


@pytest.mark.parametrize("cells", range(2, 8))
def test_a_cell_is_where_its_value_lies_on_the_picture(small, cells):
    """As the pixels of maps are ordered."""
    facts, size = small(tiny.classifier).facts, (10, 23)
    dims = torch.rand(1, cells**2, generator=torch.Generator().manual_seed(1))
    found = Sobol(cells=cells, space="normalised").dimmed(facts, torch.ones(1, 3, *size), dims)[0, 0]
    assert_close(found, enlarged(dims.view(cells, cells), size, "nearest").float())
