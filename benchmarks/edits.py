"""Whether a direction does what its name says, through the exported graphs.

Photographs are inverted, edited at both ends of each direction's range, decoded, and read by a regressor that was
trained on real pictures only. `make edits TRAIN=train.zip TRAIN_CSV=train.csv DATA=val.zip` prints one row a
direction: the share of pictures in which the attribute moved the right way, and what else moved. Then what each preset
moves, and with `--keep age:mouth_width` what an edit moves with and without keeping others.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro

from benchmarks.graphs import Array, Graphs, batches, markdown_table
from benchmarks.quality import to_float
from serving.jobs import EditStep, RefineOptions
from serving.pipeline.edits import apply_edits
from training.data.pictures import load_pictures
from training.directions.attributes import AttributeReader, known


@dataclass
class EditsConfig:
    """Measure edits on pictures of your own."""

    train: Path
    """Real pictures to train the attribute reader on."""
    train_attributes: Path
    """Their csv."""
    data: Path
    """Other pictures, to edit."""
    data_attributes: Path | None = None
    """Their csv, to say how well the reader reads."""
    repository: Path = Path("model_repository")
    """Model repository."""
    bundle: str = ""
    """Bundle; the first one by default."""
    count: int = 200
    """Pictures to edit."""
    keep: tuple[str, ...] = ()
    """`age:mouth_width,pitch` compares age with and without keeping these, at both ends of its range."""
    steps: int = 0
    """Refinement steps before the edit; 0 edits the encoder's code."""
    detail: bool | None = None
    """Whether the refinement finds detail; as the bundle says if left out."""
    output: Path | None = None
    """Also write the figures there, as JSON."""


def read(reader: AttributeReader, images: Array) -> dict[str, Array]:
    """Attributes of uint8 [N, H, W, 3]: [N] each."""
    return reader.read(torch.from_numpy(to_float(images)).permute(0, 3, 1, 2))


@dataclass(frozen=True)
class Edits:
    """Codes of pictures, and what is read off their edits."""

    graphs: Graphs
    reader: AttributeReader
    codes: Array  # [N, L, 512]
    before: dict[str, Array]
    spread: dict[str, float]  # of each attribute among real pictures

    def edited(self, step: EditStep) -> Array:
        """The pictures after an edit, uint8 [N, H, W, 3]."""
        codes = [apply_edits(code, (step,), self.graphs.bundle) for code in self.codes]
        return decode(self.graphs, np.stack(codes))

    def moved(self, step: EditStep) -> dict[str, float]:
        """How far each attribute moves on average, in its standard deviations among real pictures."""
        after = read(self.reader, self.edited(step))
        return {
            name: float((after[name] - self.before[name]).mean() / self.spread[name]) for name in self.spread
        }

    def at_both_ends(self, name: str) -> dict[str, float]:
        """A direction at both ends of its range: strength, share that went the right way, moved and drift in sd."""
        figures: dict[str, float] = {}
        for end, strength in zip(("low", "high"), self.graphs.bundle.directions[name].range, strict=True):
            after = read(self.reader, self.edited(EditStep(name, strength)))
            moved = (after[name] - self.before[name]) * np.sign(strength)
            others = [
                abs(after[o] - self.before[o]).mean() / self.spread[o] for o in self.spread if o != name
            ]
            figures |= {
                f"strength_{end}": strength, f"right_way_{end}": float((moved > 0).mean()),
                f"moved_{end}": float(moved.mean() / self.spread[name]), f"drift_{end}": float(np.mean(others)),
            }  # fmt: skip
        return figures


