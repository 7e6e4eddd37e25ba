"""What strangers send is bounded before it is built: numbers of values, messages that do not come, connections."""

from __future__ import annotations

import base64
import gc
import json
import re
import resource
import select
import socket
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st
from websockets.exceptions import ConnectionClosed

from benchmarks.attack import wire
from indomain.v1 import editing_pb2 as pb
from serving.errors import MalformedRequest
from serving.grpc import answers
from serving.grpc import connections as grpc_connections
from serving.http import connections
from serving.wire.bounds import MAX_VALUES, check_values
from tests.serving.messages import as_message, sampled
from tests.serving.pictures import encoded, photograph, zero_png
from tests.serving.running_gateway import RunningGateway, answered, start_process, websocket
from tests.serving.waiting import wait_for

# --- numbers of values ---------------------------------------------------------------------------------


def refused(gateway: RunningGateway, method: str, data: bytes) -> pb.ErrorDetail:
    with pytest.raises(grpc.RpcError) as raised:
        gateway.channel.unary_unary(f"/indomain.v1.Editing/{method}")(data, timeout=20)
    return pb.ErrorDetail.FromString(dict(raised.value.trailing_metadata())["indomain-error-bin"])


@pytest.mark.parametrize(
    ("method", "data"),
    [
        ("Edit", b"\x22\x00" * 2_000_000),
        ("Decode", b"\x12\x00" * 2_000_000),
        ("Sample", b"\x12\x80\x89\x7a" + b"\x01" * 2_000_000),
        ("Edit", b"\x22\x84\x80\x7a" + b"\x1a\x00" * 1_000_002),
        ("Sample", b"\x78\x01" * 2_000_000),
        ("Mix", pb.MixRequest(layers=[0] * 20_001).SerializeToString()),
    ],
    ids=["edits", "codes", "packed seeds", "layers within an edit", "unknown fields", "packed layers"],
)
def test_millions_of_values_are_refused(gateway: RunningGateway, method: str, data: bytes) -> None:
    assert refused(gateway, method, data).reason == "malformed_request"


@given(
    edits=st.lists(st.text(max_size=5), max_size=20),
    layers=st.lists(st.integers(0, 2**31 - 1), max_size=30),
    picture=st.binary(max_size=200),
)
def test_honest_messages_pass(edits: list[str], layers: list[int], picture: bytes) -> None:
    steps = [pb.EditStep(direction=name, strength=1.0, layers=layers, keep=edits) for name in edits]
    message = pb.EditRequest(picture=pb.Picture(data=picture), edits=steps, region=pb.Region(left=0.5))
    check_values(message.SerializeToString(), message.DESCRIPTOR)


@given(st.binary(max_size=400))
def test_bytes_that_are_no_message_do_no_harm(data: bytes) -> None:
    check_values(data, pb.EditRequest.DESCRIPTOR)


def test_the_bound_is_the_bound() -> None:
    check_values(b"\x22\x00" * MAX_VALUES, pb.EditRequest.DESCRIPTOR)
    with pytest.raises(MalformedRequest):
        check_values(b"\x22\x00" * (MAX_VALUES + 1), pb.EditRequest.DESCRIPTOR)


# --- connections ---------------------------------------------------------------------------------------

HEAD = b"POST /v1/sample HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"


@pytest.fixture
def impatient(
    monkeypatch: pytest.MonkeyPatch, start_gateway: Callable[..., RunningGateway]
) -> RunningGateway:
    monkeypatch.setattr(connections, "HEADER_TIMEOUT_S", 0.3)
    monkeypatch.setattr(connections, "STALL_TIMEOUT_S", 0.3)
    return start_gateway(max_http_connections=8)


def connected(gateway: RunningGateway, receive_bytes: int | None = None) -> socket.socket:
    opened = socket.socket()
    if receive_bytes is not None:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    opened.connect(("127.0.0.1", gateway.gateway.http_port))
    opened.settimeout(20.0)
    return opened


def is_cut(opened: socket.socket) -> bool:
    """Reads until the connection ends. Fails after 20 s where it does not."""
    try:
        while opened.recv(1000):
            pass
    except ConnectionError:
        pass
    return True


@pytest.mark.parametrize("sent", [b"", b"GET /healthz HTT", b"GET /healthz HTTP/1.1\r\nhost: lo"])
def test_headers_must_come(impatient: RunningGateway, sent: bytes) -> None:
    with connected(impatient) as opened:
        opened.sendall(sent)
        assert is_cut(opened)


