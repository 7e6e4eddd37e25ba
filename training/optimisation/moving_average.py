"""Exponential moving average of a network's weights."""

from __future__ import annotations

import copy
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)


class MovingAverage(Generic[Network]):
    """A copy of a network whose weights follow the trained one's; it is what is sampled, saved and exported."""

    def __init__(self, network: Network, half_life: float, ramp_up: float = 0.05) -> None:
        """Start at the network's weights. `half_life` is in pictures; early it is the share `ramp_up` of those seen."""
        self.network = copy.deepcopy(network).requires_grad_(False)
        self.half_life, self.ramp_up = half_life, ramp_up

    @torch.no_grad()
    def update(self, network: nn.Module, pictures: int, seen: int) -> None:
        """Follow a step of `pictures` pictures, after which the run has seen `seen`. Buffers are copied."""
        decay = 0.5 ** (pictures / max(min(self.half_life, self.ramp_up * seen), 1e-8))
        averages: list[Tensor] = list(self.network.parameters())
        trained: list[Tensor] = list(network.parameters())
        torch._foreach_lerp_(averages, trained, 1 - decay)
        if kept := list(self.network.buffers()):
            torch._foreach_copy_(kept, list(network.buffers()))
