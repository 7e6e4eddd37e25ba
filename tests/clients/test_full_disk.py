"""`indomain` where results cannot be written: it says so, marks nothing as failed, and the same command goes on once
there is room."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from PIL import Image

from indomain.cli import main
from tests.clients.scripted_gateway import ScriptedGateway

PICTURES = 12


@pytest.fixture
def server(gateway: ScriptedGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ScriptedGateway:
    """The scripted gateway; the working directory has a folder photos/."""
    monkeypatch.setenv("INDOMAIN_SERVER", gateway.address)
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    for n in range(PICTURES):
        Image.new("RGB", (9, 7), "teal").save(f"photos/{n:02d}.png")
    return gateway


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], None]]:
    """A disk of 64 KiB at out/; what it yields mounts it anew with other options."""

    def mount(options: str) -> None:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(tmp_path / "out")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            pytest.skip(f"no disk can be mounted here: {done.stderr}")

    (tmp_path / "out").mkdir()
    mount("size=64k")
    yield lambda options: mount(f"remount,{options}")
    subprocess.run(["umount", str(tmp_path / "out")], check=True)


def invert() -> int:
    return main(["invert", "photos", "-o", "out", "--jobs", "2"])


def events() -> list[str]:
    lines = Path("out/.indomain/journal.jsonl").read_bytes().splitlines(keepends=True)
    return [json.loads(line)["event"] for line in lines if line.endswith(b"\n")]


def check_refused(text: str, why: str) -> None:
    """The message is about the results, names no source, and no picture counts as failed."""
    (message,) = [line for line in text.splitlines() if line.startswith("error:")]
    assert message.startswith("error: results cannot be written to out/")
    assert why in message
    assert "photos" not in text
    assert "the same command again goes on" in text
    assert "failed" not in events()


def check_gone_on_with(server: ScriptedGateway, left: int) -> None:
    """The same command does the pictures that are left, and succeeds."""
    server.requests.clear()
    assert invert() == 0
    assert len(server.requests) == 1 + left
    expected = [f"{n:02d}{suffix}" for n in range(PICTURES) for suffix in (".npy", ".png")]
    assert sorted(path.name for path in Path("out").glob("*.*") if path.is_file()) == expected
    assert events() == ["begin", *["done"] * PICTURES]


def test_a_full_disk(
    server: ScriptedGateway, disk: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    assert invert() == 1
    check_refused(capsys.readouterr().err, "No space left on device")
    done = events().count("done")
    assert 0 < done < PICTURES
    assert not list(Path("out").glob(".*.part"))
    assert invert() == 1
    disk("size=10m")
    check_gone_on_with(server, PICTURES - done)


def test_a_disk_that_is_full_for_the_journal_already(
    server: ScriptedGateway, disk: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    with suppress(OSError), Path("out/filler").open("wb", buffering=0) as filler:
        while True:
            filler.write(bytes(4096))
    assert invert() == 1
    assert "results cannot be written to out/.indomain/journal.jsonl: No space" in capsys.readouterr().err
    Path("out/filler").unlink()
    disk("size=10m")
    check_gone_on_with(server, PICTURES)


def test_a_disk_that_becomes_read_only(
    server: ScriptedGateway, disk: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    disk("size=10m")
    assert main(["invert", "photos/00.png", "photos/01.png", "-o", "out"]) == 0
    disk("ro")
    capsys.readouterr()
    assert invert() == 1
    assert "results cannot be written to out/.indomain" in (text := capsys.readouterr().err)
    assert "Read-only file system" in text
    disk("rw")
    check_gone_on_with(server, PICTURES - 2)


def test_files_that_may_not_be_that_large(server: ScriptedGateway) -> None:
    """Needs no disk of its own: codes have 8 KiB, and the process may write files of 4."""
    done = subprocess.run(
        [sys.executable, "-m", "indomain", "invert", "photos", "-o", "out"],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
    check_refused(done.stderr, "File too large")
    check_gone_on_with(server, PICTURES)


@pytest.mark.usefixtures("server")
def test_a_journal_that_grows_too_large_within_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "indomain", "edit", "photos", "smile=1", "-o", "out"],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024)),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
    check_refused(done.stderr, "File too large")
    assert not Path("out/.indomain/journal.jsonl").read_bytes().endswith(b"\n")
    assert main(["edit", "photos", "smile=1", "-o", "out"]) == 0
    assert events() == ["begin", *["done"] * PICTURES]


@pytest.mark.usefixtures("server")
def test_a_name_that_is_too_long_fails_alone(capsys: pytest.CaptureFixture[str]) -> None:
    """The name of the result, not that of the file that is written first."""
    long = "a" * 251
    Path("photos/00.png").rename(f"photos/{long}.png")
    assert main(["invert", "photos", "-o", "out", "--full-names"]) == 1
    text = capsys.readouterr().err
    assert f"photos/{long}.png: results cannot be written to out/{long}.png.npy: File name too long" in text
    assert events().count("done") == PICTURES - 1


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("command", [["edit", "photos/00.png", "smile=1"], ["sample", "--seeds", "0-1"]])
def test_a_single_result(
    command: list[str], disk: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    disk("ro")
    assert main([*command, "-o", "out/a.png"]) == 1
    assert "results cannot be written to out/a.png: Read-only file system" in capsys.readouterr().err
