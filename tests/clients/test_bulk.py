"""`indomain` with many pictures: which files, where to, and that a run which was killed, stopped or refused goes on."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Event, Thread

import grpc
import numpy as np
import pytest
from PIL import Image

from indomain.cli import main
from indomain.v1 import editing_pb2 as pb
from tests import shipped
from tests.clients.scripted_gateway import Failure, ScriptedGateway, serving_on
from tests.clients.support import load_demo


@pytest.fixture
def server(gateway: ScriptedGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ScriptedGateway:
    """The scripted gateway; photos/ has a.png, b.png and deep/c.jpg, the working directory is its parent."""
    monkeypatch.setenv("INDOMAIN_SERVER", gateway.address)
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "b.png", "deep/c.jpg"):
        picture(Path("photos", name))
    return gateway


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (9, 7), "teal").save(path)


def written(folder: str | Path = "out") -> list[str]:
    """What lies in a folder of results, but for the journal."""
    files = [path.relative_to(folder) for path in Path(folder).rglob("*") if path.is_file()]
    return sorted(file.as_posix() for file in files if file.parts[0] != ".indomain")


def journal(folder: str | Path = "out") -> Path:
    return Path(folder, ".indomain", "journal.jsonl")


def edit(*arguments: str) -> int:
    return main(["edit", "smile=1", "-o", "out", *arguments])


# --- which files, and where to -----------------------------------------------------------------------


def test_folders_are_mirrored(server: ScriptedGateway) -> None:
    """Their hidden files are left out, and so are results that lie among them."""
    picture(Path("photos/.trash/x.png"))
    assert main(["edit", "photos", "-r", "smile=1", "-o", "photos/out"]) == 0
    assert main(["edit", "photos", "-r", "smile=1", "-o", "photos/out"]) == 0
    assert written("photos/out") == ["a.png", "b.png", "deep/c.png"]
    assert len(server.requests) - 2 == 3  # two runs asked what is served
    assert edit("photos") == 0
    assert written() == ["a.png", "b.png"]


@pytest.mark.usefixtures("server")
def test_globs_are_mirrored() -> None:
    assert edit("photos/**/*.*") == 0
    assert written() == ["a.png", "b.png", "deep/c.png"]


@pytest.mark.parametrize("separator", ["\n", "\0"])
@pytest.mark.usefixtures("server")
def test_lists(separator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("more.txt").write_text("photos/deep/c.jpg\n")
    names = separator.join(["photos/a.png", "photos/b.png", ""])
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(names.encode())))
    assert edit("--from-list", "more.txt", "-") == 0
    assert written() == ["a.png", "b.png", "c.png"]


@pytest.mark.usefixtures("server")
def test_a_listed_file_that_is_missing_fails_alone(capsys: pytest.CaptureFixture[str]) -> None:
    Path("list.txt").write_text("photos/none.png\nphotos/a.png\n")
    assert edit("--from-list", "list.txt") == 1
    assert written() == ["a.png"]
    assert "photos/none.png: No such file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("items", "flag", "results"),
    [
        (["photos/a.png", "other/a.png"], ["--root", "."], ["other/a.png", "photos/a.png"]),
        (["photos/a.png", "photos/a.webp"], ["--full-names"], ["a.png.png", "a.webp.png"]),
    ],
)
def test_results_of_one_name_are_found_before_the_work_begins(
    server: ScriptedGateway,
    items: list[str],
    flag: list[str],
    results: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    for item in items:
        picture(Path(item))
    assert edit(*items) == 2
    error = capsys.readouterr().err
    assert all(item in error for item in items)
    assert flag[0] in error
    assert not server.requests
    assert edit(*items, *flag) == 0
    assert written() == results


@pytest.mark.usefixtures("server")
def test_what_no_run_has_written_is_not_written_over(capsys: pytest.CaptureFixture[str]) -> None:
    picture(Path("out/a.png"))
    mine = Path("out/a.png").read_bytes()
    assert edit("photos") == 2
    assert "out/a.png is there already" in capsys.readouterr().err
    assert Path("out/a.png").read_bytes() == mine
    assert edit("photos", "--restart") == 0
    assert Path("out/a.png").read_bytes() != mine


@pytest.mark.usefixtures("server")
def test_a_result_of_another_picture_is_not_written_over(capsys: pytest.CaptureFixture[str]) -> None:
    picture(Path("other/a.png"))
    assert edit("photos") == 0
    assert edit("other") == 2
    assert "is the result of" in capsys.readouterr().err


# --- going on ----------------------------------------------------------------------------------------


def test_a_second_run_does_what_is_new_or_has_changed(server: ScriptedGateway) -> None:
    assert main(["invert", "photos", "-o", "out"]) == 0
    server.requests.clear()
    picture(Path("photos/new.png"))
    os.utime("photos/a.png", (1.0, 1.0))
    Path("out/b.npy").unlink()
    assert main(["invert", "photos", "-o", "out"]) == 0
    assert len(server.requests) == 1 + 3
    assert written() == ["a.npy", "a.png", "b.npy", "b.png", "new.npy", "new.png"]
    assert main(["invert", "photos", "-o", "out"]) == 0
    assert len(server.requests) == 1 + 3 + 1


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (["edit", "photos", "smile=2"], "edits was smile=1 and is now smile=2"),
        (["edit", "photos", "smile=1", "--steps", "3"], "steps was not given and is now 3"),
        (["invert", "photos"], "command was edit and is now invert"),
    ],
)
def test_other_options_are_refused(
    server: ScriptedGateway, other: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert edit("photos") == 0
    server.requests.clear()
    assert main([*other, "-o", "out"]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert "--restart" in error
    assert main([*other, "-o", "out", "--restart"]) == 0
    assert len(server.requests) == 2 + 2
    assert main([*other, "-o", "out"]) == 0
    assert len(server.requests) == 2 + 2 + 1


def test_another_bundle_is_refused(server: ScriptedGateway, capsys: pytest.CaptureFixture[str]) -> None:
    assert edit("photos") == 0
    server.bundle = "tiny2"
    assert edit("photos") == 2
    assert "bundle was tiny" in capsys.readouterr().err


def test_another_bundle_in_mid_run(server: ScriptedGateway, capsys: pytest.CaptureFixture[str]) -> None:
    server.edit_space = "tiny-other"
    assert edit("photos", "--jobs", "1") == 1
    assert "now serves tiny-other" in capsys.readouterr().err
    server.edit_space = ""
    server.requests.clear()
    assert edit("photos") == 0
    assert len(server.requests) == 1 + 2


@pytest.mark.parametrize("cut", [1, 40])
def test_a_journal_that_is_cut_short(server: ScriptedGateway, cut: int) -> None:
    assert edit("photos") == 0
    journal().write_bytes(journal().read_bytes()[:-cut])
    server.requests.clear()
    assert edit("photos") == 0
    assert len(server.requests) == 1 + 1
    events = [json.loads(line)["event"] for line in journal().read_text().splitlines()]
    assert events == ["begin", "done", "done"]


def test_a_journal_that_cannot_be_read(server: ScriptedGateway, capsys: pytest.CaptureFixture[str]) -> None:
    assert edit("photos") == 0
    lines = journal().read_text().splitlines(keepends=True)
    journal().write_text("\0\0\0\n" + "".join(lines[1:]))
    assert edit("photos") == 2
    assert "--restart" in capsys.readouterr().err
    journal().write_text(lines[0] + "\0\0\0\n" + lines[2])  # damage further down
    server.requests.clear()
    assert edit("photos") == 0
    assert len(server.requests) == 1 + 1


def test_failures_are_tried_again_when_asked(
    server: ScriptedGateway, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail_next() -> None:
        server.failures += [
            Failure(grpc.StatusCode.OK),  # of the call that asks what is served
            Failure(grpc.StatusCode.INTERNAL, "internal", "it broke"),
        ]

    fail_next()
    assert edit("photos", "--jobs", "1") == 1
    assert "--retry-failed" in capsys.readouterr().err
    assert written() == ["b.png"]
    assert edit("photos", "--json") == 1  # nothing is left to do, and it has failed still
    left_out, failed, summary = map(json.loads, capsys.readouterr().out.splitlines())
    assert failed["earlier"]
    assert left_out["event"] == "left_out"
    assert (summary["done"], summary["done_earlier"], summary["failed"]) == (0, 1, 1)
    assert edit("photos", "--retry-failed") == 0
    assert edit("photos") == 0
    fail_next()
    assert edit("photos", "--restart", "--jobs", "1") == 1
    assert written() == ["b.png"]  # no result of before stands for the one that failed


def test_what_is_wrong_with_every_picture_ends_the_run(
    server: ScriptedGateway, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["edit", "photos", "halo=1", "-o", "out", "--jobs", "1"]) == 1
    assert "it has: smile" in capsys.readouterr().err
    assert len(server.requests) == 1 + 1
    assert edit("photos") == 0  # no picture was noted: other options are no matter


def test_refinement_that_was_cut_short_is_told(
    server: ScriptedGateway, capsys: pytest.CaptureFixture[str]
) -> None:
    server.stop_reason = pb.STOP_REASON_DEADLINE
    assert edit("photos") == 0
    assert "cut short by --timeout: 2" in capsys.readouterr().err


def test_two_runs_into_one_folder(server: ScriptedGateway, capsys: pytest.CaptureFixture[str]) -> None:
    server.edit_delay_s = 60.0
    first = Thread(target=edit, args=("photos",))
    first.start()
    wait_until(lambda: len(server.requests) > 1 or not first.is_alive())
    assert edit("photos") == 2
    assert "another run writes into out" in capsys.readouterr().err
    server.released.set()
    first.join(timeout=60)
    assert written() == ["a.png", "b.png"]


# --- outages and interruptions -----------------------------------------------------------------------


@pytest.mark.usefixtures("server")
def test_a_gateway_that_goes_away_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for n in range(30):
        picture(Path(f"many/{n:02d}.png"))
    with serving_on() as gateway:
        monkeypatch.setenv("INDOMAIN_SERVER", gateway.address)
        codes: list[int] = []
        run = Thread(target=lambda: codes.append(edit("many", "--jobs", "3", "--json")))
        gateway.delay_s = 0.05
        run.start()
        wait_until(lambda: len(written()) > 2)
    time.sleep(0.2)  # an outage that somebody notices
    with serving_on(int(gateway.address.rpartition(":")[2])):
        run.join(timeout=60)
    assert codes == [0]
    assert written() == [f"{n:02d}.png" for n in range(30)]
    captured = capsys.readouterr()
    assert "waiting" in captured.err
    assert "is back" in captured.err
    assert len([line for line in captured.out.splitlines() if '"done"' in line]) == 30 + 1


def test_waiting_has_an_end_and_loses_nothing(
    server: ScriptedGateway, capsys: pytest.CaptureFixture[str]
) -> None:
    server.failures += [Failure(grpc.StatusCode.OK)] * 2 + [Failure(grpc.StatusCode.UNAVAILABLE)]
    assert edit("photos", "--jobs", "1", "--wait", "0") == 3
    error = capsys.readouterr().err
    assert "1 of 2" in error
    assert "the same command again goes on" in error
    server.requests.clear()
    assert edit("photos") == 0
    assert len(server.requests) == 1 + 1


def test_a_picture_that_breaks_the_connection_again_and_again_fails_alone(
    server: ScriptedGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("indomain.clients.outages._FIRST_PAUSE_S", 0.01)
    (Path("photos") / "b.png").write_bytes(b"poison")
    assert edit("photos", "--jobs", "1") == 1
    assert written() == ["a.png"]


@pytest.mark.parametrize("times", [1, 2])
def test_interrupted(server: ScriptedGateway, times: int) -> None:
    """Once: what is under way is finished. Twice: nothing is waited for."""
    server.edit_delay_s = 1.0 if times == 1 else 120.0
    # a suite that runs in a shell's background inherits an ignored SIGINT, and so would the command
    process = subprocess.Popen(
        [sys.executable, "-m", "indomain", "edit", "photos", "smile=1", "-o", "out", "--jobs", "1"],
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    wait_until(lambda: len(server.requests) >= 2)
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    # gRPC of the forked test process may say a word first
    assert any(b"Finishing" in line for line in iter(process.stderr.readline, b""))
    if times == 2:
        process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"the same command again goes on" in stderr
    assert b"Traceback" not in stderr
    assert len(written()) == (1 if times == 1 else 0)
    server.edit_delay_s = 0.0
    assert edit("photos") == 0
    assert written() == ["a.png", "b.png"]


# --- killed ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny_address(tiny_repository: Path) -> Iterator[str]:
    with load_demo().running_gateway(tiny_repository) as address:
        yield address


def test_killed_three_times_and_gone_on_with(tiny_address: str, tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (60, 16, 16, 3), np.uint8)
    (tmp_path / "photos").mkdir()
    for n, values in enumerate(pixels):
        Image.fromarray(values).save(tmp_path / f"photos/{n:02d}.png")
    check_killed_runs(tiny_address, tmp_path, ["--steps", "40", "--jobs", "2"])


@pytest.mark.slow
def test_two_thousand_killed_three_times_and_gone_on_with(tmp_path: Path) -> None:
    """The shipped bundle and its own samples; encoder only, which is some minutes on two cores."""
    with load_demo().running_gateway(shipped.REPOSITORY) as address:
        samples = ["sample", "--seeds", "0-1999", "-o", str(tmp_path / "photos")]
        assert main([*samples, "--server", address]) == 0
        check_killed_runs(address, tmp_path, ["--steps", "0"])


def check_killed_runs(address: str, folder: Path, options: list[str]) -> None:
    """Kills a run three times at random, lets it end, and compares it with one that nobody disturbed."""
    total = len(written(folder / "photos"))
    command = [sys.executable, "-m", "indomain", "edit", "photos", "smile=1", *options, "--server", address]
    assert subprocess.run([*command, "-o", "whole"], cwd=folder, check=False, timeout=1200).returncode == 0
    for stop_at in sorted(random.sample(range(1, total - 8), 3)):
        process = subprocess.Popen([*command, "-o", "killed"], cwd=folder)
        wait_until(lambda at=stop_at: lines(folder / "killed") > at, pause_s=0.002)  # type: ignore[misc]
        process.kill()
        assert process.wait() == -signal.SIGKILL
    done = subprocess.run(
        [*command, "-o", "killed", "--json"], cwd=folder, capture_output=True, check=False, timeout=1200
    )
    assert done.returncode == 0, done.stderr.decode()
    summary = json.loads(done.stdout.splitlines()[-1])
    assert summary["done_earlier"] > 0
    assert summary["done"] + summary["done_earlier"] == total
    assert written(folder / "killed") == written(folder / "whole")  # and nothing half written
    results = [json.loads(line).get("result") for line in journal(folder / "killed").read_text().splitlines()]
    assert len(results) - 1 == len(set(results[1:])) == total
    for name in written(folder / "whole"):
        assert digest(folder / "killed" / name) == digest(folder / "whole" / name), name


def lines(folder: Path) -> int:
    try:
        return journal(folder).read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def wait_until(condition: object, pause_s: float = 0.02) -> None:
    assert callable(condition)
    deadline_s = time.monotonic() + 600
    pause = Event()
    while not condition():
        assert time.monotonic() < deadline_s
        pause.wait(pause_s)


@pytest.mark.usefixtures("server")
def test_a_folder_in_a_list_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "list").write_text("photos\n")
    assert edit("--from-list", str(tmp_path / "list"), "--root", "photos") == 2
    assert "photos is a folder; a list names files" in capsys.readouterr().err
