"""`python -m training analyze`: learns a direction that raises an assessor's score by a chosen amount.

Goetschalckx, Andonian, Oliva, Isola, "GANalyze: Toward visual definitions of cognitive image properties" (ICCV 2019,
arXiv 1906.10112). An assessor gives each picture a score and has a gradient: a formula, or a network
in a TorchScript or ONNX file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
import tyro
from torch import Tensor

from training.data.pictures import DataError
from training.directions.directions import add_directions
from training.directions.journeys import Survey, as_direction, draw, journey_table, straight, walks_sheet
from training.directions.onnx_files.network import OnnxNetwork
from training.directions.onnx_files.operators import OnnxError
from training.directions.transforms import Seen, Values, luma
from training.directions.walks import (
    SHOWN,
    HoldConfig,
    WalkConfig,
    WalkLoss,
    check_walk,
    learn_walks,
)
from training.networks.generator import Generator, sample_codes
from training.run_folders.trained_inversion import load_inversion

SCORED = 128  # sampled codes that the spread of scores is measured on
HOW = "make one with `torch.jit.trace(model, pictures).save(FILE)`"
Assessor = Callable[[Tensor], Tensor]  # pictures float [N, 3, H, W] in [-1, 1] -> scores float [N]


class AssessorError(ValueError):
    """The named assessor cannot be used; the message says why, and what to give."""


# --- formulas -----------------------------------------------------------------------------------------


def sharpness(images: Tensor) -> Tensor:
    """The variance of the Laplacian of the grey picture in 0..1 (Pech-Pacheco et al., ICPR 2000): float [N]."""
    kernel = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]]).to(images)[None, None]
    return F.conv2d(luma(images) / 2, kernel).var((1, 2, 3))


def colourfulness(images: Tensor) -> Tensor:
    """The M3 of Hasler & Suesstrunk, "Measuring colourfulness in natural images" (2003), on 0..255: float [N]."""
    red, green, blue = ((images + 1) * 127.5).unbind(1)
    opponents = torch.stack([red - green, (red + green) / 2 - blue], 1)  # [N, 2, H, W]
    # A root has no gradient at 0, where grey pictures are.
    spread = (opponents.var((2, 3), correction=0).sum(1) + 1e-6).sqrt()
    mean = (opponents.mean((2, 3)).square().sum(1) + 1e-6).sqrt()
    return spread + 0.3 * mean


FORMULAS: dict[str, Assessor] = {"sharpness": sharpness, "colourfulness": colourfulness}


# --- networks of others -------------------------------------------------------------------------------


def load_assessor(named: str, side: int | None = None) -> Assessor:
    """A formula by its name, or the network in a TorchScript or ONNX file. Raises AssessorError.

    The network is given RGB float [N, 3, H, W] in 0..1, resized to `side` pixels if that is given, and returns one
    value a picture, [N] or [N, 1].
    """
    if named in FORMULAS:
        return FORMULAS[named]
    file = Path(named)
    if not file.is_file():
        raise AssessorError(
            f"{named} is neither a file nor one of {', '.join(FORMULAS)}; give one of these, a TorchScript or an ONNX "
            "file"
        )
    network = _read_network(file)

    def assess(images: Tensor) -> Tensor:
        pictures = (images + 1) / 2
        if side:
            pictures = F.interpolate(pictures, (side, side), mode="bilinear", antialias=True)
        try:
            scores = network(pictures)
        except OnnxError as error:
            raise AssessorError(f"{named}: {error}") from error
        # Both kinds of networks raise a RuntimeError for all that goes wrong inside, TorchScript its own.
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise AssessorError(
                f"{named} fails on pictures {tuple(pictures.shape)} in 0..1: {reason}; "
                "--side names the pixels that it was made for"
            ) from error
        if not isinstance(scores, Tensor) or scores.shape not in ((len(images),), (len(images), 1)):
            given = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
            raise AssessorError(
                f"{named} gives {given} for {len(images)} pictures; it must give one value a picture"
            )
        return scores.flatten().float()

    return assess


def _read_network(file: Path) -> Callable[[Tensor], Tensor]:
    try:
        if file.suffix.lower() == ".onnx":
            return OnnxNetwork(file).eval()
        return torch.jit.load(str(file), map_location="cpu").eval()  # type: ignore[no-any-return]
    except OnnxError as error:
        raise AssessorError(f"{file}: {error}; or give the network as TorchScript: {HOW}") from error
    except (RuntimeError, ValueError, OSError) as error:
        raise AssessorError(f"{file} is no TorchScript file; {HOW}") from error


def spread_of_scores(generator: Generator, assessor: Assessor, named: str) -> float:
    """The standard deviation of the scores of sampled pictures. Raises AssessorError where no gradient can be had."""
    codes = sample_codes(generator, SCORED)
    few = draw(generator.synthesis, codes[:2]).requires_grad_()
    scores = assessor(few)
    if not scores.requires_grad:
        raise AssessorError(
            f"{named} has no gradient; it must be differentiable, and not traced under no_grad"
        )
    (gradient,) = torch.autograd.grad(scores.sum(), few, allow_unused=True)
    with torch.no_grad():
        images = draw(generator.synthesis, codes)
        spread = float(torch.cat([assessor(part) for part in images.split(16)]).std())
    if gradient is None or not gradient.isfinite().all() or not spread > 0 or spread == float("inf"):
        raise AssessorError(
            f"{named} tells pictures from this generator not apart, or gives no finite scores and gradients"
        )
    return spread


# --- the command --------------------------------------------------------------------------------------


@dataclass
class AnalyzeConfig:
    """Learn a direction that raises an assessor's score, and add it to an encoder's run folder."""

    run: tyro.conf.Positional[Path]
    """Run folder of an encoder, or what `publish` made of it."""
    assessor: str
    """`sharpness`, `colourfulness`, or a TorchScript or ONNX file that gives one value a picture."""
    amount: float | None = None
    """What a strength of 1 adds to the score; by default one standard deviation of sampled pictures' scores."""
    side: int | None = None
    """Pictures are resized to this before a file's network sees them, pixels."""
    name: str | None = None
    """The direction's name; by default `analyze-` and the assessor's."""
    walk: WalkConfig = field(default_factory=WalkConfig)
    """Steps, rate, strengths."""
    hold: HoldConfig = field(default_factory=HoldConfig)
    """Where the range ends."""
    picture: Path | None = None
    """Also write a sheet there: strengths -2 to 2."""


