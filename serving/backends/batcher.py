"""Dynamic batching for one graph: gathers samples of many requests, runs them together, and splits the results.

It knows neither ONNX Runtime nor pictures. It guarantees that:
- the queue is bounded. A sample leaves it at once when its caller goes away, and before a run when its time is up.
- owners (call.py) take turns, one sample each, and so do the requests of one owner; no owner can fill the queue: a
  caller with many samples does not block the others, nor does a request with many samples.
- where graphs share workers, the next batch may be taken while the run before it still goes on.
- a result is set only on a future that still waits; the other samples of a cancelled request's batch are untouched.
- a sample that makes its batch fail fails alone: the samples are run once more, one by one.
- the result of a sample does not depend on the others in its batch, as graphs treat samples one by one.
- without a delay (the default) a lone sample runs at once; batches form while the run before is under way.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field

from serving.access.admission import fair_share
from serving.backends.backend import Tensors
from serving.call import current_owner
from serving.deadline import Clock, Deadline, MonotonicClock
from serving.errors import BackendFailed, DeadlineExceeded, EditingError, QueueFull, ShuttingDown
from serving.telemetry.average import ExponentialAverage

Run = Callable[[Sequence[Tensors]], Awaitable[Sequence[Tensors]]]


@dataclass(frozen=True, slots=True)
class BatchedResult:
    """The outputs of one sample, each [1, ...], and the seconds that it waited in the queue."""

    outputs: Tensors
    queued_s: float


@dataclass(slots=True, eq=False)
class _Waiting:
    sample: Tensors
    deadline: Deadline
    arrived_s: float
    owner: str
    # what has been submitted together
    request: object
    future: asyncio.Future[BatchedResult] = field(repr=False)


class _Queue:
    """The waiting samples: owners take turns, and so do each owner's requests. A request's samples keep their order."""

    def __init__(self) -> None:
        # Dictionaries, as they keep the order and can drop any item at once. owner -> request -> its samples
        self._lines: dict[str, dict[object, dict[_Waiting, None]]] = {}
        self._of_owner: Counter[str] = Counter()
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def add(self, item: _Waiting) -> None:
        self._lines.setdefault(item.owner, {}).setdefault(item.request, {})[item] = None
        self._of_owner[item.owner] += 1
        self._length += 1

    def discard(self, item: _Waiting) -> None:
        lines = self._lines.get(item.owner, {})
        line = lines.get(item.request, {})
        if item not in line:
            return
        del line[item]
        self._of_owner[item.owner] -= 1
        self._length -= 1
        if not line:
            del lines[item.request]
        if not lines:
            del self._lines[item.owner], self._of_owner[item.owner]

    def pop(self) -> _Waiting:
        """Takes the next sample of the request whose turn it is, of the owner whose turn it is. Other owners come
        before this one's next request, and other requests of it before this one's next sample."""
        owner, lines = next(iter(self._lines.items()))
        request, line = next(iter(lines.items()))
        item = next(iter(line))
        self.discard(item)
        if line:
            lines[request] = lines.pop(request)
        if lines:
            self._lines[owner] = self._lines.pop(owner)
        return item

    def count_of(self, owner: str) -> int:
        """How many samples of an owner wait."""
        return self._of_owner[owner]

    def owners_with(self, owner: str) -> int:
        """How many owners have samples here, counting this owner in any case."""
        return len(self._lines) + (owner not in self._lines)

    def oldest_arrival_s(self) -> float:
        """When the sample that has waited longest arrived."""
        return min(next(iter(line)).arrived_s for lines in self._lines.values() for line in lines.values())


def _ignore(_: int) -> None:
    pass


class Batcher:
    """Gathers samples for `run`, which takes up to `max_batch_size` of them and returns their outputs in order.

    turn: graphs that share workers share this; it is entered for each batch. on_batch: called with the size of each
    batch. on_depth: called with the length of the queue when it changes.
    """

    def __init__(
        self,
        graph: str,
        run: Run,
        *,
        max_batch_size: int,
        max_queue_samples: int,
        max_delay_s: float = 0.0,
        turn: AbstractAsyncContextManager[None] | None = None,
        clock: Clock | None = None,
        on_batch: Callable[[int], None] = _ignore,
        on_depth: Callable[[int], None] = _ignore,
    ) -> None:
        self._graph = graph
        self._run = run
        self._max_batch_size = max_batch_size
        self._max_queue_samples = max_queue_samples
        self._max_delay_s = max_delay_s
        self._turn = turn or nullcontext()
        self._clock: Clock = clock or MonotonicClock()
        self._on_batch = on_batch
        self._on_depth = on_depth
        self._queue = _Queue()
        self._arrival = asyncio.Event()
        self._closing = False
        self._run_s = ExponentialAverage(0.2, initial=0.05)
        self._task: asyncio.Task[None] | None = None

    @property
    def max_batch_size(self) -> int:
        """The most samples of a batch."""
        return self._max_batch_size

    def limit(self, batch_size: int) -> None:
        """Makes batches no larger than this, or than they were to be."""
        self._max_batch_size = min(self._max_batch_size, batch_size)

    async def close(self) -> None:
        """Refuses new samples, and runs those in the queue."""
        self._closing = True
        self._arrival.set()
        if self._task is not None:
            await self._task

    async def submit(self, samples: Sequence[Tensors], deadline: Deadline) -> list[BatchedResult]:
        """Runs the samples of one request, each with tensors [1, ...]: queues all of them or none.

        Raises QueueFull, ShuttingDown, DeadlineExceeded, BackendFailed. Cancelling it takes its samples out.
        """
        if self._closing:
            raise ShuttingDown("The gateway is shutting down; ask another one, or later.")
        self.check_room(len(samples))
        owner = current_owner()
        loop = asyncio.get_running_loop()
        arrived_s = self._clock.now()
        request = object()
        items = [
            _Waiting(sample, deadline, arrived_s, owner, request, loop.create_future()) for sample in samples
        ]
        for item in items:
            self._queue.add(item)
        self._on_depth(len(self._queue))
        self._arrival.set()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._work(), name=f"batcher-{self._graph}")
        try:
            # A lone future is awaited directly: gather would cost another turn of the event loop.
            if len(items) == 1:
                return [await items[0].future]
            return await asyncio.gather(*(item.future for item in items))
        finally:
            # If one sample failed or was cancelled, nobody waits for the request's other samples.
            waiting = len(self._queue)
            for item in items:
                item.future.cancel()
                self._queue.discard(item)
            if len(self._queue) != waiting:
                self._on_depth(len(self._queue))

    def check_room(self, count: int) -> None:
        """Raises QueueFull if `count` more samples of the current owner would not be taken."""
        if not self._has_room(count, current_owner()):
            raise QueueFull(
                f"The queue of {self._graph} is full ({len(self._queue)} samples wait); try again a little later.",
                retry_after_s=self._time_to_drain_s(),
            )

    def _has_room(self, count: int, owner: str) -> bool:
        waiting, own = len(self._queue) + count, self._queue.count_of(owner) + count
        if 2 * waiting <= self._max_queue_samples:
            return True
        share = fair_share(self._max_queue_samples, owner, self._queue.owners_with(owner))
        return waiting <= self._max_queue_samples and own <= share

    def _time_to_drain_s(self) -> float:
        runs = 1 + len(self._queue) // self._max_batch_size
        return min(30.0, max(0.1, runs * self._run_s.value))

    async def _work(self) -> None:
        """Runs batches until the queue is empty.

        This task starts one turn of the event loop after the first sample, and lets one turn pass after each run, so
        that samples which are ready now (such as the next chunks of refinements) share the next batch.
        """
        while self._queue:
            if self._max_delay_s > 0.0:
                await self._wait_for_more()
            # While it waits for its turn, more samples arrive.
            async with self._turn:
                batch = self._take_batch()
                if batch:
                    await self._run_batch(batch)
            await asyncio.sleep(0)

    async def _wait_for_more(self) -> None:
        """Waits until a whole batch is there, or the oldest sample has waited for the maximum delay."""
        until_s = self._queue.oldest_arrival_s() + self._max_delay_s if self._queue else 0.0
        while (
            0 < len(self._queue) < self._max_batch_size and self._clock.now() < until_s and not self._closing
        ):
            self._arrival.clear()
            arrival = asyncio.ensure_future(self._arrival.wait())
            alarm = asyncio.ensure_future(self._clock.sleep_until(until_s))
            try:
                await asyncio.wait({arrival, alarm}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                arrival.cancel()
                alarm.cancel()

    def _take_batch(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        while self._queue and len(batch) < self._max_batch_size:
            item = self._queue.pop()
            if self._still_wanted(item):
                batch.append(item)
        self._on_depth(len(self._queue))
        return batch

    def _still_wanted(self, item: _Waiting) -> bool:
        if item.future.done():
            return False
        if item.deadline.expired:
            item.future.set_exception(
                DeadlineExceeded(f"Time ran out while waiting for {self._graph}; allow more, or send less.")
            )
            return False
        return True

    async def _run_batch(self, batch: list[_Waiting]) -> None:
        started_s = self._clock.now()
        try:
            outputs = await self._run_checked([item.sample for item in batch])
        except Exception as error:
            if len(batch) == 1:
                self._fail(batch[0], error)
            else:
                await self._run_one_by_one(batch)
            return
        self._run_s.add(self._clock.now() - started_s)
        for item, output in zip(batch, outputs, strict=True):
            if not item.future.done():
                item.future.set_result(BatchedResult(output, started_s - item.arrived_s))

    async def _run_one_by_one(self, batch: list[_Waiting]) -> None:
        for item in batch:
            if not self._still_wanted(item):
                continue
            started_s = self._clock.now()
            try:
                (output,) = await self._run_checked([item.sample])
            except Exception as error:
                self._fail(item, error)
                continue
            if not item.future.done():
                item.future.set_result(BatchedResult(output, started_s - item.arrived_s))

    async def _run_checked(self, samples: Sequence[Tensors]) -> Sequence[Tensors]:
        self._on_batch(len(samples))
        outputs = await self._run(samples)
        if len(outputs) != len(samples):
            raise BackendFailed(f"{self._graph} gave {len(outputs)} results for {len(samples)} samples.")
        return outputs

    def _fail(self, item: _Waiting, error: Exception) -> None:
        if item.future.done():
            return
        if not isinstance(error, EditingError):
            failed = BackendFailed(f"{self._graph} failed on this request; the log has the cause.")
            failed.__cause__ = error
            error = failed
        item.future.set_exception(error)
