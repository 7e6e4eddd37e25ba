"""Adversarial losses and the interface of the discriminators that bring them.

Logits have any shape [N, ...] and are averaged in float32. They are high for "real".
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def non_saturating_discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """-log D(real) - log(1 - D(fake)), D the sigmoid of the logits (Goodfellow et al., arXiv 1406.2661)."""
    return F.softplus(-real_logits.float()).mean() + F.softplus(fake_logits.float()).mean()


def non_saturating_generator_loss(fake_logits: Tensor) -> Tensor:
    """-log D(fake): what the generator, or the encoder, minimises."""
    return F.softplus(-fake_logits.float()).mean()


def hinge_discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """max(0, 1 - real) + max(0, 1 + fake), as Projected GANs have it (arXiv 2111.01007)."""
    return F.relu(1 - real_logits.float()).mean() + F.relu(1 + fake_logits.float()).mean()


def hinge_generator_loss(fake_logits: Tensor) -> Tensor:
    """The negative mean logit: what the generator, or the encoder, minimises."""
    return -fake_logits.float().mean()


def r1_penalty(discriminator: Callable[[Tensor], Tensor], real: Tensor) -> Tensor:
    """Mean squared gradient of the logits on real samples (R1, arXiv 1801.04406, equation 9), without gamma / 2."""
    real = real.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(discriminator(real).sum(), real, create_graph=True)
    return gradient.square().flatten(1).sum(1).mean()


def label_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """L_C of AC-GAN (arXiv 1610.09585, equation 3), for binary labels: their cross-entropy, added up over the labels.

    logits float [N, K]; labels float32 [N, K] of 0..1, NaN where one is not known: it is left out of the mean.
    """
    known = ~labels.isnan()
    losses = F.binary_cross_entropy_with_logits(logits.float(), labels.nan_to_num(0.5), reduction="none")
    return ((losses * known).sum(0) / known.sum(0).clamp(min=1)).sum()


class Discriminator(nn.Module):
    """A network that tells real samples from generated ones, with the losses that belong to it.

    Training loops know this interface only. By default the losses are the non-saturating ones, and there is no
    regulariser.
    """

    regularised: bool = False
    """Whether `regulariser` is minimised too, in one step of several (lazy regularisation, StyleGAN2, appendix B)."""

    labels: int = 0
    """How many logits, the last ones, are an auxiliary classifier's (AC-GAN): one a label, high for 1."""

    def split(self, logits: Tensor) -> tuple[Tensor, Tensor | None]:
        """The logits for "real", which the losses take, and those of the labels, float [N, K]."""
        if not self.labels:
            return logits, None
        return logits[:, : -self.labels], logits[:, -self.labels :]

    def parts(self) -> dict[str, Discriminator]:
        """The discriminators that this one is made of, by name. Each has its own rate; one alone has the name ""."""
        return {"": self}

    def compare(self, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
        """All logits of real and of generated samples. What can be shared between the two is computed once."""
        return self(real), self(fake)

    def discriminator_loss(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """What the discriminator minimises, from its logits of real and of generated samples."""
        return non_saturating_discriminator_loss(real_logits, fake_logits)

    def generator_loss(self, fake_logits: Tensor) -> Tensor:
        """What the network that made the samples minimises, from their logits."""
        return non_saturating_generator_loss(fake_logits)

    def certainty(self, real_logits: Tensor) -> Tensor:
        """The mean sign of the logits of real samples, float [] in -1..1: near 1 where they are learned by heart."""
        return real_logits.float().sign().mean()

    def regulariser(self, real: Tensor) -> Tensor:
        """A penalty on real samples, without its weight."""
        raise NotImplementedError
