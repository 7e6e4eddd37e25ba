"""Boundaries and directions from files become directions of a run, and files that do not fit are errors."""

from __future__ import annotations

from collections.abc import Callable
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


@pytest.fixture
def run_copy(tmp_path: Path) -> Path:
    """A run folder with two directions for one test alone."""
    return write_run(tmp_path / "run")


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


# --- files of torch and numpy ----------------------------------------------------------------------------------------

W, WPLUS = torch.randn(CODE), torch.randn(LAYERS, CODE)
Write = Callable[[Path], Path]


def tensors(content: Any, name: str = "age.pt") -> Write:
    def write(folder: Path) -> Path:
        torch.save(content, folder / name)
        return folder / name

    return write


def arrays(save: Callable[..., None], **content: np.ndarray) -> Write:
    def write(folder: Path) -> Path:
        save(folder / "age.npz", **content)
        return folder / "age.npz"

    return write


@pytest.mark.parametrize(
    ("write", "arguments", "wanted"),
    [
        (tensors(W), (), {"age": W}),  # one tensor
        (tensors(W[None].double()), (), {"age": W}),  # e4e's age.pt
        (tensors(torch.nn.Parameter(WPLUS[None].half())), (), {"age": WPLUS.half()}),
        (tensors(W), ("--name", "older"), {"older": W}),
        (tensors({"Older Face": W, "pose": WPLUS}), (), {"older-face": W, "pose": WPLUS}),
        (tensors({"older": W, "pose": W}), ("--name", "e4e"), {"e4e-older": W, "e4e-pose": W}),
        (tensors({"pose": W}), ("--name", "yaw"), {"yaw": W}),
        (tensors({"pose": W.numpy()}), (), {"pose": W}),
        (tensors({"older": {"boundary": W, "meta_data": {}}}), (), {"older": W}),
        (arrays(np.savez, arr_0=W.numpy()), (), {"age": W}),
        (arrays(np.savez_compressed, boundary=WPLUS[None].numpy()), (), {"age": WPLUS}),
        (arrays(np.savez, older=W.numpy(), pose=W.numpy()), (), {"older": W, "pose": W}),
    ],
)
def test_directions_of_torch_and_numpy(
    tmp_path: Path,
    run_copy: Path,
    write: Write,
    arguments: tuple[str, ...],
    wanted: dict[str, torch.Tensor],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["import", str(write(tmp_path)), "--to", str(run_copy), *arguments]) == 0
    said = capsys.readouterr().out
    pipeline = load_pipeline(run_copy)
    assert {entry["name"] for entry in pipeline.directions} == {"smile", "age", *wanted}
    for name, step in wanted.items():
        vector = step.detach().float().expand(LAYERS, CODE)
        np.testing.assert_allclose(pipeline.vectors[name], vector / vector.norm(), atol=1e-3)
        assert f"direction {name} added" in said


@pytest.mark.parametrize(
    ("write", "says"),
    [
        (tensors(torch.ones(LAYERS + 1, CODE)), "its boundary has shape"),
        (tensors({"older": W, "pose": torch.ones(CODE + 1)}), "direction 'pose' has shape"),
        (tensors({"older": W, "pose": torch.zeros(CODE)}), "not finite, or zero"),
        (tensors({"older": W, "image": torch.ones(3, 4, 5, 6)}), "no family"),
        (tensors({"a b": W, "a-b": W}), "names that are alike"),
        (tensors({"comp": torch.ones(8, 1, CODE), "mean": W, "std": torch.ones(8)}), "--method ganspace"),
        (tensors({"ckpt": "550000.pt", "eigvec": torch.eye(CODE)}), "SeFa's factors"),
        (arrays(np.savez, w=WPLUS[None].numpy()), "a picture's code w"),
    ],
)
def test_files_that_hold_no_directions_change_nothing(
    tmp_path: Path, run: Path, write: Write, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (run / "directions.json").read_bytes()
    to = tmp_path / "new" if says == "no family" else run
    assert main(["import", str(write(tmp_path)), "--to", str(to)]) == 2
    assert says in capsys.readouterr().err
    assert (run / "directions.json").read_bytes() == before
