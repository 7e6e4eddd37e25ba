"""The examples in the docstrings of the SDK, run as they are printed, and the Python of the documents."""

from __future__ import annotations

import asyncio
import doctest
import inspect
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

import indomain
from tests.clients.support import PORTRAIT
from tests.serving.running_gateway import RunningGateway

ROOT = Path(__file__).resolve().parents[2]
ADDRESS = "localhost:8500"  # as it stands in the examples


def documented() -> Iterator[tuple[str, str]]:
    """Name and docstring of everything public. What a twin has from its twin is there once."""
    yield "indomain", inspect.getdoc(indomain) or ""
    seen = set()
    for name in sorted(indomain.__all__, key=lambda name: (name.startswith("Async"), name)):
        item = getattr(indomain, name)
        members = [(name, item)] if inspect.isclass(item) or inspect.isfunction(item) else []
        if inspect.isclass(item):
            members += [
                (f"{name}.{key}", member) for key, member in inspect.getmembers(item, inspect.isroutine)
            ]
        for where, member in members:
            text = inspect.getdoc(member) or ""
            if ">>>" in text and text not in seen:
                seen.add(text)
                yield where, text


EXAMPLES = dict(documented())


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the pictures that the examples name."""
    for name in ("portrait.png", "other.png"):
        shutil.copy(PORTRAIT, tmp_path / name)
    strokes = Image.new("RGBA", (128, 128))
    strokes.paste((176, 32, 60, 255), (52, 92, 76, 98))
    strokes.save(tmp_path / "lips.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_call_of_the_client_has_an_example() -> None:
    calls = [name for name, _ in inspect.getmembers(indomain.Client, inspect.isfunction) if name[0] != "_"]
    assert [name for name in calls if name != "close" and f"Client.{name}" not in EXAMPLES] == []


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("name", EXAMPLES)
def test_docstrings(name: str, live_gateway: RunningGateway) -> None:
    text = EXAMPLES[name].replace(ADDRESS, live_gateway.target)
    with indomain.Client(live_gateway.target) as client:
        scope = {"indomain": indomain, "asyncio": asyncio, "client": client}
        example = doctest.DocTestParser().get_doctest(text, scope, name, None, 0)
        report: list[str] = []
        runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
        assert runner.run(example, out=report.append).failed == 0, "".join(report)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("document", ["README.md", "clients/python/README.md"])
def test_python_of_the_documents(document: str, live_gateway: RunningGateway) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / document).read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    scope = {"__name__": "__main__"}
    for block in blocks:
        exec(compile(block.replace(ADDRESS, live_gateway.target), document, "exec"), scope)
