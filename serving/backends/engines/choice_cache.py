"""Remembers which engine is the fastest for a graph here, in which batches, and what it compiled, so that a start need
not try again."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, cast, get_args

from serving.backends.engines.compiled_model import CompiledModel, write_whole
from serving.backends.engines.sessions import EngineName
from serving.bundle import GraphSpec

_log = logging.getLogger(__name__)

_PACKAGES = ("onnxruntime", "onnxruntime-gpu", "openvino")
# What NVIDIA's driver says of itself and of each GPU; not there without one.
_GPU_INFO = Path("/proc/driver/nvidia")
_CPU_INFO = Path("/proc/cpuinfo")
# What tells processors apart: their names and what they can compute with.
_TOLD = ("model name", "flags", "features")


@dataclass(frozen=True)
class Choice:
    """The engine for a graph, the largest batch that pays on it, and milliseconds a sample of each engine that was
    tried."""

    engine: EngineName
    batch: int
    milliseconds: Mapping[EngineName, float]


class ChoiceCache:
    """A JSON file. An entry holds for one graph, processor, GPU, number of threads and versions of the runtimes.

    A file that cannot be read or written costs the trials, and nothing else.
    """

    def __init__(self, file: Path) -> None:
        self._file = file

    @property
    def folder(self) -> Path:
        """Where the file is, and other things may be kept for the next start."""
        return self._file.parent

    def compiled_model(self, graph: GraphSpec, threads: int, engine: EngineName) -> CompiledModel:
        """What that engine compiled of a graph, where choices of this graph hold."""
        name = f"{graph.model}.{engine}.{_key(graph, threads)}"
        return CompiledModel(self._compiled / name, graph.model, engine)

    @property
    def _compiled(self) -> Path:
        return self.folder / "compiled"

    def get(self, graph: GraphSpec, threads: int) -> Choice | None:
        """What was chosen; None where that is not known."""
        entry: Any = self._read().get(_key(graph, threads))
        try:
            engine, batch, milliseconds = entry["engine"], entry["batch"], dict(entry["milliseconds"])
        except (TypeError, KeyError, ValueError):
            return None
        if engine not in get_args(EngineName) or not isinstance(batch, int) or batch < 1:
            return None
        return Choice(cast("EngineName", engine), batch, milliseconds)

    def put(self, graph: GraphSpec, threads: int, choice: Choice) -> None:
        """Remembers a choice. What engines compiled that were not chosen is kept no longer."""
        entries = self._read()
        entries[_key(graph, threads)] = {"model": graph.model, **asdict(choice)}
        try:
            write_whole(self._file, json.dumps(entries, indent=1).encode())
            for compiled in self._compiled.glob(f"{graph.model}.*"):
                if not compiled.name.startswith(f"{graph.model}.{choice.engine}."):
                    compiled.unlink()
        except OSError as error:
            _log.debug("the choice of an engine is not remembered: %s", error)

    def _read(self) -> dict[str, Any]:
        try:
            found = json.loads(self._file.read_bytes())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}


def _key(graph: GraphSpec, threads: int) -> str:
    told = (graph.model, graph.sha256, threads, *_machine())
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:32]


@cache
def _machine() -> tuple[str, ...]:
    """The processor, the GPUs and the versions of the runtimes."""
    try:
        lines = _CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    told = sorted({line for line in lines if line.lower().startswith(_TOLD)}) or [platform.processor()]
    return (*told, *_gpus(), *(_version(package) for package in _PACKAGES))


def _gpus() -> list[str]:
    """The driver, the models of the GPUs, and which of them this process may use."""
    told = [os.environ.get("CUDA_VISIBLE_DEVICES", "")]
    for file in (_GPU_INFO / "version", *sorted(_GPU_INFO.glob("gpus/*/information"))):
        try:
            lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            continue
        told += [line for line in lines if line.startswith(("NVRM version", "Model:"))]
    return told


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
