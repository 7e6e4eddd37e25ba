"""Log lines: their format, the thread that writes them, and how little of them a stranger can cause.

A line is JSON for machines or text for people, and names the request that it belongs to. Pictures, codes, keys and
headers are never logged. What is logged is decided where it happens.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import threading
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

import grpc
import h11
import websockets

from serving.call import CALL, Call
from serving.settings import Settings

# About 3,000 lines of requests.
_MAX_WAITING_BYTES: Final = 1024 * 1024
# At the end of the process: how long to wait for whoever reads the log.
_FLUSH_TIMEOUT_S: Final = 2.0
# Of one kind of line that a caller can cause, at most one is written in so many seconds.
_QUIET_S: Final = 10.0
_MAX_SHORTENED_CHARACTERS: Final = 200
# What parsers raise on bytes that break their protocol, and gRPC where a caller is gone before its answer is.
_PROTOCOL_ERRORS: Final = (
    h11.ProtocolError,
    websockets.InvalidHandshake,
    websockets.ConnectionClosed,
    grpc.aio.InternalError,
)
_LIBRARIES: Final = frozenset({"uvicorn", "websockets", "asyncio", "grpc", "py"})

# What a terminal obeys, or shows in another order than it stands there. In JSON most of it is escaped already.
_CONTROLS: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")

_requests = logging.getLogger("serving.requests")


def configure(settings: Settings) -> LogWriter:
    """Sets up the logging of this process, to standard error. Returns what writes the lines."""
    writer = LogWriter(sys.stderr.fileno())
    as_json = settings.log_format == "json" or (settings.log_format == "auto" and not sys.stderr.isatty())
    writer.setFormatter(JsonFormatter() if as_json else TextFormatter())
    writer.addFilter(LibraryFilter())
    logging.basicConfig(level=settings.log_level.upper(), handlers=[writer])
    logging.captureWarnings(True)
    # The gateway itself logs that it starts and stops.
    for chatty in ("uvicorn", "PIL"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    return writer


class LogWriter(logging.Handler):
    """Writes log lines to a file descriptor from a thread of its own, so that nobody waits for whoever reads them.

    Lines are formatted where they are logged, as the request is known there. They wait in memory, up to
    `max_waiting_bytes`. Further lines are dropped and counted, as are lines that cannot be written; the next line that
    has room is preceded by one that tells how many were dropped.
    """

    def __init__(self, descriptor: int, max_waiting_bytes: int = _MAX_WAITING_BYTES) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._max_waiting_bytes = max_waiting_bytes
        self._changed = threading.Condition()
        self._lines: list[bytes] = []
        # Those in `_lines`, and those that are being written.
        self._waiting_bytes = 0
        self._dropped = 0
        self._on_drop: Callable[[float], None] = lambda count: None
        # A daemon: it may be stuck in a write for ever, and must not keep the process.
        threading.Thread(target=self._write_lines, name="log", daemon=True).start()

    def count_drops(self, on_drop: Callable[[float], None]) -> None:
        """Calls `on_drop` with the number of lines, whenever some are dropped."""
        self._on_drop = on_drop

    def emit(self, record: logging.LogRecord) -> None:
        """Formats a line and leaves it to the thread. Never blocks."""
        line = self._encoded(record)
        with self._changed:
            if self._waiting_bytes + len(line) > self._max_waiting_bytes:
                self._drop(1)
                return
            if self._dropped:
                line = self._encoded(self._notice()) + line
                self._dropped = 0
            self._lines.append(line)
            self._waiting_bytes += len(line)
            self._changed.notify()

    def flush(self) -> None:
        """Waits until all lines are written, but for 2 s at most. `logging` calls it at the end of the process."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting_bytes, _FLUSH_TIMEOUT_S)

    def _encoded(self, record: logging.LogRecord) -> bytes:
        try:
            text = self.format(record)
        except Exception as error:
            # A wrong call of the logger. `Handler.handleError` would print to standard error, and block there.
            text = f"{record.name}: a line could not be formatted: {record.msg!r} ({error})"
        return f"{_CONTROLS.sub(_escaped, text)}\n".encode(errors="backslashreplace")

    def _notice(self) -> logging.LogRecord:
        message = "%d log lines were dropped: they were not read in time"
        return logging.LogRecord(
            __name__, logging.WARNING, __file__, 0, message, (self._dropped,), exc_info=None
        )

    def _drop(self, count: int) -> None:
        self._dropped += count
        self._on_drop(count)

    def _write_lines(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._lines)
                lines, self._lines = self._lines, []
            unwritten = self._write(b"".join(lines))
            with self._changed:
                self._waiting_bytes -= sum(map(len, lines))
                if unwritten:
                    self._drop(unwritten)
                self._changed.notify_all()

    def _write(self, data: bytes) -> int:
        """Writes all of it. Returns the number of lines that could not be written (a closed pipe, a full disk).

        It does without `sys.stderr`: the interpreter could not end while a thread is stuck in there.
        """
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(self._descriptor, rest) :]
            except OSError:
                return bytes(rest).count(b"\n")
        return 0


