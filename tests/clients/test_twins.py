"""`Client` and `AsyncClient`, and their sessions: the same methods with the same arguments, results and docstrings."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest

import indomain

TWINS = [
    (indomain.Client, indomain.AsyncClient),
    (indomain.EditSession, indomain.AsyncEditSession),
    (indomain.Inversion, indomain.AsyncInversion),
]


def methods(cls: type) -> dict[str, Callable[..., Any]]:
    found = inspect.getmembers(cls, inspect.isfunction)
    return {name: method for name, method in found if not name.startswith("_")}


def as_sync(annotation: str) -> str:
    """What an annotation of the twin is called on this side."""
    for twin, name in (
        (
            "AsyncGenerator[InvertProgress | AsyncInversion, None]",
            "Generator[InvertProgress | Inversion, None, None]",
        ),
        ("AsyncGenerator[InterpolationFrame, None]", "Generator[InterpolationFrame, None, None]"),
    ):
        annotation = annotation.replace(twin, name)
    return annotation.replace("AsyncInversion", "Inversion").replace("AsyncEditSession", "EditSession")


@pytest.mark.parametrize(("cls", "twin"), TWINS, ids=lambda cls: cls.__name__)
def test_twins_have_the_same_methods(cls: type, twin: type) -> None:
    assert methods(cls).keys() == methods(twin).keys()
    for name, method in methods(cls).items():
        other = methods(twin)[name]
        one, two = inspect.signature(method), inspect.signature(other)
        assert one.parameters == two.parameters, name
        assert one.return_annotation == as_sync(two.return_annotation), name
        waits = not one.return_annotation.startswith(("Generator", "EditSession"))
        assert inspect.iscoroutinefunction(other) == (waits and method is not other), name
        assert method.__doc__, name


@pytest.mark.parametrize(("cls", "twin"), TWINS[:2], ids=lambda cls: cls.__name__)
def test_twins_are_documented_alike(cls: type, twin: type) -> None:
    for name, method in methods(cls).items():
        assert methods(twin)[name].__doc__ == method.__doc__, name
    assert inspect.signature(indomain.Client).parameters == inspect.signature(indomain.AsyncClient).parameters
