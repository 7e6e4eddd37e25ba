"""What an inversion by optimisation varies: a code, or, in inversions without an encoder, something else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Search:
    """What an optimisation varies, how a code is made of it, and what keeps it probable.

    Inversions without an encoder differ in this alone: `image2stylegan`, `single_w`, `z_with_prior` and
    `z_with_clipping`.
    """

    start: Tensor
    """First value of the variable, float [N, ...]."""
    code: Callable[[Tensor], Tensor] = lambda x: x
    """Variable -> code float [N, L, 512]."""
    prior: Callable[[Tensor], Tensor] = lambda x: x.new_zeros(len(x))
    """Variable -> what is added to the loss, float [N]."""
    clip: Callable[[Tensor], Tensor] = lambda x: x
    """Applied to the variable after each step."""


def image2stylegan(mean_code: Tensor, count: int) -> Search:
    """Vary all of W+, from the mean code float [L, 512] (Image2StyleGAN, Abdal et al., arXiv 1904.03189)."""
    return Search(mean_code.expand(count, -1, -1))


def single_w(mean_code: Tensor, count: int) -> Search:
    """Vary one shift of 512 numbers for all layers: where the mapping repeats one w, this searches W."""
    return Search(mean_code.new_zeros(count, 1, mean_code.shape[1]), code=lambda shift: mean_code + shift)


def z_with_prior(mapping: Callable[[Tensor], Tensor], z: Tensor, weight: float = 0.01) -> Search:
    """Vary z float [N, 512] under its Gaussian prior (Creswell & Bharath, arXiv 1611.05644, section III-B)."""
    return Search(z, code=mapping, prior=lambda z: weight * z.square().mean(1))


def z_with_clipping(mapping: Callable[[Tensor], Tensor], z: Tensor, bound: float = 2.0) -> Search:
    """Vary z; entries that leave +-bound are drawn anew (stochastic clipping, Lipton & Tripathi, arXiv 1702.04782)."""

    def redraw(z: Tensor) -> Tensor:
        return torch.where(z.abs() > bound, bound * (2 * torch.rand_like(z) - 1), z)

    return Search(z, code=mapping, clip=redraw)
