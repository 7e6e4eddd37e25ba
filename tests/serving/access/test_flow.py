"""Many requests that come, go and change their minds: shared batches, cancellations, overload, shares, clocks."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import uvloop

from indomain.v1 import editing_pb2 as pb
from indomain.v1 import editing_pb2_grpc
from serving.__main__ import keep_pauses_short
from serving.access.admission import Admission, fair_share
from serving.backends import embedded
from serving.call import ANONYMOUS, Call, current_owner
from serving.deadline import Deadline
from serving.errors import QueueFull
from serving.gateway import Gateway
from tests.serving.messages import as_message, close, code_of, image_of, session_request
from tests.serving.pictures import encoded, photograph
from tests.serving.running_gateway import RunningGateway, settings_for
from tests.serving.waiting import FakeClock, wait_for

RAW = pb.OutputOptions(format=pb.IMAGE_FORMAT_RAW)


@pytest.fixture
def slow_runs(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, float], None]:
    """Makes each run of one role's graph take longer, as a large one would: batches then matter."""

    def slow(role: str, seconds: float) -> None:
        monkeypatch.setattr(embedded._Graph, "_run_session", slowed(role, seconds))

    return slow


def slowed(role: str, seconds: float) -> Callable[[Any, Any], Any]:
    original = embedded._Graph._run_session

    def run(graph: Any, samples: Any) -> Any:
        if graph._role == role:
            time.sleep(seconds)
        return original(graph, samples)

    return run


def detail_of(trailing: Any) -> pb.ErrorDetail:
    return pb.ErrorDetail.FromString(dict(trailing)["indomain-error-bin"])


# --- sharing ---------------------------------------------------------------------------------------------------------


def test_refinements_that_arrive_one_by_one_share_batches_and_change_nothing(
    start_gateway: Callable[..., RunningGateway], slow_runs: Callable[[str, float], None]
) -> None:
    running = start_gateway(refine_min_improvement_ratio=0.0)
    requests = [
        pb.InvertRequest(
            picture=pb.Picture(data=encoded(photograph(50 + n))),
            refine=pb.RefineOptions(steps=60),
            output=RAW,
        )
        for n in range(8)
    ]
    alone = [running.stub.Invert(request, timeout=30) for request in requests]

    def runs() -> float:
        return running.metric("indomain_batch_size_count", graph="tiny16_refiner")

    runs_before = runs()
    slow_runs("refiner", 0.03)
    together = []
    for request in requests:
        came = runs()
        together.append(running.stub.Invert.future(request, timeout=50))
        wait_for(lambda came=came: runs() >= came + 3)
    answers = [call.result() for call in together]
    for answer, expected in zip(answers, alone, strict=True):
        assert answer.losses.steps_done == 60
        close(code_of(answer.code), code_of(expected.code))
        close(image_of(answer.image), image_of(expected.image))
    # Alone, each would have had 30 runs to itself, one for each chunk of two steps.
    assert runs() - runs_before < 0.7 * 8 * 30


def test_refinements_under_pressure_do_fewer_steps_and_say_so(
    start_gateway: Callable[..., RunningGateway], slow_runs: Callable[[str, float], None]
) -> None:
    running = start_gateway(max_refinements_at_full_steps=1, refine_min_improvement_ratio=0.0)
    slow_runs("refiner", 0.01)

    def invert(n: int) -> pb.Losses:
        refine = pb.RefineOptions(steps=80, allow_fewer_steps=n > 0)
        picture = pb.Picture(data=encoded(photograph(n)))
        return running.stub.Invert(pb.InvertRequest(picture=picture, refine=refine), timeout=30).losses

    with ThreadPoolExecutor(6) as pool:
        patient, *hurried = pool.map(invert, range(6))
    assert (patient.steps_done, patient.stop_reason) == (80, pb.STOP_REASON_STEPS_DONE)
    pressed = [losses for losses in hurried if losses.stop_reason == pb.STOP_REASON_PRESSURE]
    assert pressed
    assert all(0 < losses.steps_done < 80 for losses in pressed)
    assert all(losses.refine_loss_after < losses.refine_loss_before for losses in pressed)


