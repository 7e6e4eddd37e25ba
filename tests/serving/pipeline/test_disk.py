"""Disks: one that is full while a new version comes in, or a picture; a model repository that goes away and comes back.

On a small file system of its own, which takes the right to mount one.
"""

from __future__ import annotations

import logging
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from tests.serving.pictures import encoded
from tests.serving.pipeline.new_versions import (
    POLL_S,
    bring,
    eventually,
    reloads,
    sampled_picture,
    under_load,
)
from tests.serving.running_gateway import RunningGateway, settings_for
from tests.serving.tiny_bundle import write_tiny_bundle

pytestmark = pytest.mark.fault


class SmallDisk:
    """A file system in memory at `folder`."""

    def __init__(self, folder: Path, size_bytes: int) -> None:
        self.folder = folder
        self._size_bytes = size_bytes

    def mount(self) -> None:
        options = f"size={self._size_bytes},mode=0700"
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(self.folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")

    def take_away(self) -> None:
        """As a volume of the network goes, though files of it are in use."""
        subprocess.run(["umount", "--lazy", str(self.folder)], check=True)

    def fill(self, free_bytes: int = 0) -> Path:
        """Leaves about so much of it. Gives the file that has the rest."""
        ballast = self.folder / "ballast"
        with ballast.open("wb", buffering=0) as file:
            with suppress(OSError):  # no space left
                while file.write(bytes(4096)):
                    pass
            file.truncate(max(0, file.tell() - free_bytes))
        return ballast


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    if shutil.which("mount") is None:
        pytest.skip("no file system can be mounted here")
    folder = tmp_path / "disk"
    folder.mkdir()
    disk = SmallDisk(folder, 64 * 2**20)
    disk.mount()
    yield disk
    disk.take_away()


@pytest.fixture
def on_disk(small_disk: SmallDisk, tiny_repository: Path) -> Iterator[RunningGateway]:
    """A gateway whose model repository lies on the small disk."""
    shutil.copytree(tiny_repository, small_disk.folder, dirs_exist_ok=True)
    running = RunningGateway(settings_for(small_disk.folder, repository_poll_s=POLL_S))
    yield running
    running.close()


def test_a_disk_that_is_full_while_a_new_version_comes(
    small_disk: SmallDisk,
    on_disk: RunningGateway,
    tiny_repository: Path,
    tmp_path: Path,
    photo_png: bytes,
    caplog: pytest.LogCaptureFixture,
    record_property: Callable[[str, object], None],
) -> None:
    size_bytes = sum(file.stat().st_size for file in small_disk.folder.rglob("*") if file.is_file())
    good = write_tiny_bundle(shutil.copytree(tiny_repository, tmp_path / "good"), version=2, seed=8)
    old = sampled_picture(on_disk)
    with under_load(on_disk, photo_png) as seen:
        ballast = small_disk.fill(free_bytes=size_bytes // 2)
        with pytest.raises(OSError, match="No space left"):
            bring(good, small_disk.folder)
        with caplog.at_level(logging.ERROR, "serving.repository.watcher"):
            eventually(lambda: "the old bundles stay" in caplog.text)
        so_far = len(seen)
        eventually(lambda: len(seen) > so_far + 5)
        assert set(seen) == {old}
        assert on_disk.http.get("/readyz").status_code == 200
        ballast.unlink()
        bring(good, small_disk.folder)
        eventually(lambda: reloads(on_disk, "done") == 1)
        so_far = len(seen)
        eventually(lambda: len(seen) > so_far + 5)
    assert set(seen) == {old, sampled_picture(on_disk)}
    record_property(
        "disk full while a version comes in, under load",
        f"{len(seen)} requests answered, 0 failed, the old version served until the new one was whole",
    )


def test_a_repository_that_goes_away_and_comes_back(
    small_disk: SmallDisk,
    on_disk: RunningGateway,
    tiny_repository: Path,
    photo_png: bytes,
    record_property: Callable[[str, object], None],
) -> None:
    old = sampled_picture(on_disk)
    with under_load(on_disk, photo_png) as seen:
        small_disk.take_away()
        eventually(lambda: reloads(on_disk, "failed") == 1)
        so_far = len(seen)
        eventually(lambda: len(seen) > so_far + 5)
        small_disk.mount()
        shutil.copytree(tiny_repository, small_disk.folder, dirs_exist_ok=True)
        write_tiny_bundle(small_disk.folder, version=2, seed=8)
        eventually(lambda: reloads(on_disk, "done") == 1)
    assert set(seen) <= {old, sampled_picture(on_disk)}
    assert on_disk.http.get("/readyz").status_code == 200
    record_property(
        "model repository gone at a reload, under load",
        f"{len(seen)} requests answered, 0 failed; a version that comes later is served",
    )


def test_a_full_temporary_folder_is_no_hindrance(
    small_disk: SmallDisk,
    gateway: RunningGateway,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, object], None],
) -> None:
    small_disk.fill()
    monkeypatch.setattr(tempfile, "tempdir", str(small_disk.folder))
    noise = np.random.default_rng(1).integers(0, 256, (1000, 1000, 3), dtype=np.uint8)
    upload = encoded(noise)  # 3 MB: frameworks lay that aside in a file
    assert gateway.http.post("/v1/invert", files={"picture": upload}).status_code == 200
    record_property(
        "temporary folder full at an upload", f"a picture of {len(upload) / 1e6:.1f} MB is inverted"
    )
