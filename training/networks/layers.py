"""Layers that several networks are made of. Nothing here knows about generators, encoders or discriminators."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEAKY_SLOPE = 0.2
ACTIVATION_GAIN = math.sqrt(2)  # keeps the variance after a leaky ReLU


class EqualizedLinear(nn.Module):
    """Linear layer with run-time weight scale (equalised learning rate, arXiv 1710.10196, section 4.1)."""

    def __init__(self, inputs: int, outputs: int, *, bias: float = 0.0, rate: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / rate)
        self.bias = nn.Parameter(torch.full((outputs,), bias / rate))
        self.weight_scale = rate / math.sqrt(inputs)
        self.bias_scale = rate

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.weight_scale, self.bias * self.bias_scale)


def scaled_leaky_relu(x: Tensor) -> Tensor:
    """Leaky ReLU that keeps the variance."""
    return F.leaky_relu(x, LEAKY_SLOPE) * ACTIVATION_GAIN


def before_activation(x: Tensor) -> Tensor:
    """What `scaled_leaky_relu` was given."""
    x = x / ACTIVATION_GAIN
    return torch.where(x > 0, x, x / LEAKY_SLOPE)


def fir_kernel(*taps: float) -> Tensor:
    """Separable filter of `taps`, by default the binomial [1, 3, 3, 1], normalised to sum 1: float32 [4, 4]."""
    row = torch.tensor(taps or (1.0, 3.0, 3.0, 1.0))
    kernel = row[:, None] * row[None, :]
    return kernel / kernel.sum()
