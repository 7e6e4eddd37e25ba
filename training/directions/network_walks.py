"""Walks that a small network makes: from each code it takes a step of its own, and steps are taken one after another.

Jahanian, Chai, Isola (arXiv 1907.07171, section 3.2, nonlinear walks): f(w) = w + NN(w) goes a small part of the way,
and its n-th iterate n times as far; one network for each sense of the change. A linear walk is the case of one step for
all codes, with which it begins.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.directions.journeys import AT_ONCE

HIDDEN = 32  # units of the layer between
STRIDE = 0.5  # strength of one step


class NetworkWalk(nn.Module):
    """Two networks of two layers, one for each sense, on codes in standard deviations from their mean."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, mean: Tensor, deviation: Tensor, seed: int = 0) -> None:
        """mean, deviation: float [L, 512], of sampled codes. It begins as a walk that goes nowhere."""
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", deviation)
        size = mean.numel()
        random = torch.Generator().manual_seed(seed)
        self.down = nn.Parameter(torch.randn(2, size, HIDDEN, generator=random) / size**0.5)
        self.up = nn.Parameter(torch.zeros(2, HIDDEN, size))
        self.step = nn.Parameter(torch.zeros(2, size))

    def forward(self, codes: Tensor, strengths: Tensor) -> Tensor:
        """Codes float [N, L, 512], each moved by its strength, float [N]: as many steps, and a part of one."""
        standard = ((codes - self.mean) / self.deviation).flatten(1)  # [N, L * 512]
        moved = torch.empty_like(standard)
        for sense, rows in enumerate((strengths >= 0, strengths < 0)):
            moved[rows] = self._go(standard[rows], strengths[rows].abs() / STRIDE, sense)
        return moved.view_as(codes) * self.deviation + self.mean

    def _go(self, standard: Tensor, left: Tensor, sense: int) -> Tensor:
        """Standard codes float [N, L * 512] after as many steps as are left, float [N]."""
        while bool((left > 0).any()):
            change = self.step[sense] + torch.tanh(standard @ self.down[sense]) @ self.up[sense]
            standard = standard + STRIDE * left.clamp(0, 1)[:, None] * change
            left = left - 1
        return standard

    @torch.no_grad()
    def walk(self, codes: Tensor, strength: float) -> Tensor:
        """All codes float [N, L, 512] moved by one strength: a `Walk` of journeys.py."""
        return torch.cat([self(part, torch.full((len(part),), strength)) for part in codes.split(AT_ONCE)])
