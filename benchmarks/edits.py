"""Whether a direction does what its name says, through the exported graphs.

Photographs are inverted, edited at both ends of each direction's range, decoded, and read by a regressor that was
trained on real pictures only. `make edits TRAIN=train.zip TRAIN_CSV=train.csv DATA=val.zip` prints one row a
direction: the share of pictures in which the attribute moved the right way, and what else moved.
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
from training.attributes import AttributeReader
from training.data import load_pictures


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
    steps: int = 0
    """Refinement steps before the edit; 0 edits the encoder's code."""
    output: Path | None = None
    """Also write the figures there, as JSON."""


def read(reader: AttributeReader, images: Array) -> dict[str, Array]:
    """Attributes of uint8 [N, H, W, 3]: [N] each."""
    return reader.read(torch.from_numpy(to_float(images)).permute(0, 3, 1, 2))


def measure(config: EditsConfig) -> dict[str, dict[str, float]]:
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
            figures[name]["reader_r"] = float(np.corrcoef(seen[name], held_out.attributes[name])[0, 1])
    pictures = pictures[: config.count]
    codes = np.concatenate(
        [invert(graphs, pictures[part], config.steps) for part in batches(len(pictures), 8)]
    )
    before = read(reader, decode(graphs, codes))
    spread = {name: real.attributes[name].std() for name in names}
    for name in names:
        direction = graphs.bundle.directions[name]
        for end, strength in zip(("low", "high"), direction.range, strict=True):
            edited = decode(graphs, codes + np.float32(strength * direction.scale) * direction.vector)
            after = read(reader, edited)
            moved = (after[name] - before[name]) * np.sign(strength)
            others = [abs(after[o] - before[o]).mean() / spread[o] for o in names if o != name]
            figures[name] |= {
                f"strength_{end}": strength, f"right_way_{end}": float((moved > 0).mean()),
                f"moved_{end}": float(moved.mean() / spread[name]), f"drift_{end}": float(np.mean(others)),
            }  # fmt: skip
    return figures


def invert(graphs: Graphs, target: Array, steps: int) -> Array:
    """Codes float32 [N, L, 512] of uint8 [N, H, W, 3]."""
    code = graphs.encode(target)
    return graphs.refine(code, target, steps)[0] if steps else code


def decode(graphs: Graphs, codes: Array) -> Array:
    """uint8 [N, H, W, 3] of any number of codes."""
    return np.concatenate([graphs.decode(codes[part]) for part in batches(len(codes), 16)])


def main(config: EditsConfig) -> None:
    """Print the table."""
    figures = measure(config)
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
    if config.output:
        config.output.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(EditsConfig))
