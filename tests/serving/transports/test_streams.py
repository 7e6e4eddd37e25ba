"""Answers in parts: watched inversions, edit sessions, interpolations, over both transports against a real gateway."""

from __future__ import annotations

import asyncio
import json
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from websockets.exceptions import ConnectionClosedError, InvalidStatus

from indomain.v1 import editing_pb2 as pb
from tests.serving.interposed import Gate
from tests.serving.messages import as_json, as_message, close, code_of, image_of, sampled, session_request
from tests.serving.pictures import encoded, photograph
from tests.serving.running_gateway import RunningGateway, answered, websocket
from tests.serving.waiting import wait_for

RAW = pb.OutputOptions(format=pb.IMAGE_FORMAT_RAW)
RAW_JSON = {"format": "raw"}


def smile(strength: float) -> list[pb.EditStep]:
    return [pb.EditStep(direction="smile", strength=strength)]


def events_of(lines: Iterator[str]) -> Iterator[tuple[str, dict]]:
    """Server-sent events as (name, data)."""
    name = ""
    for line in lines:
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))


class Session:
    """A session over gRPC: `send` now, `answers` as they come."""

    def __init__(self, gateway: RunningGateway) -> None:
        self._requests: queue.SimpleQueue[pb.EditSessionRequest | None] = queue.SimpleQueue()
        self.answers = gateway.stub.EditSession(iter(self._requests.get, None), timeout=30)

    def send(self, **fields: Any) -> None:
        self._requests.put(session_request(**fields))

    def wait_until_sent(self) -> None:
        """Waits until all messages have been handed to the channel."""
        wait_for(self._requests.empty)

    def finish(self) -> None:
        self._requests.put(None)


# --- watching an inversion -------------------------------------------------------------------------------------------


def test_watching_tells_how_it_goes_and_ends_with_the_inversion(
    gateway: RunningGateway, photo_png: bytes
) -> None:
    watch = pb.WatchInvertRequest(picture=pb.Picture(data=photo_png), output=RAW, interval_s=0)
    *reports, last = list(gateway.stub.WatchInvert(watch, timeout=20))
    progress = [report.progress for report in reports]
    assert (progress[0].step, progress[0].steps, progress[0].HasField("loss")) == (0, 20, False)
    steps = [report.step for report in progress]
    assert steps == sorted(set(steps))
    losses = [report.loss for report in progress[1:]]
    assert losses == sorted(losses, reverse=True)
    assert all(0.0 <= report.domain_score <= 1.0 for report in progress)

    request = pb.InvertRequest(
        picture=pb.Picture(data=photo_png), output=pb.OutputOptions(include_start=True)
    )
    request.output.format = pb.IMAGE_FORMAT_RAW
    alone = gateway.stub.Invert(request, timeout=20)
    close(code_of(last.result.code), code_of(alone.code))
    close(image_of(last.result.image), image_of(alone.image))
    close(image_of(progress[0].preview), image_of(alone.start))


def test_the_caller_chooses_how_often_and_what(gateway: RunningGateway, photo_png: bytes) -> None:
    watch = pb.WatchInvertRequest(picture=pb.Picture(data=photo_png), interval_s=1000, omit_previews=True)
    first, last = gateway.stub.WatchInvert(watch, timeout=20)
    assert first.progress.step == 0
    assert not first.progress.HasField("preview")
    assert not first.progress.HasField("domain_score")
    assert last.result.losses.steps_done == 20


def test_a_preview_that_fails_costs_nobody_the_result(
    start_gateway: Callable[..., RunningGateway], photo_png: bytes
) -> None:
    from serving.errors import QueueFull

    running = start_gateway(interpose=True)
    previews = 0

    async def refuse_previews(model: str) -> None:
        nonlocal previews
        if model.endswith("generator") and previews < 1:
            previews += 1
            raise QueueFull("no room for previews")

    running.backend.before = refuse_previews
    watch = pb.WatchInvertRequest(picture=pb.Picture(data=photo_png), interval_s=1000)
    (last,) = running.stub.WatchInvert(watch, timeout=20)
    assert last.result.losses.steps_done == 20
    assert previews == 1


