"""The regressor: it sees a picture before and after a step, and names the step's direction and strength.

Voynov & Babenko (arXiv 2002.03754, section 3.1, the reconstructor R).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.networks.layers import LEAKY_SLOPE

SIDE = 64  # larger pictures are reduced to this, pixels
WIDTHS = (32, 64, 128, 128)  # feature maps after each convolution, which halves the side
HIDDEN = 256  # units between the last maps and the answers
CONTRAST = 4.0  # what changes is fainter than pictures are, by about this factor


class Regressor(nn.Module):
    """Pictures float [N, 3, H, W] in [-1, 1], before and after -> logits of K directions [N, K], strengths [N]."""

    def __init__(self, directions: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in zip((6, *WIDTHS), WIDTHS, strict=False):
            layers += [
                nn.Conv2d(inputs, outputs, 3, 2, 1),
                nn.BatchNorm2d(outputs),
                nn.LeakyReLU(LEAKY_SLOPE),
            ]
        self.trunk = nn.Sequential(
            *layers,
            nn.AdaptiveAvgPool2d(4),
            nn.Flatten(),
            nn.Linear(WIDTHS[-1] * 16, HIDDEN),
            nn.BatchNorm1d(HIDDEN),
            nn.LeakyReLU(LEAKY_SLOPE),
        )
        self.direction, self.strength = nn.Linear(HIDDEN, directions), nn.Linear(HIDDEN, 1)

    def forward(self, before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
        # The difference in place of the second picture: it is what tells directions apart.
        seen = torch.cat([before, CONTRAST * (after - before)], 1)
        if seen.shape[-1] > SIDE:
            seen = F.interpolate(seen, (SIDE, SIDE), mode="area")
        x = self.trunk(seen)
        return self.direction(x), self.strength(x)[:, 0]
