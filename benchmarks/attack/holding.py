"""Attacks that hold something: memory for half of a request, answers that are not read, connections, sessions."""

from __future__ import annotations

import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from benchmarks.attack.building import counted
from benchmarks.attack.gateway import HOST, Gateway, Outcome, attack
from benchmarks.attack.pictures import noise
from benchmarks.attack.wire import (
    BINARY,
    HalfMessage,
    Refused,
    Session,
    ask,
    connected,
    form,
    is_cut,
    request_head,
    reset_calls,
)
from indomain.v1 import editing_pb2 as pb

_MIB = 2**20


@attack(5, "30 gRPC messages of 31 of 32 MiB, then silence, without a key", keyed=True)
def half_messages(gateway: Gateway) -> Outcome:
    """Opens 30 connections, each of which announces a message of 32 MiB, sends 31 as fast as the gateway lets it and
    says no more; they stay open to the end. A good gateway counts what has come, and cuts who does not go on."""
    streams = [
        HalfMessage(gateway, "/indomain.v1.Editing/Edit", 32 * _MIB - 64, 31 * _MIB) for _ in range(30)
    ]
    for stream in streams:
        gateway.hold(stream)
    time.sleep(15.0)
    taken = sum(stream.sent_bytes for stream in streams) // _MIB
    ends = [stream.ended_how or "still open" for stream in streams]
    return Outcome(f"{taken} MiB taken; after 15 s {counted(ends)}", True)


@attack(6, "20 websockets with binary messages of 31 MiB")
def large_messages(gateway: Gateway) -> Outcome:
    """Opens 20 sessions; each sends 31 MiB in one message, and all but a byte of another, and stays open. A good
    gateway counts both, and refuses or cuts what is too much."""
    content = bytes(31 * _MIB)
    sent: list[int] = []

    def send(_: int) -> str:
        try:
            session = Session(gateway)
        except Refused as error:
            return f"refused with {error}"
        except OSError:
            return "cut"
        gateway.hold(session)
        try:
            for missing in (0, 1):
                session.send(BINARY, content, missing=missing)
                sent.append(31)
        except TimeoutError:
            return "no longer read"
        except OSError:
            return "cut"
        return "taken"

    with ThreadPoolExecutor(20) as pool:
        ends = list(pool.map(send, range(20)))
    time.sleep(5.0)
    return Outcome(f"{counted(ends)}; {sum(sent)} MiB taken", True)


@attack(9, "500 silent HTTP connections, at 128 file descriptors", max_descriptors=128)
def silent_connections(gateway: Gateway) -> Outcome:
    """Opens 500 connections, half of which say nothing and half begin a request; none goes on. A good gateway cuts them
    within 25 s, and meanwhile answers whoever else comes."""
    connections: list[socket.socket] = []
    for number in range(500):
        try:
            connection = connected(gateway.http_port, timeout_s=0.5)
            gateway.hold(connection)
            connections.append(connection)
            if number % 2:
                connection.sendall(b"GET /healthz HTTP/1.1\r\nHost:")
        except OSError:
            continue
    opened, begun_s = len(connections), time.monotonic()
    served = []
    while connections and time.monotonic() < begun_s + 25.0:
        served.append(ask(gateway, "GET", "/healthz", source=HOST, timeout_s=2.0).status == 200)
        connections = [connection for connection in connections if not is_cut(connection)]
        time.sleep(0.5)
    after_s = time.monotonic() - begun_s
    return Outcome(
        f"{opened} opened, {len(connections)} not cut after {after_s:.0f} s; newcomers served {sum(served)} of "
        f"{len(served)} times",
        not connections and all(served),
    )


class _Upload(threading.Thread):
    """A picture that is sent but for its end, of which a byte comes each second."""

    def __init__(self, gateway: Gateway, owner: str, size: int) -> None:
        super().__init__(daemon=True)
        self.filled = threading.Event()
        self.refused = False
        boundary = '--b\r\nContent-Disposition: form-data; name="picture"; filename="a"\r\n\r\n'
        headers = gateway.bearer(owner) | {
            "content-type": "multipart/form-data; boundary=b",
            "content-length": str(size),
            "x-timeout-s": "600",
        }
        self._head = request_head("/v1/invert", headers) + boundary.encode()
        self._content = bytes(size - len(boundary) - 2048)
        self._connection = connected(gateway.http_port)

    def run(self) -> None:
        try:
            self._connection.sendall(self._head)
            self._connection.sendall(self._content)
            self.filled.set()
            while not is_cut(self._connection):
                time.sleep(1.0)
                self._connection.settimeout(5.0)
                self._connection.sendall(b"\0")
        except OSError:
            pass
        self.refused = True
        self.filled.set()

    def close(self) -> None:
        self._connection.close()


