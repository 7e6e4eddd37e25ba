"""Failed calls: which error, with what on it, and which are tried again."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Thread

import grpc
import pytest

import indomain
from indomain.clients.retry import _retry_wait_s, _should_retry
from indomain.exceptions import IndomainError, ServerError
from indomain.transports.errors import CLASS_OF_CODE, CLASS_OF_REASON, error_without_detail
from serving.errors import ERROR_TABLE
from tests.clients.scripted_gateway import Failure, ScriptedGateway, serving_on
from tests.serving.running_gateway import RunningGateway

BUSY = Failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "queue_full", retryable=True, retry_after_s=0.01)


@pytest.mark.parametrize("row", ERROR_TABLE.values(), ids=lambda row: row.reason)
def test_every_row_of_the_gateways_table_has_its_error(
    client: indomain.Client, gateway: ScriptedGateway, row: object
) -> None:
    code, reason = row.grpc_code, row.reason  # type: ignore[attr-defined]
    gateway.failures.append(Failure(grpc.StatusCode[code], reason, "what and why", stage="decode"))
    with pytest.raises(IndomainError) as caught:
        client.bundles()
    error = caught.value
    assert (error.reason, error.code, error.message, error.stage) == (reason, code, "what and why", "decode")
    assert error.request_id == gateway.request_ids[-1]
    assert type(error) is not IndomainError
    assert error.request_id in str(error)


def test_every_reason_of_the_gateway_has_its_class() -> None:
    """None falls back on the class of its gRPC status, which is for gateways that are newer than the client."""
    assert set(CLASS_OF_REASON) == {row.reason for row in ERROR_TABLE.values()}


def test_an_error_is_of_the_kind_that_its_status_says() -> None:
    for row in ERROR_TABLE.values():
        assert issubclass(CLASS_OF_REASON[row.reason], CLASS_OF_CODE.get(row.grpc_code, ServerError)) or (
            row.reason == "request_too_large"
        )


@pytest.mark.parametrize(
    ("reason", "code", "kind"),
    [
        ("invalid_picture", grpc.StatusCode.INVALID_ARGUMENT, indomain.InvalidPictureError),
        ("invalid_code", grpc.StatusCode.INVALID_ARGUMENT, indomain.InvalidCodeError),
        ("unknown_direction", grpc.StatusCode.NOT_FOUND, indomain.UnknownDirectionError),
        ("queue_full", grpc.StatusCode.RESOURCE_EXHAUSTED, indomain.OverloadedError),
        ("shutting_down", grpc.StatusCode.UNAVAILABLE, indomain.UnavailableError),
        ("internal", grpc.StatusCode.INTERNAL, indomain.ServerError),
        ("of_a_newer_gateway", grpc.StatusCode.INVALID_ARGUMENT, indomain.InvalidRequestError),
    ],
)
def test_kinds_of_errors(
    client: indomain.Client,
    gateway: ScriptedGateway,
    reason: str,
    code: grpc.StatusCode,
    kind: type[IndomainError],
) -> None:
    gateway.failures.append(Failure(code, reason))
    with pytest.raises(kind) as caught:
        client.bundles()
    assert type(caught.value) is kind


def test_nobody_there(dead_address: str) -> None:
    started_s = time.monotonic()
    with (
        indomain.Client(dead_address, timeout_s=10) as client,
        pytest.raises(indomain.GatewayUnreachableError, match=dead_address) as caught,
    ):
        client.bundles()
    assert time.monotonic() - started_s < 9
    assert len(caught.value.request_id) == 32
    assert not caught.value.retryable


def test_a_deadline_of_grpc_itself(gateway: ScriptedGateway) -> None:
    # What the scripted gateway does to fail with this code is what a network in between would do.
    gateway.failures.append(Failure(grpc.StatusCode.DEADLINE_EXCEEDED))
    with (
        indomain.Client(gateway.address) as client,
        pytest.raises(indomain.DeadlineExceededError, match="in time"),
    ):
        client.bundles()


def test_no_time_at_all(client: indomain.Client, gateway: ScriptedGateway) -> None:
    with pytest.raises(indomain.DeadlineExceededError):
        client.bundles(timeout_s=0)
    assert gateway.requests == []


def test_a_refused_call_is_tried_again_under_the_same_id(
    client: indomain.Client, gateway: ScriptedGateway
) -> None:
    gateway.failures.extend([BUSY, BUSY])
    assert client.bundles()
    assert len(gateway.request_ids) == 3
    assert len(set(gateway.request_ids)) == 1


def test_retries_come_to_an_end(gateway: ScriptedGateway) -> None:
    gateway.failures.extend([BUSY] * 5)
    with indomain.Client(gateway.address, max_retries=1) as client, pytest.raises(indomain.OverloadedError):
        client.bundles()
    assert len(gateway.requests) == 2


def test_what_is_not_retryable_is_not_tried_again(client: indomain.Client, gateway: ScriptedGateway) -> None:
    gateway.failures.append(Failure(grpc.StatusCode.UNAVAILABLE))  # no word of the gateway on it
    with pytest.raises(indomain.GatewayUnreachableError):
        client.bundles()
    assert len(gateway.requests) == 1


def test_a_wait_beyond_the_deadline_is_not_begun(client: indomain.Client, gateway: ScriptedGateway) -> None:
    gateway.failures.append(
        Failure(grpc.StatusCode.UNAVAILABLE, "not_ready", retryable=True, retry_after_s=60.0)
    )
    started_s = time.monotonic()
    with pytest.raises(indomain.UnavailableError) as caught:
        client.bundles(timeout_s=5)
    assert time.monotonic() - started_s < 4
    assert caught.value.retry_after_s == 60.0


def test_the_wait_grows_and_is_never_shorter_than_asked() -> None:
    hurried = IndomainError("x", retryable=True)
    waits_s = [_retry_wait_s(hurried, retries_done=n) for n in range(10)]
    assert waits_s[0] < waits_s[2] < waits_s[4]
    assert max(waits_s) <= 5.0 * 1.25
    assert _retry_wait_s(IndomainError("x", retry_after_s=7.0), retries_done=0) >= 7.0


@pytest.mark.parametrize(
    ("retryable", "retries_done", "remaining_s", "expected"),
    [(True, 0, 9.0, True), (False, 0, 9.0, False), (True, 3, 9.0, False), (True, 0, 0.5, False)],
)
def test_should_retry(retryable: bool, retries_done: int, remaining_s: float, expected: bool) -> None:
    error = IndomainError("x", retryable=retryable)
    decision = _should_retry(
        error, retries_done=retries_done, max_retries=3, wait_s=1.0, remaining_s=remaining_s
    )
    assert decision is expected


def test_a_gateway_that_comes_back_is_found_again_soon() -> None:
    """gRPC's own back-off would leave the channel blind for many seconds."""
    with serving_on() as gateway:
        port = int(gateway.address.rpartition(":")[2])
        client = indomain.Client(gateway.address)
        client.bundles()
    with client:
        with pytest.raises(indomain.GatewayUnreachableError):
            client.bundles()
        time.sleep(1.5)  # long enough for a channel to have failed several times
        with serving_on(port):
            came_back_s = time.monotonic()
            while True:
                try:
                    client.bundles()
                    break
                except indomain.GatewayUnreachableError:
                    assert time.monotonic() - came_back_s < 5.0
                    time.sleep(0.05)


