"""What holds for every RPC of the contract, over gRPC and over HTTP: each is metered, logged, traced, asked for a key,
and its bytes are counted. HTTP means JSON, server-sent events or a websocket, whichever the RPC has."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from serving.access.keys import make_key
from tests.serving.interposed import Gate
from tests.serving.rpcs import RPCS, TRANSPORTS, call, route_of
from tests.serving.running_gateway import RunningGateway, settings_for
from tests.serving.telemetry.collector import Collector, spans_of
from tests.serving.tiny_bundle import write_tiny_bundle
from tests.serving.waiting import wait_for

# Its HTTP request has no body.
WITHOUT_BODY = ("ListBundles", "http")
# Answered without a back end: there is no moment at which a test could hold it.
WITHOUT_BACKEND = ("ListBundles",)


def every_rpc(*, without: tuple[Any, ...] = ()) -> pytest.MarkDecorator:
    """Runs a test for each RPC over each transport, but for those in `without`."""
    cases = [
        pytest.param(rpc, transport, id=f"{rpc}-{transport}")
        for rpc in RPCS
        for transport in TRANSPORTS
        if rpc not in without and (rpc, transport) not in without
    ]
    return pytest.mark.parametrize(("rpc", "transport"), cases)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that has a face detector, which FindFaces needs."""
    return write_tiny_bundle(tmp_path_factory.mktemp("every_rpc"), faces=True)


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.server.stop(None)


@pytest.fixture(scope="module")
def running(repository: Path, collector: Collector) -> Iterator[RunningGateway]:
    endpoint = f"http://127.0.0.1:{collector.port}"
    running = RunningGateway(settings_for(repository, trace_endpoint=endpoint))
    yield running
    running.close()


# --- metered, logged, traced -----------------------------------------------------------------------------------------


@every_rpc()
def test_it_is_metered(running: RunningGateway, rpc: str, transport: str) -> None:
    def requests() -> float:
        return running.metric("indomain_requests_total", method=rpc, code="OK")

    before = requests()
    assert call(running, rpc, transport) == ""
    wait_for(lambda: requests() == before + 1.0)


@every_rpc()
def test_it_is_logged(
    running: RunningGateway, caplog: pytest.LogCaptureFixture, rpc: str, transport: str
) -> None:
    def lines() -> list[Any]:
        found = [record for record in caplog.records if record.name == "serving.requests"]
        return [record.fields for record in found if record.fields["method"] == rpc]

    with caplog.at_level(logging.INFO, "serving.requests"):
        assert call(running, rpc, transport) == ""
        wait_for(lines)
    (line,) = lines()
    assert line["code"] == "OK"
    assert (line["transport"] == "grpc") == (transport == "grpc")


@every_rpc()
def test_it_is_traced(running: RunningGateway, collector: Collector, rpc: str, transport: str) -> None:
    trace_id = secrets.token_hex(16)

    def is_traced() -> bool:
        spans_of(collector, running)
        return any(span.name == rpc and span.trace_id.hex() == trace_id for span in collector.spans)

    assert call(running, rpc, transport, traceparent=f"00-{trace_id}-{secrets.token_hex(8)}-01") == ""
    wait_for(is_traced)


# --- keys ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def keys_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keys") / "keys.toml"


@pytest.fixture(scope="module")
def keys(keys_file: Path) -> dict[str, str]:
    """One key an RPC, which is for this RPC alone."""
    return {rpc: make_key(keys_file, rpc, methods=(rpc,)) for rpc in RPCS}


@pytest.fixture(scope="module")
def guarded(repository: Path, keys: dict[str, str], keys_file: Path) -> Iterator[RunningGateway]:
    running = RunningGateway(settings_for(repository, keys_file=keys_file))
    yield running
    running.close()


@every_rpc()
def test_nobody_gets_in_without_a_key(guarded: RunningGateway, rpc: str, transport: str) -> None:
    assert call(guarded, rpc, transport) == "unauthenticated"


@every_rpc()
def test_a_key_for_it_lets_in(
    guarded: RunningGateway, keys: dict[str, str], rpc: str, transport: str
) -> None:
    assert call(guarded, rpc, transport, key=keys[rpc]) == ""


@every_rpc()
def test_a_key_for_another_rpc_does_not(
    guarded: RunningGateway, keys: dict[str, str], rpc: str, transport: str
) -> None:
    other = RPCS[(RPCS.index(rpc) + 1) % len(RPCS)]
    assert call(guarded, rpc, transport, key=keys[other]) == "permission_denied"


# --- bytes -----------------------------------------------------------------------------------------------------------

BYTES = 100_000


@pytest.fixture(scope="module")
def narrow(repository: Path) -> Iterator[RunningGateway]:
    running = RunningGateway(settings_for(repository, max_bytes_in_flight=BYTES), interpose=True)
    yield running
    running.close()


@pytest.fixture
def gate(narrow: RunningGateway) -> Iterator[Gate]:
    gate = Gate()
    narrow.backend.before = gate
    yield gate
    gate.open.set()
    narrow.backend.before = None


@every_rpc(without=(WITHOUT_BODY,))
def test_it_is_refused_beyond_the_bytes_that_may_be_held(
    narrow: RunningGateway, rpc: str, transport: str
) -> None:
    assert call(narrow, rpc, transport, padding_bytes=BYTES) == "queue_full"


@every_rpc(without=WITHOUT_BACKEND)
def test_its_bytes_are_held_until_it_ends(
    narrow: RunningGateway, gate: Gate, rpc: str, transport: str
) -> None:
    """While one request of 60 % of the bytes is held back, another one has no room, whatever its transport."""
    with ThreadPoolExecutor(1) as pool:
        try:
            held = pool.submit(call, narrow, rpc, transport, padding_bytes=6 * BYTES // 10)
            wait_for(lambda: gate.waiting > 0 or held.done())
            beside = [call(narrow, "ListBundles", "grpc", padding_bytes=BYTES // 2)]
        finally:
            gate.open.set()
    assert held.result() == ""
    assert beside == ["queue_full"]
    # Not by a further request: a gateway lets go of its bytes only after it has been answered.
    wait_for(lambda: narrow.gateway.memory.held_bytes == 0)


# --- the routes themselves -------------------------------------------------------------------------------------------


def test_each_rpc_has_its_route_in_the_schema(running: RunningGateway) -> None:
    """OpenAPI has no words for a websocket: the session is shown as the GET that opens one."""
    paths = running.http.get("/openapi.json").json()["paths"]
    described = {(verb.upper(), path) for path in paths for verb in paths[path] if path.startswith("/v1/")}
    session = {("GET", route_of("EditSession")[1])}
    assert described == {route_of(rpc) for rpc in RPCS if rpc != "EditSession"} | session
