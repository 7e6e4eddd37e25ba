"""What a setting changes in a running gateway: the settings that no test of a room needs for something else. The last
test goes through all of them and fails where one is exercised nowhere."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import onnxruntime
import pytest
from PIL import Image

from indomain.v1 import editing_pb2 as pb
from serving.call import CALL
from serving.errors import BundleInvalid
from serving.settings import Settings
from tests.serving.interposed import Gate
from tests.serving.messages import as_message, refusal, sampled, session_request
from tests.serving.pictures import encoded, photograph
from tests.serving.running_gateway import RunningGateway, settings_for, start_process
from tests.serving.telemetry.collector import Collector, spans_of
from tests.serving.tiny_bundle import write_tiny_bundle
from tests.serving.waiting import wait_for

TESTS = Path(__file__).resolve().parents[1]
SAMPLE = pb.SampleRequest(seeds=[1])
Start = Callable[..., RunningGateway]


class HeldFunction:
    """Holds the calls of a blocking function back until it is opened, and counts those inside."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._lock = threading.Lock()
        self.open = threading.Event()
        self.inside = 0

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        with self._lock:
            self.inside += 1
        try:
            assert self.open.wait(30)
            return self._function(*arguments, **options)
        finally:
            with self._lock:
                self.inside -= 1


# --- the gateway -----------------------------------------------------------------------------------------------------


def test_host_is_the_address_that_it_listens_on(start_gateway: Start) -> None:
    """Of the addresses that lead to this machine, as all that begin with 127 do, it answers at one only."""
    here = start_gateway(host="127.0.0.1").gateway.http_port
    assert httpx.get(f"http://127.0.0.1:{here}/healthz").status_code == 200
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.2:{here}/healthz")


