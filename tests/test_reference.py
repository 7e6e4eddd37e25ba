"""docs/api.md is what `make reference` writes now."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import FunctionType

import indomain

ROOT = Path(__file__).resolve().parents[1]


def test_the_reference_is_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("reference", ROOT / "docs/reference.py")
    assert spec is not None
    assert spec.loader is not None
    reference = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reference)
    written = (ROOT / "docs/api.md").read_text(encoding="utf-8")
    assert reference.page() == written, "run `make reference`"


def test_the_reference_names_everything_public() -> None:
    text = (ROOT / "docs/api.md").read_text(encoding="utf-8")
    described = (type, FunctionType)
    names = {name for name in indomain.__all__ if isinstance(getattr(indomain, name), described)}
    assert {name for name in names if f"`{name}`" not in text and f"### {name}\n" not in text} == set()
    assert "#### Client.invert" in text
    assert 'client.invert("portrait.png")' in text
    assert "[InvertRequest](#message-invertrequest)" in text
