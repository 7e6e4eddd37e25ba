"""A bank of directions that are easy to tell apart: a regressor sees two pictures, and says which was taken.

Voynov & Babenko, "Unsupervised discovery of interpretable directions in the GAN latent space" (ICML 2020, arXiv
2002.03754). Directions and regressor are learned together, on sampled codes.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.networks.generator import Generator, sample_codes

SHIFT_WEIGHT = 0.25  # of the mean absolute error of strengths; the paper's
SMALLEST = 0.25  # strengths nearer to 0 show nothing
SEEN = 64  # the regressor sees pictures of at most this side, pixels
TESTED = 128  # new codes that the regressor is tested on
AT_ONCE = 16


@dataclass
class BankConfig:
    """How a bank is learned."""

    steps: int = 400
    """Steps of Adam, for each group of layers."""
    batch: int = 8
    """Sampled codes a step."""
    rate: float = 1e-3
    """Adam's rate."""
    reach: float = 2.0
    """Strengths go up to this, in standard deviations of sampled codes, to either side."""
    seed: int = 0
    """Of the codes, strengths and first directions."""


class ShiftRegressor(nn.Module):
    """Pictures before and after float [N, 3, H, W] -> logits [N, K] of the direction that was taken, strength [N]."""

    def __init__(self, count: int) -> None:
        super().__init__()
        widths = (6, 32, 64, 128, 128)
        layers: list[nn.Module] = []
        for a, b in pairwise(widths):
            layers += [nn.Conv2d(a, b, 3, 2, padding=1), nn.GroupNorm(8, b), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.head = nn.Linear(4 * widths[-1], count + 1)

    def forward(self, before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
        pair = torch.cat([before, after - before], 1)
        if pair.shape[2] > SEEN:
            pair = F.adaptive_avg_pool2d(pair, SEEN)
        *logits, strength = self.head(self.layers(pair)).split([self.head.out_features - 1, 1], 1)
        return logits[0], strength[:, 0]


class Bank(nn.Module):
    """Orthonormal vectors among what the mapping's last layer is given, and the steps among codes that they make."""

    def __init__(self, native: Tensor, layers: list[int], count: int, sampled: Tensor) -> None:
        super().__init__()
        self.native, self.sampled = native[layers], sampled[:, layers].flatten(1)  # [G, 512, I], [M, G * 512]
        self.shape, self.layers = (count, *native.shape[:2]), layers
        self.vectors = nn.Parameter(torch.randn(native.shape[2], count) / native.shape[2] ** 0.5)

    def forward(self) -> Tensor:
        """Steps of strength 1, float [K, L, 512]: one standard deviation of sampled codes along each."""
        orthonormal, _ = torch.linalg.qr(self.vectors)
        moved = torch.einsum("loi,ic->clo", self.native, orthonormal)
        unit = F.normalize(moved.flatten(1), dim=1)
        spread = (self.sampled @ unit.detach().T).std(0)
        steps = moved.new_zeros(self.shape)
        steps[:, self.layers] = (unit * spread[:, None]).unflatten(1, moved.shape[1:])
        return steps


def learn_bank(
    generator: Generator, native: Tensor, layers: list[int], count: int, config: BankConfig
) -> tuple[Tensor, list[float]]:
    """Learn `count` steps float [count, L, 512] on `layers`; and how often each is told on new codes.

    `native`: what moves codes natively, float [L, 512, I]; see `factors.native_map`.
    """
    torch.manual_seed(config.seed)
    bank = Bank(native, layers, count, sample_codes(generator, 1_000))
    regressor = ShiftRegressor(count)
    adam = torch.optim.Adam([*bank.parameters(), *regressor.parameters()], config.rate, betas=(0.9, 0.99))
    for _ in range(config.steps):
        taken, strengths = torch.randint(count, (config.batch,)), drawn_strengths(config.batch, config.reach)
        with torch.no_grad():
            codes = generator.mapping(torch.randn(config.batch, generator.config.z_size))
            before = generator.synthesis(codes)
        logits, told = regressor(
            before, generator.synthesis(codes + strengths[:, None, None] * bank()[taken])
        )
        loss = F.cross_entropy(logits, taken) + SHIFT_WEIGHT * (told - strengths).abs().mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
    with torch.no_grad():
        steps = bank()
        right = [_told(generator, regressor, steps, number, config.reach) for number in range(count)]
    return steps, right


def drawn_strengths(count: int, reach: float) -> Tensor:
    """Strengths float [count] from -reach to reach, none of them too small to be seen."""
    drawn = reach * (2 * torch.rand(count) - 1)
    return torch.where(drawn < 0, -1.0, 1.0) * drawn.abs().clamp(min(SMALLEST, reach))


def _told(generator: Generator, regressor: nn.Module, steps: Tensor, number: int, reach: float) -> float:
    """How often a direction is told from the others, as a share of new codes' pictures."""
    codes = sample_codes(generator, TESTED, seed=17)
    strengths = drawn_strengths(TESTED, reach)[:, None, None]
    right = 0
    for before, after in zip(
        codes.split(AT_ONCE), (codes + strengths * steps[number]).split(AT_ONCE), strict=True
    ):
        logits, _ = regressor(generator.synthesis(before), generator.synthesis(after))
        right += int((logits.argmax(1) == number).sum())
    return right / TESTED
