"""How well photographs are inverted, through the exported graphs: mean code, encoder, encoder + refinement.

`python -m benchmarks.quality --data val.zip` prints one table: MSE on [-1, 1] with the worst picture's, PSNR, LPIPS-sq,
identity distances, domain score, refinement loss.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from PIL import Image
from rich.progress import track

from benchmarks.graphs import Array, Graphs, batches, markdown_table
from serving.jobs import RefineOptions
from training.data.labels import is_binary, known
from training.data.pictures import Pictures, load_pictures, resized
from training.faces.identity import FaceDescriptor, face_chip, identity_similarity
from training.faces.mobile_face import MobileFace, face_square
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
    threads: int = 2
    """Threads of ONNX Runtime."""
    ways: tuple[str, ...] = ()
    """Of "", "without detail", "without noise", "without identity term" and "without either" (of any of them): the
    refinements to compare, where the bundle has those; all by default. "" is the bundle's own."""
    judged_at: tuple[int, ...] = ()
    """Sides in pixels: photographs and reconstructions are resized to each before they are compared, one table a side.
    So bundles of different resolutions can be compared. The bundle's own resolution by default."""
    output: Path | None = None
    """Also write the figures there, as JSON."""


def to_float(image: Array) -> Array:
    """uint8 -> [-1, 1]."""
    return image.astype(np.float32) / 127.5 - 1


class Judge:
    """Compares reconstructions with photographs."""

    def __init__(self) -> None:
        self.perceptual = LPIPSSq().eval()
        self.faces, self.independent = FaceDescriptor().eval(), MobileFace().eval()

    @torch.no_grad()
    def errors(self, image: Array, target: Array) -> dict[str, Array]:
        """MSE on [-1, 1], PSNR in dB, LPIPS-sq: [N]; two face descriptors: [N, D]. uint8 [N, S, S, 3] in."""
        a, b = to_float(image), to_float(target)
        mse = ((a - b) ** 2).mean((1, 2, 3))
        made, real = (torch.from_numpy(x).permute(0, 3, 1, 2) for x in (a, b))
        return {
            "mse": mse,
            "psnr": 10 * np.log10(4 / np.maximum(mse, 1e-12)),
            "lpips_sq": self.perceptual(made, real).numpy(),
            "person": self.faces(face_chip(made)).numpy(),
            "own_person": self.faces(face_chip(real)).numpy(),
            "independent_person": self.independent(face_square(made)).numpy(),
            "own_independent_person": self.independent(face_square(real)).numpy(),
        }


def at(images: Array, side: int) -> Array:
    """Pictures uint8 [N, H, W, 3], resized to `side` pixels as training data is."""
    return np.stack([np.asarray(resized(Image.fromarray(image), side)) for image in images])


def measure(config: QualityConfig) -> dict[int, dict[str, dict[str, float]]]:
    """For each side that is judged at: figures of each method, averaged over the pictures."""
    graphs = Graphs(config.repository, config.bundle, threads=config.threads)
    own_side = graphs.bundle.resolution
    steps = graphs.bundle.refine.steps if config.steps is None else config.steps
    held_out = load_pictures(config.data, own_side, config.attributes)
    held_out = held_out.first(config.count or len(held_out))
    pictures = held_out.images.permute(0, 2, 3, 1).numpy()
    sides = config.judged_at or (own_side,)
    judged = {side: load_pictures(config.data, side).images.permute(0, 2, 3, 1).numpy() for side in sides}
    judge = Judge()
    ways = {"": RefineOptions()}
    if graphs.bundle.detail:
        ways["without detail"] = RefineOptions(detail=False)
    if graphs.bundle.noise:
        ways["without noise"] = RefineOptions(noise=False)
    if graphs.bundle.refine.identity_weight:
        ways["without identity term"] = RefineOptions(identity_weight=0.0)
    if len(ways) > 2:
        ways["without either"] = RefineOptions(detail=False, noise=False, identity_weight=0.0)
    if config.ways:
        ways = {way: ways[way] for way in config.ways}
    refinements = (
        {f"encoder + {steps} steps {way}".strip(): options for way, options in ways.items()} if steps else {}
    )
    mean_picture = graphs.decode(graphs.bundle.mean_code[None])
    found: dict[int, dict[str, dict[str, list[Array]]]] = {side: {} for side in sides}

    def note(method: str, part: slice, made: Array, **figures: Array) -> None:
        for side, methods in found.items():
            errors = judge.errors(at(made, side), judged[side][part])
            for name, values in (errors | figures).items():
                methods.setdefault(method, {}).setdefault(name, []).append(values)

    for part in track(list(batches(len(pictures), config.batch)), "inverting"):
        target = pictures[part]
        start = graphs.encode(target)
        codes, losses = {"encoder": start}, {}
        for method, options in refinements.items():
            codes[method], losses["encoder"], losses[method] = graphs.refine(start, target, steps, options)
        note("mean code", part, np.repeat(mean_picture, len(target), 0))
        for method, code in codes.items():
            score = graphs.run("critic", code=code)["score"][:, 0]
            loss = {"loss": losses[method]} if losses else {}
            note(method, part, graphs.decode(code), domain_score=score, **loss)
    return {side: summary(methods, held_out) for side, methods in found.items()}