async def test_a_busy_owner_leaves_room_for_the_others() -> None:
    admission = Admission(16, lambda count: None)
    admission.open = True
    leave = asyncio.Event()

    async def enter(owner: str) -> str:
        async with admission.admitted(Call("x", Deadline.after(9.0), owner=owner)):
            seen = current_owner()
            await leave.wait()
            return seen

    def many(owner: str, count: int) -> list[asyncio.Task[str]]:
        return [asyncio.create_task(enter(owner)) for _ in range(count)]

    greedy = many("greedy", 20)
    await asyncio.sleep(0)
    assert admission.in_flight == 14  # an eighth stays free
    ada = many("ada", 2)
    await asyncio.sleep(0)
    assert admission.in_flight == 16
    leave.set()
    assert await asyncio.gather(*ada) == ["ada", "ada"]
    outcomes = await asyncio.gather(*greedy, return_exceptions=True)
    refused = [outcome for outcome in outcomes if isinstance(outcome, QueueFull)]
    assert len(refused) == 6
    assert all(error.retry_after_s > 0.0 for error in refused)
    assert admission.in_flight == 0
    assert current_owner() == ANONYMOUS


@pytest.mark.parametrize("request_s", [0.4, 8.0])
async def test_the_time_to_come_back_follows_from_how_long_requests_take(request_s: float) -> None:
    clock = FakeClock()
    admission = Admission(1, lambda count: None)
    admission.open = True
    for _ in range(60):
        async with admission.admitted(Call("x", Deadline.after(60.0, clock))):
            await clock.advance(request_s)
    async with admission.admitted(Call("x", Deadline.after(60.0, clock))):
        with pytest.raises(QueueFull) as refused:
            async with admission.admitted(Call("y", Deadline.after(60.0, clock))):
                pass
    assert refused.value.retry_after_s == pytest.approx(request_s / 2, rel=0.05)


@pytest.mark.parametrize(("owners", "expected"), [(1, 224), (2, 128), (1000, 1)])
def test_shares(owners: int, expected: int) -> None:
    assert fair_share(256, "ada", owners) == expected
    assert fair_share(256, ANONYMOUS, 1) == 256
    assert fair_share(2, "ada", 1) == 2  # too few to keep one back


# --- changing one's mind ---------------------------------------------------------------------------------------------


