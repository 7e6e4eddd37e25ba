"""Dynamic batches for one graph: samples of many requests in, one run, each its own result back.

It knows neither ONNX Runtime nor pictures. What it promises:
- the queue is bounded; samples whose caller goes away leave it at once, those whose time ran out before a run;
- owners (call.py) take turns, a sample each, and none may fill the queue: who asks for much does not keep the
  others waiting;
- where graphs share workers, a batch may be taken while the run before it still goes on, and counts as begun;
- a result is set only on a future that still waits; siblings of a cancelled sample are untouched;
- a sample that makes a batch fail fails alone: the batch is run once more, one by one;
- which samples share a batch changes no result, as the graphs treat samples one by one;
- with no delay set (the default) a lone sample runs at once: batches form while the run before is under way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt

from serving.access.admission import fair_share
from serving.call import current_owner
from serving.deadline import Clock, Deadline, MonotonicClock
from serving.errors import (
    BackendFailed,
    DeadlineExceeded,
    EditingError,
    QueueFull,
    ShuttingDown,
)

Tensors = Mapping[str, npt.NDArray[Any]]
Run = Callable[[Sequence[Tensors]], Awaitable[Sequence[Tensors]]]


@dataclass(frozen=True, slots=True)
class BatchedResult:
    """One sample's outputs, each [1, ...], and the seconds it waited before its run."""

    outputs: Tensors
    queued_s: float


@dataclass(slots=True, eq=False)
class _Waiting:
    sample: Tensors
    deadline: Deadline
    arrived_s: float
    owner: str
    future: asyncio.Future[BatchedResult] = field(repr=False)


class _Queue:
    """Waiting samples: each owner's in their order, the owners in turn."""

    def __init__(self) -> None:
        self._lines: dict[str, dict[_Waiting, None]] = {}  # dicts keep order, and let go of any item at once
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def add(self, item: _Waiting) -> None:
        self._lines.setdefault(item.owner, {})[item] = None
        self._length += 1

    def discard(self, item: _Waiting) -> None:
        line = self._lines.get(item.owner, {})
        if item in line:
            del line[item]
            self._length -= 1
            if not line:
                del self._lines[item.owner]

    def pop(self) -> _Waiting:
        """The next of the owner whose turn it is, who then goes to the end of the row."""
        owner, line = next(iter(self._lines.items()))
        item = next(iter(line))
        self.discard(item)
        if line:
            self._lines[owner] = self._lines.pop(owner)
        return item

    def waiting_of(self, owner: str) -> int:
        return len(self._lines.get(owner, ()))

    def owners_with(self, owner: str) -> int:
        """How many owners wait, if this one does."""
        return len(self._lines) + (owner not in self._lines)

    def oldest_s(self) -> float:
        """When the one that has waited longest arrived."""
        return min(next(iter(line)).arrived_s for line in self._lines.values())


def _ignore(_: int) -> None:
    pass


class Batcher:
    """Gathers samples for `run`, which takes up to `max_batch_size` of them and gives as many outputs, in order. Where
    graphs share something to run on, `turn` is entered for each batch."""

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
        self._run_s = 0.05  # smoothed time of one run, for the retry-after of a full queue
        self._task: asyncio.Task[None] | None = None

    async def close(self) -> None:
        """Takes no more samples, and runs what is queued."""
        self._closing = True
        self._arrival.set()
        if self._task is not None:
            await self._task

    async def submit(self, samples: Sequence[Tensors], deadline: Deadline) -> list[BatchedResult]:
        """The results of some samples (tensors [1, ...]) of one request: all are taken in, or none.

        Raises QueueFull, ShuttingDown, DeadlineExceeded, BackendFailed. Cancelling it takes its samples out.
        """
        if self._closing:
            raise ShuttingDown("The gateway is shutting down; ask another one, or later.")
        self.check_room(len(samples))
        owner = current_owner()
        loop = asyncio.get_running_loop()
        arrived_s = self._clock.now()
        items = [_Waiting(sample, deadline, arrived_s, owner, loop.create_future()) for sample in samples]
        for item in items:
            self._queue.add(item)
        self._on_depth(len(self._queue))
        self._arrival.set()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._work(), name=f"batcher-{self._graph}")
        try:
            if len(items) == 1:  # a turn of the loop less than gather
                return [await items[0].future]
            return await asyncio.gather(*(item.future for item in items))
        finally:
            # One failed or was cancelled: nobody waits for this request's other samples any more.
            waiting = len(self._queue)
            for item in items:
                item.future.cancel()
                self._queue.discard(item)
            if len(self._queue) != waiting:
                self._on_depth(len(self._queue))

    def check_room(self, count: int) -> None:
        """Raises QueueFull if there is none for as many samples of the owner at hand."""
        if not self._has_room(count, current_owner()):
            raise QueueFull(
                f"The queue of {self._graph} is full ({len(self._queue)} samples wait); try again a little later.",
                retry_after_s=self._time_to_drain_s(),
            )

    def _has_room(self, count: int, owner: str) -> bool:
        waiting, own = len(self._queue) + count, self._queue.waiting_of(owner) + count
        if 2 * waiting <= self._max_queue_samples:
            return True
        share = fair_share(self._max_queue_samples, owner, self._queue.owners_with(owner))
        return waiting <= self._max_queue_samples and own <= share

    def _time_to_drain_s(self) -> float:
        runs = 1 + len(self._queue) // self._max_batch_size
        return min(30.0, max(0.1, runs * self._run_s))

    async def _work(self) -> None:
        """Runs batches until nothing waits. The turn of the loop in which a task starts lets those in that are ready
        now, and so does the one after a run, as for the next chunks of the refinements in it."""
        while self._queue:
            if self._max_delay_s > 0.0:
                await self._let_company_arrive()
            async with self._turn:  # a batch grows until then
                batch = self._take_batch()
                if batch:
                    await self._run_batch(batch)
            await asyncio.sleep(0)

    async def _let_company_arrive(self) -> None:
        until_s = self._queue.oldest_s() + self._max_delay_s if self._queue else 0.0
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
        self._run_s += 0.2 * (self._clock.now() - started_s - self._run_s)
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
