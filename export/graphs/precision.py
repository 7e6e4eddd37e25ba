"""Computation in 16 bits: which parts of a network do it, and how far its pictures are from those of float32.

PyTorch's arithmetic is measured, which rounds the result of every operator to 16 bits. ONNX Runtime on the CPU computes
a float16 graph in float32 between its casts, and would not show an overflow that happens on a GPU.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Literal

import torch
from torch import Tensor, nn

from export.graphs.folding import FoldedModulatedConv

Precision = Literal["float32", "float16", "bfloat16"]
DTYPES: dict[Precision, torch.dtype] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
# Parts of a folded generator that compute in float32: styles and maps from codes, demodulation, the sum of RGB.
FLOAT32_PARTS = {"style", "energy", "rgb_up", "rgb_bias", "extra"}


def lower(network: nn.Module, precision: Precision) -> nn.Module:
    """A copy of a folded network whose convolutions, and what lies between them, compute in `precision`."""
    lowered = copy.deepcopy(network).eval()
    for name, tensor in [*lowered.named_parameters(), *lowered.named_buffers()]:
        if not FLOAT32_PARTS.intersection(name.split(".")):
            tensor.data = tensor.data.to(DTYPES[precision])
    for module in lowered.modules():
        if isinstance(module, FoldedModulatedConv):
            # Of the weights as they are now rounded.
            module.set_energy()
    return lowered


@torch.no_grad()
def picture_psnr(
    found: Callable[[Tensor], Tensor], wanted: Callable[[Tensor], Tensor], batches: Iterable[Tensor]
) -> dict[str, float]:
    """PSNR in dB over all pictures float [N, 3, H, W], clipped to [-1, 1], and of the worst; NaN if any is NaN."""
    errors = torch.cat(
        [(found(x).clamp(-1, 1) - wanted(x).clamp(-1, 1)).square().mean((1, 2, 3)).double() for x in batches]
    )
    return {"psnr_db": to_psnr(errors.mean()), "psnr_db_worst": to_psnr(errors.max())}


def to_psnr(mean_square: Tensor) -> float:
    """A mean squared error as PSNR in dB, for values that span 2. Finite, so that it can be written as JSON."""
    return float(10 * torch.log10(4 / mean_square.clamp(min=1e-12)))