async def cancel_at_random(repository: Path, count: int, at_once: int) -> str:
    """`count` requests of every kind, of which about half are cancelled at a random moment. The others must succeed.
    Gives the figures."""
    gateway = Gateway(settings_for(repository))
    await gateway.start()
    dice = random.Random(5)
    outcomes: Counter[str] = Counter()
    places = asyncio.Semaphore(at_once)
    photo = pb.Picture(data=encoded(photograph(9)))
    refine = pb.RefineOptions(steps=8)
    async with (
        grpc.aio.insecure_channel(f"127.0.0.1:{gateway.grpc_port}") as channel,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{gateway.http_port}", timeout=60) as http,
    ):
        stub: editing_pb2_grpc.EditingAsyncStub = editing_pb2_grpc.EditingStub(channel)
        code = (await stub.Sample(pb.SampleRequest(seeds=[1]))).codes[0]
        edit = pb.EditRequest(code=code, edits=[pb.EditStep(direction="smile", strength=2.0)], output=RAW)
        expected = image_of((await stub.Edit(edit)).image)

        async def watch() -> None:
            request = pb.WatchInvertRequest(picture=photo, refine=refine, interval_s=0)
            events = [event async for event in stub.WatchInvert(request, timeout=60)]
            assert events[-1].result.losses.steps_done == 8

        async def interpolate() -> None:
            ends = {"start": pb.Source(code=code), "end": pb.Source(code=code)}
            request = pb.InterpolateRequest(**ends, count=12, output=RAW)
            assert len([event async for event in stub.Interpolate(request, timeout=60)]) == 12

        async def edit_code() -> None:
            close(image_of((await stub.Edit(edit, timeout=60)).image), expected)

        async def over_http() -> None:
            answer = await http.post("/v1/sample", json={"seeds": [1, 2, 3]})
            assert answer.status_code == 200, answer.text

        async def invert() -> None:
            request = pb.InvertRequest(picture=photo, refine=refine)
            assert (await stub.Invert(request, timeout=60)).losses.steps_done == 8

        async def session() -> None:
            first = session_request(sequence=1, code=code, edits=edit.edits, output=RAW)
            then = [session_request(sequence=n, edits=edit.edits) for n in range(2, 8)]
            answers = [answer async for answer in stub.EditSession(iter([first, *then]), timeout=60)]
            assert answers[-1].sequence == 7
            assert len(answers) + sum(answer.skipped for answer in answers) == 7
            close(image_of(answers[-1].edited.image), expected)

        async def one(number: int) -> None:
            kind = (edit_code, invert, watch, interpolate, over_http, session)[number % 6]
            cancelled_after_s = dice.uniform(0.0, 0.08) if dice.random() < 0.5 else None
            async with places:
                task = asyncio.create_task(kind())
                if cancelled_after_s is not None:
                    await asyncio.sleep(cancelled_after_s)
                    task.cancel()
                try:
                    await task
                except asyncio.CancelledError:
                    outcomes["cancelled"] += 1
                else:
                    outcomes["done"] += 1

        await asyncio.gather(
            *(one(number) for number in range(count))
        )  # fails with the first sibling's failure
        ended_s = time.monotonic()
        for _ in range(5000):
            if gateway.pipeline.in_flight == 0:
                break
            await asyncio.sleep(0.002)
        empty_s = time.monotonic() - ended_s
        assert gateway.pipeline.in_flight == 0
        value = gateway.metrics.registry.get_sample_value
        for role in ("encoder", "generator", "mapping", "critic", "refiner"):
            assert value("indomain_queue_depth", {"graph": f"tiny16_{role}"}) == 0.0
        close(image_of((await stub.Edit(edit, timeout=20)).image), expected)
    assert outcomes["cancelled"] > count // 10
    assert outcomes["done"] > count // 10
    rejected = [
        sample
        for metric in gateway.metrics.rejected.collect()
        for sample in metric.samples
        if sample.name.endswith("_total") and sample.labels["reason"] != "cancelled" and sample.value
    ]
    assert rejected == []
    await gateway.stop()
    return (
        f"{outcomes['cancelled']} cancelled, {outcomes['done']} done, 0 failed; queues empty {1000 * empty_s:.0f} ms "
        "after the last"
    )


async def test_those_who_stay_notice_nothing_of_those_who_leave(tiny_repository: Path) -> None:
    await cancel_at_random(tiny_repository, count=300, at_once=32)


@pytest.mark.fault
@pytest.mark.slow
async def test_ten_thousand_who_come_and_go(
    tiny_repository: Path, record_property: Callable[[str, object], None]
) -> None:
    count = int(os.environ.get("INDOMAIN_CANCELLED", "10000"))
    outcome = await cancel_at_random(tiny_repository, count, at_once=64)
    record_property(f"{count} requests of six kinds, half cancelled at random", outcome)


def test_leaving_frees_the_place_in_the_queue_while_a_run_is_under_way(
    start_gateway: Callable[..., RunningGateway], slow_runs: Callable[[str, float], None]
) -> None:
    running = start_gateway(max_batch_size=1)
    slow_runs("mapping", 1.0)
    calls = [running.stub.Sample.future(pb.SampleRequest(seeds=[n]), timeout=30) for n in range(4)]
    wait_for(lambda: running.metric("indomain_queue_depth", graph="tiny16_mapping") == 3)
    for call in calls[1:]:
        call.cancel()
    wait_for(lambda: running.metric("indomain_queue_depth", graph="tiny16_mapping") == 0)
    assert not calls[0].done()  # so the run that was under way still is
    assert len(calls[0].result().images) == 1


