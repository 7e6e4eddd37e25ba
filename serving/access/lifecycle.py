"""What every request passes, over any transport: request id, deadline, key, memory, errors, metrics, trace, log line.

A transport (serving/grpc, serving/http) opens `Lifecycle.request` around its work, tells it what the caller sent along,
and answers the EditingError that leaves it in its own way.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Protocol

from serving.access.keys import Keys
from serving.access.memory import HoldBytes, MemoryBudget
from serving.call import CALL, Call, request_id_or_new
from serving.deadline import Deadline
from serving.errors import Cancelled, EditingError, InternalError, InvalidOption, ShuttingDown
from serving.settings import Settings
from serving.telemetry.logs import log_request
from serving.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from serving.telemetry.tracing import Tracing

_log = logging.getLogger(__name__)

# While the gateway shuts down, reading an answer may take so long.
_LAST_ANSWER_S = 2.0
_ALWAYS_LOGGED = ("UNAUTHENTICATED", "PERMISSION_DENIED")


class Sending(Protocol):
    """An answer on its way to its caller."""

    def hurry(self, seconds: float) -> None:
        """Gives the answer up unless it is read within so long."""


class Lifecycle:
    """One for a gateway; `request` for each request."""

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        memory: MemoryBudget,
        keys: Keys | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._memory = memory
        self._keys = keys
        self._tracing = tracing
        self._open: Counter[str] = Counter()
        self._begun: Counter[str] = Counter()
        self._ended = asyncio.Event()
        self._receiving: set[asyncio.Timeout] = set()
        self._sending: set[Sending] = set()
        self._turn = asyncio.Lock()
        self._closes_at_s: float | None = None

    @property
    def asks_for_keys(self) -> bool:
        return self._keys is not None

    @contextmanager
    def request(
        self,
        transport: str,
        method: str,
        request_id: str | None,
        on_end: Callable[[str, float], None] | None = None,
        *,
        page: str = "",
    ) -> Iterator[OpenRequest]:
        """For as long as a request lasts.

        method: of the contract; empty for other requests, which are not counted, and are logged, as requests of `page`,
        only where the caller was not let in. on_end: is called with the gRPC code and the seconds that it took.

        What leaves is an EditingError (also for faults that nobody foresaw) or a cancellation.
        """
        deadline = Deadline.after(self._settings.default_deadline_s)
        call = Call(request_id_or_new(request_id), deadline, self._metrics.observe_stage, turn=self.turn)
        CALL.set(call)
        loop, started_s = asyncio.get_running_loop(), deadline.clock.now()
        code = "OK"
        self._open[transport] += 1
        self._begun[transport] += 1
        try:
            with ExitStack() as held:
                yield OpenRequest(self, call, transport, method, held)
        except (asyncio.CancelledError, GeneratorExit):
            # gRPC cancels for both: a caller that hung up, and a deadline that passed
            code = "DEADLINE_EXCEEDED" if call.deadline.expired else "CANCELLED"
            self._metrics.cancelled.labels(call.stage or "none").inc()
            raise
        except EditingError as error:
            code = error.row.grpc_code
            self._count_refusal(error, call)
            raise
        except Exception:
            _log.exception("failed in stage %s", call.stage or "none")
            code = "INTERNAL"
            unforeseen = InternalError(
                f"The gateway failed in a way that was not foreseen; report request {call.request_id}.",
                stage=call.stage,
            )
            self._count_refusal(unforeseen, call)
            raise unforeseen from None
        finally:
            # for the log line: an answer's end is not told within the request's task
            CALL.set(call)
            self._open[transport] -= 1
            self._ended.set()
            if method or (page and code in _ALWAYS_LOGGED):
                seconds = deadline.clock.now() - started_s
                # in the loop's next turn: the answer need not wait for it
                loop.call_soon(self._account, call, transport, method, page, code, seconds)
                if on_end is not None:
                    loop.call_soon(on_end, code, seconds)

    @asynccontextmanager
    async def receiving(self, seconds: float) -> AsyncIterator[None]:
        """Bounds the wait for a part of a request.

        Raises TimeoutError after `seconds`, and ShuttingDown where the gateway has stopped receiving meanwhile.
        """
        now_s = asyncio.get_running_loop().time()
        at_s = now_s + seconds if self._closes_at_s is None else min(now_s + seconds, self._closes_at_s)
        try:
            async with asyncio.timeout_at(at_s) as limit:
                self._receiving.add(limit)
                try:
                    yield
                finally:
                    self._receiving.discard(limit)
        except TimeoutError:
            if self._closes_at_s is None:
                raise
            raise _shutting_down() from None

    async def turn(self) -> None:
        """Returns once in each turn of the event loop, for one of those that wait for it, in their order.

        Whoever has taken in a large piece of a body, or is about to copy a large picture, waits for it: however many
        do at once, the loop is never busy with more than one before it looks after small requests.
        """
        async with self._turn:
            await asyncio.sleep(0)

    @property
    def stops_receiving(self) -> bool:
        """Whether the gateway is shutting down and takes in nothing more for long."""
        return self._closes_at_s is not None

    def stop_receiving(self, within_s: float) -> None:
        """The gateway is shutting down: requests that are still coming in get so long to be whole, and answers that are
        being read get _LAST_ANSWER_S."""
        now_s = asyncio.get_running_loop().time()
        self._closes_at_s = now_s + within_s
        for limit in self._receiving:
            limit.reschedule(min(limit.when() or self._closes_at_s, self._closes_at_s))
        for sending in self._sending:
            sending.hurry(_LAST_ANSWER_S)

    async def until_idle(self, transport: str, quiet_s: float) -> None:
        """Returns when no request of a transport has been under way for so long."""
        while True:
            self._ended.clear()
            if self._open[transport]:
                await self._ended.wait()
                continue
            begun = self._begun[transport]
            await asyncio.sleep(quiet_s)
            if begun == self._begun[transport]:
                return

    def _count_refusal(self, error: EditingError, call: Call) -> None:
        self._metrics.rejected.labels(error.row.reason).inc()
        if isinstance(error, Cancelled):
            self._metrics.cancelled.labels(call.stage or "none").inc()
        if error.__cause__ is not None:
            _log.error("%s", error.message, exc_info=error.__cause__)

    def _account(self, call: Call, transport: str, method: str, page: str, code: str, seconds: float) -> None:
        """Counts and logs a request that has ended."""
        if method:
            self._metrics.requests.labels(method, code).inc()
            self._metrics.request_seconds.labels(method, transport).observe(seconds)
        if self._settings.log_requests:
            log_request(call, transport=transport, method=method or page, code=code, seconds=seconds)


class OpenRequest:
    """A request between its first byte and its answer. What it is given is held until it ends."""

    def __init__(
        self, lifecycle: Lifecycle, call: Call, transport: str, method: str, held: ExitStack
    ) -> None:
        self.call = call
        self._lifecycle = lifecycle
        self._transport = transport
        self._method = method
        self._held = held

    def admit(self, authorization: str | None, right: str) -> None:
        """Lets the caller in by its key, where keys are needed; `right` is what the key must be for.

        Raises Unauthenticated, PermissionDenied, KeyLimitReached.
        """
        keys = self._lifecycle._keys
        if keys is not None:
            self.call.owner = self._held.enter_context(keys.admit(authorization, right))
            self.call.charge = partial(keys.charge, authorization, right)

    def trace(self, carrier: Mapping[str, str]) -> None:
        """Begins a trace, or goes on with the caller's: `carrier` may have its `traceparent`."""
        tracing = self._lifecycle._tracing
        if tracing is not None and self._method:
            self._held.enter_context(tracing.request(self.call, self._method, self._transport, carrier))

    def limit_time(self, seconds: float | None) -> None:
        """Sets the deadline: `seconds` from now (None: the default), within what the settings allow.

        Raises InvalidOption.
        """
        settings = self._lifecycle._settings
        wanted_s = settings.default_deadline_s if seconds is None else seconds
        if math.isnan(wanted_s):
            raise InvalidOption("The time for the request is a number of seconds above 0.")
        self.call.deadline = Deadline.after(min(wanted_s, settings.max_deadline_s))

    def receiving(self, seconds: float) -> AbstractAsyncContextManager[None]:
        """Lifecycle.receiving."""
        return self._lifecycle.receiving(seconds)

    def check_receives(self) -> None:
        """Raises ShuttingDown where the gateway has stopped receiving."""
        closes_at_s = self._lifecycle._closes_at_s
        if closes_at_s is not None and asyncio.get_running_loop().time() >= closes_at_s:
            raise _shutting_down()

    def begin_sending(self, sending: Sending) -> None:
        """An answer is on its way: it is hurried when the gateway shuts down, at once where it does already."""
        self._lifecycle._sending.add(sending)
        if self._lifecycle.stops_receiving:
            sending.hurry(_LAST_ANSWER_S)

    def end_sending(self, sending: Sending) -> None:
        """The answer has gone, or was given up."""
        self._lifecycle._sending.discard(sending)

    def hold(self) -> HoldBytes:
        """What the request counts the bytes with that it holds; all of them are released when it ends."""
        self.call.hold = self._held.enter_context(self._lifecycle._memory.request(self.call.owner))
        return self.call.hold

    def hold_copied_answer(self, size: int) -> int:
        """Counts an answer that is kept twice while it is sent: its bytes, and the copy of who sends it.

        A very large one counts as no more than three quarters of what there may be, or once: it must find room alone.
        Gives the bytes counted. Raises QueueFull.
        """
        most_bytes = self._lifecycle._settings.max_bytes_in_flight * 3 // 4
        return self.call.hold_answer(max(size, min(2 * size, most_bytes)))


def _shutting_down() -> ShuttingDown:
    return ShuttingDown("The gateway is shutting down; send the request to another one, or later.")
