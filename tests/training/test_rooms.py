"""Which inner room of training and of export may import which: imports go one way, and no modules form a circle."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MOST_LINES = 400
MOST_FILES = 9

# Each room may import those above it, and itself. "" stands for the modules that lie in no inner room.
ROOMS = {
    "training": (
        "kernels",
        "losses",
        "networks",
        "run_folders",
        "data",
        "faces",
        "measures",
        "refinement",
        "optimisation",
        "loops",
        "directions",
        "tuning",
        "evaluation",
        "",
    ),
    "export": ("graphs", "state_dicts", "importers", "engines", "parity", "bundles", ""),
}


def modules(package: str) -> dict[str, Path]:
    """All modules of a package by their full names."""
    return {
        ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file
        for file in sorted((ROOT / package).rglob("*.py"))
    }


def imported_modules(file: Path, known: dict[str, Path]) -> Iterator[str]:
    """The known modules that a file imports, inside functions and under TYPE_CHECKING too."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names] + [node.module]
        else:
            continue
        yield from (name for name in names if name in known)


def room_of(module: str) -> str:
    """The inner room that a module lies in, or "" for none."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and (ROOT / parts[0] / parts[1]).is_dir() else ""


@pytest.mark.parametrize("package", ROOMS)
def test_the_table_names_every_room(package: str) -> None:
    rooms = {path.name for path in (ROOT / package).iterdir() if list(path.glob("*.py"))}
    assert rooms == set(ROOMS[package]) - {""}


@pytest.mark.parametrize("package", ROOMS)
def test_imports_between_rooms_go_one_way(package: str) -> None:
    order, known = ROOMS[package], modules(package)
    for module, file in known.items():
        allowed = order[: order.index(room_of(module)) + 1]
        for imported in imported_modules(file, known):
            # A package's own __init__ holds a docstring only.
            if imported != package:
                assert room_of(imported) in allowed, f"{module} imports {imported}"


@pytest.mark.parametrize("package", ROOMS)
def test_no_modules_import_each_other_in_a_circle(package: str) -> None:
    known = modules(package)
    imports = {module: set(imported_modules(file, known)) - {module} for module, file in known.items()}
    while free := {module for module, needed in imports.items() if not needed & imports.keys()}:
        imports = {module: needed for module, needed in imports.items() if module not in free}
    assert not imports


@pytest.mark.parametrize("package", ROOMS)
def test_rooms_and_files_stay_small_and_say_what_they_are_for(package: str) -> None:
    for room in ROOMS[package]:
        files = sorted((ROOT / package / room).glob("*.py"))
        assert len(files) <= MOST_FILES, f"{package}/{room}"
        for file in files:
            text = file.read_text(encoding="utf-8")
            assert len(text.splitlines()) <= MOST_LINES, file
            assert ast.get_docstring(ast.parse(text)), file
