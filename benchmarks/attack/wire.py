"""What attackers speak: HTTP as they like it, websockets, HTTP/2 frames by hand. They come from an address of their own
on loopback (STRANGER), so that a gateway can tell them from others, who come from HOST."""

from __future__ import annotations

import json
import select
import socket
import struct
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from typing import Any

from benchmarks.attack.gateway import HOST, Gateway

STRANGER = "127.0.0.66"
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


def connected(
    port: int, *, source: str = STRANGER, timeout_s: float = 10.0, receive_buffer: int | None = None
) -> socket.socket:
    """A TCP connection. Raises OSError."""
    connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    if receive_buffer is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.settimeout(timeout_s)
    try:
        connection.bind((source, 0))
        connection.connect((HOST, port))
    except OSError:
        connection.close()
        raise
    return connection


def is_cut(connection: socket.socket) -> bool:
    """Whether the other side has ended a connection. What lies there to be read is thrown away."""
    connection.setblocking(False)
    try:
        while connection.recv(65536):
            pass
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


# --- HTTP ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """`status` is 0 where none came: the connection was cut, or time ran out."""

    status: int
    body: bytes
    seconds: float


def ask(
    gateway: Gateway,
    method: str,
    path: str,
    body: bytes = b"",
    headers: Mapping[str, str] | None = None,
    *,
    source: str = STRANGER,
    timeout_s: float = 20.0,
) -> Answer:
    """One request over a connection of its own. `headers` may have a Host."""
    given = {name.lower(): value for name, value in (headers or {}).items()}
    connection = HTTPConnection(HOST, gateway.http_port, timeout=timeout_s, source_address=(source, 0))
    begun_s = time.monotonic()
    try:
        connection.putrequest(method, path, skip_host="host" in given, skip_accept_encoding=True)
        for name, value in ({"content-length": str(len(body))} | given).items():
            connection.putheader(name, value)
        connection.endheaders()
        # who refuses early may cut before all is sent, and has answered all the same
        with suppress(BrokenPipeError, ConnectionResetError):
            connection.send(body)
        answer = connection.getresponse()
        return Answer(answer.status, answer.read(), time.monotonic() - begun_s)
    except (OSError, HTTPException):
        return Answer(0, b"", time.monotonic() - begun_s)
    finally:
        connection.close()


def form(picture: bytes, options: Mapping[str, Any]) -> tuple[bytes, dict[str, str]]:
    """A picture with options in JSON as a multipart form, and the header that goes with it."""
    boundary = "7d0b6f0e5c1a4f8f"
    body = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="options"\r\n\r\n{json.dumps(options)}\r\n'
        f'--{boundary}\r\nContent-Disposition: form-data; name="picture"; filename="a"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    ).encode() + picture
    end = f"\r\n--{boundary}--\r\n".encode()
    return body + end, {"content-type": f"multipart/form-data; boundary={boundary}"}


def request_head(path: str, headers: Mapping[str, str]) -> bytes:
    """The first lines of a POST, up to its body."""
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: 127.0.0.1",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    return "\r\n".join([*lines, "", ""]).encode()


# --- websockets ------------------------------------------------------------------------------------------


class Refused(Exception):
    """The gateway did not open the session; the message is the status that it answered."""


class Session:
    """The websocket of an edit session. Frames are masked with zeros, so that they can be sent as they are.

    Raises Refused, OSError.
    """

    def __init__(
        self, gateway: Gateway, headers: Mapping[str, str] | None = None, *, source: str = STRANGER
    ) -> None:
        self._nested = gateway.nests_session_edits
        self.connection = connected(gateway.http_port, source=source)
        try:
            self._open({"host": HOST} | dict(headers or {}))
        except BaseException:
            self.close()
            raise

    def _open(self, headers: Mapping[str, str]) -> None:
        fields = {
            **headers,
            "connection": "Upgrade",
            "upgrade": "websocket",
            "sec-websocket-version": "13",
            "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
        }
        lines = [f"{name}: {value}" for name, value in fields.items()]
        self.connection.sendall("\r\n".join(["GET /v1/edit-session HTTP/1.1", *lines, "", ""]).encode())
        head = b""
        while b"\r\n\r\n" not in head:
            piece = self.connection.recv(4096)
            if not piece:
                break
            head += piece
        head, _, self._received = head.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 101"):
            raise Refused(head[9:12].decode() or "cut")

    def send(self, kind: int, content: bytes, *, missing: int = 0) -> None:
        """A message of one frame, without the last `missing` bytes that it announces. Raises OSError."""
        length = len(content)
        if length < 126:
            head = struct.pack(">BB", 0x80 | kind, 0x80 | length)
        elif length < 65536:
            head = struct.pack(">BBH", 0x80 | kind, 0x80 | 126, length)
        else:
            head = struct.pack(">BBQ", 0x80 | kind, 0x80 | 127, length)
        self.connection.sendall(head + bytes(4))
        self.connection.sendall(memoryview(content)[: length - missing])

    def receive(self) -> tuple[int, bytes]:
        """Kind and content of the next message. Raises ConnectionError where the session has ended, TimeoutError."""
        while True:
            first, second = self._take(2)
            length = second & 0x7F
            if length == 126:
                (length,) = struct.unpack(">H", self._take(2))
            elif length == 127:
                (length,) = struct.unpack(">Q", self._take(8))
            kind, content = first & 0x0F, self._take(length)
            if kind == CLOSE:
                raise ConnectionError("the gateway closed the session")
            if kind == PING:
                self.send(PONG, content)
            elif kind in (TEXT, BINARY):
                return kind, content

    def edit(self, **fields: Any) -> dict[str, Any]:
        """What is answered to one edit, without pictures. Raises what `send` and `receive` do."""
        fields["output"] = {"omit_image": True}
        message = {"sequence": 1, "edit": fields} if self._nested else {"sequence": 1, **fields}
        self.send(TEXT, json.dumps(message).encode())
        answer: dict[str, Any] = json.loads(self.receive()[1])
        return answer

    def close(self) -> None:
        self.connection.close()

    def _take(self, count: int) -> bytes:
        while len(self._received) < count:
            piece = self.connection.recv(65536)
            if not piece:
                raise ConnectionError("the gateway cut the connection")
            self._received += piece
        taken, self._received = self._received[:count], self._received[count:]
        return taken


