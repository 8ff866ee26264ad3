"""The blur is a Gaussian's, as an independent library computes it."""

import pytest
import torch
from torchvision.transforms import functional

from service.explainers.blur import gaussian_blur


@pytest.mark.parametrize(("size", "sigma"), [(31, 10.0), (9, 1.0), (5, 0.4), (1, 2.0)])
@pytest.mark.parametrize("shape", [(1, 3, 40, 56), (2, 1, 17, 16)])
def test_pictures_are_blurred_as_torchvision_blurs_them(size, sigma, shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    expected = functional.gaussian_blur(x, [size, size], [sigma, sigma])
    torch.testing.assert_close(gaussian_blur(x, size, sigma), expected, rtol=1e-5, atol=1e-6)


def test_pictures_smaller_than_the_kernel_are_blurred_as_far_as_they_go():
    x = torch.randn(2, 3, 5, 40, generator=torch.Generator().manual_seed(0))
    expected = functional.gaussian_blur(x, [31, 9], [10.0, 10.0])  # width, height
    torch.testing.assert_close(gaussian_blur(x, 31, 10.0), expected, rtol=1e-5, atol=1e-6)
    line = x[..., :1, :]
    torch.testing.assert_close(gaussian_blur(line, 31, 10.0), functional.gaussian_blur(line, [31, 1], [10.0, 10.0]))


def test_a_gradient_gets_through():
    x = torch.zeros(1, 1, 16, 16, requires_grad=True)
    (gradient,) = torch.autograd.grad(gaussian_blur(x, 5, 1.0)[0, 0, 8, 8], x)
    impulse = torch.zeros(1, 1, 16, 16)
    impulse[0, 0, 8, 8] = 1
    torch.testing.assert_close(gradient, functional.gaussian_blur(impulse, [5, 5], [1.0, 1.0]))