def test_watching_over_http(gateway: RunningGateway, photo_png: bytes) -> None:
    form = {"files": {"picture": photo_png}, "data": {"options": json.dumps({"interval_s": 0})}}
    with gateway.http.stream("POST", "/v1/watch-invert", **form) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["x-request-id"]
        *reports, (name, result) = list(events_of(answer.iter_lines()))
    assert name == "result"
    assert result["losses"]["steps_done"] == 20
    assert {name for name, _ in reports} == {"progress"}
    assert reports[0][1]["step"] == 0
    assert reports[0][1]["preview"]["width"] == 16
    assert reports[0][1]["request_id"] == answer.headers["x-request-id"]
    wait_for(lambda: gateway.metric("indomain_requests_total", method="WatchInvert", code="OK") >= 1)


@pytest.mark.parametrize(
    ("path", "body", "status", "reason"),
    [
        ("/v1/watch-invert", {"picture": {"data": "bm8="}}, 400, "invalid_picture"),
        ("/v1/watch-invert", {"picture": {"data": "bm8="}, "bundle": "x"}, 404, "unknown_bundle"),
        ("/v1/watch-invert", {"picture": {"data": "bm8="}, "interval_s": -1}, 400, "invalid_option"),
        ("/v1/interpolate", {"start": {}, "end": {}, "count": 3}, 400, "malformed_request"),
    ],
)
def test_what_cannot_begin_has_a_status(
    gateway: RunningGateway, path: str, body: dict, status: int, reason: str
) -> None:
    answer = gateway.http.post(path, json=body)
    assert (answer.status_code, answer.json()["reason"]) == (status, reason)


def test_what_fails_under_way_is_an_event(
    start_gateway: Callable[..., RunningGateway], photo_png: bytes
) -> None:
    from serving.errors import BackendUnavailable

    running = start_gateway(interpose=True)
    gate = Gate()

    async def fail_refiner(model: str) -> None:
        if model.endswith("refiner"):
            await gate(model)
            raise BackendUnavailable("The back end is away; try again in a moment.")

    running.backend.before = fail_refiner
    with running.http.stream("POST", "/v1/watch-invert", files={"picture": photo_png}) as answer:
        assert answer.status_code == 200
        events = events_of(answer.iter_lines())
        first = next(events)
        gate.open.set()
        names_and_data = [first, *events]
    assert [name for name, _ in names_and_data] == ["progress", "error"]
    error = names_and_data[-1][1]
    assert (error["reason"], error["stage"], error["retryable"]) == ("backend_unavailable", "refine", True)
    name = {"method": "WatchInvert", "code": "UNAVAILABLE"}
    wait_for(lambda: running.metric("indomain_requests_total", **name) == 1)
    assert running.metric("indomain_rejected_total", reason="backend_unavailable") == 1
    gate.open.clear()
    stream = running.stub.WatchInvert(pb.WatchInvertRequest(picture=pb.Picture(data=photo_png)), timeout=20)
    assert next(stream).progress.step == 0
    gate.open.set()
    with pytest.raises(grpc.RpcError) as raised:
        next(stream)
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("transport", ["grpc", "http"])
def test_who_stops_watching_stops_the_refinement(
    start_gateway: Callable[..., RunningGateway], photo_png: bytes, transport: str
) -> None:
    running = start_gateway(max_refine_steps=10**6, refine_min_improvement_ratio=0.0)
    if transport == "grpc":
        refine = pb.RefineOptions(steps=10**6)
        request = pb.WatchInvertRequest(picture=pb.Picture(data=photo_png), refine=refine)
        call = running.stub.WatchInvert(request, timeout=50)
        next(call)
        call.cancel()
    else:
        form = {"files": {"picture": photo_png}, "data": {"options": '{"refine": {"steps": 1000000}}'}}
        with running.http.stream("POST", "/v1/watch-invert", **form) as answer:
            next(events_of(answer.iter_lines()))
    wait_for(lambda: running.gateway.pipeline.in_flight == 0)


# --- interpolation ---------------------------------------------------------------------------------------------------