def summary(found: dict[str, dict[str, list[Array]]], pictures: Pictures) -> dict[str, dict[str, float]]:
    """Averages of each method's figures; how many pictures refinement made worse; the encoder's MSE by group."""
    whole = {
        method: {name: np.concatenate(v) for name, v in figures.items()} for method, figures in found.items()
    }
    means = {method: mean_figures(figures) for method, figures in whole.items()}
    _, encoder, *refined = whole.values()
    for figures in refined:
        means["worse than the start"] = {
            name: int((figures[name] > encoder[name]).sum()) for name in ("loss", "mse")
        }
    means["pictures"] = {"count": len(pictures)}
    means["encoder's MSE by group"] = {
        f"{group} ({members.sum()})": float(encoder["mse"][members].mean())
        for group, members in groups(pictures)
    }
    return means


def mean_figures(figures: dict[str, Array]) -> dict[str, float]:
    """Means over the pictures, the worst MSE, and the mean identity distances, of one method's figures."""

    def distance(descriptor: str) -> float:
        made, own = (torch.from_numpy(figures[name]) for name in (descriptor, f"own_{descriptor}"))
        return identity_similarity(made, own).distance

    numbers = {name: float(v.mean()) for name, v in figures.items() if v.ndim == 1}
    return numbers | {
        "worst_mse": float(figures["mse"].max()),
        "identity_distance": distance("person"),
        "independent_distance": distance("independent_person"),
    }


def groups(pictures: Pictures) -> Iterator[tuple[str, Array]]:
    """Groups of pictures, by each attribute and label: name and bool [N]. Pictures without the attribute are in none.

    A binary attribute gives its two halves, another one its thirds, a label one group a word.
    """
    for name, values in pictures.attributes.items():
        if is_binary(values):
            yield from ((f"{name} = {value}", values == value) for value in np.unique(values[known(values)]))
            continue
        low, high = np.quantile(values[known(values)], (1 / 3, 2 / 3))
        yield f"{name} < {low:.3g}", values < low
        yield f"{low:.3g} <= {name} < {high:.3g}", (values >= low) & (values < high)
        yield f"{name} >= {high:.3g}", values >= high
    for name, words in pictures.labels.items():
        for word in sorted(set(words) - {""}):
            yield f"{name} = {word}", np.array([other == word for other in words])


COLUMNS = {
    "mse": "MSE", "worst_mse": "worst MSE", "psnr": "PSNR dB", "lpips_sq": "LPIPS-sq",
    "identity_distance": "identity distance", "independent_distance": "identity, independent",
    "domain_score": "domain score", "loss": "refinement loss",
}  # fmt: skip


def main(config: QualityConfig) -> None:
    """Print the tables."""
    by_side = measure(config)
    for side, figures in by_side.items():
        methods = [method for method, values in figures.items() if "psnr" in values]
        rows = [[m, *(f"{figures[m][n]:.4f}" if n in figures[m] else "" for n in COLUMNS)] for m in methods]
        print(f"\nJudged at {side} x {side} pixels:\n")
        print(markdown_table(["method", *COLUMNS.values()], rows))
        worse = figures.get("worse than the start")
        told = (
            f"; refined worse than the encoder: {worse['loss']} by loss, {worse['mse']} by MSE"
            if worse
            else ""
        )
        print(f"\n{figures['pictures']['count']} pictures{told}")
        if by_group := figures["encoder's MSE by group"]:
            lines = [[group, f"{mse:.4f}"] for group, mse in by_group.items()]
            print("\n" + markdown_table(["group", "encoder's MSE"], lines))
    if config.output:
        config.output.write_text(json.dumps(by_side, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(QualityConfig))
