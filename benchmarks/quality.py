"""How well photographs are inverted, through the exported graphs: mean code, encoder, encoder + refinement.

`python -m benchmarks.quality --data val.zip` prints one table: MSE on [-1, 1], PSNR, LPIPS-sq, domain score.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from rich.progress import track

from benchmarks.graphs import Array, Graphs, batches, markdown_table
from training.data.pictures import load_pictures
from training.directions.attributes import is_binary
from training.losses.perceptual import LPIPSSq


@dataclass
class QualityConfig:
    """Measure inversion on pictures of your own."""

    data: Path
    """Folder or zip of pictures, aligned as the bundle's training data."""
    attributes: Path | None = None
    """Their csv: also tells the encoder's error for each group of people."""
    repository: Path = Path("model_repository")
    """Model repository."""
    bundle: str = ""
    """Bundle; the first one by default."""
    steps: int | None = None
    """Refinement steps; the bundle's own number by default."""
    count: int = 0
    """Pictures to use; 0 for all."""
    batch: int = 8
    """Pictures a run."""
    output: Path | None = None
    """Also write the figures there, as JSON."""


def to_float(image: Array) -> Array:
    """uint8 -> [-1, 1]."""
    return image.astype(np.float32) / 127.5 - 1


@torch.no_grad()
def picture_errors(perceptual: LPIPSSq, image: Array, target: Array) -> dict[str, Array]:
    """MSE on [-1, 1], PSNR in dB and LPIPS-sq of each picture: [N] each. uint8 [N, H, W, 3] in."""
    a, b = to_float(image), to_float(target)
    mse = ((a - b) ** 2).mean((1, 2, 3))
    tensors = [torch.from_numpy(x).permute(0, 3, 1, 2) for x in (a, b)]
    return {
        "mse": mse,
        "psnr": 10 * np.log10(4 / np.maximum(mse, 1e-12)),
        "lpips_sq": perceptual(*tensors).numpy(),
    }


def measure(config: QualityConfig) -> dict[str, dict[str, float]]:
    """Figures of each method, averaged over the pictures."""
    graphs = Graphs(config.repository, config.bundle)
    steps = graphs.bundle.refine.steps if config.steps is None else config.steps
    held_out = load_pictures(config.data, graphs.bundle.resolution, config.attributes)
    pictures = held_out.images.permute(0, 2, 3, 1).numpy()
    pictures = pictures[: config.count or len(pictures)]
    perceptual = LPIPSSq()
    mean_picture = graphs.decode(graphs.bundle.mean_code[None])
    found: dict[str, dict[str, list[Array]]] = {}

    def note(method: str, **figures: Array) -> None:
        for name, values in figures.items():
            found.setdefault(method, {}).setdefault(name, []).append(values)

    for part in track(list(batches(len(pictures), config.batch)), "inverting"):
        target = pictures[part]
        start = graphs.encode(target)
        refined, first_loss, best_loss = graphs.refine(start, target, steps)
        note("mean code", **picture_errors(perceptual, np.repeat(mean_picture, len(target), 0), target))
        for method, code, loss in (
            ("encoder", start, first_loss),
            (f"encoder + {steps} steps", refined, best_loss),
        ):
            score = graphs.run("critic", code=code)["score"][:, 0]
            note(
                method,
                **picture_errors(perceptual, graphs.decode(code), target),
                domain_score=score,
                loss=loss,
            )
    whole = {
        method: {name: np.concatenate(v) for name, v in figures.items()} for method, figures in found.items()
    }
    encoder, refined_figures = whole["encoder"], whole[f"encoder + {steps} steps"]
    summary = {
        method: {name: float(v.mean()) for name, v in figures.items()} for method, figures in whole.items()
    }
    summary["worse than the start"] = {
        name: int((refined_figures[name] > encoder[name]).sum()) for name in ("loss", "mse")
    }
    summary["pictures"] = {"count": len(pictures)}
    summary["encoder's MSE by group"] = {
        f"{group} ({members.sum()})": float(encoder["mse"][members].mean())
        for name, values in held_out.attributes.items()
        for group, members in groups(name, values[: len(pictures)])
    }
    return summary


def groups(name: str, values: Array) -> Iterator[tuple[str, Array]]:
    """Thirds of the pictures by an attribute, or its two halves where it is binary: name and bool [N] of each."""
    if is_binary(values):
        yield from ((f"{name} = {value}", values == value) for value in (0, 1))
        return
    low, high = np.quantile(values, (1 / 3, 2 / 3))
    yield f"{name} < {low:.3g}", values < low
    yield f"{low:.3g} <= {name} < {high:.3g}", (values >= low) & (values < high)
    yield f"{name} >= {high:.3g}", values >= high


def main(config: QualityConfig) -> None:
    """Print the table."""
    figures = measure(config)
    names = ["mse", "psnr", "lpips_sq", "domain_score", "loss"]
    methods = [method for method, values in figures.items() if "psnr" in values]
    rows = [[m, *(f"{figures[m][n]:.4f}" if n in figures[m] else "" for n in names)] for m in methods]
    print(markdown_table(["method", "MSE", "PSNR dB", "LPIPS-sq", "domain score", "refinement loss"], rows))
    worse = figures["worse than the start"]
    print(
        f"{figures['pictures']['count']} pictures; refined worse than the encoder: "
        f"{worse['loss']} by loss, {worse['mse']} by MSE"
    )
    by_group = figures["encoder's MSE by group"]
    if by_group:
        print(markdown_table(["group", "encoder's MSE"], [[k, f"{v:.4f}"] for k, v in by_group.items()]))
    if config.output:
        config.output.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(QualityConfig))
