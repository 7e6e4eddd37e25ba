"""StyleGAN1's synthesis network (code -> image): instance norm and a style after each layer (AdaIN).

The mapping network is `generator.py`'s. Source: Karras et al., "A Style-Based Generator Architecture for Generative
Adversarial Networks" (arXiv 1812.04948); the in-domain inversion paper (Zhu et al., ECCV 2020) adds a tanh at the end.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.networks.extra_rows.groups import ExtraRows
from training.networks.layers import (
    ACTIVATION_GAIN,
    LEAKY_SLOPE,
    EqualizedLinear,
    at_least_float32,
    fir_kernel,
    on_white,
)

NORM_EPSILON = 1e-8


def instance_norm(x: Tensor) -> Tensor:
    """Bring each map of float [N, C, H, W] to mean 0 and variance 1.

    Made of elementary operators, whose backward pass can be exported to ONNX.
    """
    x = x - x.mean((2, 3), keepdim=True)
    return x * torch.rsqrt(x.square().mean((2, 3), keepdim=True) + NORM_EPSILON)


def spread(weight: Tensor) -> Tensor:
    """Make the kernel of a transposed convolution of stride 2: float [C_out, C_in, 3, 3] -> [C_in, C_out, 4, 4].

    Each entry is the sum of the four around it (fused up-scaling of StyleGAN's code). The result equals
    nearest-neighbour up-sampling and a convolution with the *flipped* 3 x 3 kernel, in less than half the products.
    """
    return 4 * F.avg_pool2d(weight, 2, stride=1, padding=1).transpose(0, 1)


class UpConv(nn.Module):
    """Convolution that doubles the side, then a blur."""

    blur: Tensor

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 3, 3))
        self.weight_scale = ACTIVATION_GAIN / math.sqrt(inputs * 9)
        blur = fir_kernel(1, 2, 1).expand(outputs, 1, 3, 3).clone()
        self.register_buffer("blur", blur, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        kernel = spread(self.weight * self.weight_scale)
        x = F.conv_transpose2d(x, kernel.to(x.dtype), stride=2, padding=1)
        return F.conv2d(x, self.blur.to(x.dtype), padding=1, groups=len(self.blur))


class Conv(nn.Module):
    """Convolution without bias that keeps the side."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 3, 3))
        self.weight_scale = ACTIVATION_GAIN / math.sqrt(inputs * 9)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * self.weight_scale, padding=1)


class AdaINLayer(nn.Module):
    """Convolution (none in the first layer), noise, bias, activation, instance norm, style."""

    noise: Tensor

    def __init__(self, conv: nn.Module, outputs: int, resolution: int, code_size: int) -> None:
        super().__init__()
        self.conv = conv
        self.noise_strength = nn.Parameter(torch.zeros(outputs))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.style = EqualizedLinear(code_size, 2 * outputs)
        # Scales start at 1, shifts at 0.
        with torch.no_grad():
            self.style.bias[:outputs] = 1
        self.register_buffer("noise", torch.randn(1, 1, resolution, resolution))

    def forward(self, x: Tensor, w: Tensor, *, random_noise: bool) -> Tensor:
        x = self.conv(x)
        noise = torch.randn(x.shape[0], 1, *x.shape[2:], device=x.device) if random_noise else self.noise
        x = x + (noise * self.noise_strength[:, None, None] + self.bias[:, None, None]).to(x.dtype)
        scale, shift = self.style(w)[..., None, None].chunk(2, 1)  # [N, C, 1, 1] each
        # Variances need float32.
        normal = instance_norm(at_least_float32(F.leaky_relu(x, LEAKY_SLOPE)))
        return (normal * scale + shift).to(x.dtype)


class AdaINSynthesis(nn.Module):
    """code float32 [N, L, 512] -> image float [N, 3, H, W], nominally in [-1, 1]; RGB from the last layer only."""

    def __init__(
        self, channels: tuple[int, ...], code_size: int, *, final_tanh: bool, transparency: bool = False
    ) -> None:
        """`channels`: feature maps at 4, 8, 16, ... pixels. `final_tanh` bounds the picture.

        `transparency`: the last layer draws alpha too, and the picture is that on white.
        """
        super().__init__()
        self.channels, self.final_tanh, self.transparency = channels, final_tanh, transparency
        # Of the interface of `Synthesis`: StyleGAN1's does not grow, and its codes have no additional rows.
        self.fade: Tensor | None = None
        self.extra = ExtraRows()
        first, size = channels[0], code_size
        self.constant = nn.Parameter(torch.ones(1, first, 4, 4))
        self.styled = nn.ModuleList(
            [AdaINLayer(nn.Identity(), first, 4, size), AdaINLayer(Conv(first, first), first, 4, size)]
        )
        for i, (a, b) in enumerate(pairwise(channels)):
            resolution = 8 * 2**i
            self.styled.append(AdaINLayer(UpConv(a, b), b, resolution, size))
            self.styled.append(AdaINLayer(Conv(b, b), b, resolution, size))
        last = channels[-1]
        drawn = 4 if transparency else 3
        self.rgb_weight = nn.Parameter(torch.randn(drawn, last, 1, 1))
        self.rgb_scale = 1 / math.sqrt(last)
        self.rgb_bias = nn.Parameter(torch.zeros(drawn))

    def forward(self, code: Tensor, *, random_noise: bool = False) -> Tensor:
        x = self.constant.expand(code.shape[0], -1, -1, -1)
        for layer, w in zip(self.styled, code.unbind(1), strict=True):
            x = layer(x, w, random_noise=random_noise)
        rgb = at_least_float32(F.conv2d(x, self.rgb_weight * self.rgb_scale, self.rgb_bias))
        rgb = torch.tanh(rgb) if self.final_tanh else rgb
        return on_white(rgb) if self.transparency else rgb

    def affines(self, layer: int) -> list[EqualizedLinear]:
        """The linear layer that makes scales and shifts of the vector of `layer`."""
        styled = self.styled[layer]
        assert isinstance(styled, AdaINLayer)
        return [styled.style]
