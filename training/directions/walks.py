"""`python -m training steer`: learns walks in code space that zoom, shift, rotate and recolour pictures.

Jahanian, Chai, Isola, "On the 'steerability' of generative adversarial networks" (ICLR 2020, arXiv 1907.07171): the
walk w + a v whose pictures are nearest to changed ones, and the walk of a network that is applied again and again.
Nothing is labelled; the change itself says what is wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import Tensor

from training.data.pictures import DataError
from training.directions.directions import DOMAIN_FLOOR, add_directions
from training.directions.journeys import Survey, as_direction, journey_table, straight, walks_sheet
from training.directions.network_walks import HIDDEN, NetworkWalk
from training.directions.transforms import TRANSFORMS, Transform, TransformName
from training.losses.perceptual import LPIPSSq
from training.networks.generator import Generator, sample_codes
from training.refinement.objective import Perceptual, masked_mean_square
from training.run_folders.trained_inversion import load_inversion

SHOWN = 2  # codes on the sheet of pictures
STATISTICS = 1_000  # sampled codes that the spread of a code's entries is measured on
TOLD = 20  # steps between two lines about losses
# Pictures in [-1, 1] before the step, those after it (not clamped), strengths [N] -> loss [N]; pictures [N, 3, H, W].
WalkLoss = Callable[[Tensor, Tensor, Tensor], Tensor]
Move = Callable[[Tensor, Tensor], Tensor]  # codes [N, L, 512] and strengths [N] -> codes


@dataclass
class WalkConfig:
    """How a walk is learned."""

    steps: int = 60
    """Steps of Adam."""
    batch: int = 3
    """Sampled codes a step."""
    rate: float = 0.03
    """Adam's rate in standard deviations of a code's entries; it falls to 0."""
    reach: float = 2.0
    """Walks are learned on strengths up to this, to either side."""
    seed: int = 0
    """Of the codes and strengths."""


@dataclass
class HoldConfig:
    """Up to where a walk holds."""

    pictures: int = 24
    """Sampled codes, none of them learned on, that a walk is measured on."""
    domain_floor: float = DOMAIN_FLOOR
    """A range ends where the median domain score of edited codes falls below this."""
    faces_floor: float = 0.95
    """It ends where fewer than this share of faces are still found; left out for generators that draw no faces."""


@dataclass
class SteerConfig:
    """Learn walks that change pictures as a transform does, and add them to an encoder's run folder."""

    run: tyro.conf.Positional[Path]
    """Run folder of an encoder, or what `publish` made of it."""
    transforms: tuple[TransformName, ...] = (
        "zoom",
        "shift-x",
        "shift-y",
        "rotate",
        "brightness",
        "saturation",
    )
    """What to learn a walk for."""
    pixel_weight: float = 1.0
    """Of the mean squared error."""
    perceptual_weight: float = 1.0
    """Of LPIPS-sq."""
    network: bool = False
    """Also learn a walk that a network makes of each, and measure it beside the linear one. It is not stored: its steps
    differ from code to code, and a direction has one for all."""
    walk: WalkConfig = field(default_factory=WalkConfig)
    """Steps, rate, strengths."""
    hold: HoldConfig = field(default_factory=HoldConfig)
    """Where ranges end."""
    picture: Path | None = None
    """Also write a sheet there: a row a walk, strengths -2 to 2."""


def steer(config: SteerConfig) -> str:
    """Learn, measure and store the walks; return a table of what they do. Raises DataError, CheckpointError."""
    if not config.transforms:
        raise DataError(f"--transforms names none; there are {', '.join(TRANSFORMS)}")
    check_walk(config.walk, config.hold)
    run = load_inversion(config.run)
    perceptual, names = LPIPSSq().eval(), list(dict.fromkeys(config.transforms))
    losses = [
        edit_loss(TRANSFORMS[name], perceptual, config.pixel_weight, config.perceptual_weight)
        for name in names
    ]
    steps, survey = learn_walks(run.generator, losses, config.walk), Survey(run, config.hold.pictures)
    journeys, ranges, found = {}, {}, []
    for name, step in zip(names, steps, strict=True):
        transform = TRANSFORMS[name]
        journey = survey.follow(straight(step), transform.measure)
        ends = journey.range(config.hold.domain_floor, config.hold.faces_floor)
        journeys[transform.label], ranges[transform.label] = journey, ends
        found.append(as_direction(f"steer-{name}", transform.label, step, journey, ends))
        print(f"{found[-1].name}: range {ends[0]:g} to {ends[1]:g}", flush=True)
    if config.network:
        for name, network in zip(names, learn_network_walks(run.generator, losses, config.walk), strict=True):
            transform = TRANSFORMS[name]
            label = f"{transform.label}, by a network"
            journeys[label] = survey.follow(network.walk, transform.measure)
            ranges[label] = journeys[label].range(config.hold.domain_floor, config.hold.faces_floor)
    if config.picture:
        walks_sheet(run.generator.synthesis, survey.codes[:SHOWN], steps).save(config.picture, quality=65)
    listing = add_directions(config.run, found)
    return f"{journey_table(journeys, ranges)}\n{listing} written"


