"""Checkpoints are read as data: good files of every kind come back whole, hostile ones are refused and never run."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import random
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save, save_file
from torch import nn

from export.foreign_files import DownloadError, read_checkpoint
from indomain.unpickling.pickles import LEGACY_MAGIC
from indomain.unpickling.values import Record
from training.run_folders.checkpoint import CheckpointError


def assert_refused(file: Path, content: bytes, marker: Path, says: str = "") -> None:
    """One typed error that names the file and what to do; the attack's marker does not appear.

    A file that is cut short, empty or text should be downloaded again; any other could be loaded by those who trust it.
    """
    file.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(file)
    assert str(file) in str(caught.value)
    assert ("again" if isinstance(caught.value, DownloadError) else "safetensors") in str(caught.value)
    assert says in str(caught.value)
    assert not marker.exists()


# --- good files -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("protocol", [2, 4])
def test_torch_files_come_back_whole(tmp_path: Path, legacy: bool, protocol: int) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    saved = {
        "network": network.state_dict(),
        "view": torch.randn(4, 6).t()[1:, ::2],
        "half": torch.randn(5).half(),
        "bfloat16": torch.randn(5).bfloat16(),
        "truth": torch.tensor([True, False]),
        "empty": torch.empty(0),
        "parameter": nn.Parameter(torch.randn(2)),
        "options": {"size": 1024, "weights": [0.1, None], "shape": torch.Size([1, 2]), "number": np.float64(2.5)},
    }  # fmt: skip
    torch.save(saved, tmp_path / "a.pt", pickle_protocol=protocol, _use_new_zipfile_serialization=not legacy)
    found = read_checkpoint(tmp_path / "a.pt")
    assert found["network"].keys() == network.state_dict().keys()
    for name, wanted in network.state_dict().items():
        torch.testing.assert_close(found["network"][name], wanted, rtol=0, atol=0)
    for name in ("view", "half", "bfloat16", "truth", "empty", "parameter"):
        torch.testing.assert_close(found[name], saved[name].detach(), rtol=0, atol=0)  # type: ignore[attr-defined]
    assert found["options"] == saved["options"]


@pytest.mark.parametrize("protocol", range(6))
def test_plain_pickles_hold_tensors_too(tmp_path: Path, protocol: int) -> None:
    saved = {
        "weight": torch.randn(3, 2),
        "array": np.arange(6, dtype=np.float32).reshape(2, 3),
        "set": {1, 2},
    }
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(saved, protocol=protocol))
    found = read_checkpoint(tmp_path / "a.pkl")
    torch.testing.assert_close(found["weight"], saved["weight"])
    np.testing.assert_array_equal(found["array"].value, saved["array"])
    assert found["set"] == {1, 2}


def test_npy_and_safetensors(tmp_path: Path) -> None:
    boundary = np.random.default_rng(0).standard_normal((1, 14, 512)).astype(np.float32)
    np.save(tmp_path / "plain.npy", boundary)
    np.testing.assert_array_equal(read_checkpoint(tmp_path / "plain.npy"), boundary)
    entry = {"boundary": boundary, "meta_data": {"manipulate_layers": [0, 1, 2]}}
    np.save(tmp_path / "pickled.npy", np.array(entry, dtype=object), allow_pickle=True)
    (found,) = read_checkpoint(tmp_path / "pickled.npy")
    np.testing.assert_array_equal(found["boundary"].value, boundary)
    assert found["meta_data"] == {"manipulate_layers": [0, 1, 2]}
    save_file({"a": torch.ones(2)}, tmp_path / "a.safetensors")
    assert read_checkpoint(tmp_path / "a.safetensors")["a"].tolist() == [1, 1]


def test_a_missing_file_is_that(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_checkpoint(tmp_path / "none.pt")


# --- hostile pickles --------------------------------------------------------------------------------------------------


class Call:
    """Pickles as a call of any function with any arguments."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.function, self.arguments


def text(value: str) -> bytes:
    """The instruction that pushes a short text."""
    return b"\x8c" + bytes([len(value)]) + value.encode()


