"""Losses of the GAN and of force-in-domain inversion, each a function named for its term.

Pictures are float [N, 3, H, W] in [-1, 1], codes float [N, L, 512], logits any shape [N, ...] (averaged).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def non_saturating_critic_loss(real: Tensor, fake: Tensor) -> Tensor:
    """-log D(real) - log(1 - D(fake)), logits in (Goodfellow et al., 2014)."""
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def non_saturating_loss(fake: Tensor) -> Tensor:
    """-log D(fake): what the generator, or the encoder, minimises."""
    return F.softplus(-fake).mean()


def hinge_critic_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Hinge loss, used with the projected critic (arXiv 2111.01007)."""
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


def hinge_loss(fake: Tensor) -> Tensor:
    """-D(fake)."""
    return -fake.mean()


def r1_penalty(critic: Callable[[Tensor], Tensor], real: Tensor) -> Tensor:
    """Mean squared gradient of the critic on real samples (arXiv 1801.04406, equation 9), without gamma / 2."""
    real = real.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(critic(real).sum(), real, create_graph=True)
    return gradient.square().flatten(1).sum(1).mean()
