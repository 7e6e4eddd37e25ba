"""What strangers send is bounded before it is built: numbers of values, messages that do not come, connections."""

from __future__ import annotations

import base64
import json
import socket
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st

from indomain.v1 import editing_pb2 as pb
from serving.errors import MalformedRequest
from serving.grpc import interceptor
from serving.http import connections
from serving.wire.bounds import MAX_VALUES, check_values
from tests.serving.pictures import encoded, photograph, zero_png
from tests.serving.running_gateway import RunningGateway
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
    ],
    ids=["edits", "codes", "packed seeds", "layers within an edit", "unknown fields"],
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
    assert running.http.get("/healthz").status_code == 200
    assert is_cut(silent[0])
    for opened in silent:
        opened.close()


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
    monkeypatch.setattr(interceptor, "_STALL_S", 0.1)
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
        call = channel.unary_stream("/indomain.v1.Editing/Edit")(message.SerializeToString(), timeout=3.0)
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
        wait_for(lambda: held(impatient) >= 500_000, timeout_s=5.0)
        wait_for(lambda: held(impatient) == 0, timeout_s=20.0)


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