def measure(config: EditsConfig) -> tuple[dict[str, dict[str, float]], Edits]:
    """For each direction: how often it moves its attribute the right way, and the drift of the others."""
    graphs = Graphs(config.repository, config.bundle)
    side = graphs.bundle.resolution
    real = load_pictures(config.train, side, config.train_attributes)
    names = [name for name in graphs.bundle.directions if name in real.attributes]
    reader = AttributeReader.train(real, names)
    held_out = load_pictures(config.data, side, config.data_attributes)
    pictures = held_out.images.permute(0, 2, 3, 1).numpy()
    figures: dict[str, dict[str, float]] = {name: {} for name in names}
    if config.data_attributes:
        seen = read(reader, pictures)
        for name in names:
            rows = known(held_out.attributes[name])
            pairs = np.corrcoef(seen[name][rows], held_out.attributes[name][rows])
            figures[name]["reader_r"] = float(pairs[0, 1])
    pictures = pictures[: config.count]
    codes = np.concatenate(
        [invert(graphs, pictures[part], config.steps, config.detail) for part in batches(len(pictures), 8)]
    )
    before = read(reader, decode(graphs, codes))
    spread = {name: float(np.nanstd(real.attributes[name])) for name in names}
    edits = Edits(graphs, reader, codes, before, spread)
    for name in names:
        figures[name] |= edits.at_both_ends(name)
    return figures, edits


def measure_presets(edits: Edits) -> list[list[str]]:
    """A row a preset, at strength 1: what it moves by more than a tenth of a standard deviation, most first."""
    rows = []
    for preset in edits.graphs.bundle.presets.values():
        moved = edits.moved(EditStep(preset.name, 1.0))
        told = sorted((name for name in moved if abs(moved[name]) > 0.1), key=lambda name: -abs(moved[name]))
        made_of = ", ".join(f"{edit.direction} {edit.strength:+g}" for edit in preset.edits)
        rows.append([preset.name, made_of, ", ".join(f"{name} {moved[name]:+.2f}" for name in told)])
    return rows


def measure_kept(edits: Edits, entry: str) -> list[str]:
    """A row: how far an edit moves its own attribute and those kept, without and with keeping them; over both ends."""
    name, _, others = entry.partition(":")
    keep, figures = tuple(others.split(",")), []
    for kept in ((), keep):
        ends = [
            edits.moved(EditStep(name, end, keep=kept)) for end in edits.graphs.bundle.directions[name].range
        ]
        average = {key: (ends[1][key] - ends[0][key]) / 2 for key in (name, *keep)}
        figures += [f"{average[name]:+.2f}", ", ".join(f"{key} {average[key]:+.2f}" for key in keep)]
    return [name, others.replace(",", ", "), *figures]


def invert(graphs: Graphs, target: Array, steps: int, detail: bool | None) -> Array:
    """Codes float32 [N, L, 512] of uint8 [N, H, W, 3]."""
    code = graphs.encode(target)
    return graphs.refine(code, target, steps, RefineOptions(detail=detail))[0] if steps else code


def decode(graphs: Graphs, codes: Array) -> Array:
    """uint8 [N, H, W, 3] of any number of codes."""
    return np.concatenate([graphs.decode(codes[part]) for part in batches(len(codes), 16)])


def main(config: EditsConfig) -> None:
    """Print the table."""
    figures, edits = measure(config)
    held_out = Graphs(config.repository, config.bundle).bundle.directions
    rows = []
    for name, f in figures.items():
        note = held_out[name].held_out
        rows.append([
            name, f"{note.metric} {note.value:.3f}" if note else "", f"{f['reader_r']:.2f}" if "reader_r" in f else "",
            *(
                f"{f[f'strength_{end}']:+.2f}: {f[f'right_way_{end}']:.1%}, {f[f'moved_{end}']:+.2f} sd, "
                f"drift {f[f'drift_{end}']:.2f}"
              for end in ("low", "high")),
        ])  # fmt: skip
    print(
        markdown_table(
            [
                "direction",
                "held out",
                "reader's r",
                "low end: right way, moved",
                "high end: right way, moved",
            ],
            rows,
        )
    )
    if presets := measure_presets(edits):
        print("\n" + markdown_table(["preset", "made of", "moves, in sd"], presets))
    if config.keep:
        kept = [measure_kept(edits, entry) for entry in config.keep]
        heads = ["edit", "keeps", "moved", "and with it", "keeping: moved", "and with it"]
        print("\n" + markdown_table(heads, kept))
    if config.output:
        config.output.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(EditsConfig))
