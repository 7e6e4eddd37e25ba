"""Encoder E: image -> code, after the in-domain inversion paper's (Zhu et al., ECCV 2020).

Residual blocks with batch norm and average pooling between them, then a fully connected layer and a batch norm on the
code itself. `architecture="idinvert"` is the form that the paper's authors published. The encoder of pSp and e4e is in
`pyramid_encoder.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.networks.layers import LEAKY_SLOPE, at_least_float32, before_activation, scaled_leaky_relu


class EncoderShapeError(ValueError):
    """Channels that do not fit the pictures."""


@dataclass(frozen=True)
class EncoderConfig:
    """Shape of an encoder; written into every checkpoint."""

    resolution: int = 64
    """Side of the square picture, pixels."""
    channels: tuple[int, ...] = (32, 64, 128, 192, 256)
    """Feature maps at full, half, ... 4 pixels, one entry a resolution; for pSp and e4e one entry a residual unit."""
    bottleneck: int = 64
    """Feature maps at 4 x 4 before the fully connected layer, whose size they bound. 0 keeps the last block's."""
    layers: int = 10
    """Vectors in a code."""
    code_size: int = 512
    """Size of one vector."""
    activation: bool = False
    """End in the mapping's leaky ReLU, as native codes do: a linear layer cannot reach the folded sheet they lie on."""
    bounded: bool = False
    """Keep codes softly within what native codes reach (`CodeBound`). Older and imported encoders are not bounded."""
    architecture: Literal["residual", "idinvert", "psp", "e4e"] = "residual"
    """Ours is `residual`; the others are those of imported encoders."""
    side: int = 0
    """Side that pSp and e4e pool pictures to first, pixels."""

    def __post_init__(self) -> None:
        if self.architecture in ("psp", "e4e"):
            return
        sides = int(math.log2(self.resolution)) - 1
        if len(self.channels) != sides:
            raise EncoderShapeError(
                f"an encoder for {self.resolution} px needs {sides} entries in channels, at {self.resolution}, "
                f"{self.resolution // 2}, ... 4 pixels, got {len(self.channels)}"
            )


class SumOverProcesses(torch.autograd.Function):
    """Sum a tensor over all processes. Its gradient is summed over them too."""

    @staticmethod
    def forward(_: Any, x: Tensor) -> Tensor:  # type: ignore[override]
        total = x.clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return SumOverProcesses.forward(None, gradient)


class BatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch norm of maps [N, C, H, W] or vectors [N, C], with statistics over the batches of all processes.

    PyTorch's SyncBatchNorm needs GPUs. In one process this is PyTorch's ordinary batch norm.
    """

    def _check_input_dim(self, x: Tensor) -> None:
        if x.dim() not in (2, 4):
            raise ValueError(f"expected [N, C, H, W] or [N, C], got {tuple(x.shape)}")

    def forward(self, x: Tensor) -> Tensor:
        alone = not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1
        if alone or not self.training:
            return super().forward(x)
        processes = torch.distributed.get_world_size()
        axes = [axis for axis in range(x.dim()) if axis != 1]
        shape = [1, -1] + [1] * (x.dim() - 2)
        wide = x.float()
        mean = SumOverProcesses.apply(wide.mean(axes)) / processes
        centred = wide - mean.view(shape)
        variance = SumOverProcesses.apply(centred.square().mean(axes)) / processes
        count = x.numel() // x.shape[1] * processes
        with torch.no_grad():
            assert self.running_mean is not None
            assert self.running_var is not None
            self.running_mean.lerp_(mean, self.momentum or 0.0)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum or 0.0)
            assert self.num_batches_tracked is not None
            self.num_batches_tracked.add_(1)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return (centred * scale.view(shape) + self.bias.view(shape)).to(x.dtype)


class EncoderBlock(nn.Module):
    """Residual block of two convolutions with batch norm. The shortcut is a convolution where the width changes."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.shortcut = (
            nn.Identity()
            if inputs == outputs
            else nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), BatchNorm(outputs))
        )
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.norm1 = BatchNorm(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = BatchNorm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        y = F.leaky_relu(self.norm1(self.conv1(x)), LEAKY_SLOPE)
        return F.leaky_relu(self.norm2(self.conv2(y)) + self.shortcut(x), LEAKY_SLOPE)


class ActivatedBlock(EncoderBlock):
    """The residual block of the published encoders.

    It is as wide inside as its narrower end, and both branches are activated before their sum. Its convolutions have
    biases, which change the running statistics only.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        hidden = min(inputs, outputs)
        self.conv1, self.norm1 = nn.Conv2d(inputs, hidden, 3, padding=1), BatchNorm(hidden)
        self.conv2 = nn.Conv2d(hidden, outputs, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.leaky_relu(self.norm1(self.conv1(x)), LEAKY_SLOPE)
        y = F.leaky_relu(self.norm2(self.conv2(y)), LEAKY_SLOPE)
        widens = isinstance(self.shortcut, nn.Sequential)
        return y + (F.leaky_relu(self.shortcut(x), LEAKY_SLOPE) if widens else x)


class CodeBound(nn.Module):
    """Softly keeps codes within what native codes reach, whatever the network before it gives.

    float [N, D] -> [N, D], before the final activation. Entries are measured in standard deviations of native codes
    from their mean. Up to `LINEAR` of the bound they pass unchanged; beyond, a tanh takes them to the bound and never
    over it.
    """

    LINEAR = 0.75
    QUANTILE = 1e-4
    """Share of native entries that lie beyond the bound."""
    centre: Tensor
    spread: Tensor
    reach: Tensor

    def __init__(self, entries: int) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(entries))
        self.register_buffer("spread", torch.ones(entries))
        self.register_buffer("reach", torch.tensor(4.0))  # in standard deviations

    @torch.no_grad()
    def fit(self, native: Tensor) -> None:
        """Take the bound from native codes float [M, D] before the final activation. Waits for no device."""
        self.centre.copy_(native.mean(0))
        self.spread.copy_(native.std(0) + 1e-6)
        farthest = ((native - self.centre) / self.spread).abs().flatten()
        self.reach.copy_(farthest.topk(max(int(len(farthest) * self.QUANTILE), 1)).values[-1])

    def forward(self, x: Tensor) -> Tensor:
        x = (x - self.centre) / self.spread
        knee, rest = self.reach * self.LINEAR, self.reach * (1 - self.LINEAR)
        inside = torch.minimum(torch.maximum(x, -knee), knee)
        x = inside + rest * torch.tanh((x - inside) / rest)
        return x * self.spread + self.centre


def usual_channels(resolution: int) -> tuple[int, ...]:
    """The default feature maps of an encoder, at full, half, ... 4 pixels, for pictures of that side."""
    sides = int(math.log2(resolution)) - 1
    return ((32, 64, 128, 192) + (256,) * sides)[:sides]


class Encoder(nn.Module):
    """image float [N, 3, H, W] in [-1, 1] -> code float [N, L, 512]."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        c = config.channels
        self.stem = nn.Conv2d(3, c[0], 3, padding=1, bias=False)
        self.stem_norm = BatchNorm(c[0])
        block = ActivatedBlock if config.architecture == "idinvert" else EncoderBlock
        self.blocks = nn.ModuleList(block(a, b) for a, b in pairwise(c))
        if config.bottleneck:
            self.squeeze = nn.Conv2d(c[-1], config.bottleneck, 1, bias=False)
            self.squeeze_norm = BatchNorm(config.bottleneck)
        width = config.bottleneck or c[-1]
        self.fc = nn.Linear(width * 16, config.layers * config.code_size, bias=False)
        self.code_norm = BatchNorm(config.layers * config.code_size)
        self.bound = CodeBound(config.layers * config.code_size) if config.bounded else nn.Identity()

    def _before_activation(self, codes: Tensor) -> Tensor:
        return before_activation(codes.flatten(1)) if self.config.activation else codes.flatten(1)

    @torch.no_grad()
    def start_from(self, codes: Tensor) -> None:
        """Set the batch norm on the code: codes start with mean and deviation of sampled ones float [M, L, 512].

        A bounded encoder takes its bound from them too.
        """
        given = self._before_activation(codes)
        self.code_norm.bias.copy_(given.mean(0))
        self.code_norm.weight.copy_(given.std(0))
        if isinstance(self.bound, CodeBound):
            self.bound.fit(given)

    def bound_by(self, codes: Tensor) -> None:
        """Bound the encoder within what sampled codes float [M, L, 512] reach, also one that was not bounded."""
        if not isinstance(self.bound, CodeBound):
            self.bound = CodeBound(codes[0].numel()).to(codes.device)
            self.config = replace(self.config, bounded=True)
        self.bound.fit(self._before_activation(codes))

    def unbound(self) -> None:
        """Let codes go anywhere, as encoders of older runs do."""
        self.bound, self.config = nn.Identity(), replace(self.config, bounded=False)

    def forward(self, image: Tensor) -> Tensor:
        x = F.leaky_relu(self.stem_norm(self.stem(image)), LEAKY_SLOPE)
        for block in self.blocks:
            x = block(F.avg_pool2d(x, 2))
        if self.config.bottleneck:
            x = F.leaky_relu(self.squeeze_norm(self.squeeze(x)), LEAKY_SLOPE)
        code = self.bound(self.code_norm(at_least_float32(self.fc(x.flatten(1)))))
        code = scaled_leaky_relu(code) if self.config.activation else code
        return code.unflatten(1, (self.config.layers, self.config.code_size))
