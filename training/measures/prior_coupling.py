"""How near to the prior codes can be brought by the least change of their pictures: couplings of two Gaussians.

Codes of photographs, as inputs of the mapping, have a mean and a covariance that are not the prior's N(0, I). A
coupling moves and blurs them until they have those that are wanted. Among all linear ones it is that whose pictures
change least, the optimal transport between Gaussians in the metric of the pictures (Peyre and Cuturi, "Computational
Optimal Transport", arXiv 1803.00567, remark 2.31).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

FLOOR = 1e-4
"""Least eigenvalue of the pictures' metric, as a share of its largest: it says what to do where no picture changes."""


@dataclass(frozen=True)
class Coupling:
    """z' = target_mean + gain (z - mean) + noise: float64."""

    mean: Tensor
    target_mean: Tensor
    gain: Tensor
    """[D, D]"""
    noise: Tensor
    """[D, D], a root of the noise's covariance"""

    def __call__(self, z: Tensor, random: torch.Generator) -> Tensor:
        """Inputs float [N, D] of codes -> such as have the wanted mean and covariance. The noise is drawn."""
        drawn = torch.randn(z.shape, generator=random).double()
        moved = self.target_mean + (z.double() - self.mean) @ self.gain.T + drawn @ self.noise.T
        return moved.float()


def couple(z: Tensor, metric: Tensor, share: float, most_gain: float = 1.5) -> Coupling:
    """Fit a coupling of inputs float [N, D] with a Gaussian that is `share` of the way to N(0, I), mean and covariance.

    `metric` float [D, D]: the mean square by which pictures change is dz^T metric dz. Directions in which z hardly
    varies would have to be amplified; beyond `most_gain` the variance that is missing is noise.
    """
    mean, covariance = z.double().mean(0), torch.cov(z.double().T)
    identity = torch.eye(z.shape[1], dtype=torch.float64)
    wanted = (1 - share) * covariance + share * identity
    metric = metric.double()
    root = matrix_power(metric + FLOOR * torch.linalg.eigvalsh(metric)[-1] * identity, 0.5)
    a = matrix_power(root @ (covariance + 1e-6 * identity) @ root, 0.5)
    inverse = torch.linalg.inv(a)
    transport = inverse @ matrix_power(a @ (root @ wanted @ root) @ a, 0.5) @ inverse
    left, gains, right = torch.linalg.svd(torch.linalg.solve(root, transport @ root))
    gain = (left * gains.clamp(max=most_gain)) @ right
    noise = matrix_power(wanted - gain @ covariance @ gain.T, 0.5)
    return Coupling(mean, (1 - share) * mean, gain, noise)


def matrix_power(matrix: Tensor, power: float) -> Tensor:
    """A power of a symmetric matrix; what is below zero in it counts as zero."""
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp(min=0) ** power) @ vectors.T


@torch.no_grad()
def picture_metric(
    draw: Callable[[Tensor], Tensor], at: Tensor, step: float = 0.5, batch: int = 32
) -> Tensor:
    """The metric float [D, D] of pictures at inputs float [K, D], averaged over these: finite differences of `draw`,
    which makes pictures float [N, 3, H, W] of inputs."""
    directions = torch.eye(at.shape[1])
    metric = torch.zeros(at.shape[1], at.shape[1])
    for z in at:
        start = draw(z[None]).flatten(1)
        moved = torch.cat([draw(z + step * part).flatten(1) for part in directions.split(batch)])
        jacobian = (moved - start) / step
        metric += jacobian @ jacobian.T / (jacobian.shape[1] * len(at))
    return metric
