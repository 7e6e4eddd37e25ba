"""Imported networks draw and encode what the projects that their files come from do: their code runs beside ours.

Work trees of those projects lie in the folder that INDOMAIN_ORIGINALS names, each by its repository's name; a tree
that is not there is left out. They need no GPU, and nothing of theirs is part of this project.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from export.__main__ import main
from export.graphs.encoder_folding import fold_encoder
from export.graphs.folding import FoldedMapping, fold_synthesis
from training.networks.generator import Generator, GeneratorConfig
from training.run_folders.checkpoint import load_meta, load_network
from training.run_folders.json_files import read_config
from training.run_folders.trained_inversion import load_inversion

ORIGINALS = os.environ.get("INDOMAIN_ORIGINALS", "")
DRAW = Path(__file__).with_name("draw_with_original.py")
TOLERANCE = 1e-4  # on pictures brought to [-1, 1]
MEAN_CODE_TOLERANCE = 0.1  # of a mean over 10,000 codes, in standard deviations
WORK_TREES = {
    "rosinality, trained": "stylegan2-pytorch",
    "rosinality, converted": "stylegan2-pytorch",
    "rosinality without noise maps": "stylegan2-pytorch",
    "pSp": "stylegan2-pytorch",
    "NVIDIA": "stylegan2-ada-pytorch",
    "NVIDIA, conditional on classes": "stylegan2-ada-pytorch",
    "NVIDIA, grey": "stylegan2-ada-pytorch",
    "NVIDIA, RGBA": "stylegan2-ada-pytorch",
    "StyleGAN2 of TensorFlow": "stylegan2-ada-pytorch",
    "StyleGAN2-ADA of TensorFlow, conditional": "stylegan2-ada-pytorch",
    "StyleGAN of TensorFlow": "genforce",
    "StyleGAN of TensorFlow, 128 pixels": "genforce",
    "GenForce": "genforce",
    "GenForce, w per layer": "genforce",
    "GenForce StyleGAN1": "genforce",
    "GenForce StyleGAN1, 256 pixels": "genforce",
    "idinvert": "idinvert_pytorch",
    "idinvert, as published": "idinvert_pytorch",
    "pSp with its encoder": "pixel2style2pixel",
    "e4e with its encoder": "encoder4editing",
}
CONDITIONAL = {"NVIDIA, conditional on classes", "StyleGAN2-ADA of TensorFlow, conditional"}
LABEL = "3"
NO_MEAN_CODE = CONDITIONAL | {
    "rosinality, trained",
    "rosinality without noise maps",
    "idinvert",
    "idinvert, as published",
}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not ORIGINALS, reason="INDOMAIN_ORIGINALS names no folder of the original projects"),
]


@torch.no_grad()
@pytest.mark.parametrize("chosen", WORK_TREES)
def test_pictures_are_those_of_the_original(tmp_path: Path, chosen: str) -> None:
    """Ten random codes with constant noise, no truncation; also folded for export."""
    tree = Path(ORIGINALS, WORK_TREES[chosen]).absolute()
    if not tree.is_dir():
        pytest.skip(f"{tree} is missing")
    subprocess.run([sys.executable, DRAW, chosen, tree, tmp_path], check=True, cwd=tree)
    (file,) = tmp_path.glob("network.*")
    for part in [file, *tmp_path.glob("encoder.pth")]:
        with torch.enable_grad():
            label = ["--label", LABEL] if chosen in CONDITIONAL else []
            assert main(["import", str(part), "--to", str(tmp_path / "run"), *label]) == 0
    meta = load_meta(tmp_path / "run")
    generator = Generator(read_config(GeneratorConfig, meta["generator"])).eval()
    load_network(tmp_path / "run", "generator", generator)
    drawn = torch.load(tmp_path / "pictures.pt")
    z, wanted, scale = drawn["z"], drawn["images"], drawn["images"].abs().max()
    folded = fold_synthesis(generator.synthesis)
    for pictures in (generator, lambda z: folded(FoldedMapping(generator.mapping)(z))):
        found = torch.cat([pictures(one[None]) for one in z])
        difference = (found - wanted).abs().max() / scale
        print(f"{chosen}: {difference:.1e} of pictures up to {scale:.2f}, deviation {wanted.std():.2f}")
        assert difference < TOLERANCE
    if drawn.get("codes") is not None:
        encoder, codes = load_inversion(tmp_path / "run").encoder, drawn.get("codes")
        for encode in (encoder, fold_encoder(encoder)):
            found = torch.cat([encode(one[None].clamp(-1, 1)) for one in wanted])
            difference = (found - codes).abs().max() / codes.abs().max()
            print(
                f"{chosen}: {difference:.1e} of codes up to {codes.abs().max():.2f}, deviation {codes.std():.2f}"
            )
            assert difference < TOLERANCE
    distance = meta["imported"]["mean_code_error"]
    assert (distance is None) if chosen in NO_MEAN_CODE else (distance < MEAN_CODE_TOLERANCE)
