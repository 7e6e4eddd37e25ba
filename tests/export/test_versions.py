"""A bundle's version beside others of it, or in place of all: what the repository holds then."""

from __future__ import annotations

from pathlib import Path

from export.bundles.bundle import move_into_place
from export.bundles.manifest import graph_file


def written(work: Path, version: int) -> Path:
    """As an export leaves it before it is moved."""
    graph = work / graph_file("b_encoder", version)
    graph.parent.mkdir(parents=True)
    graph.write_text(f"graph {version}")
    (work / "b_encoder/config.pbtxt").write_text(f"config {version}")
    (work / "b.safetensors").write_text(f"tensors {version}")
    (work / "b.json").write_text(f"manifest {version}")
    return work


def content(repository: Path) -> dict[str, str]:
    return {
        str(path.relative_to(repository)): path.read_text()
        for path in sorted(repository.rglob("*"))
        if path.is_file()
    }


def test_versions_stand_side_by_side_until_one_replaces_all(tmp_path: Path) -> None:
    repository = tmp_path / "repository"

    def export(work: str, version: int | None) -> dict[str, str]:
        move_into_place(written(tmp_path / work, version or 1), repository, "b", ("encoder",), version)
        return content(repository)

    newest = {"b.json": "manifest 2", "b.safetensors": "tensors 2", "b_encoder/config.pbtxt": "config 2"}
    export("first", None)
    both = newest | {"b_encoder/1/model.onnx": "graph 1", "b_encoder/2/model.onnx": "graph 2"}
    assert export("second", 2) == both
    assert export("second again", 2) == both
    alone = export("third", None)
    assert alone["b.json"] == "manifest 1"
    assert [name for name in alone if name.endswith(".onnx")] == ["b_encoder/1/model.onnx"]
