"""`indomain` with folders as people have them: every file is done, has failed, or is left out with its reason."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from indomain.cli import main
from tests.clients.scripted_gateway import ScriptedGateway

PICTURE = Image.new("RGB", (9, 7), "teal")
# Names of pictures -> Pillow's formats.
PICTURES = {
    "a.PNG": "PNG", "b.jpg": "JPEG", "c.jpeg": "JPEG", "d.jpe": "JPEG", "e.jfif": "JPEG", "f.MPO": "JPEG",
    "g.webp": "WEBP", "h.tif": "TIFF", "i.tiff": "TIFF", "j.bmp": "BMP", "k.gif": "GIF", "l.avif": "AVIF",
    "no suffix": "PNG", "another.suffix": "JPEG",
}  # fmt: skip


@pytest.fixture
def server(gateway: ScriptedGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ScriptedGateway:
    """The scripted gateway; photos/ has a picture of each kind, and other files."""
    monkeypatch.setenv("INDOMAIN_SERVER", gateway.address)
    monkeypatch.chdir(tmp_path)
    folder = Path("photos")
    folder.mkdir()
    for name, file_format in PICTURES.items():
        PICTURE.save(folder / name, file_format)
    (folder / "notes.txt").write_text("BM is no picture")
    (folder / "empty").touch()
    np.save(folder / "code.npy", gateway.code)
    (folder / "gone.jpg").symlink_to("nowhere")
    os.mkfifo(folder / "pipe.png")
    (folder / "deeper").mkdir()
    PICTURE.save(folder / "deeper/a.png")
    (folder / ".hidden.png").touch()
    return gateway


LEFT_OUT = {"notes.txt", "empty", "code.npy", "gone.jpg", "pipe.png", "deeper"}


AS_A_PROCESS = [sys.executable, "-m", "indomain", "edit", "photos", "smile=1", "-o", "out", "--full-names"]


def edit(*arguments: str) -> int:
    return main(["edit", "smile=1", "-o", "out", *arguments])


def test_every_file_of_a_folder_is_accounted_for(
    server: ScriptedGateway, capsys: pytest.CaptureFixture[str]
) -> None:
    assert edit("photos", "--full-names", "--json") == 0
    captured = capsys.readouterr()
    lines = [json.loads(line) for line in captured.out.splitlines()]
    done = {Path(line["source"]).name for line in lines if line["event"] == "done"}
    left_out = {Path(line["source"]).name: line["why"] for line in lines if line["event"] == "left_out"}
    assert done == set(PICTURES)
    assert set(left_out) == LEFT_OUT
    assert "--recursive" in left_out["deeper"]
    assert "code" in left_out["code.npy"]
    assert lines[-1]["left_out"] == len(LEFT_OUT)
    assert "left out: photos/notes.txt: no picture" in captured.err
    assert "6 other files left out" in captured.err


@pytest.mark.usefixtures("server")
def test_where_more_files_are_left_out_than_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    for n in range(60):
        Path(f"photos/{n}.txt").touch()
    assert edit("photos", "--full-names") == 0
    error = capsys.readouterr().err
    assert error.count("left out: ") < 60
    assert f"{60 + len(LEFT_OUT)} other files left out" in error
    assert "--json tells all files that were left out" in error


@pytest.mark.usefixtures("server")
def test_a_glob_accounts_for_its_files_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert edit("photos/*.*", "--full-names") == 0
    assert "left out: photos/notes.txt: no picture" in capsys.readouterr().err
    assert Path("out/code.npy.png").exists()


@pytest.mark.usefixtures("server")
def test_a_folder_without_pictures(capsys: pytest.CaptureFixture[str]) -> None:
    Path("texts").mkdir()
    Path("texts/a.txt").write_text("a")
    assert edit("texts") == 2
    assert "texts has no picture among its 1 files" in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read all")
@pytest.mark.usefixtures("server")
def test_a_folder_that_may_not_be_listed(capsys: pytest.CaptureFixture[str]) -> None:
    Path("photos/deeper").chmod(0)
    assert edit("photos", "-r", "--full-names") == 0
    assert "left out: photos/deeper: Permission denied" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty.npy", b""),
        ("cut.npy", b"\x93NUMPY\x01\x00"),
        ("page.npz", b"<!DOCTYPE html>"),
        ("attack.pt", b"cos\nsystem\n(S'true'\ntR."),
    ],
)
def test_a_code_that_cannot_be_read_fails_alone(
    server: ScriptedGateway, name: str, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(name).write_bytes(content)
    np.save("good.npy", server.code)
    assert edit(name, "good.npy") == 1
    assert Path("out/good.png").exists()
    assert f"error: {name} was refused" in capsys.readouterr().err
    assert edit(name, "-o", "one.png") == 1


def test_whatever_reading_an_item_raises_it_fails_alone(
    server: ScriptedGateway, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def source_of(path: Path, codes: object) -> Path:
        if path.name == "b.jpg":
            raise RecursionError("too deep")
        return path

    monkeypatch.setattr("indomain.cli.commands.edit.source_of", source_of)
    assert edit("photos/a.PNG", "photos/b.jpg") == 1
    assert Path("out/a.png").exists()
    assert "photos/b.jpg: RecursionError: too deep" in capsys.readouterr().err


def test_a_name_that_is_no_text(server: ScriptedGateway) -> None:
    shutil.copyfile("photos/b.jpg", b"photos/\xff\xfe.jpg")
    assert edit("photos", "--full-names") == 0
    assert edit("photos", "--full-names", "--json") == 0
    assert os.path.exists(b"out/\xff\xfe.jpg.png")


def test_links_to_folders_are_told(server: ScriptedGateway, capsys: pytest.CaptureFixture[str]) -> None:
    Path("photos/again").symlink_to(".")
    Path("photos/code.npy").unlink()
    assert edit("photos", "-r", "--full-names") == 0
    assert "left out: photos/again: a link to a folder: name the folder itself" in capsys.readouterr().err


@pytest.mark.usefixtures("server")
def test_pictures_that_are_not_read_are_not_called_no_pictures(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a.CR3", "b.jp2"):
        Path("photos", name).write_bytes(bytes(100))
    assert edit("photos", "--full-names") == 0
    error = capsys.readouterr().err
    for name, kind in (("a.CR3", ".cr3"), ("b.jp2", ".jp2")):
        assert f"left out: photos/{name}: pictures of the kind {kind} are not read: convert it" in error


def test_a_pipe_in_a_list_does_not_hold_up_the_run(
    server: ScriptedGateway, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("list").write_text("photos/a.PNG\nphotos/pipe.png\n/dev/zero\n")
    assert edit("--from-list", "list") == 0
    error = capsys.readouterr().err
    assert "left out: photos/pipe.png: neither a file nor a folder" in error
    assert "left out: /dev/zero: neither a file nor a folder" in error


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_list_that_a_program_of_windows_wrote(server: ScriptedGateway, encoding: str) -> None:
    Path("list").write_text("photos/a.PNG\r\nphotos/b.jpg\r\n", encoding=encoding)
    assert edit("--from-list", "list") == 0
    assert {path.name for path in Path("out").glob("*.png")} == {"a.png", "b.png"}


@pytest.mark.usefixtures("server")
def test_a_picture_in_place_of_a_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert edit("--from-list", "photos/a.PNG") == 2
    assert "photos/a.PNG is a picture, and - and --from-list take a list of names" in capsys.readouterr().err


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["edit", "photos", "smile=1", "-o", "x.png"], "x.png is one file; results of a folder"),
        (["edit", "photos/gone.jpg", "smile=1"], "photos/gone.jpg: a link that leads nowhere"),
        (["edit", "-a.png", "smile=1"], "is written ./-a.png"),
        (["invert", "photos/a.PNG", "-o", "x.npy"], ".npz takes code and picture in one file"),
        (["mix", "photos/a.PNG", "nowhere.png", "--layers", "1"], "error: nowhere.png: No such file"),
        (["mix", "photos/a.PNG", "photos/a.PNG", "--layers", "1", "-o", "x.tif"], "x.tif: the result is written as"),
        (["interpolate", "photos/a.PNG", "photos/a.PNG", "-o", "x.npz"], ".gif is an animation"),
        (["edit", "photos", "smile=1", "smile=2"], "`smile=2`: smile is given twice"),
        (["bundles", "--root-certificates", "photos/notes.txt"], "photos/notes.txt holds no certificate or key"),
        (["sample", "-o", "x.tif"], "x.tif: the result is written as"),
        (["bundles", "--server", ""], "is no address of a gateway"),
    ],
)  # fmt: skip
def test_wrong_usage_says_what_to_write(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    PICTURE.save("-a.png")
    with pytest.raises(SystemExit, match="2"):
        sys.exit(main(arguments))
    assert says in capsys.readouterr().err


def test_who_reads_the_answers_may_go(server: ScriptedGateway) -> None:
    """As with `| head -1`. The journal has what was done, and the same command goes on."""
    server.edit_delay_s = 0.05
    command = [*AS_A_PROCESS, "--json"]
    process = subprocess.Popen([*command, "--jobs", "1"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    process.stdout = None
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"Traceback" not in error
    assert b"Exception" not in error
    assert edit("photos", "--full-names") == 0


def test_names_that_the_terminal_cannot_print(server: ScriptedGateway) -> None:
    """Nor may they move its cursor."""
    for name in ("\N{GRINNING FACE}.png", "\x1b[31mred.png", "new\nline.png"):
        PICTURE.save(Path("photos", name))
    Path("photos/\x1b[2J.heic").write_bytes(b"\0\0\0\x18ftypheic")
    ascii_only = os.environ | {"PYTHONIOENCODING": "ascii"}
    for options in ([], ["--json"]):
        command = [*AS_A_PROCESS, "--restart", *options]
        done = subprocess.run(command, env=ascii_only, capture_output=True, check=False, timeout=60)
        assert done.returncode == 1
        assert b"\x1b" not in done.stdout + done.stderr
        if options:
            assert "\N{GRINNING FACE}.png" in {
                Path(json.loads(line).get("source", "")).name for line in done.stdout.splitlines()
            }
        else:
            assert rb"photos/\x1b[2J.heic: the " in done.stderr


@pytest.mark.parametrize(("target", "code"), [(">&-", 0), (">/dev/full", 1)])
def test_an_output_that_takes_nothing(server: ScriptedGateway, target: str, code: int) -> None:
    command = f"{sys.executable} -m indomain bundles {target}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == code, done.stderr
    assert done.stderr == (
        "" if code == 0 else "error: what is printed cannot be written: No space left on device\n"
    )


def test_a_folder_of_odd_files_killed_and_gone_on_with(server: ScriptedGateway) -> None:
    """Each file is done once, has failed once, or is left out with its reason, in the report of the second run."""
    for n in range(30):
        PICTURE.save(f"photos/{n:02d}.png")
    # The gateway is not asked for what cannot be read here.
    for name in ("x.heic", "y.HEIC"):
        Path("photos", name).write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100))
    everything = {path.name for path in Path("photos").iterdir() if not path.name.startswith(".")}
    assert len(everything) > 45
    server.edit_delay_s = 0.05
    command = [*AS_A_PROCESS, "--jobs", "2"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    journal = Path("out/.indomain/journal.jsonl")
    while not journal.exists() or journal.read_bytes().count(b"\n") < 8:
        assert process.poll() is None
        time.sleep(0.005)
    process.kill()
    process.wait()
    asked = len(server.requests)
    server.edit_delay_s = 0.0
    done = subprocess.run([*command, "--json"], capture_output=True, check=False, timeout=60)
    assert done.returncode == 1
    told = [json.loads(line) for line in done.stdout.splitlines()]
    failed = {Path(line["source"]).name for line in told if line["event"] == "failed"}
    left_out = {Path(line["source"]).name: line["why"] for line in told if line["event"] == "left_out"}
    assert failed == {"x.heic", "y.HEIC"}
    assert all(line["error"]["message"] for line in told if line["event"] == "failed")
    assert all(left_out.values())
    results = {name.removesuffix(".png") for name in os.listdir("out") if name != ".indomain"}
    assert results.isdisjoint(failed | left_out.keys())
    assert results | failed | left_out.keys() == everything
    summary = told[-1]
    assert summary["done_earlier"] > 0
    assert summary["done"] + summary["done_earlier"] == len(results)
    assert (summary["failed"], summary["left_out"]) == (2, len(left_out))
    # Only what was under way when the run was killed is asked for twice.
    assert len(server.requests) - asked == 1 + summary["done"]
    sources = [line["from"] for line in map(json.loads, journal.read_text().splitlines()) if "from" in line]
    assert len(sources) == len(set(sources)) == len(results) + 2


# --- errors name what is at fault -------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["edit", "invert"])
def test_one_picture_without_a_gateway(
    server: ScriptedGateway, command: str, dead_address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    edits = ["smile=1"] if command == "edit" else []
    assert main([command, "photos/b.jpg", *edits, "-o", "x.png", "--server", dead_address]) == 3
    error = capsys.readouterr().err
    assert f"No gateway answers at {dead_address}" in error
    assert "photos" not in error


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "No such file"),
        (b"no picture", "it is no picture that can be read"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "picture"),
    ],
)
@pytest.mark.parametrize(
    ("command", "flag"), [("edit", "--mask"), ("edit", "--strokes"), ("diffuse", "--mask")]
)
def test_a_bad_drawing_is_the_drawings_fault(
    server: ScriptedGateway,
    command: str,
    flag: str,
    content: bytes | None,
    says: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if content is not None:
        Path("mask.png").write_bytes(content)
    what = ["photos/a.PNG", "photos/b.jpg", *(["smile=1"] if flag == "--mask" and command == "edit" else [])]
    out = "out" if command == "edit" else "out.png"
    assert main([command, *what, flag, "mask.png", "-o", out]) == 2
    error = capsys.readouterr().err
    assert f"{flag} mask.png: " in error
    assert says in error
    assert "photos" not in error
    assert not server.requests


@pytest.mark.parametrize("items", [["photos/b.jpg"], ["photos/b.jpg", "photos/c.jpeg"]])
def test_an_output_below_a_file_is_the_outputs_fault(
    server: ScriptedGateway, items: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("file").write_text("no folder")
    assert edit(*items, "-o", "file/out") == 1
    error = capsys.readouterr().err
    assert "results cannot be written to file/out" in error
    assert "part of this path is a file" in error


def test_the_longest_names_can_be_written(
    server: ScriptedGateway, capsys: pytest.CaptureFixture[str]
) -> None:
    longest = "n" * 251
    PICTURE.save(f"photos/{longest}.png")
    assert edit(f"photos/{longest}.png", "photos/a.PNG") == 0
    assert edit(f"photos/{longest}.png", "photos/a.PNG", "--full-names", "-o", "full") == 1
    error = capsys.readouterr().err
    assert (
        f"results cannot be written to full/{longest}.png.png: File name too long; name a shorter one"
        in error
    )
    assert Path("full/a.PNG.png").exists()


def test_a_folder_where_nothing_may_be_written_ends_the_run(
    server: ScriptedGateway, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(file: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr("indomain.cli.output.os.fsync", refuse)
        assert edit("photos", "--full-names", "--jobs", "1") == 1
    error = capsys.readouterr().err
    assert error.count("error:") == 1
    assert "Permission denied; name a folder that may be written to with -o" in error
    assert "the same command again goes on" in error
    assert edit("photos", "--full-names") == 0