def test_verify_checksums_off_serves_a_bundle_that_differs_from_its_manifest(tmp_path: Path) -> None:
    repository = write_tiny_bundle(tmp_path / "repository")
    manifest = json.loads((repository / "tiny16.json").read_text())
    manifest["graphs"]["generator"]["sha256"] = "0" * 64
    (repository / "tiny16.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleInvalid, match="sha256"):
        RunningGateway(settings_for(repository))
    running = RunningGateway(settings_for(repository, verify_checksums=False))
    assert running.stub.Sample(SAMPLE, timeout=20).images
    running.close()


def test_drain_delay_goes_on_accepting_while_not_ready(start_gateway: Start) -> None:
    running = start_gateway(drain_delay_s=3600.0)
    stopping = asyncio.run_coroutine_threadsafe(running.gateway.stop(), running._loop)
    try:
        wait_for(lambda: running.http.get("/readyz").status_code == 503)
        assert running.http.get("/healthz").status_code == 200
        assert running.stub.Sample(SAMPLE, timeout=20).images
        assert not stopping.done()
    finally:
        stopping.cancel()
        running.gateway.settings.drain_delay_s = 0.0


def test_drain_timeout_ends_requests_that_do_not_finish(start_gateway: Start) -> None:
    running = start_gateway(interpose=True, drain_timeout_s=0.0)
    gate = Gate()
    running.backend.before = gate
    call = running.stub.Sample.future(SAMPLE, timeout=20)
    wait_for(lambda: gate.waiting == 1)
    running.run(running.gateway.stop())
    # Were it waited for, its own deadline would end it.
    assert call.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
    assert not gate.open.is_set()


# --- deadlines -------------------------------------------------------------------------------------------------------


@pytest.fixture
def remaining_s(start_gateway: Start) -> Callable[..., list[float]]:
    """Calls Sample over both transports. Gives the seconds that each request had left at its first graph."""

    def ask(wanted_s: float | None, **settings: float) -> list[float]:
        running = start_gateway(interpose=True, **settings)
        seen: dict[str, float] = {}

        async def before(model: str) -> None:
            call = CALL.get()
            assert call is not None
            seen.setdefault(call.request_id, call.deadline.remaining_s)

        running.backend.before = before
        running.stub.Sample(SAMPLE, timeout=wanted_s)
        headers = {} if wanted_s is None else {"x-timeout-s": str(wanted_s)}
        assert running.http.post("/v1/sample", json={"seeds": [1]}, headers=headers).status_code == 200
        return list(seen.values())

    return ask


def test_max_deadline_is_the_most_that_a_request_gets(remaining_s: Callable[..., list[float]]) -> None:
    assert all(left <= 20.0 for left in remaining_s(500.0, max_deadline_s=20.0))


def test_default_deadline_is_for_requests_that_name_none(remaining_s: Callable[..., list[float]]) -> None:
    assert all(left <= 20.0 for left in remaining_s(None, default_deadline_s=20.0))
    assert all(left > 60.0 for left in remaining_s(None, default_deadline_s=500.0))


# --- refinement ------------------------------------------------------------------------------------------------------


def test_decode_reserve_is_kept_from_refinement(start_gateway: Start, photo_png: bytes) -> None:
    running = start_gateway(decode_reserve_ms=60_000.0)
    losses = running.stub.Invert(pb.InvertRequest(picture=pb.Picture(data=photo_png)), timeout=30).losses
    assert (losses.steps_done, losses.stop_reason) == (0, pb.STOP_REASON_DEADLINE)


@pytest.mark.parametrize("window_steps", [6, 20])
def test_refinement_looks_back_over_the_window(
    start_gateway: Start, photo_png: bytes, window_steps: int
) -> None:
    """A rate at which nothing moves: refinement ends as soon as a whole window lies behind it."""
    running = start_gateway(refine_window_steps=window_steps, refine_min_improvement_ratio=0.5)
    refine = pb.RefineOptions(steps=100, learning_rate=1e-6)
    request = pb.InvertRequest(picture=pb.Picture(data=photo_png), refine=refine)
    losses = running.stub.Invert(request, timeout=30).losses
    assert losses.stop_reason == pb.STOP_REASON_CONVERGED
    assert window_steps <= losses.steps_done <= window_steps + 4


# --- bounds ----------------------------------------------------------------------------------------------------------


def test_an_interpolation_has_no_more_pictures_than_allowed(start_gateway: Start) -> None:
    running = start_gateway(max_interpolated_pictures=3)
    start, end = (pb.Source(code=as_message(code)) for code in sampled(running, 1, 2))
    within = pb.InterpolateRequest(start=start, end=end, count=3)
    assert len(list(running.stub.Interpolate(within, timeout=20))) == 3
    beyond = pb.InterpolateRequest(start=start, end=end, count=4)
    assert (
        refusal(lambda *args, **options: list(running.stub.Interpolate(*args, **options)), beyond)
        == "invalid_option"
    )
    assert running.stub.ListBundles(pb.ListBundlesRequest()).limits.max_interpolated_pictures == 3


def handle_of_an_edit(running: RunningGateway) -> str:
    edit = pb.EditRequest(code=as_message(np.zeros((6, 512), np.float32)))
    return running.stub.Edit(edit, timeout=20).code.handle


def decode(running: RunningGateway, handle: str) -> str:
    """The reason why the code of a handle cannot be decoded."""
    return refusal(running.stub.Decode, pb.DecodeRequest(codes=[pb.Code(handle=handle)]))


def test_one_owner_has_no_more_handles_than_allowed(start_gateway: Start) -> None:
    running = start_gateway(max_code_handles_per_owner=2)
    # Each edit keeps two: the code and the one that it came from.
    older, newer = handle_of_an_edit(running), handle_of_an_edit(running)
    assert decode(running, older) == "unknown_code_handle"
    assert running.stub.Decode(pb.DecodeRequest(codes=[pb.Code(handle=newer)]), timeout=20).images


def test_a_handle_expires(start_gateway: Start) -> None:
    running = start_gateway(code_handle_expiry_s=1e-6)
    assert decode(running, handle_of_an_edit(running)) == "unknown_code_handle"


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with a bundle that has a face detector."""
    return write_tiny_bundle(tmp_path_factory.mktemp("faces"), faces=True)


@pytest.mark.parametrize("limit", [1, 2])
def test_no_more_photographs_are_open_than_allowed(faces: Path, photo_png: bytes, limit: int) -> None:
    running = RunningGateway(settings_for(faces, max_open_photographs=limit), interpose=True)
    gate = Gate()
    running.backend.before = gate
    request = pb.FindFacesRequest(picture=pb.Picture(data=photo_png))
    calls = [running.stub.FindFaces.future(request, timeout=60) for _ in range(4)]
    try:
        wait_for(lambda: gate.waiting == limit)
        running.settle()
        assert gate.waiting == limit
    finally:
        gate.open.set()
    assert all(call.result().width == 40 for call in calls)
    running.close()


@pytest.mark.parametrize("threads", [1, 3])
def test_pictures_are_read_in_so_many_threads(
    start_gateway: Start, photo_png: bytes, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    running = start_gateway(picture_threads=threads)
    opening = HeldFunction(Image.open)
    monkeypatch.setattr(Image, "open", opening)
    request = pb.InvertRequest(picture=pb.Picture(data=photo_png), refine=pb.RefineOptions(steps=0))
    calls = [running.stub.Invert.future(request, timeout=60) for _ in range(5)]
    try:
        wait_for(lambda: opening.inside == threads)
        running.settle()
        assert opening.inside == threads
    finally:
        opening.open.set()
    assert all(call.result().image.data for call in calls)


def test_sessions_hold_no_more_bytes_of_photographs_than_allowed(faces: Path) -> None:
    photo = encoded(photograph(width=16, height=16), "PNG")
    limit = max(1024, len(photo))
    photo += bytes(limit - len(photo))
    running = RunningGateway(settings_for(faces, max_session_photograph_bytes=limit))
    request = session_request(
        picture=pb.Picture(data=photo), output=pb.OutputOptions(include_pasted=True), edits=[]
    )

    def ask(requests: list[pb.EditSessionRequest]) -> Any:
        closing = threading.Event()

        def send() -> Iterator[pb.EditSessionRequest]:
            yield from requests
            closing.wait(30)

        answers = running.stub.EditSession(send(), timeout=60)
        return next(answers), answers, closing

    first, answers, closing = ask([request])
    assert first.edited.pasted.data
    refused, more, also_closing = ask([request])
    assert refused.error.reason == "queue_full"
    also_closing.set()
    assert list(more) == []
    closing.set()
    assert list(answers) == []
    again, _, closing = ask([request])
    assert again.edited.pasted.data
    closing.set()
    running.close()


# --- back end --------------------------------------------------------------------------------------------------------


def test_a_batch_that_is_not_full_waits_for_company(start_gateway: Start) -> None:
    running = start_gateway(max_batch_delay_ms=1000.0, max_batch_size=8)
    before = running.metric("indomain_batch_size_count", graph="tiny16_mapping")
    requests = [pb.SampleRequest(seeds=[seed]) for seed in range(8)]
    calls = [running.stub.Sample.future(request, timeout=30) for request in requests]
    assert all(call.result().images for call in calls)
    assert running.metric("indomain_batch_size_count", graph="tiny16_mapping") - before == 1


def test_each_graph_runs_in_so_many_threads(start_gateway: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: set[int] = set()
    original = onnxruntime.InferenceSession

    def opened(path: str, options: onnxruntime.SessionOptions, **more: Any) -> onnxruntime.InferenceSession:
        threads.add(options.intra_op_num_threads)
        return original(path, options, **more)

    monkeypatch.setattr(onnxruntime, "InferenceSession", opened)
    start_gateway(intra_op_threads=3)
    # The refiner may run as two halves, one of them in the thread that calls.
    assert {3} <= threads <= {2, 3}


# --- logs and traces -------------------------------------------------------------------------------------------------


def test_log_format_and_level_are_those_of_the_process(tiny_repository: Path) -> None:
    process = start_process(
        tiny_repository,
        "--grpc-port",
        "0",
        "--http-port",
        "0",
        "--log-format",
        "text",
        "--log-level",
        "debug",
    )
    try:
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(line)
            if "ready: gRPC on" in line:
                break
    finally:
        process.kill()
        process.communicate()
    assert re.match(r"\d{4}-\d\d-\d\d .* INFO serving\.gateway ready", lines[-1])
    assert any(" DEBUG " in line for line in lines)


@pytest.mark.parametrize("log_requests", [True, False])
def test_requests_are_logged_where_that_is_wanted(
    tiny_repository: Path, caplog: pytest.LogCaptureFixture, log_requests: bool
) -> None:
    running = RunningGateway(settings_for(tiny_repository, log_requests=log_requests))
    with caplog.at_level(logging.INFO, "serving.requests"):
        running.stub.Sample(SAMPLE, timeout=20)
        running.http.post("/v1/sample", json={"seeds": [1]})
        wait_for(lambda: running.metric("indomain_requests_total", method="Sample", code="OK") == 2)
        running.close()
    lines = [record for record in caplog.records if record.name == "serving.requests"]
    assert len(lines) == (2 if log_requests else 0)


def test_only_a_part_of_the_requests_is_traced(start_gateway: Start) -> None:
    """Of none that comes without a decision, but of one whose caller has decided that it is."""
    collector = Collector()
    traced = start_gateway(trace_endpoint=f"http://127.0.0.1:{collector.port}", trace_sample_ratio=0.0)
    traced.stub.Sample(SAMPLE, timeout=20)
    traced.http.get("/v1/bundles")
    decided = f"00-{'4b' * 16}-{'f0' * 8}-01"
    traced.stub.Decode(
        pb.DecodeRequest(codes=[as_message(np.zeros((6, 512), np.float32))]),
        metadata=[("traceparent", decided)],
        timeout=20,
    )
    names = set(spans_of(collector, traced))
    collector.server.stop(None)
    assert "Decode" in names
    assert not names & {"Sample", "ListBundles"}


# --- all of them -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_exercised_by_a_test(name: str) -> None:
    """As an argument, a key, a flag or a variable of the environment."""
    flag, variable = name.replace("_", "-"), name.upper()
    named = re.compile(rf'\b{name}=[^=]|"{name}"|--{flag}\b|INDOMAIN_{variable}\b')
    files = (file for file in TESTS.rglob("*.py"))
    assert any(named.search(file.read_text(encoding="utf-8")) for file in files), name