@contextmanager
def far_away(address: str, delay_s: float) -> Iterator[str]:
    """An address from which all that is sent comes to a gateway and back so much later."""

    def pass_on(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                time.sleep(delay_s)
                target.sendall(data)

    def serve() -> None:
        with suppress(OSError):
            while True:
                near, _ = listener.accept()
                host, _, port = address.rpartition(":")
                far = socket.create_connection((host, int(port)))
                for pair in ((near, far), (far, near)):
                    Thread(target=pass_on, args=pair, daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def test_a_gateway_that_is_far_away(gateway: ScriptedGateway) -> None:
    """Connecting may take some round trips, of which TLS over an ocean has half a second."""
    with far_away(gateway.address, 0.3) as address, indomain.Client(address, timeout_s=20) as client:
        assert client.bundles()


@pytest.mark.parametrize("scheme", ["", "http://"])
def test_a_request_over_the_limit_is_told_the_setting(live_gateway: RunningGateway, scheme: str) -> None:
    """A little over it the gateway refuses, far over it gRPC, before the gateway sees the request."""
    limit = live_gateway.gateway.settings.max_request_bytes
    address = live_gateway.url if scheme else live_gateway.target
    with indomain.Client(address) as client:
        for size in (limit, 2 * limit):
            with pytest.raises(indomain.RequestTooLargeError) as caught:
                client.invert(bytes(size))
            error = caught.value
            assert (error.reason, error.code) == ("request_too_large", "RESOURCE_EXHAUSTED")
            assert "send a smaller picture" in error.message
            assert "INDOMAIN_MAX_REQUEST_BYTES" in error.message
            assert not error.retryable
        assert client.bundles()


async def test_coroutines_are_told_it_too(live_gateway: RunningGateway) -> None:
    async with indomain.AsyncClient(live_gateway.target) as client:
        with pytest.raises(indomain.RequestTooLargeError, match="INDOMAIN_MAX_REQUEST_BYTES"):
            await client.invert(bytes(2 * live_gateway.gateway.settings.max_request_bytes))


def test_an_answer_over_the_clients_limit_is_no_request_that_is_too_large() -> None:
    text = "CLIENT: Received message larger than max (5 vs. 4)"
    error = error_without_detail(grpc.StatusCode.RESOURCE_EXHAUSTED, text, request_id="", address="here")
    assert (type(error), error.message) == (indomain.OverloadedError, text)


def test_calls_after_the_end_are_refused(gateway: ScriptedGateway) -> None:
    client = indomain.Client(gateway.address)
    client.close()
    client.close()  # twice does no harm
    with pytest.raises(ValueError, match="closed"):
        client.bundles()
