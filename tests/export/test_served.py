"""Every foreign format through the whole pipeline: imported, given what it lacks, exported, served, edited with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.gateway import running_gateway
from export.__main__ import main as export
from indomain.cli import main as indomain
from tests.export.foreign_pyramid import content_of, encoder_state
from tests.export.foreign_stylegan1 import generator as stylegan1
from tests.export.foreign_stylegan1 import idinvert_encoder
from tests.export.foreign_stylegan2 import CODE, FORMATS
from tests.export.foreign_variants import VARIANTS
from tests.export.import_table import SEED, changed_by_edit, make_bundle
from training.__main__ import main as training

PORTRAIT = Path(__file__).parents[2] / "clients/python/examples/portrait.png"
Content = Callable[[], object]


def pyramid(kind: str) -> Content:
    return lambda: content_of(kind, encoder_state(), torch.randn(CODE))


FILES: dict[str, tuple[Content, ...]] = {
    **{name: (lambda case=case: case().content,) for name, case in FORMATS.items()},
    "pSp with its encoder": (pyramid("GradualStyleEncoder"),),
    "e4e with its encoder": (pyramid("Encoder4Editing"),),
    "GenForce StyleGAN1": (lambda: {"generator_smooth": stylegan1(idinvert=False).state},),
    "idinvert with its encoder": (lambda: stylegan1().state, lambda: idinvert_encoder().content),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_a_format_is_served(tmp_path: Path, name: str) -> None:
    torch.manual_seed(5)
    for number, content in enumerate(FILES[name]):
        file = tmp_path / f"network{number}.pt"
        torch.save(content(), file)
        assert export(["import", str(file), "--to", str(tmp_path / "run"), "--name", "theirs"]) == 0
    run = tmp_path / "run"
    if "encoder" not in name:
        small = ["--channels", "8", "8", "8", "8", "--images", "8", "--batch", "4"]
        arguments = ["encoder", "--gan", str(run), "--runs", str(tmp_path), *small]
        assert training([*arguments, "--compute.accelerator", "cpu"]) == 0
        (run,) = tmp_path.glob("*-inversion-*")
    assert training(["factors", "--run", str(run), "--count", "1", "--layers", "0-3"]) == 0
    repository = tmp_path / "repository"
    options = ["--refine.steps", "2", "--refine.chunk-steps", "2", "--sampled-codes", "64"]
    assert export(["bundle", str(run), "--to", str(repository), *options]) == 0
    assert export(["verify", str(repository)]) == 0
    out = tmp_path / "out.png"
    with running_gateway(repository) as (address, _):
        arguments = ["edit", str(PORTRAIT), "sefa-0-3-1=1", "-o", str(out), "--server", address]
        assert indomain([*arguments, "--timeout", "600"]) == 0
    with Image.open(out) as edited:
        assert edited.size == (32, 32)
        assert np.asarray(edited).std() > 1


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_a_file_as_people_have_it_is_served(tmp_path: Path, name: str) -> None:
    torch.manual_seed(SEED)
    _, repository = make_bundle(VARIANTS[name](), tmp_path)
    assert changed_by_edit(repository) > 0.1