class LibraryFilter(logging.Filter):
    """Keeps short and rare what callers can make libraries log.

    A caller's broken bytes (a malformed chunk, a bad frame) are told in one line without a traceback, whatever logs
    them: in one line in ten seconds for all of them. Each other place in the libraries around sockets is held to one
    line in ten seconds too. A line tells how many were left out before it.
    """

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._written_s: dict[tuple[object, ...], float] = {}
        self._left_out: Counter[tuple[object, ...]] = Counter()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to write a record, which may be shortened."""
        library = record.name.partition(".")[0]
        error = _protocol_error(record, library)
        if error is not None:
            _shorten(record, error)
        elif library not in _LIBRARIES:
            return True
        # The gateway logs a refused websocket as a request; uvicorn takes it for an error.
        if "without completing handshake" in record.getMessage():
            return False
        # All that uvicorn warns of is bytes that are no HTTP.
        broken = error is not None or (library == "uvicorn" and record.levelno == logging.WARNING)
        kind = ("broken",) if broken else (record.name, record.pathname, record.lineno)
        with self._lock:
            if record.created - self._written_s.get(kind, 0.0) < _QUIET_S:
                self._left_out[kind] += 1
                return False
            self._written_s[kind] = record.created
            left_out = self._left_out.pop(kind, 0)
        if left_out:
            record.msg = f"{record.getMessage().rstrip()} ({left_out} lines like this were left out)"
            record.args = None
        return True


def _protocol_error(record: logging.LogRecord, library: str) -> BaseException | None:
    """The error that a caller's broken bytes raised, where a record tells of one or of what came of it."""
    error = record.exc_info[1] if record.exc_info else None
    if library in _LIBRARIES and isinstance(error, (OSError, UnicodeError)):
        return error
    while error is not None and not isinstance(error, _PROTOCOL_ERRORS):
        error = error.__cause__ or error.__context__
    return error


def _shorten(record: logging.LogRecord, error: BaseException) -> None:
    """Makes one line of a record and its error, without the traceback."""
    first_line = record.getMessage().strip().partition("\n")[0]
    record.msg = f"{first_line}: {type(error).__name__}: {error}"[:_MAX_SHORTENED_CHARACTERS]
    record.args = record.exc_info = record.exc_text = None


def log_request(call: Call, *, transport: str, method: str, code: str, seconds: float) -> None:
    """Logs one line for a request that has ended."""
    if _requests.isEnabledFor(logging.INFO):
        stages = {stage: round(spent, 6) for stage, spent in call.timings}
        fields = {
            "transport": transport,
            "method": method,
            "code": code,
            "seconds": round(seconds, 6),
            "stages": stages,
        }
        _requests.info("%s %s", method, code, extra={"fields": fields})


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    """The fields beside the message: the current request, and the fields of the line itself."""
    fields: dict[str, Any] = {}
    call = CALL.get()
    if call is not None:
        fields |= {"request_id": call.request_id, "owner": call.owner, "stage": call.stage}
        if call.trace is not None:
            fields["trace_id"] = call.trace.trace_id
    return fields | getattr(record, "fields", {})


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False, default=str)


class TextFormatter(logging.Formatter):
    """Text lines for people, with the same fields."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        fields = " ".join(
            f"{name}={value}" for name, value in _fields(record).items() if value not in ("", {})
        )
        line = f"{super().formatMessage(record)}{' | ' if fields else ''}{fields}"
        # only a traceback has lines of its own
        return line.replace("\n", "\\n")


def _escaped(character: re.Match[str]) -> str:
    return f"\\u{ord(character[0]):04x}"