@pytest.mark.fault
def test_a_poison_item_fails_alone(
    start_gateway: Callable[..., RunningGateway],
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, object], None],
) -> None:
    running = start_gateway()
    original, shared, going_on = embedded._Graph._run_session, [], threading.Event()

    def run(graph: Any, samples: Any) -> Any:
        if graph._role == "generator":
            shared.append(len(samples))
            # Those who come meanwhile share the next batch.
            assert going_on.wait(20)
            if any(sample["code"][0, 0, 0] == 13.0 for sample in samples):
                raise ValueError("poison")
        return original(graph, samples)

    codes = [np.full((6, 512), value, np.float32) for value in (0.0, 0.1, 13.0, 0.2)]
    requests = [pb.DecodeRequest(codes=[as_message(code)], output=RAW) for code in codes]
    alone = [running.stub.Decode(request, timeout=20).images[0] for request in requests]
    monkeypatch.setattr(embedded._Graph, "_run_session", run)
    first = running.stub.Decode.future(requests[0], timeout=20)
    wait_for(lambda: shared)
    calls = [running.stub.Decode.future(request, timeout=20) for request in requests]
    wait_for(lambda: running.metric("indomain_queue_depth", graph="tiny16_generator") == len(calls))
    going_on.set()
    for number, call in enumerate(calls):
        if number == 2:
            assert call.code() is grpc.StatusCode.INTERNAL
            assert detail_of(call.trailing_metadata()).reason == "backend_failed"
        else:
            close(image_of(call.result().images[0]), image_of(alone[number]))
    assert first.result().images
    assert max(shared) > 1
    record_property("poison item, embedded", f"of {max(shared)} in one batch it alone fails, INTERNAL")


# --- too much --------------------------------------------------------------------------------------------------------


def serve_slowly(repository: Path, told: Connection) -> None:
    """A gateway that decodes 80 codes a second, in batches of 4; tells its ports, and ends when it is told to."""

    async def serve() -> None:
        embedded._Graph._run_session = slowed("generator", 0.05)  # type: ignore[method-assign]
        gateway = Gateway(settings_for(repository, max_requests_in_flight=8, max_batch_size=4))
        await gateway.start()
        keep_pauses_short()
        told.send((gateway.grpc_port, gateway.http_port))
        await asyncio.to_thread(told.recv)
        await gateway.stop()

    uvloop.run(serve())


