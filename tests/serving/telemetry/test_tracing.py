"""Traces: from the caller's W3C context, through each stage, to a collector; and on to a back end."""

from __future__ import annotations

import queue
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from pydantic import ValidationError

from indomain.v1 import editing_pb2 as pb
from serving import settings as settings_module
from serving.call import outgoing_metadata
from serving.settings import Settings
from tests.serving.messages import session_request
from tests.serving.running_gateway import RunningGateway
from tests.serving.telemetry.collector import Collector, spans_of
from tests.serving.triton_server import TritonServer

ROOT = Path(__file__).resolve().parents[3]
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED, NOT_SAMPLED = f"00-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}-00"


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.server.stop(None)


@pytest.fixture
def traced(collector: Collector, start_gateway: Callable[..., RunningGateway]) -> RunningGateway:
    return start_gateway(interpose=True, trace_endpoint=f"http://127.0.0.1:{collector.port}")


def attributes(span: Any) -> dict[str, Any]:
    return {item.key: getattr(item.value, item.value.WhichOneof("value")) for item in span.attributes}


def test_an_rpc_is_one_span_with_one_for_each_stage(
    collector: Collector, traced: RunningGateway, photo_png: bytes
) -> None:
    request = pb.EditRequest(
        picture=pb.Picture(data=photo_png), edits=[pb.EditStep(direction="smile", strength=1.0)]
    )
    metadata = [("traceparent", SAMPLED), ("x-request-id", "traced-1")]
    traced.stub.Edit(request, metadata=metadata, timeout=20)
    spans = spans_of(collector, traced)
    assert set(spans) == {"Edit", "align", "encode", "refine", "edit", "decode", "image"}
    whole = spans.pop("Edit")
    assert (whole.trace_id.hex(), whole.parent_span_id.hex()) == (TRACE, PARENT)
    assert attributes(whole)["indomain.request_id"] == "traced-1"
    for span in spans.values():
        assert (span.trace_id, span.parent_span_id) == (whole.trace_id, whole.span_id)
        assert whole.start_time_unix_nano <= span.start_time_unix_nano
        assert span.end_time_unix_nano <= whole.end_time_unix_nano
    assert attributes(spans["encode"])["indomain.queued_s"] >= 0.0


def test_http_is_traced_too_and_a_failure_is_marked(collector: Collector, traced: RunningGateway) -> None:
    answer = traced.http.post("/v1/sample", json={"seeds": [1]}, headers={"traceparent": SAMPLED})
    assert answer.status_code == 200
    assert traced.http.post("/v1/invert", files={"picture": b"no picture"}).status_code == 400
    spans = spans_of(collector, traced)
    assert spans["Sample"].trace_id.hex() == TRACE
    assert spans["Invert"].trace_id.hex() != TRACE  # nobody's context: one of its own
    assert spans["Invert"].status.code == spans["align"].status.code == 2  # error
    assert [event.name for event in spans["align"].events] == ["exception"]
    assert not any(name.startswith(("GET", "/")) for name in spans)  # probes and metrics are not


def test_a_session_sends_spans_before_it_ends(
    collector: Collector, traced: RunningGateway, photo_png: bytes
) -> None:
    requests: queue.Queue[pb.EditSessionRequest | None] = queue.Queue()
    answers = traced.stub.EditSession(iter(requests.get, None), timeout=60)
    requests.put(session_request(picture=pb.Picture(data=photo_png)))
    next(answers)
    for strength in range(20):
        requests.put(session_request(edits=[pb.EditStep(direction="smile", strength=strength / 10)]))
        next(answers)
    assert {"edit", "decode"} <= set(spans_of(collector, traced))
    requests.put(None)
    assert list(answers) == []
    whole = spans_of(collector, traced)["EditSession"]
    assert {span.parent_span_id for span in collector.spans if span is not whole} == {whole.span_id}


def test_previews_belong_to_the_refinement_that_they_show(
    collector: Collector, traced: RunningGateway, photo_png: bytes
) -> None:
    request = pb.WatchInvertRequest(picture=pb.Picture(data=photo_png), interval_s=0.0)
    list(traced.stub.WatchInvert(request, timeout=60))
    spans_of(collector, traced)
    (refine,) = (span for span in collector.spans if span.name == "refine")
    (whole,) = (span for span in collector.spans if span.name == "WatchInvert")
    parents = {span.parent_span_id for span in collector.spans if span.name == "decode"}
    assert {refine.span_id, whole.span_id} <= parents


