"""The loss of a code against a target picture.

Source: Zhu et al., "In-Domain GAN Inversion for Real Image Editing" (ECCV 2020), equation 3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import torch
from torch import Tensor, nn

from training.networks.extra_rows.groups import RowTerm
from training.refinement.measurement import Measurement

MASK_EPSILON = 1e-6  # makes the loss of an empty mask 0 instead of NaN


class Perceptual(Protocol):
    """A perceptual distance in two parts: features, which are computed once for a target, and their distance."""

    def features(self, image: Tensor) -> list[Tensor]:
        """Features of pictures float [N, 3, H, W] in [-1, 1]."""
        ...

    def between(self, a: list[Tensor], b: list[Tensor], mask: Tensor | None = None) -> Tensor:
        """Distance float [N] of two feature lists, places weighed by a mask float [N, 1, H, W]."""
        ...


@dataclass(frozen=True)
class Target:
    """What a code is refined towards. All of it is computed once, not at every step."""

    image: Tensor
    """float [N, 3, H, W] in [-1, 1], measured"""
    features: list[Tensor]
    """Its perceptual features."""
    identity: Tensor | None
    """Its face's descriptor float [N, D], of length 1; None for objectives without one."""
    mask: Tensor
    """float [N, 1, H, W], weight of each place in the pixel, the perceptual and the identity term."""
    measurement: Measurement
    """What of a picture is compared."""


@dataclass(frozen=True)
class Weights:
    """Weights of the terms: a number for all samples, or float [N] with one for each sample.

    detail, noise: 1 where that group of a code's additional rows counts, 0 where it does not; then it has no gradient
    either.
    """

    pixel: Tensor | float
    perceptual: Tensor | float
    domain: Tensor | float
    identity: Tensor | float = 0.0
    detail: Tensor | float = 1.0
    noise: Tensor | float = 1.0

    @classmethod
    def of(cls, settings: Mapping[str, Tensor]) -> Self:
        """The weights among settings, float [N] by name: `pixel_weight` and so on, `detail` and `noise`."""
        weights = {name.removesuffix("_weight"): value for name, value in settings.items()}
        return cls(**{name: weights[name] for name in cls.__dataclass_fields__ if name in weights})


class Objective(nn.Module):
    """The loss of a code against a target picture, by frozen networks.

    `code_variance` is the mean variance of sampled codes' entries. It divides the domain term, so that this term's
    weight means the same for every bundle. The paper's term has a variance of 1.

    Rows of a code beyond the `layers` come in `groups` (training/networks/extra_rows/). Each group's mean square, times
    its weight, is a part of the loss.

    `descriptor` gives descriptors of length 1 of the faces on pictures. The squared distance of the picture's and the
    target's is the identity term (as in Richardson et al., "Encoding in Style", CVPR 2021: twice 1 - cosine).
    """

    def __init__(
        self,
        synthesis: nn.Module,
        encoder: nn.Module,
        perceptual: nn.Module,
        code_variance: float,
        *,
        layers: int | None = None,
        groups: Sequence[RowTerm] = (),
        descriptor: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.synthesis, self.encoder, self.perceptual = synthesis, encoder, perceptual
        self.descriptor = descriptor
        self.code_variance = code_variance
        self.layers, self.groups = layers, groups

    def target(
        self, image: Tensor, mask: Tensor | None = None, measurement: Measurement | None = None
    ) -> Target:
        """A target of pictures float [N, 3, H, W] in [-1, 1] and a mask float [N, 1, H, W], by default all ones.

        `measurement`: what of the pictures is known; by default all.
        """
        measurement = measurement or Measurement()
        if mask is None:
            mask = torch.ones_like(image[:, :1])
        image = measurement(image)
        perceptual: Perceptual = self.perceptual  # type: ignore[assignment]
        identity = self.descriptor(image * known(mask)) if self.descriptor is not None else None
        return Target(image, perceptual.features(image), identity, mask, measurement)

    def forward(self, code: Tensor, target: Target, weights: Weights) -> Tensor:
        """code float [N, L or L + R, 512] -> loss float [N]. No sample's loss depends on another sample."""
        perceptual: Perceptual = self.perceptual  # type: ignore[assignment]
        vectors = code[:, : self.layers]
        counted: list[tuple[float, Tensor]] = []
        if code.shape[1] > vectors.shape[1]:
            counted = [
                (group.weight, code[:, group.rows] * for_each_sample(getattr(weights, group.name)))
                for group in self.groups
            ]
            code = torch.cat([vectors, *(rows for _, rows in counted)], 1)
        image = self.synthesis(code)
        seen = target.measurement(image)
        loss = weights.pixel * masked_mean_square(seen - target.image, target.mask)
        loss = loss + weights.perceptual * perceptual.between(
            perceptual.features(seen), target.features, target.mask
        )
        if self.descriptor is not None and target.identity is not None and counts(weights.identity):
            # A place that is not compared must say nothing about the face either.
            shown = self.descriptor(seen * known(target.mask))
            distance = (shown - target.identity).square().sum(1)
            loss = loss + weights.identity * distance
        for weight, rows in counted:
            loss = loss + weight * rows.square().mean((1, 2))
        # Inversions without an encoder have no domain term.
        if not counts(weights.domain):
            return loss
        return loss + weights.domain * domain_regulariser(vectors, self.encoder(image), self.code_variance)


def known(mask: Tensor) -> Tensor:
    """How far each place of a mask float [N, 1, H, W] is known, 0..1: a weight above 1 makes no picture brighter."""
    return mask.clamp(max=1)


def counts(weight: Tensor | float) -> bool:
    """Whether a term can be more than nothing: that is unknown of weights that come with each sample."""
    return not (isinstance(weight, float) and weight == 0)


def for_each_sample(weight: Tensor | float) -> Tensor | float:
    """A weight that multiplies float [N, L, 512]: float [N] -> [N, 1, 1]."""
    return weight[:, None, None] if isinstance(weight, Tensor) else weight


def masked_mean_square(error: Tensor, mask: Tensor) -> Tensor:
    """Mean of the squared error float [N, C, H, W], places weighed by a mask float [N, 1, H, W]: float [N]."""
    total = (error.square() * mask).sum((1, 2, 3))
    return total / (mask.sum((1, 2, 3)) * error.shape[1] + MASK_EPSILON)


def domain_regulariser(code: Tensor, encoded: Tensor, code_variance: float) -> Tensor:
    """mean((code - E(G(code)))^2) / code_variance float [N], of a code and E(G(code)), float [N, L, 512] each."""
    return (code - encoded).square().mean((1, 2)) * (1 / code_variance)


def to_float(image: Tensor) -> Tensor:
    """Pictures uint8 [N, H, W, 3] -> float32 [N, 3, H, W] in [-1, 1].

    The cast comes first, as TensorRT can do nothing else with bytes.
    """
    return image.float().permute(0, 3, 1, 2) * (1 / 127.5) - 1
