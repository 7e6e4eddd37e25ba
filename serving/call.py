"""One request on its way through the pipeline: its id, its deadline, the stage it is in, the time each stage took.

Made at the transport's border, handed down, read by whoever answers. What is asked is in jobs.py.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from serving.deadline import Deadline
from serving.errors import EditingError

if TYPE_CHECKING:
    from serving.telemetry.tracing import Trace

Stage = Literal["align", "queue", "encode", "refine", "edit", "decode", "image"]
STAGES: tuple[Stage, ...] = ("align", "queue", "encode", "refine", "edit", "decode", "image")

ANONYMOUS = "anonymous"

_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")


def request_id_or_new(wanted: str | None) -> str:
    """The caller's id where it is fit to be logged and sent back, otherwise a new one."""
    return wanted if wanted and _REQUEST_ID.fullmatch(wanted) else uuid.uuid4().hex


class Lap:
    """One passage through a stage; time spent waiting in queues is told apart from work."""

    def __init__(self) -> None:
        self.queued_s = 0.0


@dataclass(slots=True)
class Call:
    """The state of one request. `observe(stage, seconds)` is told of each stage as it ends; `owner` names who asks, as
    far as the transport's border knows: graphs are shared fairly between owners, and code handles are theirs alone."""

    request_id: str
    deadline: Deadline
    observe: Callable[[str, float], None] = lambda stage, seconds: None
    owner: str = ANONYMOUS
    stage: str = ""
    seconds: dict[str, float] = field(default_factory=dict)
    trace: Trace | None = None

    def aside(self) -> Call:
        """For work beside the request's own, as previews are: same caller and deadline, times of its own."""
        return replace(self, stage="", seconds={})

    @contextmanager
    def during(self, stage: Stage) -> Iterator[Lap]:
        """Times a stage and puts its name on an error that leaves it. Queueing counts as the stage `queue`."""
        clock = self.deadline.clock
        self.stage = stage
        lap = Lap()
        started_s = clock.now()
        try:
            if self.trace is None:
                yield lap
            else:
                with self.trace.during(stage, lap):
                    yield lap
        except EditingError as error:
            error.stage = error.stage or stage
            raise
        work_s = max(0.0, clock.now() - started_s - lap.queued_s)
        self._add(stage, work_s)
        if lap.queued_s > 0.0:
            self._add("queue", lap.queued_s)

    def _add(self, stage: str, seconds: float) -> None:
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds
        self.observe(stage, seconds)

    @property
    def timings(self) -> list[tuple[str, float]]:
        """(stage, seconds) in the pipeline's order, only the stages that were passed."""
        return [(stage, self.seconds[stage]) for stage in STAGES if stage in self.seconds]


CALL: ContextVar[Call | None] = ContextVar("call", default=None)
"""The request that is being worked on, for what is told no call: log lines, and what goes along to a back end."""


def current_owner() -> str:
    """Whose work is under way."""
    call = CALL.get()
    return ANONYMOUS if call is None else call.owner


def outgoing_metadata() -> tuple[tuple[str, str], ...]:
    """The trace context of the request at hand, as metadata of a gRPC call made for it. Empty where none is traced."""
    call = CALL.get()
    return () if call is None or call.trace is None else call.trace.metadata()
