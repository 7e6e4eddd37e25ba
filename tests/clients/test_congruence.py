"""One interface, however it is reached: the same calls give the same answers and the same errors.

The first of the ways is what the others are compared with.
"""

from __future__ import annotations

import asyncio
import inspect
import io
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import indomain
from serving.access.keys import make_key
from tests.clients.support import EXAMPLES, PORTRAIT, assert_same
from tests.serving.running_gateway import RunningGateway, settings_for

HOPPER = EXAMPLES / "hopper.jpg"
LAYERS = 6
CODE = np.linspace(-1, 1, LAYERS * 512, dtype=np.float32).reshape(LAYERS, 512)

MASK = np.zeros((16, 16), np.uint8)
MASK[8:, 4:12] = 255
STROKES = np.zeros((16, 16, 4), np.uint8)
STROKES[8:10, 4:12] = (200, 40, 60, 255)
RESULT = indomain.Mixed(
    bundle="tiny16",
    code=CODE,
    image=Image.new("RGB", (16, 16)),
    domain_score=0.5,
    stage_seconds={},
    request_id="",
    handle="forgotten",
)

REFERENCE = "grpc"
WAYS = ("async grpc", "http", "async http", "embedded", "async embedded")


class Ways:
    """Clients of every kind. Those for coroutines live in one loop of their own, as they do in a program."""

    def __init__(self, gateway: RunningGateway) -> None:
        self._loop = asyncio.Runner()
        repository = gateway.gateway.settings.model_repository
        self.gateway = gateway
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
        return self.outcome_of(lambda: self._clients[way], call)

    def outcome_of(self, make: Callable[[], Any], call: Callable[[Any], Any]) -> Any:
        try:
            client = make()
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
def ways(live_gateway: RunningGateway) -> Iterator[Ways]:
    ways = Ways(live_gateway)
    yield ways
    ways.close()


# --- answers -----------------------------------------------------------------------------------------