def test_interpolation_goes_straight_from_one_end_to_the_other(gateway: RunningGateway) -> None:
    one, other = sampled(gateway, 1, 2)
    ends = {"start": pb.Source(code=as_message(one)), "end": pb.Source(code=as_message(other))}
    request = pb.InterpolateRequest(**ends, count=11, output=RAW)
    found = list(gateway.stub.Interpolate(request, timeout=20))
    assert [picture.index for picture in found] == list(range(11))
    np.testing.assert_array_equal(code_of(found[0].code), one)
    np.testing.assert_array_equal(code_of(found[-1].code), other)
    close(code_of(found[5].code), (one + other) / 2)
    assert found[5].position == pytest.approx(0.5)
    codes = [picture.code for picture in found]
    decoded = gateway.stub.Decode(pb.DecodeRequest(codes=codes, output=RAW), timeout=20)
    for picture, expected in zip(found, decoded.images, strict=True):
        close(image_of(picture.image), image_of(expected))

    body = {"start": {"code": as_json(one)}, "end": {"code": as_json(other)}, "count": 3, "output": RAW_JSON}
    with gateway.http.stream("POST", "/v1/interpolate", json=body) as answer:
        over_http = list(events_of(answer.iter_lines()))
    assert [(name, data["position"]) for name, data in over_http] == [
        ("picture", 0.0), ("picture", 0.5), ("picture", 1.0),
    ]  # fmt: skip
    close(image_of(over_http[1][1]["image"]), image_of(found[5].image))


def test_pictures_as_ends_are_inverted(gateway: RunningGateway, photo_png: bytes) -> None:
    (other,) = sampled(gateway, 3)
    request = pb.InterpolateRequest(
        start=pb.Source(picture=pb.Picture(data=photo_png)),
        end=pb.Source(code=as_message(other)),
        count=2,
        refine=pb.RefineOptions(steps=4),
    )
    first, _ = gateway.stub.Interpolate(request, timeout=20)
    inverted = gateway.stub.Invert(
        pb.InvertRequest(picture=pb.Picture(data=photo_png), refine=pb.RefineOptions(steps=4)), timeout=20
    )
    close(code_of(first.code), code_of(inverted.code))
    with pytest.raises(grpc.RpcError) as raised:
        list(gateway.stub.Interpolate(pb.InterpolateRequest(start=request.end, end=request.end, count=1)))
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT


# --- edit sessions ---------------------------------------------------------------------------------------------------


def test_a_session_edits_its_source_again_and_again(gateway: RunningGateway, photo_png: bytes) -> None:
    session = Session(gateway)
    session.send(sequence=1, picture=pb.Picture(data=photo_png), edits=smile(1.0), output=RAW)
    first = next(session.answers)
    assert first.sequence == 1
    assert first.edited.losses.steps_done == 20  # inverted once
    session.send(sequence=2, edits=smile(-2.0))
    second = next(session.answers)
    assert not second.edited.HasField("losses")
    again = gateway.stub.Edit(
        pb.EditRequest(code=first.edited.source_code, edits=smile(-2.0), output=RAW), timeout=20
    )
    close(code_of(second.edited.code), code_of(again.code))
    close(image_of(second.edited.image), image_of(again.image))
    assert second.edited.source_code.handle == first.edited.source_code.handle

    session.send(sequence=3, edits=[pb.EditStep(direction="nose", strength=1)])
    refused = next(session.answers)
    assert (refused.sequence, refused.error.reason) == (3, "unknown_direction")
    jpeg = pb.OutputOptions(format=pb.IMAGE_FORMAT_JPEG, quality=50, omit_codes=True)
    session.send(sequence=4, edits=smile(0.0), output=jpeg)
    fourth = next(session.answers).edited
    assert fourth.image.format == pb.IMAGE_FORMAT_JPEG
    assert not fourth.code.data
    assert fourth.code.handle
    session.send(sequence=5)
    assert next(session.answers).edited.image.format == pb.IMAGE_FORMAT_JPEG  # stays in force
    session.finish()
    assert list(session.answers) == []
    assert session.answers.code() is grpc.StatusCode.OK


def test_a_session_decodes_what_it_pastes_a_change_of_once(gateway: RunningGateway, photo_png: bytes) -> None:
    def decoded() -> float:
        return gateway.metric("indomain_batch_size_sum", graph="tiny16_generator")

    pasted = pb.OutputOptions(format=pb.IMAGE_FORMAT_RAW, include_pasted=True)
    session, fresh = Session(gateway), Session(gateway)
    session.send(sequence=1, picture=pb.Picture(data=photo_png), edits=smile(1.0), output=pasted)
    next(session.answers)
    before = decoded()
    assert before > 0
    session.send(sequence=2, edits=smile(-2.0))
    second = next(session.answers).edited
    assert decoded() - before == 1
    fresh.send(sequence=1, picture=pb.Picture(data=photo_png), edits=smile(-2.0), output=pasted)
    close(image_of(second.pasted), image_of(next(fresh.answers).edited.pasted))
    for each in (session, fresh):
        each.finish()


