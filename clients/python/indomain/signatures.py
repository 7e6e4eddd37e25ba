"""One signature and one docstring for several functions, where `Client` and `AsyncClient` have the same method."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable
from typing import Any, Concatenate, ParamSpec, TypeAlias, TypeVar

_Arguments = ParamSpec("_Arguments")
_Self = TypeVar("_Self")
_Returned = TypeVar("_Returned")
_Class = TypeVar("_Class", bound=type)

# Of a method that passes on all that it gets: makes it one that has the arguments of another function.
_Decorator: TypeAlias = Callable[
    [Callable[Concatenate[_Self, ...], _Returned]], Callable[Concatenate[_Self, _Arguments], _Returned]
]


def arguments_of(declared: Callable[_Arguments, Any]) -> _Decorator[_Self, _Returned, _Arguments]:
    """Declares that a method takes the arguments of the function `declared`, and passes them on as they are.

    Type checkers, editors, `help()` and the reference then see the arguments of `declared` with their types. A method
    without a docstring gets that of `declared`.
    """

    def decorate(method: Any) -> Any:
        method.__doc__ = method.__doc__ or declared.__doc__
        return _with_parameters(method, inspect.signature(declared).parameters.values())

    return decorate


def arguments_after_first(
    declared: Callable[Concatenate[Any, _Arguments], Any], *, without: Collection[str] = ()
) -> _Decorator[_Self, _Returned, _Arguments]:
    """The same for a method that fills in the first argument of `declared` itself, and has a docstring of its own.

    Args:
        declared: the function whose arguments the method takes.
        without: names of further arguments, which the method refuses. Type checkers do not see this.
    """
    _, *parameters = inspect.signature(declared).parameters.values()
    taken = [parameter for parameter in parameters if parameter.name not in without]
    return lambda method: _with_parameters(method, taken)


def _with_parameters(method: Any, taken: Iterable[inspect.Parameter]) -> Any:
    """The method, with these parameters after `self`."""
    own = inspect.signature(method)
    this, *_ = own.parameters.values()
    method.__signature__ = own.replace(parameters=[this, *taken])
    return method


def documented_as(twin: type) -> Callable[[_Class], _Class]:
    """Gives the methods of a class, where they have no docstrings, those of the methods of `twin`."""

    def document(cls: _Class) -> _Class:
        for name, method in vars(cls).items():
            if callable(method) and not method.__doc__ and hasattr(twin, name):
                method.__doc__ = getattr(twin, name).__doc__
        return cls

    return document
