"""Each rule of the backward table against autograd itself."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from export.graphs.decompositions import UnsupportedBackward, adaptive_avg_pool, trace


class InputGradient(nn.Module):
    """x -> gradient of sum(sin(f(x))); the sine makes every output's gradient another number."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x):
        return torch.func.grad(lambda x: self.function(x).sin().sum())(x)


class Function(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.forward = function


def gradients(function, x):
    """By the table, and by autograd."""
    by_table = trace(InputGradient(function), (x[:2],))(x)
    variable = x.clone().requires_grad_()
    (by_autograd,) = torch.autograd.grad(function(variable).sin().sum(), variable)
    return by_table, by_autograd


@pytest.mark.parametrize("size", [7, 8, 15, 16, 31])
def test_max_pool(size: int) -> None:
    """Sizes that fill the last window and sizes that ceil mode lets it run over; zeros tie behind the ReLU."""
    x = torch.randn(3, 2, size, size)
    found, wanted = gradients(lambda x: F.max_pool2d(F.relu(x), 3, 2, ceil_mode=True), x)
    torch.testing.assert_close(found, wanted)


def test_max_pool_of_vgg() -> None:
    found, wanted = gradients(lambda x: F.max_pool2d(F.relu(x), 2), torch.randn(3, 2, 8, 12))
    torch.testing.assert_close(found, wanted)


CONVOLUTIONS = {
    "plain": lambda x: F.conv2d(x, WEIGHT, padding=1),
    "1x1": lambda x: F.conv2d(x, WEIGHT[:, :, :1, :1]),
    "strided": lambda x: F.conv2d(x, WEIGHT, stride=2),
    "strided, odd": lambda x: F.conv2d(x[:, :, 1:], WEIGHT, stride=2, padding=1),
    "transposed": lambda x: F.conv_transpose2d(x, WEIGHT.transpose(0, 1), stride=2),
    "depthwise": lambda x: F.conv2d(x, torch.arange(64.0).view(4, 1, 4, 4) / 64, padding=1, groups=4),
    "depthwise, transposed": lambda x: F.conv_transpose2d(
        x, torch.arange(64.0).view(4, 1, 4, 4) / 64, stride=2, padding=1, groups=4
    ),
}
WEIGHT = torch.randn(6, 4, 3, 3, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_convolution(kind: str) -> None:
    found, wanted = gradients(CONVOLUTIONS[kind], torch.randn(3, 4, 8, 8))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("function", [lambda x: F.leaky_relu(x, 0.2), F.relu, lambda x: F.avg_pool2d(x, 2)])
def test_activation_and_average_pool(function) -> None:
    found, wanted = gradients(function, torch.randn(3, 4, 8, 8))
    torch.testing.assert_close(found, wanted)


def test_uneven_adaptive_average_pool() -> None:
    x = torch.rand(3, 1, 64, 64)
    for size in (31, 15, 7, 3):
        torch.testing.assert_close(adaptive_avg_pool(x, (size, size)), F.adaptive_avg_pool2d(x, size))


@pytest.mark.parametrize("dims", [1, (1, 2, 3), (2, 3)])
@pytest.mark.parametrize("keepdim", [False, True])
def test_sums_and_means(dims: int | tuple[int, ...], keepdim: bool) -> None:
    """Over channels, over a sample of an odd size, over places."""
    x = torch.randn(3, 4, 7, 7) / 8  # a sine of large sums would say nothing
    for function in (lambda x: x.square().sum(dims, keepdim), lambda x: x.square().mean(dims, keepdim)):
        found, wanted = gradients(function, x)
        torch.testing.assert_close(found, wanted)
        torch.testing.assert_close(trace(Function(function), (x[:2],))(x), function(x))


def test_what_has_no_rule_is_named() -> None:
    with pytest.raises(UnsupportedBackward, match="dilated"):
        gradients(lambda x: F.conv2d(x, WEIGHT, dilation=2), torch.randn(3, 4, 8, 8))
