"""The encoder of pSp and e4e: image -> code, from three scales of a face recognition network.

Sources: Richardson et al., "Encoding in Style" (arXiv 2008.00951); Tov et al., "Designing an Encoder for StyleGAN Image
Manipulation" (arXiv 2102.02766). The backbone is IR-SE-50: the improved residual units of ArcFace (arXiv 1801.07698)
with squeeze and excitation (arXiv 1709.01507).
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.networks.encoder import BatchNorm, EncoderConfig
from training.networks.layers import EqualizedLinear, at_least_float32

COARSE, MIDDLE = 3, 7  # layers from these on get their vectors from the middle scale, and from the fine one
SQUEEZE = 16  # an excitation's hidden layer has a sixteenth of the channels
HEAD_SLOPE = 0.01  # of the leaky ReLUs in the heads


class Excitation(nn.Module):
    """Squeeze and excitation: multiplies each map by a factor in 0..1, computed from the means of all maps."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, max(channels // SQUEEZE, 1), 1, bias=False)
        self.excite = nn.Conv2d(max(channels // SQUEEZE, 1), channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        means = x.mean((2, 3), keepdim=True)
        return x * torch.sigmoid(self.excite(F.relu(self.squeeze(means))))


class Unit(nn.Module):
    """Improved residual unit: batch norm, convolution, PReLU, convolution (strided), batch norm, excitation."""

    one: Tensor

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.norm1 = BatchNorm(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.activation = nn.PReLU(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, stride, padding=1, bias=False)
        self.norm2 = BatchNorm(outputs)
        self.excitation = Excitation(outputs)
        self.widens = inputs != outputs
        if self.widens:
            self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.shortcut_norm = BatchNorm(outputs)
        self.register_buffer("one", torch.ones(inputs, 1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(self.activation(self.conv1(self.norm1(x))))
        y = self.excitation(self.norm2(y))
        if self.widens:
            return y + self.shortcut_norm(self.shortcut(x))
        if self.stride == 1:
            return y + x
        # Every other pixel, by a convolution: its backward pass exports to ONNX, a strided slice's does not.
        return y + F.conv2d(x, self.one, stride=self.stride, groups=len(self.one))


class Head(nn.Module):
    """Makes one layer's vector [N, 512] of a scale's maps [N, C, S, S], S a power of two."""

    def __init__(self, inputs: int, outputs: int, side: int) -> None:
        super().__init__()
        widths = [inputs] + [outputs] * int(math.log2(side))
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in pairwise(widths))
        self.linear = EqualizedLinear(outputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        for conv in self.convs:
            x = F.leaky_relu(conv(x), HEAD_SLOPE)
        return self.linear(x.flatten(1))


class Double(nn.Module):
    """Bilinear up-sampling of [N, C, S, S] to twice the side, with aligned corners, as two products of matrices."""

    matrix: Tensor

    def __init__(self, side: int) -> None:
        super().__init__()
        eye = torch.eye(side)[None]  # [1, S, S]
        matrix = F.interpolate(eye, size=2 * side, mode="linear", align_corners=True)[0].t().contiguous()
        self.register_buffer("matrix", matrix, persistent=False)  # [2 S, S]

    def forward(self, x: Tensor) -> Tensor:
        return self.matrix @ x @ self.matrix.t()


class PyramidEncoder(nn.Module):
    """image float [N, 3, H, W] in [-1, 1] -> code float [N, L, 512].

    Pictures are pooled to `config.side` first. `config.channels` are the widths of the backbone's units. The first
    unit, and each that is wider than the one before, halves the side; the last three widths give the three scales.
    """

    mean_code: Tensor

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        widths = config.channels
        steps = [i for i, (a, b) in enumerate(pairwise((0, *widths))) if a != b]
        if len(steps) != 4 or not 16 < config.side <= config.resolution or config.side & (config.side - 1):
            raise ValueError(
                f"the backbone needs four widths, and a side between 17 and {config.resolution}, got {config}"
            )
        self.stem = nn.Conv2d(3, widths[0], 3, padding=1, bias=False)
        self.stem_norm = BatchNorm(widths[0])
        self.stem_activation = nn.PReLU(widths[0])
        self.units = nn.ModuleList(
            Unit(a, b, 2 if i in steps else 1) for i, (a, b) in enumerate(pairwise((widths[0], *widths)))
        )
        self.scales = (steps[2] - 1, steps[3] - 1, len(widths) - 1)  # last units of the last three widths
        coarse, size, wide = config.side // 16, config.code_size, widths[-1]
        sides = [
            coarse if i < COARSE else 2 * coarse if i < MIDDLE else 4 * coarse for i in range(config.layers)
        ]
        self.heads = nn.ModuleList(Head(wide, size, side) for side in sides)
        self.lateral_middle = nn.Conv2d(widths[self.scales[1]], wide, 1)
        self.lateral_fine = nn.Conv2d(widths[self.scales[0]], wide, 1)
        self.to_middle, self.to_fine = Double(coarse), Double(2 * coarse)
        self.register_buffer("mean_code", torch.zeros(config.layers, size))

    def forward(self, image: Tensor) -> Tensor:
        for _ in range(int(math.log2(self.config.resolution // self.config.side))):
            image = F.avg_pool2d(image, 2)
        x = self.stem_activation(self.stem_norm(self.stem(image)))
        maps = []
        for i, unit in enumerate(self.units):
            x = unit(x)
            if i in self.scales:
                maps.append(x)
        fine, middle, coarse = maps
        middle = self.to_middle(coarse) + self.lateral_middle(middle)
        fine = self.to_fine(middle) + self.lateral_fine(fine)
        vectors = [
            head(coarse if i < COARSE else middle if i < MIDDLE else fine)
            for i, head in enumerate(self.heads)
        ]
        # In e4e all vectors but the first are offsets from the first.
        if self.config.architecture == "e4e":
            vectors = [vectors[0], *(vectors[0] + vector for vector in vectors[1:])]
        return at_least_float32(torch.stack(vectors, 1)) + self.mean_code
