"""Boundaries from files become directions of a run, and files that do not fit are errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from export.__main__ import main
from export.bundles.checkpoint import load_pipeline
from tests.export.run_folder import SMALL_GENERATOR, write_run

LAYERS, CODE = SMALL_GENERATOR.layers, SMALL_GENERATOR.code_size


def save(folder: Path, content: Any) -> Path:
    """As InterFaceGAN and idinvert save theirs."""
    file = folder / "stylegan_eyeglasses_w_boundary.npy"
    np.save(file, content, allow_pickle=True)
    return file


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("run") / "run")


@pytest.mark.parametrize("shape", [(CODE,), (1, CODE), (LAYERS, CODE), (1, LAYERS, CODE)])
@pytest.mark.parametrize("as_dict", [False, True])
def test_a_boundary_becomes_a_direction(
    run: Path, tmp_path: Path, shape: tuple[int, ...], as_dict: bool
) -> None:
    normal = np.random.default_rng(0).standard_normal(shape).astype(np.float32 if as_dict else np.float64)
    moves = [0, 2]
    content = (
        {"boundary": normal, "meta_data": {"manipulate_layers": moves, "space": "wp"}} if as_dict else normal
    )
    assert main(["import", str(save(tmp_path, content)), "--to", str(run)]) == 0
    pipeline = load_pipeline(run)
    name = "stylegan_eyeglasses_w_boundary"
    (entry,) = (e for e in pipeline.directions if e["name"] == name)
    layers = moves if as_dict else list(range(LAYERS))
    assert entry["layers"] == layers
    wanted = np.zeros((LAYERS, CODE))
    wanted[layers] = np.broadcast_to(normal.reshape(-1, CODE), (LAYERS, CODE))[layers]
    np.testing.assert_allclose(pipeline.vectors[name], wanted / np.linalg.norm(wanted), atol=1e-6)
    codes = pipeline.generator.mapping(torch.randn(4_000, 512, generator=torch.Generator().manual_seed(1)))
    along = codes.flatten(1).detach() @ torch.from_numpy(pipeline.vectors[name]).flatten()
    assert entry["scale"] == pytest.approx(float(along.std()), rel=1e-3)
    assert {e["name"] for e in pipeline.directions} == {"smile", "age", name}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (np.ones((1, CODE + 1), np.float32), "has shape"),
        (np.zeros(CODE, np.float32), "zero"),
        (np.full(CODE, np.nan, np.float32), "not finite"),
        ({"boundary": np.ones(CODE), "meta_data": {"manipulate_layers": [0, LAYERS]}}, "moves layers"),
        ({"boundary": np.ones(CODE), "meta_data": {"manipulate_layers": ["all"]}}, "no numbers"),
        ({"boundary": np.ones(CODE), "meta_data": {"latent_space_type": "Z"}}, "among z"),
        (np.ones(CODE, np.int64), "no family"),
    ],
)
def test_a_file_that_does_not_fit_is_an_error_and_changes_nothing(
    run: Path, tmp_path: Path, content: Any, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (run / "directions.json").read_bytes()
    to = tmp_path / "new" if says == "no family" else run
    assert main(["import", str(save(tmp_path, content)), "--to", str(to)]) == 2
    assert says in capsys.readouterr().err
    assert (run / "directions.json").read_bytes() == before


def test_a_run_without_an_encoder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", str(save(tmp_path, np.ones(CODE))), "--to", str(tmp_path / "nothing")]) == 2
    assert "nothing" in capsys.readouterr().err
