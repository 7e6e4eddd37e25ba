"""Too much, too late, gone away, not yet, no longer: what the gateway does when things do not go their way."""

from __future__ import annotations

import asyncio
import json
import queue
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from indomain.v1 import editing_pb2 as pb
from indomain.v1 import editing_pb2_grpc
from serving.backends.backend import Tensors
from serving.backends.embedded import EmbeddedBackend
from serving.backends.engines.sessions import OnnxRuntimeSession
from serving.gateway import Gateway
from serving.repository.reader import read_bundles
from serving.telemetry.metrics import Metrics
from tests.serving.interposed import Gate
from tests.serving.messages import session_request
from tests.serving.running_gateway import RunningGateway, settings_for, start_process
from tests.serving.waiting import wait_for

ROOT = Path(__file__).resolve().parents[3]
SAMPLE = pb.SampleRequest(seeds=[1])


@pytest.fixture
def gated(start_gateway: Callable[..., RunningGateway]) -> Iterator[tuple[RunningGateway, Gate]]:
    running = start_gateway(interpose=True, max_requests_in_flight=2)
    gate = Gate()
    running.backend.before = gate
    yield running, gate
    gate.open.set()


def test_more_requests_than_it_holds_are_told_to_come_back(gated: tuple[RunningGateway, Gate]) -> None:
    running, gate = gated
    accepted = [running.stub.Sample.future(SAMPLE, timeout=20) for _ in range(2)]
    wait_for(lambda: gate.waiting == 2)
    with pytest.raises(grpc.RpcError) as raised:
        running.stub.Sample(SAMPLE, timeout=20)
    assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    detail = pb.ErrorDetail.FromString(dict(raised.value.trailing_metadata())["indomain-error-bin"])
    assert (detail.reason, detail.retryable) == ("queue_full", True)
    assert detail.retry_after_s > 0.0
    answer = running.http.post("/v1/sample", json={"seeds": [1]})
    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) >= 1
    gate.open.set()
    assert all(len(call.result().images) == 1 for call in accepted)
    assert running.metric("indomain_rejected_total", reason="queue_full") == 2


def test_a_full_queue_refuses_a_request_whole(start_gateway: Callable[..., RunningGateway]) -> None:
    running = start_gateway(max_queue_samples=4)
    with pytest.raises(grpc.RpcError) as raised:
        running.stub.Sample(pb.SampleRequest(seeds=range(5)), timeout=20)
    assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert len(running.stub.Sample(pb.SampleRequest(seeds=range(4)), timeout=20).images) == 4


