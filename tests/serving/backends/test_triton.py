"""The gateway on real Triton servers: what it tells of them, and what becomes of requests when they fail."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from indomain.v1 import editing_pb2 as pb
from serving.backends.triton import TritonBackend
from serving.bundle import Bundle
from serving.deadline import Deadline
from serving.errors import BackendFailed, BundleInvalid, DeadlineExceeded
from serving.repository.reader import read_bundle
from serving.telemetry.metrics import Metrics
from tests import shipped
from tests.serving.backends.graph_inputs import some_inputs
from tests.serving.running_gateway import RunningGateway, settings_for
from tests.serving.tiny_bundle import write_tiny_bundle
from tests.serving.triton_server import TritonServer, derive_repository
from tests.serving.waiting import wait_for

eventually = partial(wait_for, timeout_s=60.0)
RAW = pb.OutputOptions(format=pb.IMAGE_FORMAT_RAW)
LONG = 4000  # steps: some seconds on any machine


@pytest.fixture(scope="module")
def bundle(tiny_repository: Path) -> Bundle:
    return read_bundle(tiny_repository, "tiny16")


@pytest.fixture(scope="module")
def pair(
    triton_installed: None, tiny_repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[TritonServer]]:
    """Two servers for tests that kill them; each test leaves them running again."""
    folder = tmp_path_factory.mktemp("pair")
    repository = derive_repository(tiny_repository, folder / "repository", instances=1)
    servers = [TritonServer(repository, folder / f"log{n}").start(wait=False) for n in range(2)]
    for server in servers:
        server.wait_until_ready()
    yield servers
    for server in servers:
        server.kill()


@pytest.fixture
def on_triton(tiny_repository: Path) -> Iterator[Callable[..., RunningGateway]]:
    started: list[RunningGateway] = []

    def start(*servers: TritonServer, **overrides: Any) -> RunningGateway:
        addresses = tuple(server.address for server in servers)
        overrides = {"backend": "triton", "triton_addresses": addresses, "max_refine_steps": LONG} | overrides
        overrides = {"refine_min_improvement_ratio": 0.0, "triton_probe_interval_s": 0.1} | overrides
        started.append(RunningGateway(settings_for(tiny_repository, **overrides)))
        return started[-1]

    yield start
    for running in started:
        running.close()


def inverting(photo_png: bytes, steps: int) -> pb.InvertRequest:
    picture, refine = pb.Picture(data=photo_png), pb.RefineOptions(steps=steps)
    return pb.InvertRequest(picture=picture, refine=refine, output=RAW)


def detail_of(error: grpc.RpcError) -> pb.ErrorDetail:
    return pb.ErrorDetail.FromString(dict(error.trailing_metadata())["indomain-error-bin"])


def test_the_gateway_answers_the_same_on_triton(
    triton: TritonServer,
    gateway: RunningGateway,
    on_triton: Callable[..., RunningGateway],
    photo_png: bytes,
) -> None:
    running = on_triton(triton)
    embedded, served = (one.stub.Invert(inverting(photo_png, 6)) for one in (gateway, running))
    apart = np.frombuffer(embedded.image.data, np.uint8).astype(int)
    apart = np.abs(apart - np.frombuffer(served.image.data, np.uint8))
    assert apart.max() <= 2
    assert served.losses.refine_loss_after == pytest.approx(embedded.losses.refine_loss_after, rel=0.05)
    assert served.domain_score == pytest.approx(embedded.domain_score, abs=0.01)
    assert running.http.post("/v1/sample", json={"seeds": [1, 2]}).status_code == 200
    assert running.http.get("/readyz").status_code == 200
    assert running.metric("indomain_backend_up", address=triton.address) == 1


def test_a_full_queue_on_the_server_is_too_many_requests(
    triton: TritonServer, on_triton: Callable[..., RunningGateway]
) -> None:
    """Its critic takes 40 ms a batch and lets four requests wait; the gateway itself would hold far more."""
    running = on_triton(triton)
    code = running.stub.Sample(pb.SampleRequest(seeds=[1], output=RAW)).codes[0]
    edit = pb.EditRequest(code=code, edits=[pb.EditStep(direction="smile", strength=1.0)], output=RAW)
    calls = [running.stub.Edit.future(edit, timeout=60) for _ in range(100)]
    errors = [error for call in calls if (error := call.exception()) is not None]
    assert 0 < len(errors) < len(calls)
    for error in errors:
        assert isinstance(error, grpc.RpcError)
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert (detail_of(error).reason, detail_of(error).retryable) == ("queue_full", True)
        assert detail_of(error).retry_after_s > 0.0
    assert running.metric("indomain_backend_ejections_total", address=triton.address) == 0
    assert running.stub.Edit(edit, timeout=60).image.data


@pytest.mark.slow
def test_the_shipped_bundle_on_triton(triton_installed: None, tmp_path: Path) -> None:
    """Its own graphs, detector and L-BFGS state with them, on the real server and in process."""
    repository = derive_repository(shipped.REPOSITORY, tmp_path / "repository", instances=1)
    server = TritonServer(repository, tmp_path / "log").start()
    photo = (shipped.ROOT / "clients/python/examples/astronaut.jpg").read_bytes()
    answers = []
    try:
        for overrides in ({}, {"backend": "triton", "triton_addresses": (server.address,)}):
            running = RunningGateway(
                settings_for(shipped.REPOSITORY, engine="onnxruntime", intra_op_threads=0, **overrides)
            )
            try:
                answers.append(running.stub.Invert(inverting(photo, 10), timeout=120))
            finally:
                running.close()
    finally:
        server.kill()
    embedded, served = answers
    assert served.placement.faces == embedded.placement.faces == 1
    assert served.losses.steps_done == embedded.losses.steps_done == 10
    assert served.losses.refine_loss_before == pytest.approx(embedded.losses.refine_loss_before, rel=0.01)
    assert served.losses.refine_loss_after == pytest.approx(embedded.losses.refine_loss_after, rel=0.05)
    apart = np.frombuffer(embedded.image.data, np.uint8).astype(int)
    assert np.abs(apart - np.frombuffer(served.image.data, np.uint8)).mean() < 2.0


@pytest.mark.fault
def test_killed_in_mid_refinement(
    pair: list[TritonServer],
    on_triton: Callable[..., RunningGateway],
    photo_png: bytes,
    record_property: Callable[[str, object], None],
) -> None:
    server = pair[0]
    running = on_triton(server)
    before = server.metric("nv_inference_request_success", model="tiny16_refiner")
    call = running.stub.Invert.future(inverting(photo_png, LONG), timeout=60)
    eventually(lambda: server.metric("nv_inference_request_success", model="tiny16_refiner") > before + 3)
    server.kill()
    killed_s = time.monotonic()
    error = call.exception(timeout=30)
    told_s = time.monotonic() - killed_s
    assert isinstance(error, grpc.RpcError)
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert (detail_of(error).reason, detail_of(error).retryable) == ("backend_unavailable", True)
    assert detail_of(error).stage == "refine"
    eventually(lambda: running.http.get("/readyz").status_code == 503)
    assert running.metric("indomain_backend_up", address=server.address) == 0
    assert running.http.post("/v1/sample", json={"seeds": [1]}).status_code == 503
    server.start()
    ready_s = time.monotonic()
    eventually(lambda: running.http.get("/readyz").status_code == 200)
    recovered_s = time.monotonic() - ready_s
    assert running.stub.Invert(inverting(photo_png, 6), timeout=20).losses.steps_done == 6
    assert running.metric("indomain_backend_up", address=server.address) == 1
    record_property(
        "Triton SIGKILLed in mid-refinement",
        f"caller told (UNAVAILABLE, retryable) after {told_s:.3f} s; serves {recovered_s:.2f} s after the server is "
        "ready again, the gateway not restarted",
    )


@pytest.mark.fault
def test_one_of_two_is_killed_under_load(
    pair: list[TritonServer],
    on_triton: Callable[..., RunningGateway],
    photo_png: bytes,
    record_property: Callable[[str, object], None],
) -> None:
    running = on_triton(*pair)
    stop = threading.Event()

    def caller(number: int) -> int:
        done = 0
        while not stop.is_set():
            if number % 2:
                assert running.stub.Invert(inverting(photo_png, 6), timeout=60).losses.steps_done == 6
            else:
                assert running.stub.Sample(pb.SampleRequest(seeds=[number], output=RAW), timeout=60).images
            done += 1
        return done

    with ThreadPoolExecutor(8) as pool, ExitStack() as ending:
        # The pool waits for its callers, whatever fails here.
        ending.callback(stop.set)
        callers = [pool.submit(caller, number) for number in range(8)]

        def outcomes(server: TritonServer) -> float:
            return server.metric("nv_inference_request_success", model="tiny16_generator")

        for server in pair:  # a server takes a share of a graph before it has all of them
            eventually(partial(running.metric, "indomain_backend_up", address=server.address))
        eventually(lambda: all(outcomes(server) > 10 for server in pair))
        pair[0].kill()
        killed_s = time.monotonic()
        left_out = {"address": pair[0].address}
        eventually(lambda: running.metric("indomain_backend_ejections_total", **left_out) == 1)
        ejected_s = time.monotonic() - killed_s
        at_ejection = outcomes(pair[1])
        eventually(lambda: outcomes(pair[1]) > at_ejection + 10)
        assert running.http.get("/readyz").status_code == 200
        pair[0].start()
        back_s = time.monotonic()
        eventually(lambda: outcomes(pair[0]) > 5)  # taken back, by itself
        taken_back_s = time.monotonic() - back_s
        stop.set()
        finished = [call.result() for call in callers]  # none failed
    assert all(finished)
    record_property(
        "one of two Tritons SIGKILLed under load of 8 callers",
        f"{sum(finished)} requests, 0 failed; left out after {ejected_s:.2f} s, has work again {taken_back_s:.2f} s "
        "after it is ready",
    )


@pytest.mark.fault
def test_one_of_two_hangs(
    pair: list[TritonServer],
    on_triton: Callable[..., RunningGateway],
    photo_png: bytes,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, object], None],
) -> None:
    monkeypatch.setattr("serving.backends.triton_server._PROBE_TIMEOUT_S", 2.0)
    running = on_triton(*pair)
    for server in pair:
        eventually(partial(running.metric, "indomain_backend_up", address=server.address))
    pair[0].send(signal.SIGSTOP)
    stopped_s = time.monotonic()
    try:
        calls = [running.stub.Invert.future(inverting(photo_png, 6), timeout=60) for _ in range(4)]
        assert all(call.result().losses.steps_done == 6 for call in calls)
        record_property(
            "one of two Tritons hangs (SIGSTOP; probes of 2 s)",
            f"its {len(calls)} requests answered by the other after {time.monotonic() - stopped_s:.1f} s, 0 failed",
        )
        assert running.metric("indomain_backend_up", address=pair[0].address) == 0
    finally:
        pair[0].send(signal.SIGCONT)
    eventually(lambda: running.metric("indomain_backend_up", address=pair[0].address) == 1)


def test_servers_that_are_not_there_yet(
    triton: TritonServer, on_triton: Callable[..., RunningGateway], tmp_path: Path
) -> None:
    """Gateway and servers start in any order; one that is missing is no hindrance."""
    late = TritonServer(triton._repository, tmp_path / "log")
    running = on_triton(late, triton)
    assert running.metric("indomain_backend_up", address=late.address) == 0
    assert running.stub.Sample(pb.SampleRequest(seeds=[1]), timeout=20).images


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60.0):
        while not condition():  # noqa: ASYNC110  (what is waited for is in another process)
            await asyncio.sleep(0.02)


@pytest.fixture
async def backend(triton: TritonServer, bundle: Bundle, tiny_repository: Path) -> Any:
    settings = settings_for(tiny_repository, triton_addresses=(triton.address,), triton_probe_interval_s=0.1)
    made = TritonBackend([bundle], settings, Metrics())
    await made.load()
    yield made
    await made.close()


@pytest.mark.fault
async def test_a_sample_that_spoils_its_batch_fails_alone(
    backend: TritonBackend, bundle: Bundle, record_property: Callable[[str, object], None]
) -> None:
    graph = bundle.graphs["mapping"]
    asked = [some_inputs(bundle, "mapping", 1, seed=n) for n in range(8)]
    asked[3]["z"][0, 0] = 666.0
    answers = await asyncio.gather(
        *(backend.infer(graph, inputs, Deadline.after(30.0)) for inputs in asked), return_exceptions=True
    )
    assert isinstance(answers[3], BackendFailed)
    assert "666" not in answers[3].message
    assert not [answer for n, answer in enumerate(answers) if n != 3 and isinstance(answer, BaseException)]
    record_property("poison item, Triton", "of 8 requests at once it alone fails, INTERNAL")


async def test_a_server_whose_graphs_fail_is_left_out_until_they_do_not(
    triton: TritonServer, bundle: Bundle, tiny_repository: Path, tmp_path: Path
) -> None:
    """It fails fast, so that it would have the least outstanding and draw all requests."""
    sick = {"mapping": {"sound_runs": "2"}}
    repository = derive_repository(tiny_repository, tmp_path / "repository", instances=1, **sick)
    server, metrics = TritonServer(repository, tmp_path / "log"), Metrics()
    addresses = (server.address, triton.address)
    settings = settings_for(tiny_repository, triton_addresses=addresses, triton_probe_interval_s=0.1)
    backend = TritonBackend([bundle], settings, metrics)
    try:
        await asyncio.to_thread(server.start)
        await backend.load()

        def metric(name: str) -> float:
            return metrics.registry.get_sample_value(name, {"address": server.address}) or 0.0

        await until(lambda: metric("indomain_backend_up") == 1)
        graph, inputs = bundle.graphs["mapping"], some_inputs(bundle, "mapping", 1)
        for _ in range(20):
            await backend.infer(graph, inputs, Deadline.after(30.0))  # none fails: the other takes it
        assert metric("indomain_backend_ejections_total") == 1
        assert metric("indomain_backend_up") == 0
        assert await backend.healthy()
    finally:
        await backend.close()
        server.kill()


async def test_cancelling_reaches_the_queue_of_the_server(
    backend: TritonBackend, bundle: Bundle, triton: TritonServer
) -> None:
    def cancelled() -> float:
        return triton.metric("nv_inference_request_failure", model="tiny16_critic", reason="CANCELED")

    graph, inputs, before = bundle.graphs["critic"], some_inputs(bundle, "critic", 16), cancelled()
    for wait_s in np.geomspace(0.02, 2.0, 12):  # on a slow machine they take a while to get there
        running = [asyncio.create_task(backend.infer(graph, inputs, Deadline.after(30.0))) for _ in range(6)]
        await asyncio.sleep(wait_s)  # 40 ms a batch, two at once: the others wait
        for task in running[1:]:
            task.cancel()
        answers = await asyncio.gather(*running, return_exceptions=True)
        assert not isinstance(answers[0], BaseException)
        if cancelled() > before:
            return
    pytest.fail("the server was never told")


async def test_time_runs_out_in_the_queue_of_the_server(
    backend: TritonBackend, bundle: Bundle, triton: TritonServer
) -> None:
    graph, inputs = bundle.graphs["critic"], some_inputs(bundle, "critic", 16)
    patient = [asyncio.create_task(backend.infer(graph, inputs, Deadline.after(30.0))) for _ in range(3)]
    await asyncio.sleep(0.01)
    with pytest.raises(DeadlineExceeded):
        await backend.infer(graph, inputs, Deadline.after(0.03))
    await asyncio.gather(*patient)


async def test_another_generator_under_the_same_name_is_not_served(
    triton: TritonServer, tmp_path: Path
) -> None:
    """The manifest that the gateway has, and the graphs that the server has, are of two exports."""
    other = read_bundle(write_tiny_bundle(tmp_path, seed=8), "tiny16")
    backend = TritonBackend([other], settings_for(tmp_path, triton_addresses=(triton.address,)), Metrics())
    loading = asyncio.create_task(backend.load())
    await asyncio.sleep(0)  # load() makes the server
    (server,) = backend._servers
    await until(lambda: "otherwise than when it was exported" in server.complaint)
    assert not loading.done()
    assert not await backend.healthy()
    loading.cancel()
    await backend.close()


async def test_a_changed_graph_needs_a_version_of_its_own(backend: TritonBackend, tmp_path: Path) -> None:
    with pytest.raises(BundleInvalid, match="export it with the next one"):
        await backend.add([read_bundle(write_tiny_bundle(tmp_path, seed=8), "tiny16")])
    assert await backend.healthy()


def looked_at(segment: Path) -> tuple[int, bytes]:
    return segment.stat().st_mode, segment.read_bytes()


async def test_shared_memory_is_really_used_and_left_clean(
    triton: TritonServer, bundle: Bundle, tiny_repository: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = settings_for(tiny_repository, triton_addresses=(triton.address,), triton_shared_memory=True)
    backend, graph = TritonBackend([bundle], settings, Metrics()), bundle.graphs["mapping"]
    await backend.load()
    assert backend._segment is not None
    segment = Path("/dev/shm", backend._segment.name)
    mode, _ = looked_at(segment)
    assert mode & 0o077 == 0  # pictures of people lie there
    inputs = some_inputs(bundle, "mapping", 1)
    found = await backend.infer(graph, inputs, Deadline.after(30.0))
    assert found.outputs["code"].tobytes() in looked_at(segment)[1]
    # More callers than slots, some of whom hang up: no answer is another's.
    asked = [some_inputs(bundle, "mapping", 1, seed=n) for n in range(60)]
    running = [asyncio.create_task(backend.infer(graph, one, Deadline.after(30.0))) for one in asked]
    await asyncio.sleep(0.01)
    for task in running[::7]:
        task.cancel()
    answers = await asyncio.gather(*running, return_exceptions=True)
    alone = [await backend.infer(graph, one, Deadline.after(30.0)) for one in asked]
    for answer, wanted in zip(answers, alone, strict=True):
        if not isinstance(answer, asyncio.CancelledError):
            assert not isinstance(answer, BaseException)
            np.testing.assert_allclose(answer.outputs["code"], wanted.outputs["code"], rtol=1e-4, atol=1e-4)
    assert len([answer for answer in answers if not isinstance(answer, BaseException)]) >= 51
    await backend.close()
    with pytest.raises(FileNotFoundError):
        looked_at(segment)
    assert "shared memory" not in caplog.text  # not refused
