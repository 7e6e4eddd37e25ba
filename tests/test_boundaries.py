"""Which room may import which: serving and clients run without torch and know nothing of training and export."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CLIENT = "clients/python/indomain"

FORBIDDEN = {
    "serving": {"torch", "lightning", "training", "export", "benchmarks"},
    CLIENT: {"torch", "lightning", "training", "export", "benchmarks", "serving", "onnxruntime"},
    "training": {"serving", "export", "indomain"},
    "export": {"serving"},
}


def imported_names(file: Path) -> set[str]:
    """Top-level names of everything a file imports, inside functions too."""
    names: set[str] = set()
    source = file.read_text(encoding="utf-8")
    try:
        tree = ast.parse(source)
    except SystemError:
        # CPython 3.11 may count the parser's recursion wrongly when a collection of garbage comes in between.
        tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.partition(".")[0])
    return names


@pytest.mark.parametrize("room", FORBIDDEN)
def test_arrows_point_one_way(room: str) -> None:
    for file in sorted((ROOT / room).rglob("*.py")):
        assert not imported_names(file) & FORBIDDEN[room], file.relative_to(ROOT)


@pytest.mark.parametrize(("package", "folder"), [("serving", ROOT), ("indomain", ROOT / "clients/python")])
def test_every_module_is_imported_without_torch(package: str, folder: Path) -> None:
    """Also through what they depend on: torch is made impossible to import, and stays out."""
    files = sorted((folder / package).rglob("*.py"))
    modules = [
        ".".join(file.relative_to(folder).with_suffix("").parts).removesuffix(".__init__")
        for file in files
        if file.name != "__main__.py"
    ]
    assert modules
    program = "\n".join(
        [
            "import importlib, sys",
            "sys.modules['torch'] = None",
            f"for name in {modules!r}: importlib.import_module(name)",
        ]
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
