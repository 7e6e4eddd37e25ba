"""Do samples have the labels that they were made with, and does a change of a code's label change the picture?

`python -m benchmarks.labels RUN --data t.zip --attributes t.csv --held-out v.zip --held-out-attributes v.csv`

The judge is a regressor on pretrained features that was trained on real pictures (`training/directions/attributes.py`),
at the generator's resolution; it knows nothing of generator and codes. RUN is a run folder of `python -m training gan`
or `mapping`, with labels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from PIL import Image
from torch import Tensor

from benchmarks.graphs import markdown_table
from training.data.labels import known
from training.data.pictures import load_pictures
from training.directions.attributes import AttributeReader
from training.networks.conditional.relabelling import Relabeller, fit_label_reader
from training.networks.generator import Generator, GeneratorConfig
from training.run_folders.checkpoint import load_meta, load_network
from training.run_folders.json_files import read_config
from training.run_folders.picture_grid import image_grid


@dataclass
class LabelsConfig:
    """Judge a conditional generator by a classifier of real pictures."""

    run: tyro.conf.Positional[Path]
    """Run folder with a conditional generator."""
    data: Path
    """Folder or zip of pictures that the judge learns from."""
    attributes: Path
    """Csv with their labels."""
    held_out: Path
    """Folder or zip of pictures that the judge is judged on."""
    held_out_attributes: Path
    """Csv with their labels."""
    pictures: int = 2_000
    """How many it learns from."""
    samples: int = 500
    """How many samples are judged."""
    picture: Path | None = None
    """Also draw samples there, and under each the same with one label changed, a row for each label."""
    drawn: int = 12
    """How many samples are drawn."""


@torch.no_grad()
def measure(config: LabelsConfig) -> Iterator[list[str]]:
    """A row for each label: the judge's accuracy, samples read as made, edits read as asked, other labels kept."""
    generator = Generator(read_config(GeneratorConfig, load_meta(config.run)["generator"]))
    load_network(config.run, "generator", generator)
    names, side = list(generator.config.labels), generator.config.resolution
    learned = load_pictures(config.data, side, config.attributes).first(config.pictures)
    judge = AttributeReader.train(learned, names)

    def read(images: Tensor) -> np.ndarray:
        values = judge.read(images.clamp(-1, 1))
        return np.stack([values[name] > 0.5 for name in names], 1)

    def drawn(codes: Tensor) -> np.ndarray:
        return read(torch.cat([generator.synthesis(part) for part in codes.split(64)]))

    held_out = load_pictures(config.held_out, side, config.held_out_attributes)
    told = read(held_out.batch(torch.arange(len(held_out)), mirror=False))
    mapping = generator.mapping
    z, _ = mapping.draw(config.samples, torch.Generator().manual_seed(0))
    # As many of each label, whatever the data has: otherwise always saying the usual one would be right often.
    label = (torch.rand(config.samples, len(names), generator=torch.Generator().manual_seed(1)) < 0.5).float()
    codes = mapping(z, label)
    made = drawn(codes) == label.numpy().astype(bool)
    relabeller = None
    if generator.config.relabels:
        with torch.enable_grad():
            reader, _ = fit_label_reader(mapping)
        relabeller = Relabeller(mapping, reader)
    before, shown = drawn(codes), [codes[: config.drawn]]
    for k, name in enumerate(names):
        truth = held_out.attributes[name]
        right = (told[:, k] == (truth > 0.5))[known(truth)].mean()
        row = [name, f"{right:.1%}", f"{made[:, k].mean():.1%}"]
        if relabeller is not None:
            wanted = torch.full_like(label, -1)
            wanted[:, k] = 1 - label[:, k]
            edited = relabeller(codes, wanted)
            after = drawn(edited)
            others = [i for i in range(len(names)) if i != k]
            row.append(f"{(after[:, k] == wanted[:, k].numpy().astype(bool)).mean():.1%}")
            row.append(f"{(after == before)[:, others].mean():.1%}" if others else "-")
        else:
            changed = label.clone()
            changed[:, k] = 1 - label[:, k]
            edited = mapping(z, changed)
        shown.append(edited[: config.drawn])
        yield row
    if config.picture is not None:
        sheet = image_grid(generator.synthesis(torch.cat(shown)), columns=len(shown[0]))
        # Small pictures are enlarged, so that a browser does not blur them.
        times = max(96 // side, 1)
        sheet.resize((sheet.width * times, sheet.height * times), Image.Resampling.NEAREST).save(
            config.picture
        )


def main() -> None:
    config = tyro.cli(LabelsConfig, description=__doc__)
    head = [
        "label",
        "judge, held-out pictures",
        "samples, as made",
        "edits, as asked",
        "other labels, as before",
    ]
    rows = list(measure(config))
    print(markdown_table(head[: len(rows[0])], rows))


if __name__ == "__main__":
    main()