def analyze(config: AnalyzeConfig) -> str:
    """Learn, measure and store the direction; return a table. Raises AssessorError, DataError, CheckpointError."""
    check_walk(config.walk, config.hold)
    if config.amount is not None and not config.amount > 0:
        raise DataError(f"--amount is {config.amount}; it must be above 0")
    assessor, run = load_assessor(config.assessor, config.side), load_inversion(config.run)
    spread = spread_of_scores(run.generator, assessor, config.assessor)
    amount = config.amount or spread
    assessed = Path(config.assessor).stem.replace(" ", "-")
    name = config.name or f"analyze-{assessed}"
    label = f"{assessed.replace('_', ' ').replace('-', ' ').capitalize()} (+{amount:.3g})"

    @torch.no_grad()
    def measure(before: Seen, after: Seen) -> Values:
        values: Values = ((assessor(after.images) - assessor(before.images)) / amount).double().numpy()
        return values

    (step,) = learn_walks(run.generator, [score_loss(assessor, amount)], config.walk)
    survey = Survey(run, config.hold.pictures)
    journey = survey.follow(straight(step), measure)
    ends = journey.range(config.hold.domain_floor, config.hold.faces_floor)
    if config.picture:
        walks_sheet(run.generator.synthesis, survey.codes[:SHOWN], [step]).save(config.picture, quality=65)
    listing = add_directions(config.run, [as_direction(name, label, step, journey, ends)])
    return f"{journey_table({label: journey}, {label: ends})}\n{listing} written"


def score_loss(assessor: Assessor, amount: float) -> WalkLoss:
    """(A(G(w + a v)) - (A(G(w)) + a))^2, equation 2 of the paper, in units of `amount`."""

    def loss(before: Tensor, after: Tensor, strengths: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = assessor(before) / amount + strengths
        return (assessor(after.clamp(-1, 1)) / amount - wanted).square()

    return loss