def check_walk(walk: WalkConfig, hold: HoldConfig) -> None:
    """Raises DataError for settings that no walk can be learned or measured with."""
    for option, value in (
        ("--walk.steps", walk.steps),
        ("--walk.batch", walk.batch),
        ("--walk.reach", walk.reach),
        ("--hold.pictures", hold.pictures),
    ):
        if not value > 0:
            raise DataError(f"{option} is {value}; it must be above 0")


def edit_loss(
    transform: Transform, perceptual: Perceptual, pixel_weight: float, perceptual_weight: float
) -> WalkLoss:
    """How far pictures are from the transformed ones, where the transform says what is to be seen."""

    def loss(before: Tensor, after: Tensor, strengths: Tensor) -> Tensor:
        with torch.no_grad():
            wanted, mask = transform.apply(before, strengths)
            features = perceptual.features(wanted * mask)
        # What is outside the mask must not reach the features of places beside its border.
        between = perceptual.between(perceptual.features(after * mask), features, mask)
        return pixel_weight * masked_mean_square(after - wanted, mask) + perceptual_weight * between

    return loss


def learn_walks(generator: Generator, losses: list[WalkLoss], config: WalkConfig) -> list[Tensor]:
    """For each loss, the step float32 [L, 512] of strength 1 with the least of it, over sampled codes and strengths.

    A step has a vector for each layer. Its entries are learned in standard deviations of sampled codes' entries. All
    walks see the same codes, as their pictures before are half of the work.
    """
    random = torch.Generator().manual_seed(config.seed)
    _, deviation = _statistics(generator, random)
    standard = [torch.zeros_like(deviation, requires_grad=True) for _ in losses]

    def linear(step: Tensor) -> Move:
        return lambda codes, strengths: codes + strengths[:, None, None] * step * deviation

    rates = [{"params": standard, "lr": config.rate}]
    _fit(generator, losses, [linear(step) for step in standard], rates, random, config)
    return [(step * deviation).detach() for step in standard]


def learn_network_walks(
    generator: Generator, losses: list[WalkLoss], config: WalkConfig
) -> list[NetworkWalk]:
    """For each loss, the network walk with the least of it, over the codes and strengths of `learn_walks`."""
    random = torch.Generator().manual_seed(config.seed)
    mean, deviation = _statistics(generator, random)
    walks = [NetworkWalk(mean, deviation, config.seed) for _ in losses]
    rates = [
        {"params": [walk.step for walk in walks], "lr": config.rate},
        # As many units add up in one entry of a step.
        {"params": [matrix for walk in walks for matrix in (walk.down, walk.up)], "lr": config.rate / HIDDEN},
    ]
    _fit(generator, losses, [walk.forward for walk in walks], rates, random, config)
    return walks


def _statistics(generator: Generator, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of sampled codes' entries, each float [L, 512]."""
    codes = sample_codes(generator, STATISTICS, random)
    return codes.mean(0), codes.std(0) + 1e-6


def _fit(
    generator: Generator,
    losses: list[WalkLoss],
    moves: Sequence[Move],
    rates: list[dict[str, Any]],
    random: torch.Generator,
    config: WalkConfig,
) -> None:
    """Lowers the loss of each walk; `rates`: Adam's groups of their parameters."""
    adam = torch.optim.Adam(rates, betas=(0.9, 0.99))
    falling = torch.optim.lr_scheduler.LambdaLR(adam, lambda done: 1 - done / config.steps)
    for done in range(1, config.steps + 1):
        codes = sample_codes(generator, config.batch, random)
        strengths = config.reach * (2 * torch.rand(config.batch, generator=random) - 1)
        with torch.no_grad():
            before = generator.synthesis(codes).clamp(-1, 1)
        adam.zero_grad()
        values = []
        for move, loss in zip(moves, losses, strict=True):
            value = loss(before, generator.synthesis(move(codes, strengths)), strengths).mean()
            value.backward()
            values.append(f"{float(value.detach()):.3g}")
        adam.step()
        falling.step()
        if done % TOLD == 0:
            print(f"step {done}: loss {' '.join(values)}", flush=True)
