"""How far a walk in code space goes before its pictures break, and how much of what it says it does.

As the limits in Jahanian, Chai, Isola (arXiv 1907.07171, section 4) are found, but by the domain score of codes and by
a face detector: a walk holds while edited codes stay native, and while faces on pictures stay faces.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from training.directions.directions import READ, Direction
from training.directions.transforms import Seen, Values, see
from training.measures.domain_score import domain_scores, invert_samples
from training.networks.generator import sample_codes
from training.run_folders.picture_grid import image_grid
from training.run_folders.trained_inversion import TrainedInversion

FARTHEST = 3.0  # strengths that are tried, to either side
APART = 1.0  # between two of them
FINE = 0.25  # a range ends at a multiple of this
MEASURED = 2.0  # slopes are those of strengths up to this
HELD_OUT = 17  # seed of the codes that walks are measured on
AT_ONCE = 16  # pictures that networks draw together
Walk = Callable[[Tensor, float], Tensor]  # codes float [N, L, 512] and a strength -> codes
Measure = Callable[[Seen, Seen], Values]  # pictures before and after -> how far each went, in strengths


def straight(step: Tensor) -> Walk:
    """The linear walk of a step float [L, 512]: codes w + a v."""
    return lambda codes, strength: codes + strength * step


@torch.no_grad()
def draw(synthesis: nn.Module, codes: Tensor) -> Tensor:
    """Codes float [N, L, 512] -> pictures float [N, 3, H, W] in [-1, 1]."""
    return torch.cat([synthesis(part).clamp(-1, 1) for part in codes.split(AT_ONCE)])


@dataclass(frozen=True)
class Stop:
    """What is found at one strength of a walk."""

    strength: float
    measured: Values
    """How far each picture went, in strengths; NaN where that cannot be told."""
    faces: float | None
    """Share of the pictures with a face that still have one; None for a generator that draws no faces."""


@dataclass(frozen=True)
class Journey:
    """A walk, followed from one end to the other."""

    stops: list[Stop]
    domain_score: Callable[[float], float]
    """The median domain score of edited inversions at a strength."""

    def range(self, domain_floor: float, faces_floor: float) -> tuple[float, float]:
        """The lowest and the highest strength up to which codes stay native and faces are found; at least FINE.

        Faces are looked for at stops; between two of them there are as few as at the farther one.
        """
        ends = []
        for sign in (-1.0, 1.0):
            reached = FINE
            for size in np.arange(FINE, FARTHEST + FINE / 2, FINE):
                faces = self.beyond(sign * float(size)).faces
                if self.domain_score(sign * float(size)) < domain_floor or (
                    faces is not None and faces < faces_floor
                ):
                    break
                reached = float(size)
            ends.append(sign * reached)
        return ends[0], ends[1]

    def beyond(self, strength: float) -> Stop:
        """The nearest stop at a strength of this size or more, to the same side."""
        farther = (
            stop
            for stop in self.stops
            if stop.strength * strength > 0 and abs(stop.strength) >= abs(strength)
        )
        return min(farther, key=lambda stop: abs(stop.strength))

    def slope(self) -> tuple[float, float] | None:
        """Strength measured per strength asked for, and their correlation r, over pictures; None if none is told."""
        near = [stop for stop in self.stops if abs(stop.strength) <= MEASURED]
        asked = np.concatenate([np.full(len(stop.measured), stop.strength) for stop in near])
        measured = np.concatenate([stop.measured for stop in near])
        told = np.isfinite(measured)
        if told.sum() < 2 or np.ptp(measured[told]) == 0:
            return None
        asked, measured = asked[told], measured[told]
        return float(np.polyfit(asked, measured, 1)[0]), float(np.corrcoef(asked, measured)[0, 1])


class Survey:
    """Codes that no walk was learned on, and their pictures: walks are followed from there."""

    def __init__(self, run: TrainedInversion, pictures: int) -> None:
        self.synthesis, self.discriminator = run.generator.synthesis, run.latent_discriminator
        samples = sample_codes(run.generator, READ)
        self.inversions = invert_samples(samples, self.synthesis, run.encoder)
        self.codes = sample_codes(run.generator, pictures, seed=HELD_OUT)
        self.before = see(draw(self.synthesis, self.codes))
        self.draws_faces = bool(self.before.faces.mean() > 0.5)

    def follow(self, walk: Walk, measure: Measure) -> Journey:
        """Follow a walk to both ends."""
        sizes = np.arange(APART, FARTHEST + APART / 2, APART)
        stops = [self._stop(walk, measure, float(size)) for size in (*-sizes[::-1], *sizes)]
        return Journey(stops, lambda strength: self.domain_score(walk, strength))

    def domain_score(self, walk: Walk, strength: float) -> float:
        """The median domain score of inversions that went a walk up to a strength."""
        edited = walk(self.inversions, strength)
        return float(np.median(domain_scores(self.discriminator, edited, self.inversions)))

    def _stop(self, walk: Walk, measure: Measure, strength: float) -> Stop:
        drawn = draw(self.synthesis, walk(self.codes, strength))
        after = see(drawn, faces_expected=self.draws_faces)
        faces = None
        if self.draws_faces:
            faces = float(after.faces[self.before.faces].mean())
        return Stop(strength, measure(self.before, after), faces)


def as_direction(
    name: str, label: str, step: Tensor, journey: Journey, ends: tuple[float, float]
) -> Direction:
    """A walk as the direction of a run folder: its strength 1 is the step float [L, 512]."""
    told, length = journey.slope(), float(step.norm())
    held_out: dict[str, object] | None = {"metric": "slope", "value": round(told[0], 4)} if told else None
    return Direction(
        name, step / length, length, list(range(len(step))), ends, held_out=held_out, label=label
    )


def journey_table(journeys: dict[str, Journey], ranges: dict[str, tuple[float, float]]) -> str:
    """A row a walk, as Markdown: what it does and how far it holds."""
    lines = [
        "| strength 1 | slope | r | at -2 | at 2 | holds within | domain score there | faces there |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for label, journey in journeys.items():
        told, ends = journey.slope(), ranges[label]
        faces = [journey.beyond(end).faces for end in ends]
        cells = [f"{told[0]:.2f}", f"{told[1]:.2f}"] if told else ["-", "-"]
        for strength in (-MEASURED, MEASURED):
            values = journey.beyond(strength).measured
            cells.append(f"{np.nanmean(values):.2f}" if np.isfinite(values).any() else "-")
        cells += [
            " to ".join(f"{end:g}" for end in ends),
            ", ".join(f"{journey.domain_score(end):.2f}" for end in ends),
            ", ".join("-" if share is None else f"{share:.0%}" for share in faces),
        ]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def walks_sheet(synthesis: nn.Module, codes: Tensor, steps: list[Tensor]) -> Image.Image:
    """Pictures of some codes float [N, L, 512]: a row a walk, strengths -2 to 2 of each code side by side."""
    strengths = (-2.0, -1.0, 0.0, 1.0, 2.0)
    rows = [code + strength * step for step in steps for code in codes for strength in strengths]
    return image_grid(draw(synthesis, torch.stack(rows)), len(strengths) * len(codes))
