"""`make demo` without make: the script on a bundle in miniature, and what it says when it cannot go on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "clients/python/examples/demo.py"


def run_demo(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, DEMO, *arguments], capture_output=True, text=True, check=False, timeout=300
    )


def test_the_demo_writes_its_picture_and_prints_the_stages(tiny_repository: Path, tmp_path: Path) -> None:
    output = tmp_path / "demo" / "edits.png"
    done = run_demo("--repository", tiny_repository, "--output", output)
    assert done.returncode == 0, done.stderr
    with Image.open(output) as sheet:
        assert sheet.width > 600
        assert len(sheet.getcolors(maxcolors=sheet.width * sheet.height) or ()) > 100
    assert str(output) in done.stdout
    for stage in ("encode", "refine", "edit", "decode"):
        assert f"\n{stage} " in done.stdout


def test_without_a_bundle_it_says_what_to_do(tmp_path: Path) -> None:
    done = run_demo("--repository", tmp_path)
    assert done.returncode == 1
    assert "holds no bundle" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_gateway_that_does_not_start_is_quoted(tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_text("{")
    done = run_demo("--repository", tmp_path)
    assert done.returncode == 1
    assert "The gateway stopped at once" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_picture_that_is_none(tiny_repository: Path, tmp_path: Path) -> None:
    picture = tmp_path / "text.png"
    picture.write_text("no picture")
    done = run_demo("--repository", tiny_repository, "--picture", picture, "--output", tmp_path / "out.png")
    assert done.returncode == 1
    assert "demo: " in done.stderr
    assert not (tmp_path / "out.png").exists()


@pytest.mark.parametrize("size", [(256, 256)])
def test_the_photograph_is_square(size: tuple[int, int]) -> None:
    with Image.open(DEMO.with_name("portrait.png")) as portrait:
        assert portrait.size == size