def test_a_session_without_a_source_says_so_and_goes_on(gateway: RunningGateway) -> None:
    session = Session(gateway)
    session.send(sequence=1, edits=smile(1.0))
    assert next(session.answers).error.reason == "malformed_request"
    session.send(sequence=2, code=pb.Code(data=b"123", shape=[6, 512]))
    assert next(session.answers).error.reason == "invalid_code"
    session.send(sequence=3, code=as_message(sampled(gateway, 1)[0]))
    assert next(session.answers).edited.image.width == 16
    session.finish()


class Holding:
    """Holds back runs of one graph while `held`, counts those that came, and how many were there at once."""

    def __init__(self, role: str) -> None:
        self.role = role
        self.held = threading.Event()
        self.came = self.inside = self.most = 0

    async def __call__(self, model: str) -> None:
        if not model.endswith(self.role):
            return
        self.came += 1
        self.inside += 1
        self.most = max(self.most, self.inside)
        try:
            while self.held.is_set():  # noqa: ASYNC110  (cleared from another thread)
                await asyncio.sleep(0.005)
        finally:
            self.inside -= 1


def test_of_what_comes_meanwhile_only_the_newest_is_done(
    start_gateway: Callable[..., RunningGateway],
) -> None:
    running = start_gateway(interpose=True)
    (code,) = sampled(running, 1)
    holding = Holding("generator")
    running.backend.before = holding
    holding.held.set()
    session = Session(running)
    session.send(sequence=1, code=as_message(code), edits=smile(0.1), output=RAW)
    wait_for(lambda: holding.inside == 1)
    for sequence in range(2, 30):
        session.send(sequence=sequence, edits=smile(sequence / 10))
    session.wait_until_sent()
    running.settle()
    assert holding.came == 1  # at most one is under way
    holding.held.clear()
    first, second = next(session.answers), next(session.answers)
    assert (first.sequence, first.skipped) == (1, 0)
    assert (second.sequence, second.skipped) == (29, 27)
    assert holding.most == 1
    running.backend.before = None
    expected = running.stub.Edit(pb.EditRequest(code=as_message(code), edits=smile(2.9), output=RAW))
    close(image_of(second.edited.image), image_of(expected.image))
    session.finish()


def test_a_new_source_stops_work_on_the_old_one(
    start_gateway: Callable[..., RunningGateway], photo_png: bytes
) -> None:
    running = start_gateway(interpose=True)
    (code,) = sampled(running, 1)
    holding = Holding("refiner")
    running.backend.before = holding
    holding.held.set()
    session = Session(running)
    session.send(sequence=1, picture=pb.Picture(data=photo_png))
    wait_for(lambda: holding.inside == 1)
    session.send(sequence=2, code=as_message(code), output=RAW)
    answer = next(session.answers)  # though the refinement was never let go
    assert (answer.sequence, answer.skipped) == (2, 1)
    np.testing.assert_array_equal(code_of(answer.edited.source_code), code)
    assert holding.inside == 0
    session.finish()


def test_sessions_are_bounded_and_end_when_nobody_asks(start_gateway: Callable[..., RunningGateway]) -> None:
    running = start_gateway(max_sessions=1, session_idle_s=0.5)
    (code,) = sampled(running, 1)
    session = Session(running)
    session.send(sequence=1, code=as_message(code))
    next(session.answers)
    with pytest.raises(grpc.RpcError) as raised:
        next(Session(running).answers)
    assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    with pytest.raises(grpc.RpcError) as raised:
        next(session.answers)
    assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    again = Session(running)
    again.send(sequence=1, code=as_message(code))
    assert next(again.answers).sequence == 1
    again.answers.cancel()


def test_stopping_answers_what_a_session_asked_and_ends_it(
    start_gateway: Callable[..., RunningGateway],
) -> None:
    running = start_gateway(interpose=True)
    (code,) = sampled(running, 1)
    holding = Holding("generator")
    running.backend.before = holding
    holding.held.set()
    session = Session(running)
    session.send(sequence=1, code=as_message(code))
    wait_for(lambda: holding.inside == 1)
    session.send(sequence=2, edits=smile(1.0))
    session.wait_until_sent()
    running.settle()
    stopping = asyncio.run_coroutine_threadsafe(running.gateway.stop(), running._loop)
    wait_for(lambda: running.http.get("/readyz").status_code == 503)
    holding.held.clear()
    assert [next(session.answers).sequence, next(session.answers).sequence] == [1, 2]
    with pytest.raises(grpc.RpcError) as raised:
        next(session.answers)
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
    detail = pb.ErrorDetail.FromString(dict(raised.value.trailing_metadata())["indomain-error-bin"])
    assert (detail.reason, detail.retryable) == ("shutting_down", True)
    stopping.result(20)


