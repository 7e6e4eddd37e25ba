"""The rooms of serving/: which may import which, that no modules import each other in a circle, and how large they are.

Imports under `if TYPE_CHECKING` and inside functions count like all others.
"""

from __future__ import annotations

import ast
from collections import Counter
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {"serving": ROOT / "serving", "indomain": ROOT / "clients/python/indomain"}
GENERATED = PACKAGES["indomain"] / "v1"

# From the ground up: a room imports from the rows before its own, and from itself. Rooms in one row do not import each
# other; only the modules of the ground may.
GROUND = {"errors", "deadline", "settings", "jobs", "results", "call", "bundle"}
ROWS: tuple[set[str], ...] = (
    GROUND,
    {"telemetry"},
    {"access"},
    {"backends", "photographs"},
    {"pipeline"},
    {"repository", "wire"},
    {"grpc", "http"},
    {"gateway"},
    {"in_process", "__main__"},
)
MAX_LINES = 400
MAX_FILES = 9


def files_of(package: str) -> list[Path]:
    return [file for file in sorted(PACKAGES[package].rglob("*.py")) if GENERATED not in file.parents]


def module_name(package: str, file: Path) -> str:
    parts = file.relative_to(PACKAGES[package].parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(package: str, file: Path, modules: set[str]) -> set[str]:
    """The modules of the same package that a file imports."""
    own = module_name(package, file)
    folder = own if file.name == "__init__.py" else own.rpartition(".")[0]
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = folder.split(".")[: len(folder.split(".")) - node.level + 1]
                base = ".".join([*above, *([node.module] if node.module else [])])
            # `from package import module` means the module, `from module import name` the module before the name.
            found |= {name if (name := f"{base}.{alias.name}") in modules else base for alias in node.names}
    return (found & modules) - {own}


@cache
def graph_of(package: str) -> dict[str, set[str]]:
    files = {module_name(package, file): file for file in files_of(package)}
    return {name: imports_of(package, file, set(files)) for name, file in files.items()}


def row_of(module: str) -> int:
    room = module.split(".")[1]
    (row,) = [number for number, rooms in enumerate(ROWS) if room in rooms]
    return row


def test_imports_go_one_way() -> None:
    """`serving` itself, which holds the version, imports nothing."""
    assert not graph_of("serving")["serving"]
    for module in graph_of("serving").keys() - {"serving"}:
        for other in graph_of("serving")[module] - {"serving"}:
            room, other_room = module.split(".")[1], other.split(".")[1]
            if room == other_room or {room, other_room} <= GROUND:
                continue
            assert row_of(other) < row_of(module), f"{module} imports {other}"


def test_the_row_of_every_module_is_known() -> None:
    for module in graph_of("serving").keys() - {"serving"}:
        assert row_of(module) >= 0, module


@pytest.mark.parametrize("package", PACKAGES)
def test_no_modules_import_each_other_in_a_circle(package: str) -> None:
    """A package's `__init__` is run before its modules, and is not counted as an import of theirs."""
    try:
        TopologicalSorter(graph_of(package)).prepare()
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize("package", PACKAGES)
def test_no_room_is_crowded(package: str) -> None:
    counts = Counter(
        file.parent for file in files_of(package) if file.name not in ("__init__.py", "__main__.py")
    )
    crowded = {str(folder.relative_to(ROOT)) for folder, count in counts.items() if count > MAX_FILES}
    assert not crowded


@pytest.mark.parametrize("package", PACKAGES)
def test_no_file_is_long(package: str) -> None:
    lengths = {
        str(file.relative_to(ROOT)): len(file.read_text(encoding="utf-8").splitlines())
        for file in files_of(package)
    }
    assert not {name for name, lines in lengths.items() if lines > MAX_LINES}


@pytest.mark.parametrize("package", PACKAGES)
def test_every_room_says_what_it_is_for(package: str) -> None:
    for folder in {file.parent for file in files_of(package)}:
        assert ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))), folder
