"""The bundle in model_repository/ and the checkpoint that it was exported from.

Tests take names, sizes and directions from here, so that another bundle may be shipped without a change of the tests.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
REPOSITORY = ROOT / "model_repository"
(_FILE,) = REPOSITORY.glob("*.json")
MANIFEST: dict[str, Any] = json.loads(_FILE.read_text(encoding="utf-8"))
NAME: str = MANIFEST["bundle"]
RESOLUTION: int = MANIFEST["resolution"]
DIRECTIONS: dict[str, dict[str, Any]] = {entry["name"]: entry for entry in MANIFEST["directions"]}
CHECKPOINT = ROOT / "training/checkpoints" / NAME


def manifest_in(repository: Path) -> Path:
    """The manifest's file in a copy of the model repository."""
    return repository / _FILE.name


def quick_repository(folder: Path) -> Path:
    """The shipped bundle in a new folder, with refinements of one run of the refiner: for tests of what is around them.
    Gives the folder."""
    shutil.copytree(REPOSITORY, folder)
    refine = MANIFEST["refine"]
    steps = refine["chunk_steps"]
    quick = refine | {"steps": steps, "quality_steps": dict.fromkeys(refine["quality_steps"], steps)}
    manifest_in(folder).write_text(json.dumps(MANIFEST | {"refine": quick}), encoding="utf-8")
    return folder


def model_of(role: str) -> str:
    """The folder of a graph, as `faces64_encoder`."""
    return f"{NAME}_{role}"