def global_of(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


ATTACKS: dict[str, Callable[[str], bytes]] = {
    "reduce": lambda command: pickle.dumps(Call(os.system, command)),
    "reduce, text protocol": lambda command: pickle.dumps(Call(os.system, command), protocol=0),
    "in containers": lambda command: pickle.dumps({"g": [OrderedDict(a=(1, Call(os.system, command)))]}),
    "eval": lambda command: pickle.dumps(Call(eval, f"__import__('os').system({command!r})")),
    "exec": lambda command: pickle.dumps(Call(exec, f"import os; os.system({command!r})")),
    "import": lambda command: pickle.dumps(Call(__import__, "antigravity")),
    "getattr": lambda command: pickle.dumps(Call(getattr, Call(__import__, "os"), "system")),
    "open for writing": lambda command: pickle.dumps(Call(open, command.split()[-1], "w")),
    "global, never called": lambda command: global_of("os", "system") + b".",
    "global called": lambda command: global_of("posix", "system") + text(command) + b"\x85R.",
    "stack global": lambda command: b"\x80\x04" + text("os") + text("system") + b"\x93" + text(command) + b"\x85R.",
    "stack global of a method": lambda command: b"\x80\x04" + text("torch") + text("serialization.load") + b"\x93"
    + text(command) + b"\x85R.",
    "stack global of an object": lambda command: b"\x80\x04" + b"]" + text("system") + b"\x93.",
    "inst": lambda command: b"(" + text(command) + b"ios\nsystem\n.",
    "obj": lambda command: b"(" + global_of("os", "system") + text(command) + b"o.",
    "newobj": lambda command: b"\x80\x02" + global_of("os", "system") + text(command) + b"\x85\x81.",
    "newobj with keywords": lambda command: b"\x80\x04" + global_of("os", "system") + text(command) + b"\x85}\x92.",
    "build with __setstate__": lambda command: b"\x80\x02" + global_of("argparse", "Namespace") + b")\x81}"
    + text("__setstate__") + global_of("os", "system") + b"sb" + text(command) + b"b.",
    "build on a global": lambda command: global_of("torch", "FloatStorage") + b"}" + text("__call__") + b"Nsb.",
    "call of an innocent name": lambda command: global_of("torch", "FloatStorage") + b"I1\n\x85R.",
    "call of a text": lambda command: text("os.system") + text(command) + b"\x85R.",
    "extension registry": lambda command: b"\x80\x02\x82\x01.",
    "text persistent id": lambda command: b"Pos.system\n.",
    "out-of-band buffer": lambda command: b"\x80\x05\x97.",
    "torch.load within": lambda command: global_of("torch", "load") + text(command) + b"\x85R.",
    "module with source": lambda command: b"\x80\x02(" + text("module") + global_of("os", "system")
    + text(command) + b"tQ.",
    "pickle in a storage": lambda command: global_of("torch.storage", "_load_from_bytes")
    + pickle.dumps(pickle.dumps(Call(os.system, command)), protocol=3)[2:-1] + b"\x85R.",
    "array with a hostile item": lambda command: pickle.dumps(np.array([Call(os.system, command)], dtype=object)),
}  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("wrapping", ["pickle", "torch zip", "torch legacy", "npy"])
def test_hostile_pickles_are_refused_and_do_not_run(tmp_path: Path, attack: str, wrapping: str) -> None:
    marker = tmp_path / "marker"
    content = ATTACKS[attack](f"touch {marker}")
    if wrapping == "torch zip":
        content = zipped({"a/data.pkl": content, "a/byteorder": b"little"})
    elif wrapping == "torch legacy":
        content = legacy(content)
    elif wrapping == "npy":
        buffer = io.BytesIO()
        header = {"descr": "|O", "fortran_order": False, "shape": ()}
        np.lib.format.write_array_header_1_0(buffer, header)
        content = buffer.getvalue() + content
    assert_refused(tmp_path / "hostile.pt", content, marker)


def test_the_attacks_are_real(tmp_path: Path) -> None:
    """Read by pickle itself, such a file does leave its marker."""
    pickle.loads(ATTACKS["reduce"](f"touch {tmp_path / 'marker'}"))
    assert (tmp_path / "marker").exists()


def test_torch_save_of_a_hostile_object(tmp_path: Path) -> None:
    for index, zipped_file in enumerate((True, False)):
        buffer = io.BytesIO()
        state = {
            "g_ema": OrderedDict(weight=torch.ones(2), extra=Call(os.system, f"touch {tmp_path / 'marker'}"))
        }
        torch.save(state, buffer, _use_new_zipfile_serialization=zipped_file)
        assert_refused(tmp_path / f"{index}.pt", buffer.getvalue(), tmp_path / "marker", "system")


def test_persistent_objects_lose_their_source(tmp_path: Path) -> None:
    """NVIDIA's pickles carry source code: it is never executed, whatever it says."""
    marker = tmp_path / "marker"
    source = f"import os\nos.system('touch {marker}')\nclass G: pass\n"
    meta = {"type": "class", "version": 6, "module_src": source, "class_name": "G", "state": {"_modules": {}}}
    content = b"\x80\x04" + global_of("torch_utils.persistence", "_reconstruct_persistent_obj")
    (tmp_path / "a.pkl").write_bytes(content + pickle.dumps(meta, protocol=4)[2:-1] + b"\x85R.")
    assert read_checkpoint(tmp_path / "a.pkl") == Record("G", {"_modules": {}})
    assert not marker.exists()


def test_state_of_a_record_stays_data(tmp_path: Path) -> None:
    """BUILD on our own record sets no attribute of Python's."""
    content = (
        b"\x80\x02" + global_of("argparse", "Namespace") + b")\x81}" + text("__class__") + text("x") + b"sb."
    )
    (tmp_path / "a.pkl").write_bytes(content)
    assert read_checkpoint(tmp_path / "a.pkl") == Record("Namespace", {"__class__": "x"})


# --- sizes that lie ---------------------------------------------------------------------------------------------------


def number(value: int) -> bytes:
    return f"I{value}\n".encode()


def storage(count: int, key: str = "0") -> bytes:
    return (
        b"("
        + text("storage")
        + global_of("torch", "FloatStorage")
        + text(key)
        + text("cpu")
        + number(count)
        + b"tQ"
    )


def tensor(count: int, size: int, stride: int = 1, offset: int = 0) -> bytes:
    arguments = storage(count) + number(offset) + number(size) + b"\x85" + number(stride) + b"\x85\x89N"
    return global_of("torch._utils", "_rebuild_tensor_v2") + b"(" + arguments + b"tR"


BOMBS = {
    "storage larger than the file": tensor(1 << 40, 1),
    "more elements than numbers": tensor(1, 1 << 40, 0),
    "stride beyond the storage": tensor(1, 1, 1, 1 << 40),
    "negative size": tensor(1, -1),
    "negative offset": tensor(1, 1, 1, -1),
    "memo of two thousand million": b"]r\xff\xff\xff\x7f0" + tensor(1 << 40, 1),
    "text longer than the file": b"\x8d" + struct.pack("<Q", 1 << 40) + b"a",
    "bytes longer than the file": b"\x8e" + struct.pack("<Q", 1 << 62) + b"a",
    "number of many digits": b"I" + b"9" * 10_000 + b"\n",
    "nested keys": b"}" + b")" + b"\x85" * 500_000 + b"Ns",
    "one value many times": global_of("_codecs", "encode") + b"q\x010" + b"T" + struct.pack("<I", 10_000)
    + b"a" * 10_000 + b"q\x020" + text("latin1") + b"q\x030(" + b"h\x01h\x02h\x03\x86R" * 30_000 + b"l",
    "stack under the mark": b"(q\x01",
    "empty stack": b"",
    "odd items": b"}(K\x01u",
    "unhashable key": b"}]K\x01s",
    "append to a number": b"K\x01K\x02a",
    "unknown memo": b"h\x07",
}  # fmt: skip


@pytest.mark.parametrize("bomb", BOMBS)
@pytest.mark.parametrize("wrapping", ["zip", "legacy"])
def test_bombs_are_refused(tmp_path: Path, bomb: str, wrapping: str) -> None:
    content = BOMBS[bomb] + b"."
    packed = zipped({"a/data.pkl": content, "a/data/0": bytes(4)}) if wrapping == "zip" else legacy(content)
    assert_refused(tmp_path / "bomb.pt", packed, tmp_path / "marker")


def legacy(content: bytes) -> bytes:
    """A file of torch's older kind around a pickle, with one storage of one number."""
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}
    parts = [pickle.dumps(part, protocol=2) for part in (LEGACY_MAGIC, 1001, system)]
    return b"".join([*parts, content, pickle.dumps(["0"], protocol=2), struct.pack("<q", 1), bytes(4)])


