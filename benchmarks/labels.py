"""Do samples have the labels that they were made with, and does a change of a code's label change the picture?

`python -m benchmarks.labels RUN --data t.zip --attributes t.csv --held-out v.zip --held-out-attributes v.csv`

The judge is a regressor on pretrained features that was trained on real pictures (`training/directions/attributes.py`),
at the generator's resolution; it knows nothing of generator and codes. RUN is a run folder with labels: of
`python -m training gan`, or one with an encoder, whose codes of the held-out pictures are read and edited, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import tyro
from PIL import Image
from torch import Tensor

from benchmarks.graphs import Array, markdown_table
from training.data.labels import known, with_labels
from training.data.pictures import load_pictures
from training.directions.attributes import AttributeReader
from training.directions.directions import encode
from training.networks.conditional.relabelling import Relabeller, fit_label_reader
from training.networks.generator import Generator, GeneratorConfig
from training.run_folders.checkpoint import load_meta, load_network
from training.run_folders.json_files import read_config
from training.run_folders.picture_grid import image_grid
from training.run_folders.trained_inversion import load_inversion


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
    labels: tuple[str, ...] = ()
    """Those of the run that are made of columns of numbers, as `training mapping` was given them."""
    pictures: int = 2_000
    """How many it learns from."""
    samples: int = 500
    """How many samples are judged."""
    picture: Path | None = None
    """Also draw samples there, and under each the same with one label changed, a row for each label."""
    drawn: int = 12
    """How many samples are drawn."""


class Changes(NamedTuple):
    """What became of pictures of which one label was changed, as the judge reads them."""

    as_asked: float
    others_kept: float

    @classmethod
    def of(cls, before: Array, after: Array, wanted: Array, k: int) -> Changes:
        """From readings bool [N, K], and the labels bool [N] that label number `k` was to have."""
        others = np.delete(after == before, k, 1)
        return cls((after[:, k] == wanted).mean(), others.mean() if others.size else 1.0)

    def cells(self) -> list[str]:
        return [f"{self.as_asked:.1%}", f"{self.others_kept:.1%}"]


@torch.no_grad()
def measure(config: LabelsConfig) -> Iterator[dict[str, str]]:
    """Figures of each label, by their titles."""
    meta = load_meta(config.run)
    inversion = load_inversion(config.run) if meta["kind"] == "inversion" else None
    generator = (
        inversion.generator if inversion else Generator(read_config(GeneratorConfig, meta["generator"]))
    )
    if inversion is None:
        load_network(config.run, "generator", generator)
    names, side = list(generator.config.labels), generator.config.resolution
    learned = load_pictures(config.data, side, config.attributes)
    held_out = load_pictures(config.held_out, side, config.held_out_attributes)
    for pictures in (learned, held_out):
        with_labels(pictures, config.labels)
    learned = learned.chosen(torch.randperm(len(learned), generator=torch.Generator().manual_seed(0)))
    judge = AttributeReader.train(learned.first(config.pictures), names)

    def read(images: Tensor) -> Array:
        values = judge.read(images.clamp(-1, 1))
        return np.stack([values[name] > 0.5 for name in names], 1)

    def drawn(codes: Tensor) -> Array:
        return read(torch.cat([generator.synthesis(part) for part in codes.split(64)]))

    told = read(held_out.batch(torch.arange(len(held_out)), mirror=False))
    mapping = generator.mapping
    z, _ = mapping.draw(config.samples, torch.Generator().manual_seed(0))
    # As many of each label, whatever the data has: otherwise always saying the usual one would be right often.
    label = (torch.rand(config.samples, len(names), generator=torch.Generator().manual_seed(1)) < 0.5).float()
    codes = mapping(z, label)
    sampled = drawn(codes)
    reader = relabeller = photographs = None
    if generator.config.relabels:
        with torch.enable_grad():
            reader, _ = fit_label_reader(mapping)
        relabeller = Relabeller(mapping, reader)
        if inversion:
            photographs = encode(inversion.encoder, held_out)
    shown = [codes[: config.drawn]]
    reconstructed = drawn(photographs) if photographs is not None else None
    for k, name in enumerate(names):
        truth = held_out.attributes[name]
        sure = known(truth)
        row = {
            "label": name,
            "judge, held-out pictures": f"{(told[:, k] == (truth > 0.5))[sure].mean():.1%}",
            "samples, as made": f"{(sampled[:, k] == label[:, k].numpy().astype(bool)).mean():.1%}",
        }
        if relabeller is not None and reader is not None:
            wanted = torch.full_like(label, -1)
            wanted[:, k] = 1 - label[:, k]
            edited = relabeller(codes, wanted)
            changes = Changes.of(sampled, drawn(edited), wanted[:, k].numpy().astype(bool), k)
            row |= dict(
                zip(("edits of samples, as asked", "other labels, as before"), changes.cells(), strict=True)
            )
        else:
            changed = label.clone()
            changed[:, k] = 1 - label[:, k]
            edited = mapping(z, changed)
        if (
            relabeller is not None
            and reader is not None
            and photographs is not None
            and reconstructed is not None
        ):
            held = reader(photographs)[:, k] > 0.5
            wanted = torch.full((len(photographs), len(names)), -1.0)
            wanted[:, k] = (~held).float()
            changes = Changes.of(reconstructed, drawn(relabeller(photographs, wanted)), ~held.numpy(), k)
            row["read off codes of photographs"] = f"{(held.numpy() == (truth > 0.5))[sure].mean():.1%}"
            titles = "edits of photographs, as asked", "other labels of photographs, as before"
            row |= dict(zip(titles, changes.cells(), strict=True))
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
    rows = list(measure(config))
    print(markdown_table(list(rows[0]), [list(row.values()) for row in rows]))


if __name__ == "__main__":
    main()
