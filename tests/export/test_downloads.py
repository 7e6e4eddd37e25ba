"""Files that are not the checkpoint they are named after are called what they are, in one typed error."""

from __future__ import annotations

import gzip
import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from export.__main__ import main
from export.foreign_files import DownloadError, read_checkpoint
from training.run_folders.checkpoint import CheckpointError

QUOTA = b"""<!DOCTYPE html><html><head><title>Google Drive - Quota exceeded</title></head><body>
Sorry, you can't view or download this file at this time. Too many users have viewed it recently.</body></html>"""
WARNING = b"""<!DOCTYPE html><html><head><title>Google Drive - Virus scan warning</title></head><body>
<form action="https://drive.usercontent.google.com/download">Download anyway</form></body></html>"""
LFS = b"""version https://git-lfs.github.com/spec/v1
oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393
size 381673535
"""


def saved() -> bytes:
    buffer = io.BytesIO()
    torch.save({"g_ema": {"weight": torch.ones(100)}}, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (QUOTA, "web page of Google Drive with the title 'Google Drive - Quota exceeded'"),
        (QUOTA, "quota is used up"),
        (WARNING, "wants a large download confirmed"),
        (b"\n<html><title>Sign in</title></html>", "a web page with the title 'Sign in'"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "a web page"),
        (LFS, "Git LFS pointer to a file of 381673535 bytes; run `git lfs pull`"),
        (b"", "it is empty"),
        (bytes(100_000), "all zero"),
        (b"404: Not Found", "text that starts with '404: Not Found'"),
        (b"Invalid username or password.", "text that starts with 'Invalid username"),
        (b'{"error": "Repository not found"}', "text that starts with"),
        (gzip.compress(saved()), "a gzip archive; unpack it"),
        (saved()[:-300], "a zip without its end, cut short after"),
    ],
)
def test_a_bad_download_is_called_what_it_is(
    tmp_path: Path, content: bytes, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "ffhq.pt"
    file.write_bytes(content)
    with pytest.raises(DownloadError):
        read_checkpoint(file)
    assert main(["import", str(file), "--to", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert str(file) in error
    assert not (tmp_path / "run").exists()


def test_a_zip_around_a_checkpoint_says_what_it_holds(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("models/ffhq.pt", saved())
    with pytest.raises(CheckpointError, match=r"models/ffhq\.pt"):
        read_checkpoint(tmp_path / "a.zip")


@pytest.mark.parametrize("compressed", [False, True])
def test_arrays_by_their_names(tmp_path: Path, compressed: bool) -> None:
    w = np.random.default_rng(0).standard_normal((1, 8, 16)).astype(np.float32)
    (np.savez_compressed if compressed else np.savez)(tmp_path / "projected_w.npz", w=w)
    np.testing.assert_array_equal(read_checkpoint(tmp_path / "projected_w.npz")["w"], w)


def test_compressed_arrays_of_any_size_are_refused(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", w=np.zeros((100, 1 << 20), np.uint8))
    with pytest.raises(CheckpointError, match="larger than any latents"):
        read_checkpoint(tmp_path / "a.npz")
