"""One request on its way through the gateway: its id, its caller, its deadline, and the time each stage took.

A transport makes a Call for each request and passes it down; the answer holds the times. The requests themselves are
in jobs.py.
"""

from __future__ import annotations

import asyncio
import re
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, TypeVar

from serving.deadline import Deadline
from serving.errors import EditingError

T = TypeVar("T")
Stage = Literal["align", "queue", "encode", "refine", "edit", "decode", "image"]
STAGES: tuple[Stage, ...] = ("align", "queue", "encode", "refine", "edit", "decode", "image")

ANONYMOUS = "anonymous"

_COUNTED_ANSWER_BYTES = 2**20
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")


def wanted_request_id(headers: Mapping[str, str]) -> str | None:
    """The id that a caller wants its request to have.

    The SDK sends it under a name of its own, too: some proxies replace `x-request-id`, and the SDK refuses answers that
    carry another id than it asked with.
    """
    return headers.get("indomain-request-id") or headers.get("x-request-id")


def request_id_or_new(wanted: str | None) -> str:
    """The caller's request id if it is safe to log and to send back, otherwise a new one."""
    return wanted if wanted and _REQUEST_ID.fullmatch(wanted) else uuid.uuid4().hex


class StageTimer:
    """Measures one run of a stage. Whoever runs the stage sets `queued_s`, the seconds spent waiting in queues."""

    def __init__(self) -> None:
        self.queued_s = 0.0


class Trace(Protocol):
    """The trace of one request (telemetry/tracing.py)."""

    @property
    def trace_id(self) -> str:
        """32 hexadecimal digits."""

    def during(self, stage: str, timer: StageTimer) -> AbstractContextManager[None]:
        """Records a span for a stage, as long as the block runs."""

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """The trace context, as metadata for a gRPC call that the current stage makes."""


@dataclass(slots=True)
class Call:
    """The state of one request.

    `observe(stage, seconds)` is called at the end of each stage. `owner` names the caller, as far as the transport
    knows it: owners share the graphs fairly, and a code handle belongs to one owner. `charge()` counts one more message
    of a session against the caller's key. `hold(count)` counts bytes that the request holds (access/memory.py).
    Whoever is about to copy megabytes on the event loop awaits `turn()` first (access/lifecycle.py).
    """

    request_id: str
    deadline: Deadline
    observe: Callable[[str, float], None] = lambda stage, seconds: None
    owner: str = ANONYMOUS
    stage: str = ""
    seconds: dict[str, float] = field(default_factory=dict)
    trace: Trace | None = None
    charge: Callable[[], None] = lambda: None
    hold: Callable[[int], None] = lambda count: None
    turn: Callable[[], Awaitable[None]] = lambda: asyncio.sleep(0)

    def hold_answer(self, size: int) -> int:
        """Counts an answer of so many bytes until the request ends; a small one is not worth it.

        Gives the bytes counted. Raises QueueFull without room for them.
        """
        counted = size if size > _COUNTED_ANSWER_BYTES else 0
        if counted:
            self.hold(counted)
        return counted

    @contextmanager
    def holding_answer(self, size: int) -> Iterator[None]:
        """Counts one of many answers while it is being sent. Raises QueueFull."""
        counted = self.hold_answer(size)
        try:
            yield
        finally:
            self.hold(-counted)

    def aside(self) -> Call:
        """A call for side work such as a preview: the same caller and deadline, but times of its own."""
        return replace(self, stage="", seconds={})

    def add_longest(self, calls: Sequence[Call]) -> None:
        """Adds the times of calls that ran beside each other: of each stage the longest."""
        for stage in dict.fromkeys(stage for call in calls for stage in call.seconds):
            longest = max(call.seconds.get(stage, 0.0) for call in calls)
            self.seconds[stage] = self.seconds.get(stage, 0.0) + longest

    @contextmanager
    def during(self, stage: Stage) -> Iterator[StageTimer]:
        """Times the block as a stage and adds the stage's name to an EditingError that leaves it.

        Time spent in queues counts as the stage `queue`.
        """
        clock = self.deadline.clock
        self.stage = stage
        timer = StageTimer()
        started_s = clock.now()
        try:
            if self.trace is None:
                yield timer
            else:
                with self.trace.during(stage, timer):
                    yield timer
        except EditingError as error:
            error.stage = error.stage or stage
            raise
        work_s = max(0.0, clock.now() - started_s - timer.queued_s)
        self._add(stage, work_s)
        if timer.queued_s > 0.0:
            self._add("queue", timer.queued_s)

    def _add(self, stage: str, seconds: float) -> None:
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds
        self.observe(stage, seconds)

    @property
    def timings(self) -> list[tuple[str, float]]:
        """(stage, seconds) of the stages that ran, in the pipeline's order."""
        return [(stage, self.seconds[stage]) for stage in STAGES if stage in self.seconds]


async def beside(call: Call, works: Sequence[Callable[[Call], Coroutine[Any, Any, T]]]) -> list[T]:
    """The results of works that run beside each other, each for a call aside; of each stage the longest time counts.

    Raises what the first to fail raises; the others are cancelled.
    """
    calls = [call.aside() for _ in works]
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(work(own)) for work, own in zip(works, calls, strict=True)]
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
    call.add_longest(calls)
    return [task.result() for task in tasks]


CALL: ContextVar[Call | None] = ContextVar("call", default=None)
"""The current request, for code that is not given a Call: log lines, batch queues, calls to a back end."""


def current_owner() -> str:
    """The owner of the current request."""
    call = CALL.get()
    return ANONYMOUS if call is None else call.owner


def outgoing_metadata() -> tuple[tuple[str, str], ...]:
    """The trace context of the current request, as gRPC metadata. Empty if the request is not traced."""
    call = CALL.get()
    return () if call is None or call.trace is None else call.trace.metadata()