# --- the same over a websocket ---------------------------------------------------------------------------------------


def test_a_session_over_a_websocket(gateway: RunningGateway, photo_png: bytes) -> None:
    with websocket(gateway) as connection:
        assert connection.response is not None
        assert connection.response.headers["x-request-id"]
        connection.send(json.dumps({"edit": {"output": {"format": "raw"}}}))
        assert answered(connection)["error"]["reason"] == "malformed_request"
        connection.send(photo_png)
        first = answered(connection)
        assert first["edited"]["losses"]["steps_done"] == 20
        assert len(connection.recv(timeout=20)) == 16 * 16 * 3
        step = {"direction": "smile", "strength": -2.0}
        connection.send(json.dumps({"sequence": 7, "edit": {"edits": [step]}}))
        second = answered(connection)
        assert (second["sequence"], second["skipped"]) == (7, 0)
        picture = connection.recv(timeout=20)
        source = pb.Code(handle=first["edited"]["source_code"]["handle"])
        expected = gateway.stub.Edit(pb.EditRequest(code=source, edits=smile(-2.0), output=RAW), timeout=20)
        close(np.frombuffer(picture, np.uint8), np.frombuffer(expected.image.data, np.uint8))
        connection.send("{nonsense")
        assert answered(connection)["error"]["reason"] == "malformed_request"
        connection.send(json.dumps({"edit": {"output": {"omit_image": True}}}))
        assert "image" not in answered(connection)["edited"]  # and no binary message follows
        connection.send(json.dumps({"edit": {"edits": [{"direction": "nose", "strength": 1}]}}))
        assert answered(connection)["error"]["reason"] == "unknown_direction"
    wait_for(lambda: not len(gateway.gateway.pipeline.sessions))


def test_a_page_of_another_origin_gets_no_session(gateway: RunningGateway) -> None:
    with pytest.raises(InvalidStatus) as raised:
        websocket(gateway, origin="https://elsewhere.example")
    assert raised.value.response.status_code == 403
    assert json.loads(raised.value.response.body)["reason"] == "permission_denied"
    with websocket(gateway, origin=gateway.url, subprotocols=["bearer.secret", "indomain.v1"]) as connection:
        assert connection.subprotocol == "indomain.v1"


def test_an_end_is_told_over_the_websocket_too(start_gateway: Callable[..., RunningGateway]) -> None:
    running = start_gateway(session_idle_s=0.2)
    with websocket(running) as connection:
        assert answered(connection)["reason"] == "deadline_exceeded"
        with pytest.raises(ConnectionClosedError) as raised:
            connection.recv(timeout=10)
    assert raised.value.rcvd is not None
    assert (raised.value.rcvd.code, raised.value.rcvd.reason) == (1008, "deadline_exceeded")
    name = {"method": "EditSession", "code": "DEADLINE_EXCEEDED"}
    wait_for(lambda: running.metric("indomain_requests_total", **name) == 1)


def test_stopping_ends_a_websocket_with_a_reason_to_come_back(
    start_gateway: Callable[..., RunningGateway],
) -> None:
    running = start_gateway()
    with websocket(running) as connection:
        connection.send(encoded(photograph(3)))
        assert answered(connection)["edited"]["losses"]["steps_done"] == 20
        connection.recv(timeout=20)
        running.run(running.gateway.stop())
        assert answered(connection)["reason"] == "shutting_down"
        with pytest.raises(ConnectionClosedError) as raised:
            connection.recv(timeout=10)
    assert raised.value.rcvd is not None
    assert raised.value.rcvd.code == 1013  # try again later


def test_hanging_up_a_websocket_stops_its_work(
    start_gateway: Callable[..., RunningGateway],
) -> None:
    running = start_gateway(interpose=True)
    holding = Holding("refiner")
    running.backend.before = holding
    holding.held.set()
    with websocket(running) as connection:
        connection.send(encoded(photograph(3)))
        wait_for(lambda: holding.inside == 1)
    wait_for(lambda: holding.inside == 0 and running.gateway.pipeline.in_flight == 0)
