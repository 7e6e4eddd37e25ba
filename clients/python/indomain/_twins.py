"""What the client that waits and its twin for coroutines have in common beside _calls.py: their docstrings."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

_Class = TypeVar("_Class", bound=type)


def documented_as(twin: type) -> Callable[[_Class], _Class]:
    """Gives the methods of a class the docstrings of its twin's."""

    def document(cls: _Class) -> _Class:
        for name, method in vars(cls).items():
            if callable(method) and not method.__doc__ and hasattr(twin, name):
                method.__doc__ = getattr(twin, name).__doc__
        return cls

    return document