def test_the_context_goes_on_to_a_back_end(collector: Collector, traced: RunningGateway) -> None:
    seen: list[dict[str, str]] = []

    async def before(model: str) -> None:
        seen.append(dict(outgoing_metadata()))

    traced.backend.before = before
    traced.stub.Sample(pb.SampleRequest(seeds=[1]), metadata=[("traceparent", SAMPLED)], timeout=20)
    spans = spans_of(collector, traced)
    wanted = [f"00-{TRACE}-{spans[stage].span_id.hex()}-01" for stage in ("encode", "decode")]
    assert [metadata["traceparent"] for metadata in seen] == wanted


class Passage(grpc.GenericRpcHandler):
    """Stands before a Triton server, lets everything through and remembers what came with it."""

    def __init__(self, address: str) -> None:
        self.seen: list[tuple[str, dict[str, Any]]] = []
        self._channel = grpc.insecure_channel(address)
        self._server = grpc.server(ThreadPoolExecutor(4), handlers=[self])
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def service(self, handler_call_details: Any) -> Any:
        method = handler_call_details.method.rpartition("/")[2]
        self.seen.append((method, dict(handler_call_details.invocation_metadata)))
        forward = self._channel.unary_unary(handler_call_details.method)
        return grpc.unary_unary_rpc_method_handler(lambda request, context: forward(request))

    def close(self) -> None:
        self._server.stop(None)
        self._channel.close()


@pytest.fixture
def passage(triton: TritonServer) -> Iterator[Passage]:
    passage = Passage(triton.address)
    yield passage
    passage.close()


def test_triton_is_handed_the_context_of_the_stage(
    collector: Collector, passage: Passage, start_gateway: Callable[..., RunningGateway]
) -> None:
    traced = start_gateway(
        backend="triton",
        triton_addresses=passage.address,
        trace_endpoint=f"http://127.0.0.1:{collector.port}",
    )
    traced.stub.Sample(pb.SampleRequest(seeds=[1]), metadata=[("traceparent", SAMPLED)], timeout=20)
    spans = spans_of(collector, traced)
    handed = [metadata["traceparent"] for method, metadata in passage.seen if "traceparent" in metadata]
    assert handed == [f"00-{TRACE}-{spans[stage].span_id.hex()}-01" for stage in ("encode", "decode")]
    assert {method for method, metadata in passage.seen if "traceparent" in metadata} == {"ModelInfer"}


def test_a_caller_who_does_not_sample_leaves_no_spans(collector: Collector, traced: RunningGateway) -> None:
    traced.stub.Sample(pb.SampleRequest(seeds=[1]), metadata=[("traceparent", NOT_SAMPLED)], timeout=20)
    assert spans_of(collector, traced) == {}


def test_nonsense_for_a_context_is_no_harm(collector: Collector, traced: RunningGateway) -> None:
    for nonsense in ("", "00-0-0-0", "x" * 4000):
        answer = traced.http.post("/v1/sample", json={"seeds": [1]}, headers={"traceparent": nonsense})
        assert answer.status_code == 200
    assert "Sample" in spans_of(collector, traced)


def test_a_collector_that_is_down_harms_no_request(collector: Collector, traced: RunningGateway) -> None:
    collector.server.stop(None).wait()
    assert traced.stub.Sample(pb.SampleRequest(seeds=[1]), timeout=20).images


def test_without_an_endpoint_nothing_of_it_is_imported(gateway: RunningGateway) -> None:
    assert outgoing_metadata() == ()
    # The bare API may come in with another library; it does nothing.
    program = "import sys, serving.gateway; sys.exit('opentelemetry.sdk' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0


def test_an_endpoint_without_the_extra_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings_module, "find_spec", lambda name: None)
    with pytest.raises(ValidationError, match=r"indomain-gateway\[tracing\]"):
        Settings(trace_endpoint="http://localhost:4317")
