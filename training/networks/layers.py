"""Layers and activations that several networks share. Nothing here knows which networks these are."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEAKY_SLOPE = 0.2
ACTIVATION_GAIN = math.sqrt(2)  # keeps the variance after a leaky ReLU


class EqualizedLinear(nn.Module):
    """Linear layer with run-time weight scale (equalised learning rate, arXiv 1710.10196, section 4.1).

    `rate` multiplies the learning rate of both weight and bias; `bias` is what the bias starts at.
    """

    def __init__(self, inputs: int, outputs: int, *, bias: float = 0.0, rate: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / rate)
        self.bias = nn.Parameter(torch.full((outputs,), bias / rate))
        self.weight_scale = rate / math.sqrt(inputs)
        self.bias_scale = rate

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.weight_scale, self.bias * self.bias_scale)


def scaled_leaky_relu(x: Tensor) -> Tensor:
    """Leaky ReLU times a gain that keeps the variance."""
    return F.leaky_relu(x, LEAKY_SLOPE) * ACTIVATION_GAIN


def before_activation(x: Tensor) -> Tensor:
    """The inverse of `scaled_leaky_relu`."""
    x = x / ACTIVATION_GAIN
    return torch.where(x > 0, x, x / LEAKY_SLOPE)


def fir_kernel(*taps: float) -> Tensor:
    """Make a separable filter float32 [k, k] of k taps, by default the binomial [1, 3, 3, 1]. Its sum is 1."""
    row = torch.tensor(taps or (1.0, 3.0, 3.0, 1.0))
    kernel = row[:, None] * row[None, :]
    return kernel / kernel.sum()
