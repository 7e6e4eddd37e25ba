"""`python -m training tune` as a user runs it, on a miniature run."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tests.export.run_folder import write_run
from tests.training.pictures import write_pictures
from training.__main__ import main
from training.evaluation.report import method_name
from training.networks.generator import sample_codes
from training.run_folders.trained_inversion import load_inversion

SETTINGS = ["--tuning.steps", "40", "--tuning.batch", "2", "--tuning.rate", "0.01", "--refine.steps", "3"]
CARRIED = ("directions.json", "directions.safetensors", "presets.json", "alignment.json")


def tune(run: Path, pictures: Path, to: Path, *settings: str) -> int:
    return main(["tune", str(run), "--pictures", str(pictures), "--to", str(to), *SETTINGS, *settings])


def figures(printed: str) -> list[list[float]]:
    """Identity distance, MSE and LPIPS-sq of each row of the table."""
    rows = [line.split("|")[2:5] for line in printed.splitlines() if re.match(r"\| .*\d \|$", line)]
    return [[float(cell) for cell in row] for row in rows]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = write_run(tmp_path_factory.mktemp("run") / "run")
    (run / "alignment.json").write_text("{}")
    return run


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("pictures"), 3, 32)[0]


@pytest.fixture(scope="module")
def tuned(run: Path, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tuned") / "person"
    assert tune(run, pictures, folder, "--tuning.locality-weight", "3") == 0
    return folder


def test_pictures_come_closer_and_locality_keeps_those_of_other_codes(
    run: Path, tuned: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tune(run, pictures, tmp_path / "free", "--tuning.locality-weight", "0") == 0
    printed = capsys.readouterr().out
    before, after, again, others = figures(printed)
    assert all(x < 0.8 * y for x, y in zip(after[1:], before[1:], strict=True)), printed
    assert all(x < y for x, y in zip(again[1:], before[1:], strict=True)), printed
    assert others[1] > 0
    with Image.open(tmp_path / "free/samples/tuned.png") as sheet:
        assert sheet.size == (3 * 32, 4 * 32)
    codes = sample_codes(load_inversion(run).generator, 16, seed=5)
    with torch.no_grad():
        kept, local, free = (
            load_inversion(folder).generator.synthesis(codes) for folder in (run, tuned, tmp_path / "free")
        )
    assert (local - kept).square().mean() < 0.7 * (free - kept).square().mean()


def test_all_but_the_synthesis_is_carried_over(run: Path, tuned: Path) -> None:
    for name in CARRIED:
        assert (run / name).read_bytes() == (tuned / name).read_bytes()
    for name in ("encoder", "latent_discriminator", "generator"):
        before, after = (load_file(folder / f"checkpoint/{name}.safetensors") for folder in (run, tuned))
        changed = {key for key in before if not torch.equal(before[key], after[key])}
        assert before.keys() == after.keys()
        assert all(name == "generator" and key.startswith("synthesis.") for key in changed)
        assert bool(changed) == (name == "generator")


def test_checkpoint_and_card_say_what_it_was_tuned_from(run: Path, tuned: Path, pictures: Path) -> None:
    meta = load_inversion(tuned).meta
    assert meta["name"] == "person"
    assert (meta["tuned"]["from"], meta["tuned"]["pictures"]) == ("tiny", 3)
    assert meta["tuned"]["tuning"]["steps"] == 40
    assert method_name(meta) == f"{method_name(load_inversion(run).meta)}, tuned"
    card = json.loads((tuned / "card.json").read_text())
    assert card["data"] == "random weights Tuned from tiny on 3 pictures of one person."
    assert card["licence"] == "Apache-2.0"
    assert len((tuned / "figures.jsonl").read_text().splitlines()) == 40
    assert (tuned / "config.json").is_file()


def test_a_published_copy_is_tuned_and_published_again(tuned: Path, pictures: Path, tmp_path: Path) -> None:
    assert main(["publish", "--run", str(tuned), "--to", str(tmp_path / "published")]) == 0
    assert tune(tmp_path / "published", pictures, tmp_path / "again", "--tuning.steps", "1") == 0
    assert load_inversion(tmp_path / "again").meta["tuned"]["from"] == "person"
    for name in CARRIED:
        assert (tuned / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_bad_input_is_one_clear_line(
    run: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def complaint(run: Path, pictures: Path, to: str = "new") -> str:
        assert tune(run, pictures, tmp_path / to) == 2
        assert not (tmp_path / "new").exists()
        return capsys.readouterr().err

    empty, other = tmp_path / "empty", tmp_path / "other"
    empty.mkdir()
    other.mkdir()
    Image.fromarray(np.zeros((32, 48, 3), np.uint8)).save(other / "wide.png")
    assert "no pictures" in complaint(run, empty)
    assert "wide.png" in (message := complaint(run, other))
    assert "48 x 32 pixels; align it to 32 x 32" in message
    assert "is there already" in complaint(run, pictures, "empty")
    assert "holds no checkpoint" in complaint(tmp_path / "nowhere", pictures)
    without = tmp_path / "without"
    shutil.copytree(run, without)
    (without / "checkpoint/encoder.safetensors").unlink()
    assert "holds no encoder" in complaint(without, pictures)
    meta = json.loads((without / "checkpoint/checkpoint.json").read_text())
    (without / "checkpoint/checkpoint.json").write_text(json.dumps(meta | {"kind": "gan"}))
    assert "is a gan's run folder" in complaint(without, pictures)