CALLS: dict[str, Callable[[Any], Any]] = {
    "info": lambda client: client.info(),
    "bundles": lambda client: client.bundles(),
    "find faces": lambda client: client.find_faces(HOPPER),
    "paste an edit": lambda client: client.edit(
        HOPPER, smile=1.5, steps=0, include_pasted=True, align=indomain.Align("face", face=0)
    ),
    "edit all faces": lambda client: client.edit(
        HOPPER, smile=1.5, steps=0, include_pasted=True, align=indomain.Align(face="all")
    ),
    "edit faces by number": lambda client: client.edit(HOPPER, smile=1.5, align=indomain.Align(face=[0])),
    "paste a way": lambda client: client.interpolate(
        HOPPER, PORTRAIT, 2, steps=0, include_pasted=True, pasting="replace"
    ),
    "invert": lambda client: client.invert(PORTRAIT, include_aligned=True, include_start=True),
    "invert an array": lambda client: client.invert(
        np.full((20, 30, 3), 90, np.uint8), steps=0, align=indomain.Align("centre-crop")
    ),
    "invert an open file": lambda client: client.invert(io.BytesIO(PORTRAIT.read_bytes()), steps=0),
    "invert with options": lambda client: client.invert(
        PORTRAIT, quality="fast", refine=indomain.Refine(learning_rate=0.01, domain_weight=0.0)
    ),
    "edit a picture": lambda client: client.edit(PORTRAIT, smile=1.5, age=-1.0, steps=4),
    "edit a code": lambda client: client.edit(CODE, indomain.Edit("smile", 0.1, layers=(3,))),
    "edit a result whose handle is forgotten": lambda client: client.edit(RESULT, smile=1.0),
    "edit and keep": lambda client: client.edit(CODE, age=1.0, keep=["smile"]),
    "edit in a region": lambda client: client.edit(CODE, smile=2.0, region=(0.2, 0.5, 0.8, 0.9), steps=4),
    "edit in a mask": lambda client: client.edit(PORTRAIT, smile=2.0, mask=MASK, steps=4),
    "edit along strokes": lambda client: client.edit(
        HOPPER, smile=1.0, strokes=STROKES, region=(0, 0, 1, 0.5), steps=4
    ),
    "watch": lambda client: client.watch_invert(PORTRAIT, interval_s=1000, steps=4),
    "interpolate": lambda client: client.interpolate(CODE, PORTRAIT, 4, steps=2),
    "a geodesic": lambda client: client.interpolate(4 * CODE, PORTRAIT, 4, steps=2, path="geodesic"),
    "mix": lambda client: client.mix(CODE, -CODE, [4, 5], 0.3),
    "mix in a mask": lambda client: client.mix(CODE, -CODE, [4, 5], mask=MASK, steps=4),
    "a mean": lambda client: client.mean([CODE, RESULT, PORTRAIT], steps=2),
    "a geodesic mean": lambda client: client.mean([4 * CODE, -4 * CODE, PORTRAIT], steps=2, path="geodesic"),
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
    "unknown direction to keep": lambda client: client.edit(CODE, age=1.0, keep=["halo"]),
    "a mask of nothing": lambda client: client.edit(CODE, smile=1.0, mask=np.zeros((16, 16), np.uint8)),
    "an edit in a region and a mask": lambda client: client.edit(
        CODE, smile=1.0, region=(0, 0, 1, 1), mask=MASK
    ),
    "strokes of nothing": lambda client: client.edit(CODE, strokes=np.zeros((16, 16, 4), np.uint8)),
    "strokes that are no picture": lambda client: client.edit(CODE, strokes=b"no picture"),
    "strokes without refinement": lambda client: client.edit(CODE, strokes=STROKES, steps=0),
    "strength that is no number": lambda client: client.edit(CODE, smile=float("nan")),
    "infinite strength": lambda client: client.edit(CODE, smile=float("inf")),
    "code of a wrong shape": lambda client: client.decode(CODE[:3]),
    "code that is not finite": lambda client: client.edit(CODE * np.nan, smile=1.0),
    "a code of another generator": lambda client: client.edit(
        replace(RESULT, code_space="tiny16-0123456789ab"), smile=1.0
    ),
    "several codes for one": lambda client: client.edit(np.stack([CODE, CODE]), smile=1.0),
    "too many seeds": lambda client: client.sample(range(10_000)),
    "truncation out of range": lambda client: client.sample(1, truncation=-5.0),
    "one picture on the way": lambda client: client.interpolate(CODE, CODE, 1),
    "a geodesic of too many pictures": lambda client: client.interpolate(CODE, CODE, 65, path="geodesic"),
    "a geodesic without refinement": lambda client: client.interpolate(
        CODE, CODE, 3, steps=0, path="geodesic"
    ),
    "no such path": lambda client: client.interpolate(CODE, CODE, 3, path="zigzag"),
    "a mean of nothing": lambda client: client.mean([]),
    "a mean of a code that is not finite": lambda client: client.mean([CODE, CODE * np.nan]),
    "a geodesic mean without refinement": lambda client: client.mean([CODE, CODE], steps=0, path="geodesic"),
    "layers that are not there": lambda client: client.mix(CODE, CODE, [17]),
    "a mix in an empty region": lambda client: client.mix(CODE, CODE, [4], region=(0.5, 0, 0.5, 1)),
    "a mix in a region without refinement": lambda client: client.mix(
        CODE, CODE, [4], region=(0, 0, 1, 0.5), steps=0
    ),
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


@pytest.mark.parametrize("way", [REFERENCE, *WAYS])
def test_no_time(ways: Ways, way: str) -> None:
    error = ways.outcome(way, lambda client: client.invert(PORTRAIT, timeout_s=0.0))
    assert type(error) is indomain.DeadlineExceededError
    assert (error.reason, error.code, error.retryable) == ("deadline_exceeded", "DEADLINE_EXCEEDED", False)


# --- streams that are left, sessions ------------------------------------------------------------------------


@pytest.mark.parametrize("way", [way for way in (REFERENCE, *WAYS) if "embedded" not in way])
def test_leaving_a_stream_early_stops_the_work(ways: Ways, way: str) -> None:
    def cancelled() -> float:
        return ways.gateway.metric("indomain_requests_total", method="Interpolate", code="CANCELLED")

    def leave(client: Any) -> Any:
        for picture in client.interpolate(CODE, -CODE, 256):
            return picture
        return None

    async def leave_async(client: Any) -> Any:
        async for picture in client.interpolate(CODE, -CODE, 256):
            return picture
        return None

    before = cancelled()
    picture = ways.outcome(way, leave_async if "async" in way else leave)
    assert picture.index == 0
    deadline_s = time.monotonic() + 20.0
    while cancelled() == before and time.monotonic() < deadline_s:
        ways.outcome(way, lambda client: client.bundles())  # lets the loop of coroutines go on
    assert cancelled() == before + 1


def slide(client: Any) -> list[Any]:
    """A session: edits, a mistake, another source, and more than can be answered one by one."""
    found: list[Any] = []
    with client.session(PORTRAIT, steps=2) as session:
        found.append(session.edit(smile=1.0))
        found.append(session.edit(smile=1.0, keep=["age"], region=(0.2, 0.5, 0.8, 0.9)))
        try:
            session.edit(nose=1.0)
        except indomain.IndomainError as error:
            found.append(error)
        session.change(CODE)
        found.append(session.edit(indomain.Edit("smile", -2.0)))
        sent = [session.send(age=n / 10) for n in range(20)]
        session.finish()
        answers = list(session)
        found += [answers[-1].image, answers[-1].sequence - sent[-1]]
        found.append(len(answers) + sum(answer.skipped for answer in answers))
    return found


async def slide_async(client: Any) -> list[Any]:
    found: list[Any] = []
    async with client.session(PORTRAIT, steps=2) as session:
        found.append(await session.edit(smile=1.0))
        found.append(await session.edit(smile=1.0, keep=["age"], region=(0.2, 0.5, 0.8, 0.9)))
        try:
            await session.edit(nose=1.0)
        except indomain.IndomainError as error:
            found.append(error)
        await session.change(CODE)
        found.append(await session.edit(indomain.Edit("smile", -2.0)))
        sent = [await session.send(age=n / 10) for n in range(20)]
        await session.finish()
        answers = [answer async for answer in session]
        found += [answers[-1].image, answers[-1].sequence - sent[-1]]
        found.append(len(answers) + sum(answer.skipped for answer in answers))
    return found


@pytest.mark.parametrize("way", WAYS)
def test_sessions(ways: Ways, way: str) -> None:
    expected = ways.outcome(REFERENCE, slide)
    assert isinstance(expected, list), expected
    assert expected[-1] == 20
    assert_same(expected, ways.outcome(way, slide_async if "async" in way else slide))


@pytest.mark.parametrize("way", [REFERENCE, *WAYS])
def test_a_session_that_is_over(ways: Ways, way: str) -> None:
    def closed(client: Any) -> Any:
        with client.session(CODE) as session:
            session.edit(smile=1.0)
            session.close()
            return next(session)

    async def closed_async(client: Any) -> Any:
        async with client.session(CODE) as session:
            await session.edit(smile=1.0)
            await session.close()
            return await anext(session)

    error = ways.outcome(way, closed_async if "async" in way else closed)
    assert type(error) is indomain.RequestCancelledError
    error = ways.outcome(way, lambda client: client.session("nowhere.png"))
    assert isinstance(error, FileNotFoundError)


@pytest.mark.parametrize("way", [way for way in WAYS if "async" in way])
def test_many_tasks_share_a_client(ways: Ways, way: str) -> None:
    async def gather(client: Any) -> Any:
        return await asyncio.gather(*(client.sample(seed) for seed in range(16)))

    (expected,) = zip(*ways.outcome(way, gather), strict=True)
    assert_same(ways.outcome(REFERENCE, lambda client: client.sample(range(16))), list(expected))


# --- what refuses, breaks, or is not there ------------------------------------------------------------------


@pytest.mark.parametrize("kind", [indomain.Client, indomain.AsyncClient])
@pytest.mark.parametrize("scheme", ["", "http://"])
def test_nobody_there(ways: Ways, dead_address: str, kind: Any, scheme: str) -> None:
    address = scheme + dead_address
    calls: list[tuple[str, Any]] = [("call", lambda client: client.bundles())]
    calls.append(("stream", lambda client: client.interpolate(CODE, CODE, 2)))
    for _, call in calls:
        error = ways.outcome_of(lambda: kind(address), call)
        assert type(error) is indomain.GatewayUnreachableError
        assert address in error.message
        assert (error.reason, error.code) == ("unavailable", "UNAVAILABLE")


@pytest.mark.parametrize("kind", [indomain.Client, indomain.AsyncClient])
@pytest.mark.parametrize(
    "address",
    [
        *(
            "",
            "localhost:",
            "localhost:99999",
            "localhost:port",
            "localhost:8500/path",
            "::1:8500",
            "ftp://host",
        ),
        *("http:/host", "http://", "https://host:port"),
    ],
)
def test_what_is_no_address_is_said_before_anybody_is_asked(kind: Any, address: str) -> None:
    """gRPC takes port 99999 for port 34463."""
    with pytest.raises(ValueError, match="is no address of a gateway; give HOST:PORT"):
        kind(address)


@pytest.mark.parametrize(
    "address", ["localhost", "[::1]:8500", "unix:/a", "unix:///a", "dns:///a:1", "http://a", "https://a:1/b"]
)
def test_every_kind_of_address(address: str) -> None:
    indomain.Client(address).close()


@pytest.mark.parametrize("kind", [indomain.Client, indomain.AsyncClient])
@pytest.mark.parametrize(
    ("address", "package", "words"),
    [
        (":embedded:", "serving", "indomain-gateway"),
        ("http://localhost:8080", "httpx", r"indomain-client\[http\]"),
    ],
)
def test_what_is_not_installed_is_named(
    ways: Ways, monkeypatch: pytest.MonkeyPatch, kind: Any, address: str, package: str, words: str
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not there
    for module in ("http", "http_messages", "websocket"):
        monkeypatch.delitem(sys.modules, f"indomain.transports.{module}", raising=False)
        monkeypatch.delattr(f"indomain.transports.{module}", raising=False)
    with pytest.raises(indomain.NotInstalledError, match=words):
        raise ways.outcome_of(lambda: kind(address), lambda client: client.bundles())


@pytest.mark.parametrize("kind", [indomain.Client, indomain.AsyncClient])
def test_an_embedded_gateway_that_cannot_start(ways: Ways, tmp_path: Path, kind: Any) -> None:
    error = ways.outcome_of(
        lambda: kind(":embedded:", model_repository=tmp_path), lambda client: client.bundles()
    )
    assert type(error) is indomain.ServerError
    assert "python -m export bundle" in error.message


@pytest.mark.parametrize("kind", [indomain.Client, indomain.AsyncClient])
@pytest.mark.parametrize("transport", ["target", "url"])
def test_a_gateway_that_wants_a_key(
    ways: Ways, tiny_repository: Path, tmp_path: Path, kind: Any, transport: str
) -> None:
    key = make_key(tmp_path / "keys", "somebody")
    gateway = RunningGateway(settings_for(tiny_repository, keys_file=tmp_path / "keys"))
    address = getattr(gateway, transport)

    async def session_async(client: Any) -> Any:
        async with client.session(CODE) as session:
            return await session.edit(smile=1.0)

    def session(client: Any) -> Any:
        with client.session(CODE) as session:
            return session.edit(smile=1.0)

    calls: list[Any] = [
        lambda client: client.bundles(),
        lambda client: client.interpolate(CODE, CODE, 2),
        session if kind is indomain.Client else session_async,
    ]
    for call in calls:
        error = ways.outcome_of(lambda: kind(address), call)
        assert type(error) is indomain.UnauthenticatedError
        assert (error.reason, error.code) == ("unauthenticated", "UNAUTHENTICATED")
        answer = ways.outcome_of(lambda: kind(address, api_key=key), call)
        assert not isinstance(answer, Exception), answer
    gateway.close()


@pytest.mark.parametrize("kind", [indomain.Client, indomain.AsyncClient])
@pytest.mark.parametrize(("status", "words"), [(502, "502"), (200, "no gateway")])
def test_what_is_no_gateway(ways: Ways, kind: Any, status: int, words: str) -> None:
    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(b"<html>")

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        for call in (lambda client: client.bundles(), lambda client: client.interpolate(CODE, CODE, 2)):
            error = ways.outcome_of(lambda: kind(address), call)
            assert type(error) is indomain.GatewayUnreachableError, error
            assert address in error.message
        error = ways.outcome_of(lambda: kind(address), lambda client: client.bundles())
        assert words in error.message
        server.shutdown()


def test_a_program_may_end_without_closing_anything(tiny_repository: Path) -> None:
    program = (
        "import indomain; client = indomain.Client(':embedded:', model_repository=__import__('sys').argv[1]); "
        "print(len(client.sample(range(3))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, tiny_repository],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "3\n", "")
