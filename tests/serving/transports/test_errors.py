"""The error table: every error has a row, and both transports tell each of them as its row says."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from indomain.v1 import editing_pb2 as pb
from serving import errors
from serving.errors import ERROR_TABLE, EditingError
from tests.serving.running_gateway import RunningGateway, settings_for

KINDS = sorted(ERROR_TABLE, key=lambda kind: kind.__name__)


def all_errors(base: type[EditingError] = EditingError) -> Iterator[type[EditingError]]:
    for kind in base.__subclasses__():
        yield kind
        yield from all_errors(kind)


def test_every_error_has_a_row_and_its_own_reason() -> None:
    assert set(all_errors()) == set(ERROR_TABLE)
    reasons = [row.reason for row in ERROR_TABLE.values()]
    assert len(set(reasons)) == len(reasons)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_consistent(kind: type[EditingError]) -> None:
    row = ERROR_TABLE[kind]
    assert row.grpc_code in grpc.StatusCode.__members__
    assert 400 <= row.http_status < 600
    assert row.retryable == (row.retry_after_s > 0.0)
    # What a caller did wrong is not retried; what a caller did not do wrong is no 4xx, but for overload.
    assert not (row.retryable and row.http_status < 500 and row.http_status != 429)
    assert (row.grpc_code == "UNAVAILABLE") == (row.http_status == 503)
    assert (row.grpc_code == "DEADLINE_EXCEEDED") == (row.http_status == 504)
    assert kind.__doc__


def test_an_error_without_a_row_takes_that_of_its_base() -> None:
    class NewPictureTrouble(errors.InvalidPicture):
        pass

    try:
        assert NewPictureTrouble("x").row is ERROR_TABLE[errors.InvalidPicture]
        assert EditingError("x").row is ERROR_TABLE[errors.InternalError]
    finally:
        del NewPictureTrouble


@pytest.fixture(scope="module")
def failing(tiny_repository: Path) -> Iterator[RunningGateway]:
    running = RunningGateway(settings_for(tiny_repository), interpose=True)
    yield running
    running.backend.before = None
    running.close()


def fail_with(running: RunningGateway, error: Exception) -> None:
    async def before(model: str) -> None:
        raise error

    running.backend.before = before


@pytest.mark.parametrize("kind", KINDS)
def test_the_walk(kind: type[EditingError], failing: RunningGateway) -> None:
    row = ERROR_TABLE[kind]
    before = failing.metric("indomain_rejected_total", reason=row.reason)
    fail_with(failing, kind("What was wrong, and what to do."))

    with pytest.raises(grpc.RpcError) as raised:
        failing.stub.Sample(pb.SampleRequest(seeds=[1]), metadata=[("x-request-id", "walk-1")])
    assert raised.value.code() is grpc.StatusCode[row.grpc_code]
    assert raised.value.details() == "What was wrong, and what to do."
    trailing = dict(raised.value.trailing_metadata())
    detail = pb.ErrorDetail.FromString(trailing["indomain-error-bin"])
    assert trailing["x-request-id"] == "walk-1"
    expected = pb.ErrorDetail(
        reason=row.reason,
        message="What was wrong, and what to do.",
        stage="encode",
        retryable=row.retryable,
        retry_after_s=row.retry_after_s,
        request_id="walk-1",
        code=row.grpc_code,
    )
    assert detail == expected

    fail_with(failing, kind("What was wrong, and what to do."))
    answer = failing.http.post("/v1/sample", json={"seeds": [1]}, headers={"x-request-id": "walk-1"})
    assert answer.status_code == row.http_status
    assert answer.headers["x-request-id"] == "walk-1"
    assert ("retry-after" in answer.headers) == row.retryable
    assert answer.json() == {
        "reason": row.reason,
        "code": row.grpc_code,
        "message": "What was wrong, and what to do.",
        "stage": "encode",
        "retryable": row.retryable,
        "retry_after_s": row.retry_after_s,
        "request_id": "walk-1",
    }
    assert failing.metric("indomain_rejected_total", reason=row.reason) == before + 2


def test_what_was_not_foreseen_tells_nothing_but_its_id(failing: RunningGateway) -> None:
    fail_with(failing, ZeroDivisionError("secret of /etc/passwd"))
    with pytest.raises(grpc.RpcError) as raised:
        failing.stub.Sample(pb.SampleRequest(seeds=[1]), metadata=[("x-request-id", "odd-1")])
    assert raised.value.code() is grpc.StatusCode.INTERNAL
    answer = failing.http.post("/v1/sample", json={"seeds": [1]}, headers={"x-request-id": "odd-1"})
    assert answer.status_code == 500
    for text in (raised.value.details(), answer.text):
        assert "odd-1" in text
        assert "secret" not in text
        assert "Traceback" not in text
    failing.backend.before = None
    assert failing.stub.Sample(pb.SampleRequest(seeds=[1])).images


def test_unfit_request_ids_are_replaced(failing: RunningGateway) -> None:
    failing.backend.before = None
    answer = failing.http.get("/v1/bundles", headers={"x-request-id": "a" * 200})
    assert answer.headers["x-request-id"] != "a" * 200
    assert answer.json()["request_id"] == answer.headers["x-request-id"]
    response, call = failing.stub.ListBundles.with_call(pb.ListBundlesRequest())
    assert dict(call.trailing_metadata())["x-request-id"] == response.request_id


def test_base64_that_is_none(failing: RunningGateway) -> None:
    body = {"picture": {"data": base64.b64encode(b"x").decode()[:-1] + "!"}}
    answer = failing.http.post("/v1/invert", json=body)
    assert (answer.status_code, answer.json()["reason"]) == (400, "malformed_request")
