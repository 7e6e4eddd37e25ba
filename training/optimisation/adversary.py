"""A discriminator in training: its optimiser, its lazy regulariser, and what it says to the network that it judges."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import torch
from lightning.fabric import Fabric
from torch import Tensor, nn

from training.losses.adversarial import Discriminator, label_loss
from training.optimisation.adam import ParameterGroup, adam
from training.optimisation.step import update

BETAS = (0.0, 0.99)


@contextlib.contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """Within it the network's trained weights get no gradient."""
    trained = [p for p in network.parameters() if p.requires_grad]
    for p in trained:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in trained:
            p.requires_grad_(True)


@dataclass(frozen=True)
class Regularisation:
    """How a discriminator's own regulariser is taken: `gamma` / 2 times it, once in `interval` steps (lazily)."""

    gamma: float
    interval: int


def discriminator_adam(
    discriminator: Discriminator,
    rate: float,
    regularisation: Regularisation | None = None,
    rates: Mapping[str, float] = MappingProxyType({}),
) -> torch.optim.Optimizer:
    """Adam for a discriminator's trained weights, one group for each of its parts.

    `rates` names the parts whose rate is not `rate`. With a regularisation, rate and moments of a regularised part
    shrink, to make up for the step more that it takes in every `interval` (StyleGAN2, appendix B).
    """
    groups: list[ParameterGroup] = []
    for name, part in discriminator.parts().items():
        lazy = 1.0
        if regularisation and part.regularised:
            lazy = regularisation.interval / (regularisation.interval + 1)
        trained = [p for p in part.parameters() if p.requires_grad]
        betas = (BETAS[0], BETAS[1] ** lazy)
        groups.append(ParameterGroup(trained, rates.get(name, rate) * lazy, betas))
    return adam(groups)


class DiscriminatorStep(NamedTuple):
    """What one step of a discriminator gave, without gradients."""

    loss: Tensor
    real_logits: Tensor
    fake_logits: Tensor
    penalty: Tensor | None
    """The regulariser's value in steps that take it."""
    label_loss: Tensor | None = None
    """The auxiliary classifier's part of the loss, without its weight."""

    def figures(self, discriminator: str, judged: str) -> dict[str, Tensor]:
        """The loss, and the mean probability with which what is real and what is not was taken for real."""
        return {
            f"{discriminator}_discriminator": self.loss,
            f"{judged}_real": self.real_logits.sigmoid().mean(),
            f"{judged}_fake": self.fake_logits.sigmoid().mean(),
        }


class Adversary:
    """A discriminator with its optimiser, trained in turns with a generator or an encoder."""

    def __init__(
        self,
        discriminator: Discriminator,
        optimiser: torch.optim.Optimizer,
        fabric: Fabric,
        regularisation: Regularisation | None = None,
        *,
        augment: Callable[[Tensor], Tensor] = lambda x: x,
        mixed_precision: bool = True,
        label_weight: float = 1.0,
    ) -> None:
        """Put a discriminator and its optimiser together; without `regularisation` its regulariser is left out.

        `label_weight`: of the auxiliary classifier's loss, where labels are given. `augment` changes all samples before
        they are judged. Without `mixed_precision` logits are computed in float32 whatever the run's precision is.
        """
        self.discriminator, self.optimiser, self.fabric = discriminator, optimiser, fabric
        self.regularisation = regularisation if discriminator.regularised else None
        self.augment, self.label_weight = augment, label_weight
        # A tensor, so that a captured step reads what it is by then.
        self.label_share = torch.ones((), device=fabric.device)
        self._autocast = fabric.autocast if mixed_precision else contextlib.nullcontext

    def regularises(self, step: int) -> bool:
        """Whether step number `step` takes the regulariser too."""
        return self.regularisation is not None and step % self.regularisation.interval == 0

    def step(
        self,
        real: Tensor,
        fake: Tensor,
        labels: Tensor | None = None,
        *,
        regularise: bool = False,
    ) -> DiscriminatorStep:
        """One step of the discriminator on real and generated samples, which carry no gradient.

        `labels`: those of the real ones, float32 [N, K], NaN where one is not known. The classifier learns from real
        samples alone (as in StarGAN, arXiv 1711.09020). AC-GAN's learns from generated ones, too; but then it takes
        whatever the generator makes of a label for that label, and the generator draws one picture for each.
        """
        discriminator = self.discriminator
        classified = None
        with self._autocast():
            shown = self.augment(torch.cat([real, fake]))
            judged = discriminator.compare(shown[: len(real)], shown[len(real) :])
            (real_logits, said), (fake_logits, _) = map(discriminator.split, judged)
            loss = discriminator.discriminator_loss(real_logits, fake_logits)
            if labels is not None and said is not None:
                classified = label_loss(said, labels)
                loss = loss + self.label_weight * classified
        update(self.fabric, loss, self.optimiser)
        penalty, lazy = None, self.regularisation
        if lazy and regularise:
            with self._autocast():
                penalty = discriminator.regulariser(self.augment(real))
            update(self.fabric, penalty * (lazy.gamma / 2 * lazy.interval), self.optimiser)
        penalty = None if penalty is None else penalty.detach()
        classified = None if classified is None else classified.detach()
        return DiscriminatorStep(
            loss.detach(), real_logits.detach(), fake_logits.detach(), penalty, classified
        )

    def generator_loss(self, fake: Tensor, labels: Tensor | None = None) -> Tensor:
        """The loss of the network that made `fake`; the discriminator's own weights get no gradient.

        `labels`: those that `fake` was made with, float32 [N, K], which the classifier is to find. `label_share`, 0..1,
        is how much of its loss counts.
        """
        with frozen(self.discriminator), self._autocast():
            logits, said = self.discriminator.split(self.discriminator(self.augment(fake)))
            loss = self.discriminator.generator_loss(logits)
            if labels is None or said is None:
                return loss
            return loss + self.label_weight * self.label_share * label_loss(said, labels)


class ReplayPool:
    """A pool of earlier codes: half of those shown are swapped for older ones (arXiv 1612.07828, section 2.3)."""

    def __init__(self, size: int) -> None:
        """A pool of that many codes; of size 0 it swaps none."""
        self.size = size
        self.codes: list[Tensor] = []

    def swap(self, codes: Tensor) -> Tensor:
        """Take codes float [N, L, 512] in and give as many out."""
        if self.size == 0:
            return codes
        shown = []
        # A captured step's codes are overwritten by its next replay, so the pool keeps copies.
        for code in codes.clone():
            if len(self.codes) < self.size:
                self.codes.append(code)
                shown.append(code)
            elif torch.rand(()) < 0.5:
                i = int(torch.randint(self.size, ()))
                shown.append(self.codes[i])
                self.codes[i] = code
            else:
                shown.append(code)
        return torch.stack(shown)
