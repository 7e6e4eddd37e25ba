"""The house: that the Makefile and the documents say what is there."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TARGETS = ("demo", "test", "serve", "bench", "lint", "proto")


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


# --- Makefile and documents --------------------------------------------------------------------------


@pytest.mark.parametrize("target", TARGETS)
def test_make_knows_the_target(target: str) -> None:
    make = shutil.which("make")
    if make is None:
        pytest.skip("no make here")
    done = subprocess.run([make, "--dry-run", target], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_readme_begins_with_a_picture_then_the_two_commands() -> None:
    readme = text("README.md")
    picture = readme.index("](docs/pictures/edits.png)")
    assert picture < readme.index("make demo") < readme.index("make test") < readme.index("## What it is")


@pytest.mark.parametrize(
    "document",
    [
        "README.md",
        "ARCHITECTURE.md",
        "CHANGELOG.md",
        "docs/security.md",
        "docs/deployment.md",
        "docs/studio.md",
        "docs/bulk.md",
        "clients/python/README.md",
    ],
)
def test_links_of_documents_lead_somewhere(document: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", text(document)):
        if not target.startswith("http"):
            assert (ROOT / document).parent.joinpath(target).exists(), target


def test_make_targets_that_documents_name_exist() -> None:
    declared = set(re.findall(r"^([a-z-]+):", text("Makefile"), flags=re.MULTILINE))
    for document in ("README.md", "ARCHITECTURE.md"):
        named = set(re.findall(r"`make ([a-z-]+)", text(document)))
        assert named <= declared, document


def test_the_map_names_files_that_are_there() -> None:
    """What is to be opened: a bare file name stands beside the path before it. What is to be run: whole paths."""
    table = text("ARCHITECTURE.md").partition("## To change X")[2]
    rows = [row.split("|") for row in table.splitlines() if row.startswith("| ") and "---" not in row]
    assert len(rows) > 50
    for _, _, opened, run, _ in rows:
        folder = ROOT
        for name in re.findall(r"`([\w./-]+)`", opened):
            found = next((path for path in (ROOT / name, folder / name) if path.exists()), None)
            assert found is not None, name
            folder = found if found.is_dir() else found.parent
        for name in re.findall(r"\btests/[\w./]+", run):
            assert (ROOT / name).exists(), name


def check_rows_name_tests(rows: list[str]) -> None:
    """The last column names `file::test`, or `...::test` for another of the same file, or a whole file of tests."""
    for row in rows:
        *said, shown_by = row.removeprefix("| ").removesuffix(" |").split(" | ")
        named, file = 0, ROOT
        for name, test in re.findall(r"`([\w./]+)(?:::(\w+))?`", shown_by):
            if name.endswith(".py"):
                candidates = [
                    path for path in (ROOT / "tests").rglob("*.py") if str(path).endswith(f"/{name}")
                ]
                # Of several files of one name that which has the test.
                (file,) = [
                    path for path in candidates if len(candidates) == 1 or f"def {test}(" in path.read_text()
                ]
            assert test or name.endswith(".py"), said
            tests = re.findall(r"def (test_\w+)\(", file.read_text(encoding="utf-8"))
            assert tests if not test else test in tests, test
            named += 1
        assert named, f"no test shows that: {said}"


def test_each_promise_names_tests_that_are_there() -> None:
    """docs/security.md: a promise is a row of a table."""
    tables = [row for row in text("docs/security.md").splitlines() if row.startswith("|")]
    rows = [row for row in tables if row not in ("| promise | test |", "| --- | --- |")]
    assert len(rows) > 40
    check_rows_name_tests(rows)


def test_each_odd_file_names_tests_that_are_there() -> None:
    section = text("docs/photographs.md").partition("## Odd files and programs")[2]
    _, _, *rows = [row for row in section.splitlines() if row.startswith("|")]
    assert len(rows) > 20
    check_rows_name_tests(rows)


def test_every_table_of_security_is_one_of_promises() -> None:
    """So that no row escapes: a table that a blank line cuts in two has no heading."""
    lines = text("docs/security.md").splitlines()
    for before, line in pairwise(["", *lines]):
        if line.startswith("|") and not before.startswith("|"):
            assert line == "| promise | test |"


def test_both_distributions_have_one_version() -> None:
    versions = {
        tomllib.loads(text(name))["project"]["version"]
        for name in ("pyproject.toml", "clients/python/pyproject.toml")
    }
    assert len(versions) == 1
    assert f"## [{versions.pop()}]" in text("CHANGELOG.md")


def test_the_gateways_dependencies_hold_no_training() -> None:
    project = tomllib.loads(text("pyproject.toml"))["project"]
    names = {re.split(r"[\[<>=~ ]", dependency)[0] for dependency in project["dependencies"]}
    assert not names & {"torch", "lightning", "onnx", "onnxscript", "scikit-learn"}
    assert {"onnxruntime", "grpcio", "fastapi"} <= names


# --- demo --------------------------------------------------------------------------------------------


def test_the_demos_photograph_has_its_source_beside_it() -> None:
    examples = ROOT / "clients/python/examples"
    assert (examples / "portrait.png").exists()
    assert "public domain" in " ".join((examples / "SOURCE.md").read_text(encoding="utf-8").split())
