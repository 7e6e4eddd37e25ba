"""Layers, activations and resampling convolutions that several networks share."""

from __future__ import annotations

import functools
import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEAKY_SLOPE = 0.2
ACTIVATION_GAIN = math.sqrt(2)  # keeps the variance after a leaky ReLU


def at_least_float32(x: Tensor) -> Tensor:
    """x, or, where it is in 16 bits, x in float32. What is computed in float64 stays so."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


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
    """Leaky ReLU times a gain that keeps the variance.

    It is the leaky ReLU of the scaled argument. Where x comes from a convolution, the gain is cheaper in its weights.
    """
    return F.leaky_relu(x, LEAKY_SLOPE) * ACTIVATION_GAIN


def before_activation(x: Tensor) -> Tensor:
    """The inverse of `scaled_leaky_relu`."""
    x = x / ACTIVATION_GAIN
    return torch.where(x > 0, x, x / LEAKY_SLOPE)


def on_white(rgba: Tensor) -> Tensor:
    """Lay a picture with alpha, float [N, 4, H, W] nominally in [-1, 1], on white: [N, 3, H, W]."""
    opacity = (rgba[:, 3:] / 2 + 0.5).clamp(0, 1)
    return (rgba[:, :3] - 1) * opacity + 1


def fir_kernel(*taps: float) -> Tensor:
    """Make a separable filter float32 [k, k] of k taps, by default the binomial [1, 3, 3, 1]. Its sum is 1."""
    row = torch.tensor(taps or (1.0, 3.0, 3.0, 1.0))
    kernel = row[:, None] * row[None, :]
    return kernel / kernel.sum()


# --- convolutions that change the side ---------------------------------------------------------------------------
#
# Each has two forms with the same result. The plain one, a convolution and a 4 x 4 blur of each map, is faster on
# CPUs and is what the exporter knows. On GPUs these blurs take most of a step. There the other form is used: on
# phases ("polyphase") convolution and blur are one ordinary 3 x 3 convolution, of maps taken apart into 2 x 2 phases or
# before phases are put together. Its kernel is the product of the weights with a constant matrix.


def on_phases(x: Tensor) -> bool:
    """Whether the form on phases is used for maps like `x`: on GPUs."""
    return x.is_cuda


@functools.cache
def _kernel_matrix(down: bool, device: torch.device) -> Tensor:
    """The constant float32 [9, 36] that makes the four phases' 3 x 3 kernels of a flattened 3 x 3 kernel.

    A 3 x 3 kernel convolved with the 4 x 4 blur is a 6 x 6 kernel. Each of its 36 taps belongs to one of 2 x 2 phases
    of the pictures, and to one place of that phase's 3 x 3 kernel.
    """
    blur = fir_kernel() * (1.0 if down else 4.0)
    matrix = torch.zeros(3, 3, 2, 2, 3, 3)  # [own taps, phase, the phase's taps]
    for p, q, i, j in itertools.product(range(2), range(2), range(3), range(3)):
        # The tap of the 6 x 6 kernel. Where the side doubles, the kernel is that of a transposed convolution.
        row, column = (2 * i + p, 2 * j + q) if down else (p + 4 - 2 * i, q + 4 - 2 * j)
        for a, b in itertools.product(range(3), range(3)):
            if 0 <= row - a < 4 and 0 <= column - b < 4:
                matrix[a, b, p, q, i, j] = blur[row - a, column - b]
    return matrix.reshape(9, 36).to(device)


def from_phases(x: Tensor) -> Tensor:
    """Put phases together: [N, 4 * C, H, W], the phase before the map -> [N, C, 2H, 2W] in channels-last layout.

    PyTorch's `pixel_shuffle` has the map before the phase and gives another layout, which the next convolution copies
    back.
    """
    n, maps, h, w = x.shape
    x = x.permute(0, 2, 3, 1).reshape(n, h, w, 2, 2, maps // 4)
    return x.transpose(2, 3).reshape(n, 2 * h, 2 * w, maps // 4).permute(0, 3, 1, 2)


def to_phases(x: Tensor) -> Tensor:
    """The inverse of `from_phases`: [N, C, 2H, 2W] -> [N, 4 * C, H, W]."""
    n, maps, h, w = x.shape
    x = x.permute(0, 2, 3, 1).reshape(n, h // 2, 2, w // 2, 2, maps)
    return x.transpose(2, 3).reshape(n, h // 2, w // 2, 4 * maps).permute(0, 3, 1, 2)


def convolve_up(x: Tensor, weight: Tensor, blur: Tensor) -> Tensor:
    """Transposed convolution of stride two, then a blur: [N, C_in, H, W] -> [N, C_out, 2H, 2W].

    `weight` is [C_out, C_in, 3, 3]; `blur` [C_out, 1, 4, 4] has a gain of 4, which makes up for the zeros between.
    """
    outputs, inputs = weight.shape[:2]
    if not on_phases(x):
        x = F.conv_transpose2d(x, weight.transpose(0, 1), stride=2)  # [N, C_out, 2H + 1, 2W + 1]
        return F.conv2d(x, blur.to(x.dtype), padding=1, groups=outputs)
    kernel = weight.reshape(-1, 9) @ _kernel_matrix(False, x.device)
    kernel = (
        kernel.reshape(outputs, inputs, 4, 3, 3).permute(2, 0, 1, 3, 4).reshape(4 * outputs, inputs, 3, 3)
    )
    return from_phases(F.conv2d(x, kernel, padding=1))


def convolve_down(x: Tensor, weight: Tensor, bias: Tensor | None, blur: Tensor) -> Tensor:
    """A blur, then a convolution of stride two: [N, C_in, H, W] -> [N, C_out, H / 2, W / 2].

    `weight` is [C_out, C_in, k, k] with k of 1 or 3; `blur` is [C_in, 1, 4, 4].
    """
    outputs, inputs, size, _ = weight.shape
    if not on_phases(x):
        x = F.conv2d(x, blur.to(x.dtype), padding=2 if size == 3 else 1, groups=inputs)
        return F.conv2d(x, weight, bias, stride=2)
    if size == 1:
        # The middle tap of a 3 x 3 kernel: on GPUs even that is several times faster than pooling.
        weight = F.pad(weight, (1, 1, 1, 1))
    kernel = (weight.reshape(-1, 9) @ _kernel_matrix(True, x.device)).reshape(outputs, inputs, 4, 3, 3)
    kernel = kernel.transpose(1, 2).reshape(outputs, 4 * inputs, 3, 3)
    return F.conv2d(to_phases(x), kernel, bias, padding=1)


def upsample(x: Tensor, blur: Tensor) -> Tensor:
    """Double the side of maps float32 [N, C, H, W] with the blur [C, 1, 4, 4] of gain 4."""
    channels = x.shape[1]
    if not on_phases(x):
        return F.conv_transpose2d(x, blur, stride=2, padding=1, groups=channels)
    # The middle tap alone: a convolution that changes nothing.
    same = F.pad(torch.eye(channels, device=x.device)[:, :, None, None], (1, 1, 1, 1))
    return convolve_up(x, same, blur)