@attack(12, "17 slow uploads with one key", keyed=True)
def slow_uploads(gateway: Gateway) -> Outcome:
    """Uploads 17 pictures of nearly 32 MiB with one key and a timeout of 600 s, of which the last 2 KiB come a byte a
    second. Meanwhile another key inverts a picture of 3 MB, five times. A good gateway leaves room for others."""
    uploads = [_Upload(gateway, "hog", 32 * _MIB - 1024) for _ in range(17)]
    for upload in uploads:
        gateway.hold(upload)
        upload.start()
    end_s = time.monotonic() + 12.0
    for upload in uploads:
        upload.filled.wait(max(0.0, end_s - time.monotonic()))
    body, headers = form(
        noise(1000, 1000, "PNG"), {"refine": {"steps": 0}, "align": {"alignment": "centre-crop"}}
    )
    headers |= gateway.bearer("other")
    statuses = [
        ask(gateway, "POST", "/v1/invert", body, headers, source=HOST, timeout_s=5.0).status for _ in range(5)
    ]
    refused = sum(upload.refused for upload in uploads)
    return Outcome(
        f"{refused} uploads of 17 refused; another key: {counted(statuses)}", set(statuses) == {200}
    )


@attack(13, "500 idle websockets with one key", keyed=True)
def idle_sessions(gateway: Gateway) -> Outcome:
    """Opens 500 sessions with one key and leaves them idle. Then another key opens one and edits. A good gateway leaves
    places for others."""
    opened: list[Session] = []
    refusals: list[str] = []
    for _ in range(500):
        try:
            session = Session(gateway, gateway.bearer("hog"))
        except Refused as error:
            refusals.append(str(error))
            continue
        except OSError:
            refusals.append("cut")
            continue
        gateway.hold(session)
        opened.append(session)
    time.sleep(1.0)
    left = sum(not is_cut(session.connection) for session in opened)
    told = "refused"
    try:
        session = Session(gateway, gateway.bearer("other"), source=HOST)
        gateway.hold(session)
        answer = session.edit(code=sampled_code(gateway))
        told = "served" if "edited" in answer else answer.get("error", answer).get("reason", "refused")
    except Refused as error:
        told = f"refused with {error}"
    except OSError:
        told = "cut"
    return Outcome(f"{left} of 500 open; another key's session: {told}", told == "served")


def sampled_code(gateway: Gateway) -> dict[str, object]:
    """The JSON of a code to edit."""
    body = json.dumps({"seeds": [1], "output": {"omit_image": True}}).encode()
    headers = {"content-type": "application/json"} | gateway.bearer("other")
    (code,) = json.loads(ask(gateway, "POST", "/v1/sample", body, headers, source=HOST).body)["codes"]
    return {"data": code["data"], "shape": code["shape"]}


@attack(16, "eight answers of 12 megapixels that nobody reads")
def unread_answers(gateway: Gateway) -> Outcome:
    """Asks eight times at once, with a deadline of 15 s, for an edit pasted back into a photograph of 12 megapixels,
    as raw pixels (48 MB in base64); reads none of the answers, and keeps the connections open. A good gateway lets
    go of them soon after the deadline."""
    options = {
        "refine": {"steps": 0},
        "align": {"alignment": "centre-crop"},
        "edits": [{"direction": gateway.directions[0], "strength": 1.0}],
        "output": {"include_pasted": True, "format": "raw"},
    }
    # so wide that its middle, which is pasted, is small: the answer is large and soon there
    body, headers = form(noise(12_000, 1000, "JPEG"), options)
    headers |= {"content-length": str(len(body)), "x-timeout-s": "15"}
    connections = []
    for _ in range(8):
        connection = connected(gateway.http_port, receive_buffer=4096)
        gateway.hold(connection)
        connections.append(connection)

    def send(connection: socket.socket) -> None:
        try:
            connection.sendall(request_head("/v1/edit", headers))
            connection.sendall(body)
        except OSError:
            pass

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(send, connections))
    time.sleep(18.0)
    begun = []
    for connection in connections:
        connection.settimeout(0.1)
        try:
            begun.append(connection.recv(12, socket.MSG_PEEK)[9:12].decode() or "cut")
        except TimeoutError:
            begun.append("silent")
        except OSError:
            begun.append("cut")
    return Outcome(f"after 18 s: {counted(begun)}", True)


@attack(20, "gRPC calls that are opened and reset at once (rapid reset)")
def rapid_reset(gateway: Gateway) -> Outcome:
    """For 8 s four threads open calls and reset them at once, and another connection whenever theirs is cut
    (CVE-2023-44487). A good gateway cuts who does so before it has worked on many of them."""
    message = pb.SampleRequest(seeds=[1]).SerializeToString()
    end_s = time.monotonic() + 8.0

    def reset(_: int) -> list[int]:
        counts = []
        while time.monotonic() < end_s:
            try:
                counts.append(reset_calls(gateway, "/indomain.v1.Editing/Sample", message, end_s))
            except OSError:
                time.sleep(0.01)
        return counts

    with ThreadPoolExecutor(4) as pool:
        counts = [count for of_thread in pool.map(reset, range(4)) for count in of_thread]
    return Outcome(f"{sum(counts)} calls reset over {len(counts)} connections", len(counts) > 4)
