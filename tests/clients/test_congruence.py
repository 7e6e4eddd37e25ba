"""One interface, however it is reached: the same calls give the same answers and the same errors.

The first of the ways is what the others are compared with.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import indomain
from tests.serving.conftest import RunningGateway, settings_for

PORTRAIT = Path(__file__).resolve().parents[2] / "clients/python/examples/portrait.png"
LAYERS = 6
CODE = np.linspace(-1, 1, LAYERS * 512, dtype=np.float32).reshape(LAYERS, 512)

REFERENCE = "grpc"
WAYS = ("async grpc", "http", "async http", "embedded", "async embedded")


class Ways:
    """Clients of every kind. Those for coroutines live in one loop of their own, as they do in a program."""

    def __init__(self, gateway: RunningGateway) -> None:
        self._loop = asyncio.Runner()
        repository = gateway.gateway.settings.model_repository
        self._clients: dict[str, Any] = {
            "grpc": indomain.Client(gateway.target),
            "async grpc": indomain.AsyncClient(gateway.target),
            "http": indomain.Client(gateway.url),
            "async http": indomain.AsyncClient(gateway.url),
            "embedded": indomain.Client(":embedded:", model_repository=repository),
            "async embedded": indomain.AsyncClient(":embedded:", model_repository=repository),
        }

    def outcome(self, way: str, call: Callable[[Any], Any]) -> Any:
        """What the call gives, whole streams as lists; or the error that it raises."""
        client = self._clients[way]
        try:
            if isinstance(client, indomain.Client):
                result = call(client)
                return list(result) if inspect.isgenerator(result) else result
            return self._loop.run(_awaited(call, client))
        except Exception as error:
            return error

    def close(self) -> None:
        for client in self._clients.values():
            if isinstance(client, indomain.Client):
                client.close()
            else:
                self._loop.run(client.close())
        self._loop.close()


async def _awaited(call: Callable[[Any], Any], client: Any) -> Any:
    result = call(client)
    if isinstance(result, AsyncIterator):
        return [item async for item in result]
    return await result if isinstance(result, Awaitable) else result


@pytest.fixture(scope="module")
def ways(tiny_repository: Path) -> Iterator[Ways]:
    gateway = RunningGateway(settings_for(tiny_repository))
    ways = Ways(gateway)
    yield ways
    ways.close()
    gateway.close()


# --- what counts as the same -------------------------------------------------------------------------

# Names and times that are each call's own.
_OWN = {"request_id", "stage_seconds", "handle", "source_handle", "_edit"}


def assert_same(one: Any, other: Any, where: str = "answer") -> None:
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


# --- answers -----------------------------------------------------------------------------------------

CALLS: dict[str, Callable[[Any], Any]] = {
    "info": lambda client: client.info(),
    "bundles": lambda client: client.bundles(),
    "invert": lambda client: client.invert(PORTRAIT, include_aligned=True, include_start=True),
    "invert an array": lambda client: client.invert(np.full((20, 30, 3), 90, np.uint8), steps=0),
    "invert with options": lambda client: client.invert(
        PORTRAIT, quality="fast", refine=indomain.Refine(learning_rate=0.01, domain_weight=0.0)
    ),
    "edit a picture": lambda client: client.edit(PORTRAIT, smile=1.5, age=-1.0, steps=4),
    "edit a code": lambda client: client.edit(CODE, indomain.Edit("smile", 0.1, layers=(3,))),
    "watch": lambda client: client.watch_invert(PORTRAIT, interval_s=1000, steps=4),
    "interpolate": lambda client: client.interpolate(CODE, PORTRAIT, 4, steps=2),
    "mix": lambda client: client.mix(CODE, -CODE, [4, 5], 0.3),
    "diffuse": lambda client: client.diffuse(
        PORTRAIT, PORTRAIT, region=(0.2, 0.2, 0.8, 0.8), include_aligned=True, steps=2
    ),
    "decode": lambda client: client.decode(np.stack([CODE, -CODE])),
    "sample": lambda client: client.sample([3, 2**64 - 1], truncation=0.5),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_answers(ways: Ways, way: str, call: Callable[[Any], Any]) -> None:
    expected = ways.outcome(REFERENCE, call)
    assert not isinstance(expected, Exception), expected
    assert_same(expected, ways.outcome(way, call))


# --- errors ------------------------------------------------------------------------------------------

MISTAKES: dict[str, Callable[[Any], Any]] = {
    "no picture": lambda client: client.invert(b"no picture"),
    "no such file": lambda client: client.invert("nowhere.png"),
    "neither picture nor code": lambda client: client.edit(object(), smile=1.0),
    "an array of a wrong shape": lambda client: client.invert(np.zeros((3, 3, 7), np.uint8)),
    "too many steps": lambda client: client.invert(PORTRAIT, steps=10**6),
    "no such quality": lambda client: client.invert(PORTRAIT, quality="perfect"),
    "unknown bundle": lambda client: client.invert(PORTRAIT, bundle="nobody"),
    "unknown direction": lambda client: client.edit(CODE, halo=1.0),
    "strength that is no number": lambda client: client.edit(CODE, smile=float("nan")),
    "infinite strength": lambda client: client.edit(CODE, smile=float("inf")),
    "code of a wrong shape": lambda client: client.decode(CODE[:3]),
    "code that is not finite": lambda client: client.edit(CODE * np.nan, smile=1.0),
    "several codes for one": lambda client: client.edit(np.stack([CODE, CODE]), smile=1.0),
    "too many seeds": lambda client: client.sample(range(10_000)),
    "truncation out of range": lambda client: client.sample(1, truncation=-5.0),
    "one picture on the way": lambda client: client.interpolate(CODE, CODE, 1),
    "layers that are not there": lambda client: client.mix(CODE, CODE, [17]),
    "an empty region": lambda client: client.diffuse(PORTRAIT, PORTRAIT, region=(0.5, 0.5, 0.5, 0.5)),
    "region and mask": lambda client: client.diffuse(PORTRAIT, PORTRAIT, region=(0, 0, 1, 1), mask=PORTRAIT),
    "interval below zero": lambda client: client.watch_invert(PORTRAIT, interval_s=-1.0),
    "a stream of no picture": lambda client: client.watch_invert(b"no picture"),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("call", MISTAKES.values(), ids=MISTAKES)
def test_errors(ways: Ways, way: str, call: Callable[[Any], Any]) -> None:
    expected = ways.outcome(REFERENCE, call)
    assert isinstance(expected, Exception)
    assert_same(expected, ways.outcome(way, call))
