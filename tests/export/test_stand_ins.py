"""Objects of foreign classes in a checkpoint's options become stand-ins: the weights beside them are read."""

from __future__ import annotations

import argparse
import collections
import datetime
import enum
import os
import pathlib
import pickle
import sys
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from export.__main__ import main
from export.foreign_files import read_checkpoint
from indomain.unpickling.values import Record
from tests.export.foreign_stylegan2 import rosinality
from training.run_folders.checkpoint import CheckpointError


def executed(*_: Any) -> None:
    raise AssertionError("nothing of the file's may be called")


@pytest.fixture
def project(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A module of another project, for writing pickles that name it; afterwards it cannot be imported."""
    module = types.ModuleType("their_project")

    class EasyDict(dict):  # type: ignore[type-arg]
        __setattr__ = dict.__setitem__

    @dataclass
    class Options:
        size: int = 1024

        def __setstate__(self, state: Any) -> None:
            executed()

    class Slotted:
        __slots__ = ("size",)

    class Kind(enum.Enum):
        E4E = "e4e"

    class Listing(list):  # type: ignore[type-arg]
        pass

    class Keywords:
        def __new__(cls, *, size: int = 1) -> Any:
            return object.__new__(cls)

        def __getnewargs_ex__(self) -> Any:
            return (), {"size": 2}

    class Attributed(torch.Tensor):
        pass

    for kind in (EasyDict, Options, Slotted, Kind, Listing, Keywords, Attributed):
        kind.__module__, kind.__qualname__ = "their_project", kind.__name__
        setattr(module, kind.__name__, kind)
    executed.__module__ = "tests.export.test_stand_ins"
    monkeypatch.setitem(sys.modules, "their_project", module)
    return module


def options_of(project: types.ModuleType) -> dict[str, Any]:
    easy, slotted = project.EasyDict(size=1024, path=pathlib.PurePosixPath("/data")), project.Slotted()
    slotted.size = 3
    counts = collections.defaultdict(list, {"a": [1]})
    return {
        "args": argparse.Namespace(ckpt=pathlib.Path("550000.pt"), device=torch.device("cuda:0")),
        "windows": pathlib.PureWindowsPath("C:\\models"),
        "easy": easy,
        "options": project.Options(),
        "slotted": slotted,
        "kind": project.Kind.E4E,
        "listing": project.Listing([1, 2]),
        "when": datetime.datetime(2021, 2, 3, tzinfo=datetime.UTC),
        "rate": types.SimpleNamespace(lr=0.1),
        "counts": counts,
        "counter": collections.Counter("aab"),
        "queue": collections.deque([1, 2], maxlen=3),
        "dtype": torch.float32,
        "type": int,
        "annotation": Any,
        "number": np.int64(3),
        "numpy type": np.float32,
        "by path": {pathlib.PurePosixPath("a"): 1, (1, "b"): 2},
    }


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("legacy", [False, True])
def test_options_do_not_refuse_sound_weights(
    tmp_path: Path, project: types.ModuleType, legacy: bool, protocol: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    content = {**rosinality().content, "opts": options_of(project)}
    if protocol >= 4:
        content["opts"]["keywords"] = project.Keywords()
    file = tmp_path / "a.pt"
    torch.save(content, file, pickle_protocol=protocol, _use_new_zipfile_serialization=not legacy)
    monkeypatch.delitem(sys.modules, "their_project")
    found = read_checkpoint(file)["opts"]
    assert found["options"] == Record("their_project.Options", {"size": 1024})
    assert found["easy"].fields["size"] == 1024
    assert found["slotted"].fields == {"size": 3}
    assert found["counts"] == {"a": [1]}
    assert found["counter"] == {"a": 2, "b": 1}
    assert found["number"] == 3
    assert isinstance(found["windows"], Record)
    assert main(["import", str(file), "--to", str(tmp_path / "run")]) == 0


def test_the_oldest_protocols(tmp_path: Path, project: types.ModuleType) -> None:
    for protocol in (0, 1):
        content = {"options": project.Options(), "weights": torch.ones(2)}
        (tmp_path / "a.pkl").write_bytes(pickle.dumps(content, protocol=protocol))
        found = read_checkpoint(tmp_path / "a.pkl")
        assert found["options"] == Record("their_project.Options", {"size": 1024})
        assert found["weights"].tolist() == [1, 1]


def test_tensors_with_attributes_and_of_subclasses(tmp_path: Path, project: types.ModuleType) -> None:
    parameter = nn.Parameter(torch.ones(3))
    parameter.their_mark = project.Options()  # type: ignore[attr-defined]
    torch.save(
        {"a": parameter, "b": torch.ones(2).as_subclass(project.Attributed), "net": nn.Linear(2, 2)},
        tmp_path / "a.pt",
    )
    found = read_checkpoint(tmp_path / "a.pt")
    assert type(found["a"]) is type(found["b"]) is torch.Tensor
    assert found["net"].fields["_parameters"]["weight"].shape == (2, 2)


class Call:
    """Pickles as a call of a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> Any:
        return self.function, self.arguments


def test_functions_of_other_projects_are_not_called(tmp_path: Path) -> None:
    torch.save({"weights": torch.ones(2), "options": Call(executed, 1)}, tmp_path / "a.pt")
    assert read_checkpoint(tmp_path / "a.pt")["options"] == Record("tests.export.test_stand_ins.executed")


@pytest.mark.parametrize("function", [os.system, os.path.join, eval, getattr, torch.load, np.load, print])
def test_functions_of_the_library_torch_and_numpy_refuse_the_file(tmp_path: Path, function: Any) -> None:
    torch.save({"weights": torch.ones(2), "options": Call(function, "a")}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="neither tensors nor plain data"):
        read_checkpoint(tmp_path / "a.pt")