def test_headers_must_come_on_a_connection_that_is_used_again(impatient: RunningGateway) -> None:
    with connected(impatient) as opened:
        opened.sendall(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert opened.recv(1000).startswith(b"HTTP/1.1 200")
        opened.sendall(b"GET /hea")
        assert is_cut(opened)


def test_waiting_connections_make_room_for_new_ones(start_gateway: Callable[..., RunningGateway]) -> None:
    running = start_gateway(max_http_connections=8)
    silent = [connected(running) for _ in range(20)]
    # They are cut for being silent later, after ten seconds.
    wait_for(lambda: sum(wire.is_cut(opened) for opened in silent) >= 20 - 8, 5.0)
    assert running.http.get("/healthz").status_code == 200
    for opened in silent:
        opened.close()


@pytest.mark.parametrize("key", ["", "authorization: Bearer nobody\r\n"])
def test_bodies_that_do_not_come_make_room_for_new_connections(
    start_gateway: Callable[..., RunningGateway], tmp_path: Path, key: str
) -> None:
    """Also those of callers who have been refused already, and go on sending."""
    (tmp_path / "keys.toml").touch()
    running = start_gateway(max_http_connections=8, **{"keys_file": tmp_path / "keys.toml"} if key else {})
    opened = [connected(running) for _ in range(8)]
    for one in opened:
        one.sendall(HEAD + key.encode() + b"content-length: 50\r\n\r\n{")
    if key:
        assert all(one.recv(12) == b"HTTP/1.1 401" for one in opened)
    else:
        wait_for(lambda: held(running) == 8)
    assert running.http.get("/healthz").status_code == 200
    assert sum(wire.is_cut(one) for one in opened) == 1
    for one in opened:
        one.close()


def test_a_burst_of_connections_does_not_hold_up_the_next_one(gateway: RunningGateway) -> None:
    """They come while the gateway is busy, and wait to be taken in; each has a request that is there already."""
    loop = gateway._loop
    loop.call_soon_threadsafe(time.sleep, 1.0)
    asked = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n"
    burst = [connected(gateway) for _ in range(300)]
    for one in burst:
        one.sendall(asked)
    with connected(gateway) as last:
        last.sendall(asked)
        assert last.recv(1000).startswith(b"HTTP/1.1 200")
        # the gateway is stopped at once, to see how many it has answered before
        loop.call_soon_threadsafe(time.sleep, 0.5)
        answered_before = sum(bool(select.select([one], [], [], 0)[0]) for one in burst)
    assert answered_before < 150
    assert all(one.recv(1000).startswith(b"HTTP/1.1 200") for one in burst)
    for one in burst:
        one.close()


def unread_events(gateway: RunningGateway, count: int) -> socket.socket:
    """An interpolation over HTTP whose events nobody reads."""
    body = json.dumps(
        {
            end: {"code": json_format.MessageToDict(as_message(code))}
            for end, code in zip(("start", "end"), sampled(gateway, 1, 2), strict=True)
        }
        | {"count": count}
    ).encode()
    opened = connected(gateway, receive_bytes=4096)
    head = HEAD.replace(b"sample", b"interpolate") + b"content-length: %d\r\n\r\n" % len(body)
    opened.sendall(head + body)
    return opened


def test_an_interpolation_that_is_not_read_is_not_worked_on(
    start_gateway: Callable[..., RunningGateway],
) -> None:
    running = start_gateway()

    def made() -> float:
        return running.metric("indomain_batch_size_sum", graph="tiny_generator")

    with unread_events(running, 250):
        wait_for(lambda: running.metric("indomain_requests_in_flight") == 1.0)
        before = -1.0
        while made() != before:
            before = made()
            time.sleep(0.5)
        # what was made before (the samples and the warm-up) counts too
        assert before < 60


def test_streams_of_one_caller_leave_room_for_requests(start_gateway: Callable[..., RunningGateway]) -> None:
    running = start_gateway(max_requests_in_flight=8)
    unread = [unread_events(running, 250) for _ in range(2)]
    wait_for(lambda: running.metric("indomain_requests_in_flight") == 2.0)
    with unread_events(running, 250) as third:
        assert third.recv(1000).startswith(b"HTTP/1.1 429")
    assert running.stub.Sample(pb.SampleRequest(seeds=[1]), timeout=20).images
    for one in unread:
        one.close()


def test_a_body_in_tiny_chunks_is_refused(gateway: RunningGateway) -> None:
    with connected(gateway) as opened:
        opened.sendall(HEAD + b"transfer-encoding: chunked\r\n\r\n" + b"1\r\n \r\n" * 5000)
        assert opened.recv(1000).startswith(b"HTTP/1.1 400")


def test_two_lengths_for_one_body_are_refused(gateway: RunningGateway) -> None:
    with connected(gateway) as opened:
        opened.sendall(HEAD + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n")
        assert opened.recv(1000).startswith(b"HTTP/1.1 400")


def test_a_body_must_go_on_coming(impatient: RunningGateway) -> None:
    with connected(impatient) as opened:
        opened.sendall(HEAD + b"content-length: 50\r\n\r\n{")
        assert opened.recv(1000).startswith(b"HTTP/1.1 504")


def test_a_body_must_go_on_coming_however_much_has_come(impatient: RunningGateway) -> None:
    with connected(impatient) as opened:
        opened.sendall(HEAD + b"content-length: 5000000\r\n\r\n" + b" " * 4_000_000)
        assert opened.recv(1000).startswith(b"HTTP/1.1 504")


def test_answers_that_are_not_read_are_given_up(impatient: RunningGateway) -> None:
    body = b'{"seeds": [1, 2, 3, 4, 5, 6, 7, 8]}'
    request = HEAD + b"content-length: %d\r\n\r\n%b" % (len(body), body)
    with connected(impatient) as opened:
        opened.sendall(request * 300)

        def is_gone() -> bool:
            try:
                opened.send(request)
            except OSError:
                return True
            return False

        wait_for(is_gone, timeout_s=60.0)


LARGE_EDIT = {
    "refine": {"steps": 0},
    "align": {"alignment": "centre-crop"},
    "edits": [{"direction": "smile", "strength": 1.0}],
    "output": {"include_pasted": True, "format": "raw"},
}


def test_unread_answers_are_counted_until_they_are_given_up(
    impatient: RunningGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """24 MB of pixels over HTTP, and over gRPC."""
    monkeypatch.setattr(answers, "_STALL_S", 0.1)
    picture = zero_png(8000, 1000)
    body = json.dumps(LARGE_EDIT | {"picture": {"data": base64.b64encode(picture).decode()}}).encode()
    head = HEAD.replace(b"sample", b"edit") + b"content-length: %d\r\nx-timeout-s: 20\r\n\r\n" % len(body)
    with connected(impatient, receive_bytes=4096) as opened:
        opened.sendall(head + body)
        wait_for(lambda: held(impatient) > 24_000_000, timeout_s=20.0)
        wait_for(lambda: held(impatient) == 0, timeout_s=20.0)

    options = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 65536)]
    with grpc.insecure_channel(impatient.target, options) as channel:
        message = json_format.ParseDict(
            {**LARGE_EDIT, "align": {"alignment": "ALIGNMENT_CENTRE_CROP"}, "output": {}}, pb.EditRequest()
        )
        message.picture.data = picture
        message.output.include_pasted, message.output.format = True, pb.IMAGE_FORMAT_RAW
        call = channel.unary_stream("/indomain.v1.Editing/Edit")(message.SerializeToString(), timeout=60.0)
        wait_for(lambda: held(impatient) > 24_000_000, timeout_s=20.0)
        wait_for(lambda: held(impatient) == 0, timeout_s=20.0)
        call.cancel()


def test_a_large_answer_is_the_same_json_as_a_small_one(gateway: RunningGateway) -> None:
    body = LARGE_EDIT | {
        "picture": {"data": base64.b64encode(encoded(photograph(1, 700, 500))).decode()},
        "output": {"include_pasted": True, "format": "raw"},
    }
    large = gateway.http.post("/v1/edit", json=body)
    assert len(large.content) == int(large.headers["content-length"]) > 1_400_000
    pasted = large.json()["pasted"]
    assert (pasted["width"], pasted["height"], pasted["format"]) == (700, 500, "raw")
    alone = gateway.http.post("/v1/edit", json=body, headers={"accept": "application/octet-stream"})
    assert base64.b64decode(pasted["data"]) == alone.content


# --- half a message ------------------------------------------------------------------------------------


def test_half_a_websocket_message_is_counted_and_must_go_on(impatient: RunningGateway) -> None:
    from websockets.sync.client import connect

    url = f"ws://127.0.0.1:{impatient.gateway.http_port}/v1/edit-session"
    with connect(url, compression=None) as session:
        # the head of a frame of a million bytes, and a part of it
        session.socket.sendall(b"\x82\xff" + (1_000_000).to_bytes(8, "big") + b"\0\0\0\0" + b"x" * 500_000)
        wait_for(lambda: held(impatient) >= 500_000)
        wait_for(lambda: held(impatient) == 0, timeout_s=20.0)


def test_many_large_websocket_messages_are_taken_in_slowly(
    start_gateway: Callable[..., RunningGateway], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All connections share a pace, also those that were opened anew."""
    monkeypatch.setattr(connections, "_BYTES_AT_ONCE", 1_000_000)
    monkeypatch.setattr(connections, "_BYTES_PER_S", 1_000_000)
    running = start_gateway()
    begun_s = time.monotonic()
    for _ in range(3):
        with websocket(running) as session:
            session.send(b"\x89PNG\r\n\x1a\n" + bytes(1_000_000))
            assert answered(session)["error"]["reason"] == "invalid_picture"
    assert time.monotonic() - begun_s > 1.5


def test_an_idle_session_is_not_taken_for_a_slow_request(impatient: RunningGateway) -> None:
    with websocket(impatient) as session:
        with pytest.raises(TimeoutError):
            session.recv(timeout=1.0)
        session.send('{"sequence": 7, "edit": {}}')
        assert answered(session)["sequence"] == 7


def test_pictures_are_given_back_before_garbage_is_collected(gateway: RunningGateway) -> None:
    """Of a session that ended, and of a request that was refused over either transport."""
    broken = b"\x89PNG\r\n\x1a\n" + bytes(5_000_000)
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        with websocket(gateway) as session:
            session.send(broken)
            assert answered(session)["error"]["reason"] == "invalid_picture"
        gateway.http.post("/v1/invert", content=broken, headers={"content-type": "image/png"})
        with pytest.raises(grpc.RpcError):
            gateway.stub.Invert(pb.InvertRequest(picture=pb.Picture(data=broken)), timeout=20)
        wait_for(lambda: tracemalloc.get_traced_memory()[0] < 4_000_000, timeout_s=10.0)
    finally:
        tracemalloc.stop()
        gc.enable()


# six bytes each: pings, continuations of nothing, texts of nothing
@pytest.mark.parametrize("frame", [b"\x89\x80", b"\x00\x80", b"\x81\x80"], ids=["pings", "parts", "texts"])
def test_a_websocket_with_very_many_frames_is_cut(gateway: RunningGateway, frame: bytes) -> None:
    with websocket(gateway) as session:
        if frame == b"\x00\x80":
            session.socket.sendall(b"\x02\x80" + bytes(4))
        with suppress(OSError):
            session.socket.sendall((frame + bytes(4)) * 40_000)
        with pytest.raises(ConnectionClosed):
            list(session)


# --- calls over gRPC that do not go on ----------------------------------------------------------------------


def test_idle_grpc_connections_leave_descriptors_to_http(tiny_repository: Path) -> None:
    """In a process of its own, which may have 128 descriptors."""
    flags = ("--grpc-port", "0", "--http-port", "0", "--log-format", "json")
    limit = (128, 128)
    process = start_process(
        tiny_repository, *flags, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, limit)
    )
    try:
        assert process.stderr is not None
        ready = next(line for line in process.stderr if "ready: gRPC" in line)
        grpc_port, http_port = map(int, re.findall(r"127\.0\.0\.1:(\d+)", ready))
        opened = [socket.create_connection(("127.0.0.1", grpc_port)) for _ in range(200)]

        def is_healthy() -> bool:
            with suppress(httpx.HTTPError):
                return httpx.get(f"http://127.0.0.1:{http_port}/healthz", timeout=1.0).status_code == 200
            return False

        # sooner than gRPC gives up those that do not even greet
        wait_for(is_healthy)
        for one in opened:
            one.close()
    finally:
        process.kill()
        process.wait()


def silent_calls(gateway: RunningGateway, count: int) -> list[Any]:
    """Calls that have begun and send no message."""

    def nothing() -> Iterator[bytes]:
        threading.Event().wait(30)
        yield b""

    edit = gateway.channel.stream_stream("/indomain.v1.Editing/Edit")
    return [edit(nothing(), timeout=60) for _ in range(count)]


def test_large_messages_that_do_not_come_leave_room_for_small_ones(
    start_gateway: Callable[..., RunningGateway],
) -> None:
    running = start_gateway()
    calls = silent_calls(running, 8)
    wait_for(lambda: held(running) == 160 * 2**20)
    assert running.stub.Sample(pb.SampleRequest(seeds=[1]), timeout=20).images
    assert running.http.post("/v1/sample", json={"seeds": [1]}).status_code == 200
    for call in calls:
        call.cancel()


def test_an_ending_gateway_does_not_wait_for_messages_and_readers(
    start_gateway: Callable[..., RunningGateway],
) -> None:
    running = start_gateway(drain_timeout_s=600.0)
    silent_calls(running, 1)
    call = unread_frames(running)
    wait_for(lambda: running.metric("indomain_requests_in_flight") == 1.0)
    wait_for(lambda: held(running) > 0)
    running.run(running.gateway.stop(), timeout_s=20.0)
    call.cancel()


def test_a_connection_that_breaks_off_very_many_calls_is_cut(
    start_gateway: Callable[..., RunningGateway], monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = start_gateway()
    monkeypatch.setattr(grpc_connections, "_BROKEN_OFF_AT_ONCE", 20.0)
    monkeypatch.setattr(grpc_connections, "_BROKEN_OFF_PER_S", 0.0)
    with grpc.insecure_channel(gateway.target) as channel:
        watched = channel.stream_stream("/indomain.v1.Editing/EditSession")(
            iter(threading.Event().wait, True)
        )
        for _ in range(40):
            channel.unary_unary("/indomain.v1.Editing/Sample").future(
                pb.SampleRequest(seeds=[1, 2, 3, 4]).SerializeToString()
            ).cancel()
            call = channel.stream_unary("/indomain.v1.Editing/Sample").future(
                iter(threading.Event().wait, True)
            )
            time.sleep(0.02)
            call.cancel()
        wait_for(lambda: not watched.is_active())
        assert watched.code() is grpc.StatusCode.UNAVAILABLE
    assert gateway.stub.Sample(pb.SampleRequest(seeds=[1]), timeout=20).images


def test_another_connection_is_no_fresh_start_for_calls_that_are_broken_off(
    start_gateway: Callable[..., RunningGateway], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grpc_connections, "_BROKEN_OFF_AT_ONCE", 3.0)
    monkeypatch.setattr(grpc_connections, "_BROKEN_OFF_PER_S", 0.0)
    running = start_gateway()
    assert lasts_with_broken_off(running, 3, watched_s=1.0)
    assert not lasts_with_broken_off(running, 1, watched_s=30.0)


def test_every_session_that_is_broken_off_counts_as_such(
    start_gateway: Callable[..., RunningGateway], monkeypatch: pytest.MonkeyPatch
) -> None:
    """To gRPC some look like sessions that end well: there is no further message before the news of the end."""
    monkeypatch.setattr(grpc_connections, "_BROKEN_OFF_AT_ONCE", 1e6)
    running = start_gateway()
    with grpc.insecure_channel(running.target) as channel:
        for _ in range(800):
            session(channel).cancel()

        def ended(code: str) -> float:
            return running.metric(
                "grpc_server_handled_total",
                grpc_code=code,
                grpc_method="EditSession",
                grpc_service="indomain.v1.Editing",
                grpc_type="bidi_stream",
            )

        wait_for(lambda: ended("CANCELLED") + ended("OK") == 800.0)
        assert ended("OK") == 0.0


def session(channel: grpc.Channel) -> Any:
    """An edit session that has been let in."""
    opened = channel.stream_stream("/indomain.v1.Editing/EditSession")(iter(threading.Event().wait, True))
    opened.initial_metadata()
    return opened


def lasts_with_broken_off(gateway: RunningGateway, count: int, *, watched_s: float) -> bool:
    """Whether a connection outlives so many sessions that it breaks off by as many seconds, or is cut before."""
    with grpc.insecure_channel(gateway.target, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        watched = session(channel)
        for _ in range(count):
            session(channel).cancel()
        end_s = time.monotonic() + watched_s
        while watched.is_active() and time.monotonic() < end_s:
            time.sleep(0.01)
        return bool(watched.is_active())


def test_calls_that_are_reset_at_once_are_cut_before_all_are_worked_on(
    start_gateway: Callable[..., RunningGateway],
) -> None:
    running = start_gateway()
    message = pb.SampleRequest(seeds=[1]).SerializeToString()
    target = SimpleNamespace(grpc_port=int(running.target.rpartition(":")[2]))
    end_s = time.monotonic() + 30.0
    wire.reset_calls(target, "/indomain.v1.Editing/Sample", message, end_s)  # type: ignore[arg-type]
    assert time.monotonic() < end_s, "the connection was not cut"
    begun = running.metric(
        "grpc_server_started_total",
        grpc_type="unary",
        grpc_service="indomain.v1.Editing",
        grpc_method="Sample",
    )
    assert begun < 2_000
    assert running.stub.Sample(pb.SampleRequest(seeds=[1]), timeout=20).images


def test_codes_of_an_interpolation_are_made_as_they_are_sent(gateway: RunningGateway) -> None:
    """All of them would take 2.4 MB here, ten in a large bundle, for each caller."""
    start, end = sampled(gateway, 1, 2)
    request = pb.InterpolateRequest(
        start=pb.Source(code=as_message(start)), end=pb.Source(code=as_message(end)), count=200
    )
    tracemalloc.start()
    try:
        frames = gateway.stub.Interpolate(request, timeout=60)
        next(frames)
        _, peak_bytes = tracemalloc.get_traced_memory()
        frames.cancel()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 2_000_000


def test_small_answers_that_are_not_read_are_given_up(
    start_gateway: Callable[..., RunningGateway], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "_STALL_S", 0.1)
    running = start_gateway()
    call = unread_frames(running)
    ended = {"method": "Interpolate", "code": "DEADLINE_EXCEEDED"}
    wait_for(lambda: running.metric("indomain_requests_total", **ended) == 1.0)
    assert running.metric("indomain_requests_in_flight") == 0.0
    # gRPC cannot take back what it was given to send
    assert call.code() is grpc.StatusCode.UNAVAILABLE
    assert running.stub.Sample(pb.SampleRequest(seeds=[1]), timeout=20).images


def unread_frames(gateway: RunningGateway) -> Any:
    """An interpolation whose pictures are not read."""
    start, end = sampled(gateway, 1, 2)
    request = pb.InterpolateRequest(
        start=pb.Source(code=as_message(start)), end=pb.Source(code=as_message(end)), count=200
    )
    options = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 65536)]
    channel = grpc.insecure_channel(gateway.target, options)
    return channel.unary_stream("/indomain.v1.Editing/Interpolate")(request.SerializeToString(), timeout=60)


def test_a_sessions_pictures_are_counted_as_soon_as_they_have_come(
    start_gateway: Callable[..., RunningGateway],
) -> None:
    running = start_gateway(max_session_photograph_bytes=150_000)
    told = []
    for _ in range(2):
        session = websocket(running).__enter__()
        session.send(LARGE_PNG)
        told.append(answered(session).get("error", {}).get("reason"))
    assert told == [None, "queue_full"]


def test_a_session_lets_go_of_pictures_that_are_none(start_gateway: Callable[..., RunningGateway]) -> None:
    running = start_gateway(max_session_photograph_bytes=150_000)
    for _ in range(3):
        session = websocket(running).__enter__()
        session.send(b"\x89PNG\r\n\x1a\n" + bytes(100_000))
        assert answered(session)["error"]["reason"] == "invalid_picture"
        # and goes on to say what is wrong with its source, until there is another
        session.send('{"sequence": 2, "edit": {}}')
        assert answered(session)["error"]["reason"] == "invalid_picture"
    session.send(LARGE_PNG)
    assert "edited" in answered(session)


# Pixels that cannot be compressed: 120 KB.
LARGE_PNG = encoded(np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8), "PNG")


def held(gateway: RunningGateway) -> int:
    memory: Any = gateway.gateway.memory
    return int(memory.held_bytes)


def test_an_ending_gateway_does_not_wait_for_bodies_that_do_not_come(
    start_gateway: Callable[..., RunningGateway],
) -> None:
    running = start_gateway(drain_timeout_s=600.0)
    with connected(running) as opened:
        opened.sendall(HEAD + b"content-length: 50\r\n\r\n{")
        wait_for(lambda: held(running) > 0, timeout_s=10.0)
        running.run(running.gateway.stop(), timeout_s=60.0)
        assert opened.recv(1000).startswith(b"HTTP/1.1 503")
