"""Exponential moving average of a network's weights."""

from __future__ import annotations

import copy
from typing import Generic, TypeVar

import torch
from torch import nn

Network = TypeVar("Network", bound=nn.Module)


class MovingAverage(Generic[Network]):
    """A copy of a network whose weights follow the trained one's; it is what is sampled, saved and exported."""

    RISE = 0.05  # early in a run the half-life is this share of the pictures seen

    def __init__(self, network: Network, half_life: float) -> None:
        """Start at the network's weights. `half_life` is in pictures."""
        self.network: Network = copy.deepcopy(network).requires_grad_(False)
        self.half_life = half_life

    @torch.no_grad()
    def update(self, network: nn.Module, pictures: int, seen: int) -> None:
        """Follow a step of `pictures` pictures, after which the run has seen `seen`. Buffers are copied."""
        decay = 0.5 ** (pictures / max(min(self.half_life, self.RISE * seen), 1e-8))
        for average, trained in zip(self.network.parameters(), network.parameters(), strict=True):
            average.lerp_(trained, 1 - decay)
        for kept, new in zip(self.network.buffers(), network.buffers(), strict=True):
            kept.copy_(new)