def test_a_full_queue_refuses_before_any_work(
    start_gateway: Callable[..., RunningGateway], photo_png: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = start_gateway(max_queue_samples=2)
    going_on, running_now = threading.Event(), threading.Event()
    run = OnnxRuntimeSession.run

    def held(self: OnnxRuntimeSession, feeds: Tensors) -> Tensors:
        running_now.set()
        going_on.wait(20)
        return run(self, feeds)

    monkeypatch.setattr(OnnxRuntimeSession, "run", held)
    invert = pb.InvertRequest(picture=pb.Picture(data=photo_png), refine=pb.RefineOptions(steps=0))
    accepted = [running.stub.Invert.future(invert, timeout=20)]
    assert running_now.wait(20)
    accepted += [running.stub.Invert.future(invert, timeout=20) for _ in range(2)]
    graph = f"{next(iter(running.gateway.pipeline.bundles))}_encoder"
    wait_for(lambda: running.metric("indomain_queue_depth", graph=graph) == 2)
    damaged = pb.InvertRequest(picture=pb.Picture(data=photo_png[:-100]))
    try:
        with pytest.raises(grpc.RpcError) as raised:
            running.stub.Invert(damaged, timeout=20)
    finally:
        going_on.set()
    assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED  # nobody has looked at the picture
    assert all(call.result().image.data for call in accepted)


def test_deadlines(gated: tuple[RunningGateway, Gate]) -> None:
    running, gate = gated
    with pytest.raises(grpc.RpcError) as raised:
        running.stub.Sample(SAMPLE, timeout=0.2)
    assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    answer = running.http.post("/v1/sample", json={"seeds": [1]}, headers={"x-timeout-s": "0.2"})
    assert answer.status_code == 504
    assert (answer.json()["reason"], answer.json()["stage"]) == ("deadline_exceeded", "encode")
    wait_for(lambda: gate.waiting == 0)
    gate.open.set()
    assert running.stub.Sample(SAMPLE, timeout=20).images


def test_refinement_ends_in_time_for_the_deadline(
    start_gateway: Callable[..., RunningGateway], photo_png: bytes
) -> None:
    running = start_gateway(interpose=True, max_refine_steps=10_000, refine_min_improvement_ratio=0.0)

    async def slow(model: str) -> None:
        if model.endswith("refiner"):
            await asyncio.sleep(0.05)

    running.backend.before = slow
    request = pb.InvertRequest(
        picture=pb.Picture(data=photo_png), refine=pb.RefineOptions(steps=10_000, learning_rate=1e-5)
    )
    answer = running.stub.Invert(request, timeout=3.0)
    assert answer.losses.stop_reason == pb.STOP_REASON_DEADLINE
    assert 0 < answer.losses.steps_done < 200
    assert answer.losses.refine_loss_after <= answer.losses.refine_loss_before


def test_hanging_up_ends_the_work(gated: tuple[RunningGateway, Gate]) -> None:
    running, gate = gated
    call = running.stub.Sample.future(SAMPLE, timeout=20)
    wait_for(lambda: gate.waiting == 1)
    call.cancel()
    wait_for(lambda: gate.waiting == 0)
    body = json.dumps({"seeds": [1]}).encode()
    with socket.create_connection(("127.0.0.1", running.gateway.http_port)) as connection:
        lines = "POST /v1/sample HTTP/1.1", "host: localhost", "content-type: application/json"
        head = "\r\n".join([*lines, f"content-length: {len(body)}"])
        connection.sendall(head.encode() + b"\r\n\r\n" + body)
        wait_for(lambda: gate.waiting == 1)
    wait_for(lambda: gate.waiting == 0)
    wait_for(lambda: running.metric("indomain_cancelled_total", stage="encode") == 2)
    assert running.gateway.pipeline.in_flight == 0


def test_one_of_four_hangs_up_and_three_get_their_answers(
    start_gateway: Callable[..., RunningGateway],
) -> None:
    running = start_gateway(interpose=True)
    gate = Gate()
    running.backend.before = gate
    calls = [running.stub.Sample.future(pb.SampleRequest(seeds=[n]), timeout=20) for n in range(4)]
    wait_for(lambda: gate.waiting == 4)
    calls[1].cancel()
    wait_for(lambda: gate.waiting == 3)
    gate.open.set()
    answers = {n: calls[n].result() for n in (0, 2, 3)}
    running.backend.before = None
    for n, answer in answers.items():
        alone = running.stub.Sample(pb.SampleRequest(seeds=[n]))
        assert alone.images[0].data == answer.images[0].data


async def test_not_ready_before_the_warm_up(tiny_repository: Path) -> None:
    held = asyncio.Event()

    class SlowToLoad(EmbeddedBackend):
        async def load(self) -> None:
            await held.wait()
            await super().load()

    settings = settings_for(tiny_repository)
    backend = SlowToLoad(read_bundles(tiny_repository).values(), settings, Metrics())
    gateway = Gateway(settings, backend)
    starting = asyncio.create_task(gateway.start())
    while not gateway.http_port:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    async with (
        grpc.aio.insecure_channel(f"127.0.0.1:{gateway.grpc_port}") as channel,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{gateway.http_port}") as http,
    ):
        health = health_pb2_grpc.HealthStub(channel)
        assert (
            await health.Check(health_pb2.HealthCheckRequest())
        ).status == health_pb2.HealthCheckResponse.NOT_SERVING
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await editing_pb2_grpc.EditingStub(channel).Sample(SAMPLE)
        assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
        assert (await http.get("/healthz")).status_code == 200
        assert (await http.get("/readyz")).status_code == 503
        answer = await http.post("/v1/sample", json={"seeds": [1]})
        assert (answer.status_code, answer.json()["reason"]) == (503, "not_ready")
        held.set()
        await starting
        assert (
            await health.Check(health_pb2.HealthCheckRequest())
        ).status == health_pb2.HealthCheckResponse.SERVING
        assert (await http.get("/readyz")).status_code == 200
    await gateway.stop()


async def test_a_taken_port_is_said_so(gateway: RunningGateway, tiny_repository: Path) -> None:
    taken = {"grpc_port": gateway.gateway.grpc_port, "http_port": gateway.gateway.http_port}
    for name, port in taken.items():
        with pytest.raises(OSError, match=r"port|in use"):
            await Gateway(settings_for(tiny_repository, **{name: port})).start()


def test_a_body_that_never_ends_is_not_waited_for(gateway: RunningGateway) -> None:
    with socket.create_connection(("127.0.0.1", gateway.gateway.http_port), timeout=10) as connection:
        lines = (
            "POST /v1/sample HTTP/1.1",
            "host: localhost",
            "content-type: application/json",
            "content-length: 50",
        )
        connection.sendall("\r\n".join([*lines, "x-timeout-s: 0.2", "", "{"]).encode())
        assert b" 504 " in connection.recv(200)


def test_hanging_up_within_a_body_is_no_fault_of_the_gateway(
    start_gateway: Callable[..., RunningGateway],
) -> None:
    running = start_gateway()
    bodies = {
        "application/json": (b'{"seeds": [1', 1),
        "multipart/form-data; boundary=x": (b'--x\r\ncontent-disposition: form-data; name="picture"', 2),
    }
    for media_type, (part, count) in bodies.items():
        with socket.create_connection(("127.0.0.1", running.gateway.http_port), timeout=10) as connection:
            lines = (
                "POST /v1/invert HTTP/1.1",
                "host: localhost",
                f"content-type: {media_type}",
                "content-length: 500",
            )
            connection.sendall("\r\n".join([*lines, "", ""]).encode() + part)
        wait_for(lambda count=count: running.metric("indomain_rejected_total", reason="cancelled") == count)
    assert running.metric("indomain_rejected_total", reason="internal") == 0


@pytest.mark.fault
def test_sigterm_under_load_fails_no_accepted_request(
    tiny_repository: Path, photo_png: bytes, record_property: Callable[[str, object], None]
) -> None:
    process = start_process(
        tiny_repository, "--grpc-port", "0", "--http-port", "0", "--max-refine-steps", "4000",
        "--refine-min-improvement-ratio", "0",
    )  # fmt: skip
    try:
        assert process.stderr is not None
        ports = None
        for line in process.stderr:
            ports = re.search(r"gRPC on 127.0.0.1:(\d+), HTTP on 127.0.0.1:(\d+)", line)
            if ports:
                break
        assert ports
        channel = grpc.insecure_channel(f"127.0.0.1:{ports[1]}")
        stub = editing_pb2_grpc.EditingStub(channel)
        url = f"http://127.0.0.1:{ports[2]}"
        refine = {"steps": 4000}  # long enough to be under way when the signal comes
        request = pb.InvertRequest(picture=pb.Picture(data=photo_png), refine=pb.RefineOptions(**refine))

        def over_http() -> httpx.Response:
            files, data = {"picture": photo_png}, {"options": json.dumps({"refine": refine})}
            return httpx.post(f"{url}/v1/invert", files=files, data=data, timeout=60)

        def events_over_http() -> str:
            files, data = {"picture": photo_png}, {"options": json.dumps({"refine": refine})}
            return httpx.post(f"{url}/v1/watch-invert", files=files, data=data, timeout=60).text

        source = stub.Sample(SAMPLE).codes[0]
        asked: queue.SimpleQueue[pb.EditSessionRequest] = queue.SimpleQueue()
        asked.put(session_request(code=source))
        session = stub.EditSession(iter(asked.get, None), timeout=60)
        assert next(session).edited.image.width == 16
        with ThreadPoolExecutor(5) as pool:
            calls = [stub.Invert.future(request, timeout=60) for _ in range(8)]
            answers = [pool.submit(over_http) for _ in range(4)]
            events = pool.submit(events_over_http)
            watch = pb.WatchInvertRequest(picture=request.picture, refine=request.refine)
            watching = stub.WatchInvert(watch, timeout=60)
            wait_for(lambda: "indomain_requests_in_flight 14.0" in httpx.get(f"{url}/metrics").text)
            process.send_signal(signal.SIGTERM)
            told_s = time.monotonic()
            assert all(call.result().losses.steps_done > 0 for call in calls)
            assert all(answer.result().status_code == 200 for answer in answers)
            assert list(watching)[-1].result.losses.steps_done > 0
            assert events.result().count("event: result") == 1
            with pytest.raises(grpc.RpcError) as ended:  # a session ends when nothing of it is open
                next(session)
            assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
        channel.close()
        assert process.wait(timeout=30) == 0
        record_property(
            "gateway SIGTERM under load",
            f"14 requests in flight, 0 failed; gone {time.monotonic() - told_s:.1f} s later, when they were done",
        )
    finally:
        process.kill()
        process.communicate()
