"""The loss of a code against a target picture.

Source: Zhu et al., "In-Domain GAN Inversion for Real Image Editing" (ECCV 2020), equation 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

MASK_EPSILON = 1e-6  # an empty mask gives a loss of 0, not NaN


class Perceptual(Protocol):
    """A perceptual distance that splits into features, computed once for a target, and a distance of two of them."""

    def features(self, image: Tensor) -> list[Tensor]: ...

    def between(self, a: list[Tensor], b: list[Tensor], mask: Tensor | None = None) -> Tensor: ...


@dataclass(frozen=True)
class Target:
    """What a code is refined towards: all of it is computed once, not at every step."""

    image: Tensor  # float [N, 3, H, W] in [-1, 1]
    features: list[Tensor]
    mask: Tensor  # float [N, 1, H, W], weight of each place in the pixel and the perceptual term


@dataclass(frozen=True)
class Weights:
    """Weights of the three terms, one number for all samples or float [N] for each its own."""

    pixel: Tensor | float
    perceptual: Tensor | float
    domain: Tensor | float


class Objective(nn.Module):
    """Loss of a code against a target picture, frozen networks inside.

    `code_variance` is the mean variance of sampled codes' entries. It divides the domain term, so that its weight
    means the same for every bundle; the paper's term is the one with a variance of 1.
    """

    def __init__(
        self, synthesis: nn.Module, encoder: nn.Module, perceptual: nn.Module, code_variance: float
    ) -> None:
        super().__init__()
        self.synthesis, self.encoder, self.perceptual = synthesis, encoder, perceptual
        self.code_variance = code_variance

    def target(self, image: Tensor, mask: Tensor | None = None) -> Target:
        """image float [N, 3, H, W] in [-1, 1], mask float [N, 1, H, W], all ones if left out."""
        if mask is None:
            mask = torch.ones_like(image[:, :1])
        perceptual: Perceptual = self.perceptual  # type: ignore[assignment]
        return Target(image, perceptual.features(image), mask)

    def forward(self, code: Tensor, target: Target, weights: Weights) -> Tensor:
        """code float [N, L, 512] -> loss float [N]; no sample's loss depends on another sample."""
        perceptual: Perceptual = self.perceptual  # type: ignore[assignment]
        image = self.synthesis(code)
        loss = weights.pixel * masked_mean_square(image - target.image, target.mask)
        loss = loss + weights.perceptual * perceptual.between(
            perceptual.features(image), target.features, target.mask
        )
        if isinstance(weights.domain, float) and weights.domain == 0:  # an inversion that has no encoder
            return loss
        return loss + weights.domain * domain_regulariser(code, self.encoder(image), self.code_variance)


def masked_mean_square(error: Tensor, mask: Tensor) -> Tensor:
    """Mean of error^2, places weighed by the mask: float [N, C, H, W], float [N, 1, H, W] -> float [N]."""
    total = (error.square() * mask).sum((1, 2, 3))
    return total / (mask.sum((1, 2, 3)) * error.shape[1] + MASK_EPSILON)


def domain_regulariser(code: Tensor, encoded: Tensor, code_variance: float) -> Tensor:
    """mean((code - E(G(code)))^2) / variance of sampled codes: float [N, L, 512] twice -> float [N]."""
    return (code - encoded).square().mean((1, 2)) * (1 / code_variance)


def to_float(image: Tensor) -> Tensor:
    """uint8 [N, H, W, 3] -> float32 [N, 3, H, W] in [-1, 1]. Cast first: TensorRT does nothing else to bytes."""
    return image.float().permute(0, 3, 1, 2) * (1 / 127.5) - 1
