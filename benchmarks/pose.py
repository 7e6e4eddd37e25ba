"""Is it the same person when the head turns: `python -m benchmarks.pose --data val.zip`.

Inverts photographs with and without the refiner's identity term, turns each head to the left, to the front and to the
right along the bundle's yaw direction, or several, and prints how far the descriptors of the face are from those of the
photograph. dlib's decides, as the identity term uses MobileFace. After Tran et al., "DR-GAN" (CVPR 2017), who ask the
same of rotations.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from rich.progress import track

from benchmarks.graphs import Array, Graphs, batches, markdown_table
from benchmarks.quality import Judge, mean_figures
from serving.jobs import EditStep, RefineOptions
from serving.pipeline.edits import apply_edits
from training.data.pictures import load_pictures
from training.faces.alignment import SURE, sideways, surest_faces

TOLERANCE = 0.04  # of the nose's distance sideways, in units of the eyes' distance: about 5 degrees


@dataclass
class PoseConfig:
    """Turn heads of pictures of your own."""

    data: Path
    """Folder or zip of pictures, aligned as the bundle's training data."""
    repository: Path = Path("model_repository")
    """Model repository."""
    bundle: str = ""
    """Bundle; the first one by default."""
    count: int = 24
    """Pictures to use: the first ones."""
    directions: tuple[str, ...] = ("yaw",)
    """Directions that turn heads, to be compared."""
    degrees: tuple[float, ...] = (-20.0, 0.0, 20.0)
    """Turns that are looked for."""
    nose: float = 0.47
    """How far the nose's tip stands out, in units of the eyes' distance: it says which turn puts it how far aside."""
    reach: float = 2.0
    """The most that is tried along the direction, either way."""
    tries: int = 17
    """Strengths to try."""


def turned(graphs: Graphs, codes: Array, direction: str, strengths: Array) -> tuple[Array, Array]:
    """Pictures uint8 [N, S, H, W, 3] of each code at each strength, and where their noses are [N, S]; nan: no face."""
    made, noses = [], []
    for code in codes:
        edited = [apply_edits(code, (EditStep(direction, float(s)),), graphs.bundle) for s in strengths]
        pictures = graphs.decode(np.stack(edited))
        score, points = surest_faces(torch.from_numpy(pictures).permute(0, 3, 1, 2))
        made.append(pictures)
        noses.append(np.where(score > SURE, sideways(points), np.nan))
    return np.stack(made), np.stack(noses)


def nearest(noses: Array, wanted: float) -> tuple[Array, Array]:
    """Which try [N] puts the nose nearest to where it is wanted, and whether that is near enough, bool [N]."""
    away = np.where(np.isnan(noses), np.inf, np.abs(noses - wanted))
    return away.argmin(1), away.min(1) < TOLERANCE


def main(config: PoseConfig) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    graphs, judge = Graphs(config.repository, config.bundle), Judge()
    pictures = load_pictures(config.data, graphs.bundle.resolution).first(config.count).images
    targets = pictures.permute(0, 2, 3, 1).contiguous().numpy()
    strengths = np.linspace(-config.reach, config.reach, config.tries)
    options = {"with": RefineOptions(), "without": RefineOptions(identity_weight=0.0)}
    found: dict[tuple[str, str], tuple[Array, Array]] = {}
    for way, option in options.items():
        parts = [
            graphs.refine(graphs.encode(targets[part]), targets[part], graphs.bundle.refine.steps, option)[0]
            for part in track(list(batches(len(targets), 8)), f"inverting {way} identity term")
        ]
        for direction in config.directions:
            found[way, direction] = turned(graphs, np.concatenate(parts), direction, strengths)
    rows = []
    for degrees in config.degrees:
        wanted = config.nose * np.tan(np.radians(degrees))
        chosen = {way: nearest(noses, wanted) for way, (_, noses) in found.items()}
        # All ways are judged on the same people: those whom all can turn so far.
        together = np.logical_and.reduce([reached for _, reached in chosen.values()])
        for (way, direction), (made, _) in found.items():
            index, reached = chosen[way, direction]
            rows.append(
                [
                    f"{degrees:+.0f}",
                    way,
                    direction,
                    f"{reached.sum()} of {len(targets)}",
                    *figures(judge, made, index, targets, together),
                ]
            )
    head = [
        "degrees",
        "identity term",
        "direction",
        "turned so far",
        "identity distance (dlib)",
        "MobileFace",
    ]
    print(f"{graphs.bundle.name}: {len(targets)} photographs, {graphs.bundle.refine.steps} steps")
    print(markdown_table(head, rows))


def figures(judge: Judge, made: Array, index: Array, targets: Array, chosen: Array) -> list[str]:
    """Both descriptors' distances of the chosen people's photographs and their turned heads."""
    if not chosen.any():
        return ["", ""]
    heads = np.stack([pictures[n] for pictures, n in zip(made, index, strict=True)])
    means = mean_figures(judge.errors(heads[chosen], targets[chosen]))
    return [f"{means['identity_distance']:.3f}", f"{means['independent_distance']:.3f}"]


if __name__ == "__main__":
    main(tyro.cli(PoseConfig))
