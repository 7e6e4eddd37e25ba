"""The rooms of the SDK: small, and imports among them go one way."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2] / "clients/python"
FILES = [file for file in sorted(ROOT.glob("indomain/**/*.py")) if "v1" not in file.parts]

# Each room may import those before it. `v1` is generated, and free to all.
ORDER = [
    "v1",
    "constants",
    "exceptions",
    "signatures",
    "unpickling",
    "wire",
    "transports",
    "calls",
    "results",
    "clients",
]


def module_of(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(file): file for file in FILES}


def imports_of(file: Path) -> Iterator[str]:
    """Modules of the SDK that a file imports, within functions and for type checkers too."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("indomain"))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("indomain"):
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if name in MODULES else str(node.module)


def test_no_module_imports_itself_in_a_circle() -> None:
    graph = {name: set(imports_of(file)) & MODULES.keys() for name, file in MODULES.items()}
    assert list(TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("room", ORDER[1:])
def test_rooms_import_those_before_them(room: str) -> None:
    allowed = set(ORDER[: ORDER.index(room) + 1])
    for name, file in MODULES.items():
        if name.split(".")[1:2] == [room]:
            assert {module.split(".")[1] for module in imports_of(file)} <= allowed, name


def test_rooms_are_small() -> None:
    for folder in {file.parent for file in FILES}:
        assert len(list(folder.glob("*.py"))) <= 9, folder
        assert ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))), folder
    assert max(len(file.read_text(encoding="utf-8").splitlines()) for file in FILES) <= 400
