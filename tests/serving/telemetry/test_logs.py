"""Log lines: nobody waits for whoever reads them, no line is lost unseen, and a stranger cannot fill the log."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import h11
import httpx
import pytest

from serving.call import CALL, Call
from serving.deadline import Deadline
from serving.telemetry.logs import JsonFormatter, LibraryFilter, LogWriter, TextFormatter
from tests.serving.running_gateway import start_process
from tests.serving.waiting import wait_for

# A long id makes a long line.
BUNDLES = b"GET /v1/bundles HTTP/1.1\r\nhost: localhost\r\nx-request-id: " + b"a" * 128 + b"\r\n\r\n"


# --- the thread that writes --------------------------------------------------------------------------


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """The descriptors of a pipe: to read from, to write to."""
    reading, writing = os.pipe()
    yield reading, writing
    for descriptor in (reading, writing):
        with suppress(OSError):
            os.close(descriptor)


def logger_of(writer: LogWriter) -> logging.Logger:
    writer.setFormatter(JsonFormatter())
    logger = logging.Logger("serving.tests")
    logger.addHandler(writer)
    return logger


def read_lines(descriptor: int, until: str) -> list[dict[str, Any]]:
    """Lines of a pipe up to one with this message."""
    entries: list[dict[str, Any]] = []
    with open(descriptor, closefd=False) as file:
        for line in file:
            entries.append(json.loads(line))
            if entries[-1]["message"] == until:
                return entries
    raise AssertionError(f"no line {until}")


def test_a_line_names_the_request_that_logged_it(pipe: tuple[int, int]) -> None:
    """Not the one, or none, that is current when it is written."""
    logger = logger_of(LogWriter(pipe[1]))
    for name in ("first", "second"):
        token = CALL.set(Call(name, Deadline.after(1.0), owner=f"owner of {name}", stage="encode"))
        logger.info("of %s", name)
        CALL.reset(token)
    logger.info("of none")
    first, second, last = read_lines(pipe[0], "of none")
    assert (first["request_id"], first["owner"], first["stage"]) == ("first", "owner of first", "encode")
    assert second["request_id"] == "second"
    assert "request_id" not in last


@pytest.mark.parametrize("form", [TextFormatter(), JsonFormatter()])
def test_what_a_caller_names_can_neither_begin_a_line_nor_steer_a_terminal(
    pipe: tuple[int, int], form: logging.Formatter
) -> None:
    writer = LogWriter(pipe[1])
    logger = logger_of(writer)
    writer.setFormatter(form)
    logger.info("%s", "/a\n2026 ERROR forged\r\x1b[31m\x9b31m\u202e\u2028")
    writer.flush()
    line = os.read(pipe[0], 10_000).decode()
    assert line.count("\n") == 1
    assert "forged" in line
    assert all(character.isprintable() for character in line[:-1])


def test_lines_that_have_no_room_are_dropped_counted_and_told(pipe: tuple[int, int]) -> None:
    writer = LogWriter(pipe[1], max_waiting_bytes=100_000)
    drops: list[float] = []
    writer.count_drops(drops.append)
    logger = logger_of(writer)
    for n in range(3000):
        logger.info("line %d", n)
    assert sum(drops) > 500
    reader = threading.Thread(target=lambda: entries.extend(read_lines(pipe[0], "last")))
    entries: list[dict[str, Any]] = []
    reader.start()
    writer.flush()
    logger.info("last")
    reader.join(timeout=20)
    # There may be room again in between: each notice stands where its lines would be.
    expected = dropped = 0
    for entry in entries[:-1]:
        if entry["level"] == "warning":
            count, said = entry["message"].split(" ", 1)
            assert said.startswith("log lines were dropped")
            expected, dropped = expected + int(count), dropped + int(count)
        else:
            assert entry["message"] == f"line {expected}"
            expected += 1
    assert (expected, dropped) == (3000, sum(drops))


def test_a_closed_pipe_is_counted_and_stops_nobody(pipe: tuple[int, int]) -> None:
    writer = LogWriter(pipe[1])
    drops: list[float] = []
    writer.count_drops(drops.append)
    os.close(pipe[0])
    logger = logger_of(writer)
    for n in range(3):
        logger.info("line %d", n)
        writer.flush()
    # each line after the first brings along one that tells of the drop before
    assert sum(drops) >= 3


def test_a_line_that_cannot_be_formatted_is_told(pipe: tuple[int, int]) -> None:
    logger = logging.Logger("serving.tests")
    writer = LogWriter(pipe[1])
    logger.addHandler(writer)
    logger.info("%d", "seven")
    writer.flush()
    assert b"could not be formatted: '%d'" in os.read(pipe[0], 1000)


# --- a process whose log is not read -----------------------------------------------------------------


class Started:
    """`python -m serving` in a process of its own; its log is read up to the line that tells its ports."""

    def __init__(self, repository: Path, *flags: str) -> None:
        self.process = start_process(repository, "--grpc-port", "0", "--http-port", "0", *flags)
        ports = None
        while ports is None:
            line = self.log.readline()
            assert line, "the gateway did not start"
            ports = re.search(r"gRPC on 127.0.0.1:(\d+), HTTP on 127.0.0.1:(\d+)", line)
        self.grpc_port, self.http_port = int(ports[1]), int(ports[2])

    @property
    def log(self) -> Any:
        assert self.process.stderr is not None
        return self.process.stderr

    def ask(self, count: int) -> None:
        """Sends requests that each write a log line, over one connection, and waits for all answers."""
        with socket.create_connection(("127.0.0.1", self.http_port), timeout=20) as connection:
            for _ in range(count // 50):
                connection.sendall(BUNDLES * 50)
                answered = b""
                while answered.count(b"HTTP/1.1 200 OK") < 50 or not answered.endswith(b"}"):
                    answered += connection.recv(1 << 20)

    def dropped(self) -> int:
        """The metric of dropped lines."""
        text = httpx.get(f"http://127.0.0.1:{self.http_port}/metrics").text
        return int(float(re.findall(r"^indomain_log_lines_dropped_total (\S+)", text, re.MULTILINE)[0]))

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def started(tiny_repository: Path) -> Iterator[Started]:
    gateway = Started(tiny_repository)
    yield gateway
    gateway.close()


def test_a_log_that_nobody_reads_stops_no_request_and_no_end(started: Started) -> None:
    asked = 0
    while not started.dropped():
        started.ask(500)
        asked += 500
        assert asked < 10_000
    assert asked >= 1000
    started.process.send_signal(signal.SIGTERM)
    begun_s = time.monotonic()
    assert started.process.wait(timeout=20) == 0
    assert time.monotonic() - begun_s < 5.0


def test_a_log_that_is_read_again_tells_how_many_lines_it_lacks(started: Started) -> None:
    asked = 0
    while not started.dropped():
        started.ask(500)
        asked += 500
    entries: list[dict[str, Any]] = []
    reader = threading.Thread(target=lambda: entries.extend(map(json.loads, started.log)))
    dropped = started.dropped()
    reader.start()
    wait_for(lambda: len(entries) >= asked - dropped)
    started.ask(50)
    started.process.send_signal(signal.SIGTERM)
    reader.join(timeout=20)
    messages = [entry["message"] for entry in entries]
    (told,) = [n for n, message in enumerate(messages) if "dropped" in message]
    assert messages[told].startswith(f"{dropped} log lines were dropped")
    assert messages[:told] == ["ListBundles OK"] * (asked - dropped)
    assert messages[told + 1 : -1] == ["ListBundles OK"] * 50
    assert messages[-1] == "finishing what is in flight"


def test_an_ordinary_end_loses_no_line(started: Started) -> None:
    started.ask(500)
    started.process.send_signal(signal.SIGTERM)
    lines = [json.loads(line)["message"] for line in started.log]
    assert started.process.wait(timeout=20) == 0
    assert lines == [*["ListBundles OK"] * 500, "finishing what is in flight"]


# --- what a stranger can make it log -----------------------------------------------------------------


def record_of(error: Exception | None, name: str = "uvicorn.error", created_s: float = 1e9) -> Any:
    exc_info = None if error is None else (type(error), error, None)
    record = logging.LogRecord(name, logging.ERROR, "here.py", 1, "it broke\nin %s", ("parts",), exc_info)
    record.created = created_s
    return record


def test_a_broken_protocol_is_one_line_in_ten_seconds() -> None:
    kept = LibraryFilter()
    first, later = (
        record_of(h11.RemoteProtocolError("bad chunk"), created_s=at_s) for at_s in (1e9, 1e9 + 11)
    )
    assert kept.filter(first)
    assert JsonFormatter().format(first).count("traceback") == 0
    assert first.getMessage() == "it broke: RemoteProtocolError: bad chunk"
    assert not any(kept.filter(record_of(h11.LocalProtocolError("bad state"))) for _ in range(99))
    assert kept.filter(later)
    assert later.getMessage().endswith("bad chunk (99 lines like this were left out)")


def test_the_gateways_own_lines_are_left_as_they_are() -> None:
    kept = LibraryFilter()
    for error in (ValueError("a fault"), OSError("a disk"), None):
        for _ in range(3):
            record = record_of(error, "serving.access.lifecycle")
            assert kept.filter(record)
            assert (record.exc_info is None) == (error is None)


def test_a_fault_that_a_library_logs_keeps_its_traceback() -> None:
    kept = LibraryFilter()
    record = record_of(ValueError("a fault"))
    assert kept.filter(record)
    assert record.exc_info is not None
    assert not kept.filter(record_of(ValueError("a fault")))
    # what came of broken bytes is no fault
    came_of_it = RuntimeError("cannot answer")
    came_of_it.__context__ = h11.LocalProtocolError("bad state")
    record = record_of(came_of_it, "serving.access.lifecycle")
    assert kept.filter(record)
    assert record.exc_info is None


POST = b"POST %s HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
CHUNKED = POST + b"transfer-encoding: chunked\r\n\r\n"
BAD_CHUNK = b"ZZ\r\nhello\r\n"
WEBSOCKET = (
    b"GET /v1/edit-session HTTP/1.1\r\nhost: localhost\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
    b"sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\nsec-websocket-version: 13\r\n\r\n"
)
NO_MASK = b"\0\0\0\0"
# Bytes to send, and bytes to send once something was answered.
BROKEN: dict[str, tuple[bytes, bytes]] = {
    "a chunk to a route": (CHUNKED % b"/v1/sample" + BAD_CHUNK, b""),
    "a chunk to no route": (CHUNKED % b"/nothing" + BAD_CHUNK, b""),
    "a chunk to a probe": ((CHUNKED % b"/healthz").replace(b"POST", b"GET") + BAD_CHUNK, b""),
    "a chunk to the studio": (CHUNKED % b"/studio" + BAD_CHUNK, b""),
    "a chunk after the answer": (CHUNKED % b"/nothing" + b"1\r\n{\r\n", BAD_CHUNK),
    "a request line": (b"GARBAGE\r\n\r\n", b""),
    "a request line after a request": (BUNDLES + b"GARBAGE\r\n\r\n", b""),
    "a header": (b"GET / HTTP/1.1\r\nhost: localhost\r\nno header\r\n\r\n", b""),
    "a header without end": (b"GET / HTTP/1.1\r\nx: " + b"a" * 200_000, b""),
    "TLS where there is none": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"a" * 200, b""),
    "an upgrade to what is not served": (BUNDLES[:-2] + b"upgrade: h2c\r\nconnection: upgrade\r\n\r\n", b""),
    "a handshake": (WEBSOCKET.replace(b"AAAA==", b"**"), b""),
    "a websocket elsewhere": (WEBSOCKET.replace(b"edit-session", b"nothing"), b""),
    "a text that is no UTF-8": (WEBSOCKET, b"\x81\x82" + NO_MASK + b"\xff\xfe"),
    "a frame without a mask": (WEBSOCKET, b"\x81\x02{}"),
    "a frame with reserved bits": (WEBSOCKET, b"\xf1\x82" + NO_MASK + b"{}"),
    "a frame of no kind": (WEBSOCKET, b"\x85\x82" + NO_MASK + b"{}"),
    "a frame without end": (WEBSOCKET, b"\x82\xff" + b"\x7f" * 8 + NO_MASK),
    "a goodbye that is no UTF-8": (WEBSOCKET, b"\x88\x84" + NO_MASK + b"\x03\xe8\xff\xff"),
}


@pytest.fixture(scope="module")
def attacked(tiny_repository: Path) -> Iterator[tuple[Started, list[str]]]:
    """A gateway, and the lines that it has written since its start."""
    gateway = Started(tiny_repository)
    lines: list[str] = []
    threading.Thread(target=lambda: lines.extend(gateway.log), daemon=True).start()
    yield gateway, lines
    gateway.close()


def send(port: int, first: bytes, then: bytes) -> None:
    # it may be cut off, or hear nothing
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=0.2) as connection:
        connection.sendall(first)
        while connection.recv(1 << 16):
            connection.sendall(then)
            then = b""


@pytest.mark.parametrize("name", BROKEN)
def test_broken_bytes_leave_a_short_line_at_most(name: str, attacked: tuple[Started, list[str]]) -> None:
    gateway, lines = attacked
    begun_s, before = time.monotonic(), len(lines)
    for _ in range(3):
        send(gateway.http_port, *BROKEN[name])
    # its line is written after all lines of before
    httpx.get(f"http://127.0.0.1:{gateway.http_port}/v1/bundles", headers={"x-request-id": f"end-{before}"})
    wait_for(lambda: any(f"end-{before}" in line for line in lines[before:]))
    entries = [json.loads(line) for line in lines[before:]]
    assert not [entry for entry in entries if "traceback" in entry or "Traceback" in entry["message"]]
    others = [entry for entry in entries if entry["logger"] != "serving.requests"]
    assert len(others) <= 1 + (time.monotonic() - begun_s) // 10
    assert all(len(line) < 450 for line in lines[before:])


def test_broken_tls_leaves_no_line(tiny_repository: Path, tmp_path: Path) -> None:
    """gRPC's core would write a line of its own for each, past the queue."""
    files = [tmp_path / "tls.pem", tmp_path / "tls.key"]
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=localhost",
    ]
    subprocess.run([*command, "-out", files[0], "-keyout", files[1]], check=True, capture_output=True)
    gateway = Started(tiny_repository, "--tls-certificate", str(files[0]), "--tls-key", str(files[1]))
    try:
        for port in (gateway.grpc_port, gateway.http_port):
            for _ in range(3):
                send(port, BUNDLES, b"")
                send(port, b"\x16\x03\x01\x00\x05hello", b"")
        gateway.process.send_signal(signal.SIGTERM)
        assert [json.loads(line)["message"] for line in gateway.log] == ["finishing what is in flight"]
    finally:
        gateway.close()
