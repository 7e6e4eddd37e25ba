"""The domain score of a code: the percentile of its logit among those of inversions of the generator's own pictures.

The logit is the latent discriminator's. A good one tells nearly every inversion from a sampled code, so among sampled
codes all photographs would score 0. E(G(w)), the inversion of a sampled code's picture, is the most native that an
inversion can be; photographs are compared with those.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn


def calibration_count(wanted: int, side: int) -> int:
    """How many samples to calibrate on, for pictures of `side` pixels.

    Fewer than `wanted` above 128 pixels, so that the work stays the same; but at least 64.
    """
    return min(wanted, max(64, wanted * 128**2 // side**2))


@torch.no_grad()
def invert_samples(codes: Tensor, synthesis: nn.Module, encoder: nn.Module) -> Tensor:
    """E(G(w)) of sampled codes w float32 [M, L, 512], of the same shape."""
    return torch.cat([encoder(synthesis(part).clamp(-1, 1)) for part in codes.split(16)])


@torch.no_grad()
def domain_scores(discriminator: nn.Module, codes: Tensor, inversions: Tensor) -> npt.NDArray[np.float64]:
    """Domain scores float64 [N] in 0..1 of codes float32 [N, L, 512], among the codes of `invert_samples`."""
    among = discriminator(inversions).mean(1).sort().values
    return torch.searchsorted(among, discriminator(codes).mean(1)).double().numpy() / len(among)
