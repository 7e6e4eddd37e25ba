"""A bank of directions, learned together with the regressor that tells them apart.

Voynov & Babenko, "Unsupervised discovery of interpretable directions in the GAN latent space" (ICML 2020, arXiv
2002.03754): what a regressor can name from a picture before and one after is a change of its own. It is InfoGAN's idea
(arXiv 1606.03657) for a generator that is there already. Directions of other methods are measured in the same way.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.data.pictures import DataError
from training.directions.banks.regressor import Regressor
from training.networks.generator import Generator, sample_codes

EACH = 4  # directions that are tried from each code, whose picture before they share
REACH = 2.0  # strengths are learned up to this, to either side
LEAST = 0.5  # and from this on: a strength of 0 changes nothing
REGRESSOR_RATE = 3e-3  # Adam's, for the regressor
STRENGTH_WEIGHT = 0.25  # of the strengths' absolute error; the paper's lambda
FRESH = 23  # seed of the codes that a regressor is measured on
TOLD = 20  # steps between two lines about losses


@dataclass
class BankConfig:
    """How a bank and its regressor are learned."""

    steps: int = 64
    """Steps of Adam."""
    batch: int = 4
    """Sampled codes a step; four directions are tried from each."""
    rate: float = 0.03
    """Adam's rate for the bank; it falls to 0. With 0 its random directions stay, and only the regressor learns."""
    fresh: int = 16
    """Pairs of pictures for each direction, none of them learned on, that the regressor is measured on."""
    seed: int = 0
    """Of the random directions, the codes and the strengths."""


class Bank(nn.Module):
    """K directions that are uncorrelated over sampled codes.

    `rows` float [K, R], orthonormal: directions among principal components, each in its standard deviations.
    """

    components: Tensor
    deviations: Tensor

    def __init__(self, components: Tensor, codes: Tensor, count: int, seed: int = 0) -> None:
        """Begin with random directions.

        components float [R, L, 512]: principal components of sampled codes [M, L, 512], of length 1. Raises DataError
        where there are fewer than `count`.
        """
        super().__init__()
        if not 1 <= count <= len(components):
            raise DataError(
                f"a bank among {len(components)} components has no {count} directions; ask for fewer"
            )
        self.register_buffer("components", components)
        self.register_buffer("deviations", (codes.flatten(1) @ components.flatten(1).T).std(0))
        random = torch.Generator().manual_seed(seed)
        self.rows = nn.Parameter(torch.randn(count, len(components), generator=random))
        self.make_orthonormal()

    def steps(self) -> Tensor:
        """Steps of strength 1, float [K, L, 512]: as long as the standard deviation of sampled codes along them."""
        vectors = F.normalize(self.rows * self.deviations, dim=1)
        lengths = (vectors * self.deviations).norm(dim=1, keepdim=True)
        return torch.einsum("kr,rlc->klc", lengths * vectors, self.components)

    @torch.no_grad()
    def make_orthonormal(self) -> None:
        """Put the nearest orthonormal rows in place of the present ones."""
        u, _, v = torch.linalg.svd(self.rows, full_matrices=False)
        self.rows.copy_(u @ v)


@dataclass(frozen=True)
class ToldApart:
    """How well a regressor knows directions from pairs of pictures that it was not trained on."""

    shares: list[float]
    """Of the pairs of each direction, those whose direction it names."""
    strength_error: float
    """Mean absolute error of strengths, whose sizes are 0.5 to 2."""

    @property
    def accuracy(self) -> float:
        """Share of all pairs whose direction is named; chance is one in as many as there are directions."""
        return sum(self.shares) / len(self.shares)


def check_bank(config: BankConfig) -> None:
    """Raises DataError for settings that no bank can be learned or measured with."""
    for name in ("steps", "batch", "fresh"):
        if not getattr(config, name) > 0:
            raise DataError(f"--bank.{name} is {getattr(config, name)}; it must be above 0")
    if not config.rate >= 0:
        raise DataError(f"--bank.rate is {config.rate}; it must be 0 or above")


def learn_bank(generator: Generator, bank: Bank, config: BankConfig) -> Regressor:
    """Train a bank and its regressor together; return the regressor."""
    if config.rate == 0:
        return train_regressor(generator, bank.steps().detach(), config)
    return _train(generator, bank.steps, bank, config)


def train_regressor(generator: Generator, steps: Tensor, config: BankConfig) -> Regressor:
    """Train a regressor for directions that stay as they are, float [K, L, 512] of strength 1."""
    return _train(generator, lambda: steps, None, config)


@torch.no_grad()
def tell_apart(generator: Generator, regressor: Regressor, steps: Tensor, fresh: int) -> ToldApart:
    """Try a regressor on `fresh` new pairs of each direction, float [K, L, 512] of strength 1."""
    random = torch.Generator().manual_seed(FRESH)
    which = torch.arange(len(steps))
    named, missed = [], []
    for _ in range(fresh):
        codes, strengths = (
            sample_codes(generator, -(-len(steps) // EACH), random),
            _strengths(len(steps), random),
        )
        logits, told = regressor(*_pairs(generator, codes, steps, strengths))
        named.append(logits.argmax(1) == which)
        missed.append((told - strengths).abs())
    shares = torch.stack(named).double().mean(0).tolist()
    return ToldApart(shares, float(torch.stack(missed).mean()))


def _strengths(count: int, random: torch.Generator) -> Tensor:
    """Strengths float [count] of either sign, evenly spread in size from LEAST to REACH."""
    sizes = LEAST + (REACH - LEAST) * torch.rand(count, generator=random)
    return sizes * (2 * torch.randint(2, (count,), generator=random) - 1)


def _pairs(generator: Generator, codes: Tensor, steps: Tensor, strengths: Tensor) -> tuple[Tensor, Tensor]:
    """Pictures float [N, 3, H, W] in [-1, 1] before and after N steps, the first EACH of them from the first code."""
    shared = torch.arange(len(steps)) // EACH
    with torch.no_grad():
        before = generator.synthesis(codes).clamp(-1, 1)[shared]
    moved = codes[shared] + strengths[:, None, None] * steps
    return before, generator.synthesis(moved).clamp(-1, 1)


def _train(
    generator: Generator, steps: Callable[[], Tensor], bank: Bank | None, config: BankConfig
) -> Regressor:
    random = torch.Generator().manual_seed(config.seed)
    torch.manual_seed(config.seed)
    regressor, count = Regressor(len(steps())).train(), config.batch * EACH
    groups = [{"params": [*regressor.parameters()], "lr": REGRESSOR_RATE}]
    if bank:
        groups.append({"params": [bank.rows], "lr": config.rate})
    adam = torch.optim.Adam(groups)
    falling = torch.optim.lr_scheduler.LambdaLR(adam, lambda done: 1 - done / config.steps)
    for done in range(1, config.steps + 1):
        which = torch.randint(len(steps()), (count,), generator=random)
        codes, strengths = sample_codes(generator, config.batch, random), _strengths(count, random)
        before, after = _pairs(generator, codes, steps()[which], strengths)
        # The way back is a pair, too: the same direction, by the opposite strength.
        logits, told = regressor(torch.cat([before, after]), torch.cat([after, before]))
        missed = (told - torch.cat([strengths, -strengths])).abs().mean()
        loss = F.cross_entropy(logits, which.repeat(2)) + STRENGTH_WEIGHT * missed
        adam.zero_grad()
        loss.backward()
        adam.step()
        falling.step()
        if bank:
            bank.make_orthonormal()
        if done % TOLD == 0:
            print(f"step {done}: loss {float(loss.detach()):.3g}", flush=True)
    return regressor.eval()
