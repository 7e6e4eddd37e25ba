"""The format of log lines: JSON for machines, text for people; each line names the request that it belongs to.

What is logged is decided where it happens. Pictures, codes, keys and headers are never logged.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

from serving.call import CALL, Call
from serving.settings import Settings

_requests = logging.getLogger("serving.requests")


def configure(settings: Settings) -> None:
    """Sets up the logging of this process, to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    as_json = settings.log_format == "json" or (settings.log_format == "auto" and not sys.stderr.isatty())
    handler.setFormatter(JsonFormatter() if as_json else TextFormatter())
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler])
    # The gateway itself logs that it starts and stops.
    for chatty in ("uvicorn", "PIL"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


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
        return f"{super().formatMessage(record)}{' | ' if fields else ''}{fields}"