# --- zips -------------------------------------------------------------------------------------------------------------


def zipped(entries: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return buffer.getvalue()


GOOD = {"a/data.pkl": b"\x80\x02" + tensor(1, 1) + b".", "a/data/0": bytes(4), "a/byteorder": b"little"}


def test_the_good_zip_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(zipped(GOOD))
    assert read_checkpoint(tmp_path / "a.pt").tolist() == [0.0]


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        (GOOD | {"../marker": b"x"}, "points out"),
        (GOOD | {"a/../../marker": b"x"}, "points out"),
        (GOOD | {"/tmp/marker": b"x"}, "points out"),
        (GOOD | {"a\\..\\..\\marker": b"x"}, "points out"),
        (GOOD | {"a/data/0": bytes(8)}, "not of 4 bytes"),
        ({name: content for name, content in GOOD.items() if name != "a/data/0"}, "missing"),
        ({"a/data/0": bytes(4)}, "not one of torch.save"),
        (GOOD | {"b/data.pkl": b"N."}, "not one of torch.save"),
        (GOOD | {"a/constants.pkl": b"N.", "a/code/a.py": b"import os"}, "TorchScript"),
        (GOOD | {"a/byteorder": b"big"}, "big-endian"),
    ],
)  # fmt: skip
def test_zip_tricks_are_refused(tmp_path: Path, entries: dict[str, bytes], says: str) -> None:
    assert_refused(tmp_path / "a.pt", zipped(entries), tmp_path / "marker", says)
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]