@pytest.fixture
def slow_gateway(tiny_repository: Path) -> Iterator[tuple[int, int]]:
    """Its ports. In a process of its own, so that those who ask do not take its time."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=serve_slowly, args=(tiny_repository, there))
    process.start()
    yield here.recv()
    here.send("stop")
    process.join(20)
    assert process.exitcode == 0


@pytest.mark.fault
@pytest.mark.parametrize("times", [2, 5])
async def test_overload_is_refused_with_a_time_and_nothing_hangs(
    slow_gateway: tuple[int, int], record_property: Callable[[str, object], None], times: int
) -> None:
    grpc_port, http_port = slow_gateway
    async with (
        grpc.aio.insecure_channel(f"127.0.0.1:{grpc_port}") as channel,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{http_port}", timeout=30) as http,
    ):
        stub: editing_pb2_grpc.EditingAsyncStub = editing_pb2_grpc.EditingStub(channel)
        code = as_message(np.zeros((6, 512), np.float32))
        done_s: list[float] = []  # when
        refused_s: list[float] = []  # after how long

        async def over_grpc() -> None:
            began_s = time.monotonic()
            call = stub.Decode(pb.DecodeRequest(codes=[code], output=RAW), timeout=20)
            if await call.code() is grpc.StatusCode.OK:
                done_s.append(time.monotonic())
            else:
                assert await call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
                refused_s.append(time.monotonic() - began_s)
                assert 0.0 < detail_of(await call.trailing_metadata()).retry_after_s <= 30.0

        async def over_http() -> None:
            began_s = time.monotonic()
            answer = await http.post("/v1/sample", json={"seeds": [1]})
            if answer.status_code == 200:
                done_s.append(time.monotonic())
            else:
                assert answer.status_code == 429
                refused_s.append(time.monotonic() - began_s)
                assert int(answer.headers["retry-after"]) >= 1

        async def closed_loop(seconds: float) -> None:
            end_s = time.monotonic() + seconds
            while time.monotonic() < end_s:
                await over_grpc()

        await asyncio.gather(*(closed_loop(1.0) for _ in range(8)))  # as many as are let in
        assert not refused_s
        peak = (len(done_s) - 1) / (done_s[-1] - done_s[0])
        done_s.clear()
        rate, began_s, tasks = peak * times, time.monotonic(), []
        for number in range(int(1.5 * rate)):  # an open loop: they come whether or not others are done
            await asyncio.sleep(began_s + number / rate - time.monotonic())
            tasks.append(asyncio.create_task(over_http() if number % 8 == 0 else over_grpc()))
        await asyncio.gather(*tasks)
        goodput = (len(done_s) - 1) / (done_s[-1] - done_s[0])
        assert done_s
        assert refused_s
        assert len(done_s) + len(refused_s) == len(tasks)
        assert "indomain_requests_in_flight 0.0" in (await http.get("/metrics")).text
        assert len((await stub.Decode(pb.DecodeRequest(codes=[code]), timeout=20)).images) == 1
    half, most = np.percentile(refused_s, [50, 99])
    record_property(
        f"overload, {times} times what it can do",
        f"goodput {goodput / peak:.0%} of the peak of {peak:.0f} requests/s; {len(refused_s)} of {len(tasks)} told "
        f"when to come back, within {1000 * half:.1f} ms (p50), {1000 * most:.1f} ms (p99); 0 hung",
    )


# --- clocks ----------------------------------------------------------------------------------------------------------


@pytest.mark.fault
def test_a_clock_that_jumps_moves_no_deadline(
    start_gateway: Callable[..., RunningGateway],
    slow_runs: Callable[[str, float], None],
    photo_png: bytes,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, object], None],
) -> None:
    running = start_gateway(max_refine_steps=10**6, refine_min_improvement_ratio=0.0)
    slow_runs("refiner", 0.01)
    refine = pb.RefineOptions(steps=60)
    request = pb.InvertRequest(picture=pb.Picture(data=photo_png), refine=refine)
    real = time.time
    for jump_s in (86_400.0, -86_400.0):
        call = running.stub.Invert.future(request, timeout=30)
        wait_for(lambda: running.gateway.pipeline.in_flight == 1)
        # Python's own gRPC reckons with this clock when a call begins, so the calls that begin now are HTTP's.
        with monkeypatch.context() as patch:
            patch.setattr(time, "time", lambda jump_s=jump_s: real() + jump_s)
            answer = call.result()
            assert answer.losses.stop_reason == pb.STOP_REASON_STEPS_DONE
            endless = {"options": '{"refine": {"steps": 1000000}}'}
            short = running.http.post(
                "/v1/invert", files={"picture": photo_png}, data=endless, headers={"x-timeout-s": "0.5"}
            )
            assert short.json()["losses"]["stop_reason"] == "deadline"
            by_handle = running.http.post("/v1/edit", json={"code": {"handle": answer.code.handle}})
            assert by_handle.status_code == 200  # it has not expired either
    record_property("clock jumps by a day, forwards and back", "no deadline and no handle moves")
