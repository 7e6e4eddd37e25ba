"""What several tests of the clients use: example pictures, the demo's gateway, what counts as the same result."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image

import indomain

EXAMPLES = Path(__file__).resolve().parents[2] / "clients/python/examples"
PORTRAIT = EXAMPLES / "portrait.png"


def load_demo() -> ModuleType:
    """The demo's module: it knows how to start a gateway and to wait for it."""
    spec = importlib.util.spec_from_file_location("indomain_demo", EXAMPLES / "demo.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # dataclasses look their module up.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


# Names and times that are each call's own.
_OWN = {"request_id", "stage_seconds", "handle", "source_handle", "_edit"}


def assert_same(one: Any, other: Any, where: str = "answer") -> None:
    """Two answers or errors of the same call are equal, but for what is each call's own."""
    if isinstance(one, indomain.Inversion):
        assert isinstance(other, indomain.Inversion), where
    else:
        assert type(one) is type(other), f"{where}: {one!r}, {other!r}"
    if isinstance(one, indomain.IndomainError):
        assert vars(one) | {"request_id": ""} == vars(other) | {"request_id": ""}, where
        assert len(other.request_id) == 32
    elif isinstance(one, Exception):
        assert str(one) == str(other), where
    elif is_dataclass(one):
        for field in fields(one):
            if field.name in _OWN:
                assert bool(getattr(one, field.name)) == bool(getattr(other, field.name)), field.name
            else:
                assert_same(getattr(one, field.name), getattr(other, field.name), f"{where}.{field.name}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), where
        for n, pair in enumerate(zip(one, other, strict=True)):
            assert_same(*pair, f"{where}[{n}]")
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for name in one:
            assert_same(one[name], other[name], f"{where}[{name}]")
    elif isinstance(one, Image.Image):
        difference = np.asarray(one).astype(int) - np.asarray(other).astype(int)
        assert np.abs(difference).max() <= 1, where
    elif isinstance(one, (np.ndarray, float)):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4, err_msg=where)
    else:
        assert one == other, where
