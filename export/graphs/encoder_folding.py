"""Folds trained encoders for inference: batch norms and statistics become part of plain weights (see `folding.py`)."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from export.graphs.folding import fold_linear
from training.networks.encoder import BatchNorm, CodeBound, Encoder, EncoderBlock
from training.networks.pyramid_encoder import PyramidEncoder, Unit


class FoldedCodeBound(nn.Module):
    """`CodeBound` with its statistics multiplied out: code float32 [N, D] -> [N, D].

    Entries between `low` and `high` pass unchanged, and none goes further than `rest` beyond them.
    """

    low: Tensor
    high: Tensor
    rest: Tensor
    slope: Tensor

    def __init__(self, bound: CodeBound) -> None:
        super().__init__()
        knee, rest = (
            bound.LINEAR * bound.reach * bound.spread,
            (1 - bound.LINEAR) * bound.reach * bound.spread,
        )
        for name, value in {
            "low": bound.centre - knee, "high": bound.centre + knee, "rest": rest, "slope": 1 / rest
        }.items():  # fmt: skip
            self.register_buffer(name, value.clone())

    def forward(self, x: Tensor) -> Tensor:
        inside = torch.minimum(torch.maximum(x, self.low), self.high)
        return inside + self.rest * torch.tanh((x - inside) * self.slope)


def fold_encoder(encoder: Encoder | PyramidEncoder) -> nn.Module:
    """Make a copy in which every batch norm has become part of the layer before it."""
    if isinstance(encoder, PyramidEncoder):
        return fold_pyramid_encoder(encoder)
    folded = copy.deepcopy(encoder).eval()
    folded.stem = fuse_conv_bn_eval(folded.stem, folded.stem_norm)
    folded.fc = fuse_linear_bn_eval(folded.fc, folded.code_norm)
    folded.stem_norm = folded.code_norm = nn.Identity()  # type: ignore[assignment]
    if isinstance(folded.bound, CodeBound):
        folded.bound = FoldedCodeBound(folded.bound)  # type: ignore[assignment]
    if folded.config.bottleneck:
        folded.squeeze = fuse_conv_bn_eval(folded.squeeze, folded.squeeze_norm)
        folded.squeeze_norm = nn.Identity()  # type: ignore[assignment]
    for block in folded.blocks:
        assert isinstance(block, EncoderBlock)
        block.conv1 = fuse_conv_bn_eval(block.conv1, block.norm1)
        block.conv2 = fuse_conv_bn_eval(block.conv2, block.norm2)
        block.norm1 = block.norm2 = nn.Identity()  # type: ignore[assignment]
        if isinstance(block.shortcut, nn.Sequential):
            conv, norm = block.shortcut
            assert isinstance(norm, BatchNorm)
            block.shortcut = nn.Sequential(fuse_conv_bn_eval(conv, norm))
    return folded


class Affine(nn.Module):
    """A batch norm that cannot be folded, as it stands before a convolution whose padding must stay zero."""

    scale: Tensor
    shift: Tensor

    def __init__(self, norm: BatchNorm) -> None:
        super().__init__()
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale = norm.weight.detach() * torch.rsqrt(norm.running_var + norm.eps)
        self.register_buffer("scale", scale[:, None, None].clone())
        self.register_buffer("shift", (norm.bias.detach() - norm.running_mean * scale)[:, None, None].clone())

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + self.shift


class FoldedPReLU(nn.Module):
    """PReLU made of operators whose backward pass can be exported."""

    slope: Tensor

    def __init__(self, activation: nn.PReLU) -> None:
        super().__init__()
        self.register_buffer("slope", activation.weight.detach()[:, None, None].clone())

    def forward(self, x: Tensor) -> Tensor:
        return self.slope * x + (1 - self.slope) * F.relu(x)


def fold_pyramid_encoder(encoder: PyramidEncoder) -> PyramidEncoder:
    """Make a copy without batch norms, PReLUs and weight scales."""
    folded = copy.deepcopy(encoder).eval()
    folded.stem = fuse_conv_bn_eval(folded.stem, folded.stem_norm)
    folded.stem_norm = nn.Identity()  # type: ignore[assignment]
    folded.stem_activation = FoldedPReLU(folded.stem_activation)  # type: ignore[assignment]
    for unit in folded.units:
        assert isinstance(unit, Unit)
        unit.norm1 = Affine(unit.norm1)  # type: ignore[assignment]
        unit.activation = FoldedPReLU(unit.activation)  # type: ignore[assignment]
        unit.conv2 = fuse_conv_bn_eval(unit.conv2, unit.norm2)
        unit.norm2 = nn.Identity()  # type: ignore[assignment]
        if unit.widens:
            unit.shortcut = fuse_conv_bn_eval(unit.shortcut, unit.shortcut_norm)
            unit.shortcut_norm = nn.Identity()  # type: ignore[assignment]
    for head in folded.heads:
        head.linear = fold_linear(head.linear)  # type: ignore[arg-type]
    return folded
