"""The table of `docs/export.md` about files as people have them: `python -m tests.export.import_table [NAME ...]`.

Each goes through all steps: import, an encoder, a direction, the bundle with its checks, an edit by the pipeline in
this process. A row has where its tensors are read, how close its pictures are to the reference, and the edit.
"""

from __future__ import annotations

import sys
import tempfile
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import torch

import indomain
from export.__main__ import main as export
from export.graphs.folding import FoldedMapping, fold_synthesis
from tests.export.foreign_variants import VARIANTS, Variant
from training.__main__ import main as training
from training.networks.generator import Generator, GeneratorConfig
from training.run_folders.checkpoint import load_meta, load_network
from training.run_folders.json_files import read_config

PORTRAIT = Path(__file__).parents[2] / "clients/python/examples/portrait.png"
HEAD = "| file | tensors read | pictures differ by at most | edit |\n| --- | --- | --- | --- |"
SEED = 3
DIRECTION = "sefa-0-3-1"


def load(run: Path) -> Generator:
    """The generator of a run folder, as training and export load it."""
    generator = Generator(read_config(GeneratorConfig, load_meta(run)["generator"]))
    load_network(run, "generator", generator)
    return generator.eval()


@torch.no_grad()
def difference(generator: Generator, variant: Variant) -> float:
    """The largest difference from the reference over ten codes, as a share of the largest entry.

    The generator draws as it is, and folded for export.
    """
    z = torch.randn(10, variant.z_size)
    wanted = variant.reference(z)
    folded = fold_synthesis(generator.synthesis)(FoldedMapping(generator.mapping)(z))
    scale = wanted.abs().max()
    return max(float((found - wanted).abs().max() / scale) for found in (generator(z), folded))


def step(status: int, name: str) -> None:
    """Raise RuntimeError for a command that failed."""
    if status != 0:
        raise RuntimeError(f"{name} ended with status {status}")


def make_bundle(variant: Variant, folder: Path) -> tuple[Generator, Path]:
    """Take a file through all steps up to a checked bundle; return its generator and the model repository."""
    arguments = ["import", str(variant.write(folder)), "--to", str(folder / "run"), "--name", "theirs"]
    step(export([*arguments, *variant.arguments]), "import")
    small = [
        "--channels",
        "8",
        "8",
        "8",
        "8",
        "--images",
        "8",
        "--batch",
        "4",
        "--compute.accelerator",
        "cpu",
    ]
    step(training(["encoder", "--gan", str(folder / "run"), "--runs", str(folder), *small]), "encoder")
    (run,) = folder.glob("*-inversion-*")
    step(training(["factors", "--run", str(run), "--count", "1", "--layers", "0-3"]), "factors")
    repository = folder / "repository"
    options = ["--refine.steps", "1", "--refine.chunk-steps", "1", "--sampled-codes", "64"]
    step(export(["bundle", str(run), "--to", str(repository), *options]), "bundle")
    step(export(["verify", str(repository)]), "verify")
    return load(folder / "run"), repository


def changed_by_edit(repository: Path) -> float:
    """How much an edit changes the inversion of a photograph, served in this process: mean over 0 to 255.

    Raises RuntimeError where a picture is not RGB of 32 pixels, or shows nothing.
    """
    with indomain.Client(":embedded:", model_repository=repository) as client:
        pictures = [
            client.edit(PORTRAIT, indomain.Edit(DIRECTION, strength)).image for strength in (0.0, 1.0)
        ]
    before, after = (np.asarray(picture, np.float32) for picture in pictures)
    if after.shape != (32, 32, 3) or after.std() < 1:
        raise RuntimeError(f"the edited picture has shape {after.shape} and deviation {after.std():.2f}")
    return float(np.abs(after - before).mean())


def row(name: str) -> str:
    """A row of the table."""
    torch.manual_seed(SEED)
    variant = VARIANTS[name]()
    with tempfile.TemporaryDirectory() as folder:
        with redirect_stdout(sys.stderr):
            generator, repository = make_bundle(variant, Path(folder))
            changed = changed_by_edit(repository)
        return f"| {name} | {variant.keys} | {difference(generator, variant):.0e} | changes it by {changed:.1f} |"


if __name__ == "__main__":
    print(HEAD)
    for chosen in sys.argv[1:] or VARIANTS:
        print(row(chosen), flush=True)