def test_zip_bombs_are_refused(tmp_path: Path) -> None:
    bomb = zipped(GOOD | {"a/data/1": bytes(50_000_000)}, zipfile.ZIP_DEFLATED)
    assert len(bomb) < 100_000
    assert_refused(tmp_path / "a.pt", bomb, tmp_path / "marker")
    twice = zipped(GOOD | {"b/data.pkl": b"I1\n."}).replace(b"b/data.pkl", b"a/data.pkl")
    assert_refused(tmp_path / "b.pt", twice, tmp_path / "marker", "two entries")


def test_declared_sizes_that_lie_are_refused(tmp_path: Path) -> None:
    """The central directory says more bytes than there are."""
    content = bytearray(zipped(GOOD))
    entry = content.rfind(b"PK\x01\x02", 0, content.rfind(b"a/data/0"))
    content[entry + 20 : entry + 28] = struct.pack("<II", 0x7FFFFFFF, 0x7FFFFFFF)
    assert_refused(tmp_path / "a.pt", bytes(content), tmp_path / "marker", "larger than the file")


# --- broken files -----------------------------------------------------------------------------------------------------


def good_files() -> dict[str, bytes]:
    """One small file of each kind."""
    state = {
        "g": OrderedDict(weight=torch.arange(6.0).reshape(2, 3), bias=torch.ones(2)),
        "options": [1, "a", None],
    }
    files = {"plain.pkl": pickle.dumps(state)}
    for name, new in (("zip.pt", True), ("legacy.pt", False)):
        buffer = io.BytesIO()
        torch.save(state, buffer, _use_new_zipfile_serialization=new)
        files[name] = buffer.getvalue()
    buffer = io.BytesIO()
    np.save(buffer, np.array({"boundary": np.ones(3)}, dtype=object), allow_pickle=True)
    files["boundary.npy"] = buffer.getvalue()
    buffer = io.BytesIO()
    np.savez(buffer, w=np.ones((1, 4, 8), np.float32))
    return files | {"latents.npz": buffer.getvalue(), "a.safetensors": save({"a": torch.ones(9)})}


@pytest.mark.parametrize("name", good_files())
def test_truncated_files_are_refused(tmp_path: Path, name: str) -> None:
    content = good_files()[name]
    for end in {0, 1, 8, 9, 20, *range(30, len(content) - 1, 37)}:
        assert_refused(tmp_path / name, content[:end], tmp_path / "marker")
        if end >= 30:  # shorter ones do not tell their kind
            with pytest.raises(DownloadError):
                read_checkpoint(tmp_path / name)


@pytest.mark.parametrize("name", good_files())
def test_flipped_bytes_are_read_or_refused(tmp_path: Path, name: str) -> None:
    """Never another error than CheckpointError, whatever the bytes."""
    content, rng = good_files()[name], random.Random(0)
    for _ in range(300):
        broken = bytearray(content)
        for _ in range(rng.randint(1, 4)):
            broken[rng.randrange(len(broken))] = rng.randrange(256)
        (tmp_path / name).write_bytes(broken)
        with contextlib.suppress(CheckpointError):
            read_checkpoint(tmp_path / name)


@pytest.mark.parametrize(
    "content", [b"", b"PK", b"{}", b"\x89PNG\r\n\x1a\n", b"\x93NUMPY", b"\x00" * 8 + b"{", b"a" * 99]
)
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    assert_refused(tmp_path / "a.pt", content, tmp_path / "marker")


def test_npy_that_declares_too_much(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        buffer, {"descr": "<f4", "fortran_order": False, "shape": (1 << 40,)}
    )
    assert_refused(
        tmp_path / "a.npy", buffer.getvalue() + bytes(64), tmp_path / "marker", "larger than the file"
    )
