"""Health and reflection over gRPC are open to strangers, who cannot fill the gateway's memory with them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from serving.grpc import open_services
from tests.serving.running_gateway import RunningGateway
from tests.serving.waiting import wait_for

CHECK = "/grpc.health.v1.Health/Check"
REFLECT = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


def code_of(call: Any) -> str:
    with pytest.raises(grpc.RpcError) as raised:
        call()
    return raised.value.code().name


@pytest.mark.parametrize("method", [CHECK, REFLECT])
def test_long_messages_are_refused(gateway: RunningGateway, method: str) -> None:
    ask = gateway.channel.stream_stream(method)
    long = b"\x0a\x80\x80\x40" + b"x" * 2**20
    assert code_of(lambda: list(ask(iter([long]), timeout=20))) == "INVALID_ARGUMENT"
    assert code_of(lambda: list(ask(iter([b"\xff"]), timeout=20))) == "INVALID_ARGUMENT"


def test_messages_that_do_not_come_are_not_waited_for(gateway: RunningGateway) -> None:
    """However many there are, a few are received at once."""
    silent = threading.Event()

    def nothing() -> Iterator[bytes]:
        silent.wait(60)
        yield from ()

    calls = [gateway.channel.stream_stream(CHECK)(nothing(), timeout=60) for _ in range(12)]
    health = health_pb2_grpc.HealthStub(gateway.channel)
    assert health.Check(health_pb2.HealthCheckRequest(), timeout=20).status == SERVING
    assert {code_of(lambda call=call: list(call)) for call in calls} == {"DEADLINE_EXCEEDED"}
    silent.set()


def test_watchers_are_told_of_each_change(start_gateway: Callable[..., RunningGateway]) -> None:
    running = start_gateway()
    health = health_pb2_grpc.HealthStub(running.channel)
    services = ("", "indomain.v1.Editing", "nothing")
    watches = [health.Watch(health_pb2.HealthCheckRequest(service=name), timeout=60) for name in services]
    told = [next(watch).status for watch in watches]
    assert told == [SERVING, SERVING, health_pb2.HealthCheckResponse.SERVICE_UNKNOWN]

    async def report(serving: bool) -> None:
        running.gateway._grpc.report(serving=serving)

    for serving in (False, True):
        running.run(report(serving))
        expected = SERVING if serving else NOT_SERVING
        assert [next(watch).status for watch in watches[:2]] == [expected, expected]
    for watch in watches:
        watch.cancel()


def test_calls_at_once_are_bounded(
    start_gateway: Callable[..., RunningGateway], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(open_services, "_MAX_CALLS", 3)
    running = start_gateway()
    health = health_pb2_grpc.HealthStub(running.channel)
    watches = [health.Watch(health_pb2.HealthCheckRequest(), timeout=60) for _ in range(3)]
    for watch in watches:
        next(watch)
    assert code_of(lambda: health.Check(health_pb2.HealthCheckRequest(), timeout=20)) == "RESOURCE_EXHAUSTED"
    for watch in watches:
        watch.cancel()

    def is_served() -> bool:
        try:
            return health.Check(health_pb2.HealthCheckRequest(), timeout=20).status == SERVING
        except grpc.RpcError:
            return False

    wait_for(is_served)


def test_reflection_answers_one_question_after_another(gateway: RunningGateway) -> None:
    reflection = reflection_pb2_grpc.ServerReflectionStub(gateway.channel)
    asked = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="indomain.v1.Editing"),
        reflection_pb2.ServerReflectionRequest(file_by_filename="nothing.proto"),
    ]
    services, file, none = reflection.ServerReflectionInfo(iter(asked), timeout=20)
    assert "indomain.v1.Editing" in {service.name for service in services.list_services_response.service}
    assert file.file_descriptor_response.file_descriptor_proto
    assert none.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]
