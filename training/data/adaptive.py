"""Adaptive augmentation: as strong as it must be to keep the discriminator from learning its pictures by heart.

ADA's heuristic (Karras et al., arXiv 2006.06676, section 3.1): where the discriminator is too sure of real pictures,
r = E[sign(D(real))] above a target, the probability of each change rises; below it, it falls.
"""

from __future__ import annotations

import torch
from torch import Tensor


class AdaptiveAugmentation:
    """The probability of each change of a picture. It lives on the device, and nothing here waits for that."""

    STEPS = 4  # between two adjustments
    IMAGES = 500_000  # pictures within which the probability can rise from 0 to 1

    def __init__(self, start: float, target: float, limit: float, device: torch.device) -> None:
        """Begin at the probability `start`; it never exceeds `limit`. `target` is that of r, as 0.6."""
        self.target, self.limit = target, limit
        self.probability = torch.tensor(min(start, limit), device=device)
        self.sign = torch.zeros((), device=device)  # r, summed over the steps since the last adjustment

    def watch(self, sign: Tensor) -> None:
        """Note a step's mean sign of the logits of real pictures, float []."""
        self.sign.add_(sign)

    @torch.no_grad()
    def adjust(self, step: int, images: int) -> None:
        """Move the probability after every few steps of `images` pictures each."""
        if step % self.STEPS:
            return
        move = torch.sign(self.sign / self.STEPS - self.target) * (images * self.STEPS / self.IMAGES)
        self.probability.add_(move).clamp_(0, self.limit)
        self.sign.zero_()

    def state(self) -> dict[str, float]:
        """What a checkpoint keeps. Reading it waits for the device."""
        return {"probability": self.probability.item(), "sign": self.sign.item()}

    def load(self, state: dict[str, float]) -> None:
        """Go on from a kept state."""
        self.probability.fill_(min(state["probability"], self.limit))
        self.sign.fill_(state["sign"])
