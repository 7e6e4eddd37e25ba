"""The command `indomain`: what it writes, what it prints, how it exits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from indomain.cli import main
from indomain.cli.arguments import refine_flags
from indomain.cli.parser import parse
from tests.clients.scripted_gateway import LAYERS, SIZE, ScriptedGateway


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a.png, b.jpg and a file that is no picture; the working directory is its parent."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.png", "b.jpg"):
        Image.new("RGB", (9, 7), "teal").save(folder / name)
    (folder / "notes.txt").write_text("no picture")
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.fixture
def server(gateway: ScriptedGateway, monkeypatch: pytest.MonkeyPatch) -> ScriptedGateway:
    monkeypatch.setenv("INDOMAIN_SERVER", gateway.address)
    monkeypatch.setenv("COLUMNS", "200")  # rich asks the terminal for its width
    return gateway


def test_what_is_refined_is_said_by_flags() -> None:
    given = parse(
        ["edit", "me.png", "smile=1", "--no-noise", "--detail", "--identity-weight", "0.1", "--grey"]
    )
    assert refine_flags(given) == {"noise": False, "detail": True, "identity_weight": 0.1, "grey": True}
    assert refine_flags(parse(["edit", "me.png", "smile=1"])) == {}


@pytest.mark.usefixtures("server")
def test_bundles(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bundles"]) == 0
    assert "smile" in capsys.readouterr().out
    assert main(["bundles", "--json"]) == 0
    info = json.loads(capsys.readouterr().out)
    assert info["bundles"][0]["directions"]["smile"]["range"] == [-3.0, 3.0]


@pytest.mark.usefixtures("server")
def test_edit_one_picture(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["edit", "photos/a.png", "smile=2", "-o", "out/happy.jpg"]) == 0
    assert Image.open("out/happy.jpg").size == (SIZE, SIZE)
    assert "happy.jpg" in capsys.readouterr().out


@pytest.mark.usefixtures("photos")
def test_edits_may_stand_before_and_after_options(server: ScriptedGateway) -> None:
    assert main(["invert", "photos/a.png", "--quality", "fast"]) == 0
    assert server.requests.pop().refine.quality == "fast"
    assert main(["edit", "smile=-1.5", "photos/a.png", "--steps", "3", "-o", "x.png"]) == 0
    assert main(["edit", "photos/a.png", "-o", "x.png", "smile=2"]) == 0
    assert [request.edits[0].strength for request in server.requests] == [-1.5, 2.0]
    assert server.requests[0].refine.steps == 3


@pytest.mark.usefixtures("server", "photos")
@pytest.mark.parametrize("item", ["photos", "photos/*"])
def test_edit_folders_and_globs(item: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["edit", item, "smile=1", "-o", "out", "--json"]) == 0
    assert sorted(file.name for file in Path("out").glob("*.png")) == ["a.png", "b.png"]
    left_out, *results, summary = map(json.loads, capsys.readouterr().out.splitlines())
    assert left_out == {"event": "left_out", "source": "photos/notes.txt", "why": "no picture"}
    assert sorted(Path(result["source"]).name for result in results) == ["a.png", "b.jpg"]
    assert (summary["event"], summary["done"], summary["failed"]) == ("summary", 2, 0)


@pytest.mark.usefixtures("photos")
def test_invert_then_edit_the_code(server: ScriptedGateway) -> None:
    assert main(["invert", "photos/a.png", "-o", "a-again.png"]) == 0
    assert np.load("a-again.npy").shape == (LAYERS, 512)
    assert main(["edit", "a-again.npy", "smile=1", "-o", "b.png"]) == 0
    assert server.requests[-1].WhichOneof("source") == "code"


@pytest.mark.usefixtures("server", "photos")
def test_sample_as_a_sheet_and_as_files(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sample", "--seeds", "0-4", "-o", "sheet.png"]) == 0
    assert Image.open("sheet.png").size == (3 * SIZE, 2 * SIZE)
    assert main(["sample", "--seeds", "3,7", "-o", "many", "--json"]) == 0
    assert sorted(file.name for file in Path("many").iterdir()) == ["seed000003.png", "seed000007.png"]
    assert [sample["seed"] for sample in json.loads(capsys.readouterr().out)] == [3, 7]


@pytest.mark.usefixtures("photos")
def test_many_seeds_are_asked_for_in_parts(server: ScriptedGateway) -> None:
    assert main(["sample", "--seeds", "0-19", "-o", "sheet.png"]) == 0
    assert [len(request.seeds) for request in server.requests] == [16, 4]


@pytest.mark.usefixtures("server")
def test_one_bad_picture_does_not_stop_the_others(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (photos / "bad.png").write_bytes(b"not a picture")
    assert main(["invert", "photos", "-o", "out"]) == 1
    assert {"a.png", "b.png"} < {file.name for file in Path("out").iterdir()}
    captured = capsys.readouterr()
    assert "bad.png: not a picture" in captured.err
    assert "request id" in captured.err
    assert "PNG, JPEG, WebP, TIFF, BMP, GIF and AVIF" in captured.err
    assert "left out: photos/notes.txt: no picture" in captured.err
    assert main(["invert", "photos", "-o", "again", "--json"]) == 1
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    (failed,) = [line for line in lines if line["event"] == "failed"]
    assert failed["error"]["reason"] == "invalid_picture"


@pytest.mark.usefixtures("server", "photos")
def test_an_unknown_direction(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["edit", "photos/a.png", "halo=1", "-o", "x.png"]) == 1
    assert "it has: smile" in capsys.readouterr().err


@pytest.mark.usefixtures("server", "photos")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["edit", "photos/a.png"], "smile=1"),
        (["edit", "photos/a.png", "smile=much"], "is a number"),
        (["edit", "photos/a.png", "smile=nan"], "is a number"),
        (["edit", "smile=1"], "at least one picture"),
        (["edit", "photos/none.png", "smile=1"], "no such file"),
        (["edit", "photos", "smile=1", "-o", "one.png"], "is one file"),
        (["edit", "photos/a.png", "smile=1", "-o", "photos/a.png"], "written over"),
        (["edit", "photos/a.png", "smile=1", "-o", "a.tiff"], "is written as"),
    ],
)
def test_wrong_usage(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [[], ["sample", "--seeds", "x"], ["edit", "a", "--timeout", "0"], ["bundles", "x"]]
)
def test_arguments_that_do_not_parse(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2


@pytest.mark.usefixtures("photos")
@pytest.mark.parametrize("command", [["bundles"], ["invert", "photos"], ["sample"]])
def test_nobody_there(dead_address: str, command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command, "--server", dead_address]) == 3
    error = capsys.readouterr().err
    assert dead_address in error
    assert "--server" in error
    assert "Traceback" not in error


def test_as_a_process(gateway: ScriptedGateway) -> None:
    """A pipe gets the answer and nothing else."""
    done = subprocess.run(
        [sys.executable, "-m", "indomain", "bundles", "--json", "--server", gateway.address],
        capture_output=True,
        env={**os.environ, "PYTHONWARNINGS": "error"},
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert done.stderr == b""
    assert json.loads(done.stdout)["version"] == "0.1.0"
