"""Pivotal tuning: synthesis weights move until the pictures at given codes, the pivots, are given photographs.

Source: Roich et al., "Pivotal Tuning for Latent-based Editing of Real Images" (arXiv 2106.05744), with its locality
regularisation. The pivots there are codes in W; here they are refined codes in W+, which the domain term keeps native.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from training.losses.perceptual import LPIPSSq
from training.measures.metrics import mean_square
from training.networks.generator import Generator


@dataclass(frozen=True)
class TuningConfig:
    """Settings of the tuning. The weights are those of the authors' code; it takes 350 steps at a rate of 3e-4, one
    picture each, for 1,024 pixels."""

    steps: int = 200
    """Number of steps."""
    batch: int = 2
    """Pictures a step, drawn anew for each."""
    rate: float = 1e-3
    """Adam's rate."""
    pixel_weight: float = 1.0
    """Weight of the mean squared error of pictures on [-1, 1]."""
    perceptual_weight: float = 1.0
    """Weight of LPIPS-sq."""
    locality_weight: float = 0.1
    """Weight of what the pictures of other codes change; 0 lets them change."""
    locality_share: float = 0.5
    """Where those other codes lie, as a share of the way from a pivot to a sampled code. The authors' code goes a fixed
    length, and lengths of codes differ from generator to generator."""
    seed: int = 0
    """Seed of the draws."""


def tune(
    generator: Generator,
    perceptual: LPIPSSq,
    pivots: Tensor,
    images: Tensor,
    config: TuningConfig,
    note: Callable[[int, Mapping[str, float]], None],
) -> nn.Module:
    """A copy of the generator's synthesis network, tuned to draw `images` at `pivots`. The generator stays as it is.

    pivots: codes float [N, L, 512]. images: float [N, 3, H, W] in [-1, 1]. `note` is called after each step with its
    number and its losses.
    """
    tuned = copy.deepcopy(generator.synthesis).requires_grad_(True)
    optimiser = torch.optim.Adam(tuned.parameters(), lr=config.rate)
    random = torch.Generator().manual_seed(config.seed)

    def distances(made: Tensor, wanted: Tensor) -> Tensor:
        both = config.pixel_weight * mean_square(made, wanted)
        return (both + config.perceptual_weight * perceptual(made, wanted)).mean()

    for step in range(1, config.steps + 1):
        drawn = torch.randperm(len(pivots), generator=random)[: config.batch]
        loss = distances(tuned(pivots[drawn]), images[drawn])
        losses = {"pivots": loss.item()}
        if config.locality_weight:
            with torch.no_grad():
                others = other_codes(generator, pivots[drawn[:1]], config.locality_share, random)
                kept = generator.synthesis(others)
            change = distances(tuned(others), kept)
            losses["locality"] = change.item()
            loss = loss + config.locality_weight * change
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        note(step, losses)
    return tuned.requires_grad_(False)


def other_codes(generator: Generator, pivots: Tensor, share: float, random: torch.Generator) -> Tensor:
    """Codes on the way from each of the pivots float [N, L, 512] to a sampled code, of the same shape."""
    mapping = generator.mapping
    return torch.lerp(pivots, mapping(*mapping.draw(len(pivots), random)), share)
