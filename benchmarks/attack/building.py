"""Attacks on what is built from a request: a few bytes that take long to read, or much memory."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import grpc

from benchmarks.attack.gateway import HOST, Gateway, Outcome, attack
from benchmarks.attack.pictures import jpeg_of_scans, jpeg_of_segments, png
from benchmarks.attack.wire import TEXT, Answer, Refused, Session, ask, connected, form, request_head

_MIB = 2**20
_JSON = {"content-type": "application/json"}
_UNREFINED = {"refine": {"steps": 0}}


def counted(things: Iterable[object]) -> str:
    """`3 x 200, 1 x 429`; 0 stands for no answer."""
    counts = Counter("no answer" if thing == 0 else str(thing) for thing in things)
    return ", ".join(f"{count} x {thing}" for thing, count in sorted(counts.items()))


def _list_of(items: str, size: int, field: str) -> bytes:
    return f'{{"{field}":[{",".join([items] * (size // (len(items) + 1)))}]}}'.encode()


@attack(1, "JSON of many small items, over HTTP and a websocket")
def small_items(gateway: Gateway) -> Outcome:
    """Sends `{"codes":[0,0,...]}` of 2 and 8 MiB and `{"codes":[{},{},...]}` of nearly 32 MiB to /v1/decode, and a
    websocket text of 2 MiB with as many edits. A good gateway refuses each before it has built a list of them."""
    bodies = [
        _list_of("0", 2 * _MIB, "codes"),
        _list_of("0", 8 * _MIB, "codes"),
        _list_of("{}", 32 * _MIB - 64, "codes"),
    ]
    statuses: list[object] = [ask(gateway, "POST", "/v1/decode", body, _JSON).status for body in bodies]
    text = _list_of("{}", 2 * _MIB, "edits")
    if gateway.nests_session_edits:
        text = b'{"edit":' + text + b"}"
    try:
        session = Session(gateway)
        gateway.hold(session)
        session.connection.settimeout(20.0)
        session.send(TEXT, text)
        answer = json.loads(session.receive()[1])
        told = answer.get("error", answer).get("reason", "served")
    except Refused as error:
        told = f"refused with {error}"
    except TimeoutError:
        told = "no answer"
    except OSError:
        told = "closed"
    refused = all(isinstance(status, int) and 400 <= status < 500 for status in statuses)
    return Outcome(
        f"HTTP {counted(statuses)}; websocket: {told}", refused and told not in ("served", "no answer")
    )


@attack(2, "gRPC Edit of 2 million empty edits")
def empty_edits(gateway: Gateway) -> Outcome:
    """Sends, one after another, an Edit of 2 million empty edits (4 MiB) twice, and a Decode of as many empty codes. A
    good gateway counts them before it makes objects of them, and answers INVALID_ARGUMENT or RESOURCE_EXHAUSTED."""
    count = 2_000_000
    # protobuf: field 4 of an EditRequest, field 2 of a DecodeRequest, each of no bytes
    messages = [("Edit", b"\x22\x00" * count)] * 2 + [("Decode", b"\x12\x00" * count)]
    codes = []
    with grpc.insecure_channel(f"{HOST}:{gateway.grpc_port}") as channel:
        for method, message in messages:
            call: Any = channel.unary_unary(f"/indomain.v1.Editing/{method}")
            try:
                call(message, timeout=20)
                codes.append("OK")
            except grpc.RpcError as error:
                codes.append(error.code().name)
    return Outcome(counted(codes), set(codes) <= {"INVALID_ARGUMENT", "RESOURCE_EXHAUSTED"})


@cache
def _slow_pictures() -> tuple[bytes, ...]:
    return (jpeg_of_scans(8000), jpeg_of_segments(20_000)) * 2


def _invert_all(gateway: Gateway, pictures: Iterable[bytes], timeout_s: float) -> list[Answer]:
    """Inverts pictures, all at once, each with a deadline."""

    def invert(picture: bytes) -> Answer:
        body, headers = form(picture, _UNREFINED)
        headers["x-timeout-s"] = f"{timeout_s:g}"
        return ask(gateway, "POST", "/v1/invert", body, headers, timeout_s=timeout_s + 20.0)

    pictures = list(pictures)
    with ThreadPoolExecutor(len(pictures)) as pool:
        return list(pool.map(invert, pictures))


def _send_slow_pictures(gateway: Gateway) -> None:
    _invert_all(gateway, _slow_pictures(), 3.0)


@attack(3, "JPEGs of 8,000 scans and of 20,000 EXIF segments", parting=_send_slow_pictures)
def slow_pictures(gateway: Gateway) -> Outcome:
    """Sends two JPEGs of 8,000 progressive scans and two of 20,000 EXIF segments, with a deadline of 3 s, and watches
    for 12 s; once more before SIGTERM. A good gateway refuses them or stops to decode them at the deadline."""
    end_s = time.monotonic() + 12.0
    answers = _invert_all(gateway, _slow_pictures(), 3.0)
    slowest_s = max(answer.seconds for answer in answers)
    time.sleep(max(0.0, end_s - time.monotonic()))
    answered = all(400 <= answer.status < 505 or answer.status == 200 for answer in answers)
    return Outcome(
        f"{counted(answer.status for answer in answers)}, the last after {slowest_s:.1f} s",
        answered and slowest_s < 4.0,
    )


@attack(7, "PNGs of 49 megapixels in 100 to 200 KB")
def large_pictures(gateway: Gateway) -> Outcome:
    """Inverts a grey PNG of 7000 x 7000 pixels of 16 bits, then six of them at once, then six of RGBA. A good gateway
    counts the memory of decoded pictures before it decodes them, and serves them in turn or refuses them."""
    grey, rgba = png(7000, 7000, 16, 1), png(7000, 7000, 8, 4)
    answers = []
    for pictures in ([grey], [grey] * 6, [rgba] * 6):
        answers += _invert_all(gateway, pictures, 8.0)
    statuses = [answer.status for answer in answers]
    foreseen = {200, 400, 413, 422, 429, 503, 504}
    return Outcome(counted(statuses), set(statuses) <= foreseen)


@attack(8, "chunks of one byte, without a key", keyed=True)
def tiny_chunks(gateway: Gateway) -> Outcome:
    """Sends a body in chunks of one byte for 8 s, and begins again whenever it is cut. A good gateway cuts, or reads
    them in pieces that hold nobody up."""
    head = request_head("/v1/decode", _JSON | {"transfer-encoding": "chunked"})
    chunks = b"1\r\n0\r\n" * 10_000
    sent, connections, end_s = 0, 0, time.monotonic() + 8.0
    while time.monotonic() < end_s:
        connections += 1
        try:
            with connected(gateway.http_port, timeout_s=2.0) as connection:
                connection.sendall(head)
                while time.monotonic() < end_s:
                    connection.sendall(chunks)
                    sent += 10_000
        except OSError:
            # a gateway that cuts is not to be asked faster than others can be
            time.sleep(0.05)
    return Outcome(f"{sent:,} chunks taken on {connections} connections", True)
