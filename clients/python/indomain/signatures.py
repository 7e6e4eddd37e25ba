"""One signature and one docstring for several functions, where `Client` and `AsyncClient` have the same method."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection
from typing import Any, Concatenate, ParamSpec, TypeVar

_Arguments = ParamSpec("_Arguments")
_Self = TypeVar("_Self")
_Returned = TypeVar("_Returned")
_Class = TypeVar("_Class", bound=type)


def arguments_of(
    declared: Callable[_Arguments, Any],
) -> Callable[
    [Callable[Concatenate[_Self, ...], _Returned]], Callable[Concatenate[_Self, _Arguments], _Returned]
]:
    """Declares that a method takes the arguments of the function `declared`, and passes them on as they are.

    Type checkers, editors, `help()` and the reference then see the arguments of `declared` with their types. A method
    without a docstring gets that of `declared`.
    """

    def decorate(
        method: Callable[Concatenate[_Self, ...], _Returned],
    ) -> Callable[Concatenate[_Self, _Arguments], _Returned]:
        method.__doc__ = method.__doc__ or declared.__doc__
        _set_parameters(method, list(inspect.signature(declared).parameters.values()))
        return method

    return decorate


def arguments_after_first(
    declared: Callable[Concatenate[Any, _Arguments], Any], *, without: Collection[str] = ()
) -> Callable[
    [Callable[Concatenate[_Self, ...], _Returned]], Callable[Concatenate[_Self, _Arguments], _Returned]
]:
    """The same for a method that fills in the first argument of `declared` itself, and needs a docstring of its own.

    Args:
        declared: the function whose arguments the method takes.
        without: names of further arguments, which the method refuses. Type checkers do not see this.
    """
    _, *parameters = inspect.signature(declared).parameters.values()
    taken = [parameter for parameter in parameters if parameter.name not in without]

    def decorate(
        method: Callable[Concatenate[_Self, ...], _Returned],
    ) -> Callable[Concatenate[_Self, _Arguments], _Returned]:
        _set_parameters(method, taken)
        return method

    return decorate


def _set_parameters(method: Callable[..., Any], taken: list[inspect.Parameter]) -> None:
    own = inspect.signature(method)
    this, *_ = own.parameters.values()
    method.__signature__ = own.replace(parameters=[this, *taken])  # type: ignore[attr-defined]


def documented_as(twin: type) -> Callable[[_Class], _Class]:
    """Gives the methods of a class, where they have no docstrings, those of the methods of `twin`."""

    def document(cls: _Class) -> _Class:
        for name, method in vars(cls).items():
            if callable(method) and not method.__doc__ and hasattr(twin, name):
                method.__doc__ = getattr(twin, name).__doc__
        return cls

    return document