# --- HTTP/2 ----------------------------------------------------------------------------------------------

_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_INITIAL_WINDOW_SIZE = 4
_MAX_FRAME = 16384
_CANCEL = 8


class HalfMessage:
    """A gRPC call whose message is never sent in whole: `sent_bytes` of the `announced_bytes`, then silence. Pings are
    answered, windows heeded. RFC 9113; header fields are literals (RFC 7541, 6.2.2)."""

    def __init__(self, gateway: Gateway, path: str, announced_bytes: int, most_bytes: int) -> None:
        self.sent_bytes = 0
        self.ended_how = ""
        self._left = most_bytes
        self._announced = announced_bytes
        self._windows = {0: 65535, 1: 65535}
        self._initial_window = 65535
        self._received = b""
        self._connection = connected(gateway.grpc_port)
        self._connection.sendall(_PREFACE + _call_headers(1, path))
        threading.Thread(target=self._run, daemon=True).start()

    def close(self) -> None:
        self._connection.close()

    def _run(self) -> None:
        try:
            self._send_data(b"\0" + struct.pack(">I", self._announced))
            while not self.ended_how:
                room = min(*self._windows.values(), self._left, _MAX_FRAME)
                readable, _, _ = select.select([self._connection], [], [], 0.0 if room > 0 else 0.5)
                if readable:
                    self._receive()
                elif room > 0:
                    self._send_data(bytes(room))
                    self._left -= room
        except TimeoutError:
            self.ended_how = "no longer read"
        except (OSError, ValueError):
            self.ended_how = self.ended_how or "cut"

    def _send_data(self, content: bytes) -> None:
        self._connection.sendall(_frame(_DATA, 0, 1, content))
        self.sent_bytes += len(content)
        for stream in self._windows:
            self._windows[stream] -= len(content)

    def _receive(self) -> None:
        piece = self._connection.recv(65536)
        if not piece:
            self.ended_how = "cut"
        self._received += piece
        while len(self._received) >= 9:
            length, kind, flags, stream = *_head(self._received), int.from_bytes(self._received[5:9], "big")
            if len(self._received) < 9 + length:
                return
            content, self._received = self._received[9 : 9 + length], self._received[9 + length :]
            self._heed(kind, flags, stream, content)

    def _heed(self, kind: int, flags: int, stream: int, content: bytes) -> None:
        acknowledges = bool(flags & 0x1)
        if kind == _WINDOW_UPDATE and stream in self._windows:
            self._windows[stream] += int.from_bytes(content, "big")
        elif kind == _PING and not acknowledges:
            self._connection.sendall(_frame(_PING, 0x1, 0, content))
        elif kind == _SETTINGS and not acknowledges:
            for name, value in struct.iter_unpack(">HI", content):
                if name == _INITIAL_WINDOW_SIZE:
                    self._windows[1] += value - self._initial_window
                    self._initial_window = value
            self._connection.sendall(_frame(_SETTINGS, 0x1, 0, b""))
        elif kind in (_RST_STREAM, _GOAWAY) or (kind == _HEADERS and acknowledges):
            # on HEADERS this flag says that the answer is complete
            self.ended_how = "refused"


def reset_calls(gateway: Gateway, path: str, message: bytes, end_s: float) -> int:
    """Opens a connection, and in it gRPC calls that it resets at once, as fast as they are taken, until it is cut or
    `end_s` of the monotonic clock. Gives how many. Raises OSError where no connection can be had."""
    connection = connected(gateway.grpc_port)
    body = b"\0" + struct.pack(">I", len(message)) + message
    count = 0
    try:
        connection.sendall(_PREFACE + _frame(_SETTINGS, 0x1, 0, b""))
        while time.monotonic() < end_s:
            stream = 2 * count + 1
            connection.sendall(
                _call_headers(stream, path)
                + _frame(_DATA, 0, stream, body)
                + _frame(_RST_STREAM, 0, stream, struct.pack(">I", _CANCEL))
            )
            count += 1
            if count % 64 == 0 and is_cut(connection):
                break
            connection.settimeout(10.0)
    except OSError:
        # the gateway has cut it
        pass
    finally:
        connection.close()
    return count


def _call_headers(stream: int, path: str) -> bytes:
    """The frame that begins a gRPC call."""
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": path,
        ":authority": HOST,
        "te": "trailers",
        "content-type": "application/grpc",
    }
    block = b"".join(b"\0" + _literal(name) + _literal(value) for name, value in fields.items())
    return _frame(_HEADERS, 0x4, stream, block)


def _frame(kind: int, flags: int, stream: int, content: bytes) -> bytes:
    return len(content).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + content


def _head(frame: bytes) -> tuple[int, int, int]:
    return int.from_bytes(frame[:3], "big"), frame[3], frame[4]


def _literal(text: str) -> bytes:
    """A string of at most 126 bytes, without Huffman coding."""
    return bytes([len(text)]) + text.encode()


_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(_SETTINGS, 0, 0, b"")
