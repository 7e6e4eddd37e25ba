"""The batcher's promises: order, cancellation, poison, expiry, overflow, closing. No graph is run here."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.backends.backend import Tensors
from serving.backends.batcher import BatchedResult, Batcher
from serving.call import CALL, Call
from serving.deadline import Deadline
from serving.errors import BackendFailed, DeadlineExceeded, InvalidCode, QueueFull, ShuttingDown
from tests.serving.waiting import FakeClock, settle


class Doubler:
    """A stand-in for a graph: gives back twice its input; can be held back; fails on NaN."""

    def __init__(self) -> None:
        self.batches: list[list[float]] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self, samples: Sequence[Tensors]) -> Sequence[Tensors]:
        self.batches.append([float(sample["x"][0, 0]) for sample in samples])
        await self.gate.wait()
        if any(np.isnan(sample["x"]).any() for sample in samples):
            raise ValueError("poison")
        return [{"y": sample["x"] * 2.0} for sample in samples]


def sample(value: float) -> Tensors:
    return {"x": np.full((1, 1), value, np.float32)}


def value_of(result: BatchedResult) -> float:
    return float(result.outputs["y"][0, 0])


def batcher_of(run: Doubler, clock: FakeClock, **options: float) -> Batcher:
    defaults: dict[str, float] = {"max_batch_size": 4, "max_queue_samples": 16}
    batcher = Batcher("doubler", run, clock=clock, **(defaults | options))  # type: ignore[arg-type]
    return batcher


async def submit_one(batcher: Batcher, value: float, deadline: Deadline) -> float:
    return value_of((await batcher.submit([sample(value)], deadline))[0])


async def test_lone_sample_runs_at_once_and_batches_form_meanwhile() -> None:
    run, clock = Doubler(), FakeClock()
    batcher, deadline = batcher_of(run, clock), Deadline.after(9.0, clock)
    run.gate.clear()
    first = asyncio.create_task(submit_one(batcher, 1.0, deadline))
    await settle()
    assert run.batches == [[1.0]]  # no time has passed on the clock
    others = [
        asyncio.create_task(submit_one(batcher, value, deadline)) for value in (2.0, 3.0, 4.0, 5.0, 6.0)
    ]
    await settle()
    run.gate.set()
    assert await asyncio.gather(first, *others) == [2.0, 4.0, 6.0, 8.0, 10.0, 12.0]
    assert run.batches == [[1.0], [2.0, 3.0, 4.0, 5.0], [6.0]]
    await batcher.close()


async def test_delay_waits_for_company_only_so_long() -> None:
    run, clock = Doubler(), FakeClock()
    batcher, deadline = batcher_of(run, clock, max_delay_s=0.010), Deadline.after(9.0, clock)
    first = asyncio.create_task(submit_one(batcher, 1.0, deadline))
    await settle()
    second = asyncio.create_task(submit_one(batcher, 2.0, deadline))
    await clock.advance(0.009)
    assert run.batches == []
    await clock.advance(0.002)
    assert await asyncio.gather(first, second) == [2.0, 4.0]
    assert run.batches == [[1.0, 2.0]]
    full = [asyncio.create_task(submit_one(batcher, float(n), deadline)) for n in range(4)]
    assert await asyncio.gather(*full) == [0.0, 2.0, 4.0, 6.0]  # a full batch waits for nothing
    await batcher.close()


async def test_cancelling_one_of_four_leaves_the_others_alone() -> None:
    run, clock = Doubler(), FakeClock()
    batcher, deadline = batcher_of(run, clock), Deadline.after(9.0, clock)
    run.gate.clear()
    running = asyncio.create_task(submit_one(batcher, 0.0, deadline))
    await settle()
    queued = [asyncio.create_task(submit_one(batcher, float(n), deadline)) for n in range(1, 5)]
    await settle()
    queued[1].cancel()
    running.cancel()  # its batch is under way: it cannot be stopped, but nobody hears of it
    await settle()
    run.gate.set()
    results = await asyncio.gather(*queued, return_exceptions=True)
    assert [results[0], results[2], results[3]] == [2.0, 6.0, 8.0]
    assert isinstance(results[1], asyncio.CancelledError)
    assert run.batches == [[0.0], [1.0, 3.0, 4.0]]  # the cancelled one left before the run
    await batcher.close()


async def test_poison_fails_alone() -> None:
    run, clock = Doubler(), FakeClock()
    batcher, deadline = batcher_of(run, clock), Deadline.after(9.0, clock)
    tasks = [asyncio.create_task(submit_one(batcher, value, deadline)) for value in (1.0, np.nan, 3.0)]
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [results[0], results[2]] == [2.0, 6.0]
    assert isinstance(results[1], BackendFailed)
    assert "poison" not in str(results[1])
    assert len(run.batches) == 4  # once together, then once each
    assert await submit_one(batcher, 5.0, deadline) == 10.0
    await batcher.close()


async def test_domain_errors_of_the_run_pass_unchanged() -> None:
    async def refuse(samples: Sequence[Tensors]) -> Sequence[Tensors]:
        raise InvalidCode("no")

    batcher = Batcher("refuser", refuse, max_batch_size=2, max_queue_samples=2)
    with pytest.raises(InvalidCode):
        await batcher.submit([sample(1.0)], Deadline.after(9.0))
    await batcher.close()


async def test_expired_sample_is_not_run() -> None:
    run, clock = Doubler(), FakeClock()
    batcher = batcher_of(run, clock)
    run.gate.clear()
    first = asyncio.create_task(submit_one(batcher, 1.0, Deadline.after(9.0, clock)))
    await settle()
    late = asyncio.create_task(submit_one(batcher, 2.0, Deadline.after(0.5, clock)))
    await settle()
    await clock.advance(1.0)
    run.gate.set()
    assert await first == 2.0
    with pytest.raises(DeadlineExceeded):
        await late
    assert run.batches == [[1.0]]
    await batcher.close()


async def test_overflow_is_refused_whole_and_dead_samples_make_room() -> None:
    run, clock = Doubler(), FakeClock()
    batcher, deadline = batcher_of(run, clock, max_queue_samples=4), Deadline.after(9.0, clock)
    run.gate.clear()
    first = asyncio.create_task(submit_one(batcher, 0.0, deadline))
    await settle()
    three = asyncio.create_task(batcher.submit([sample(1.0), sample(2.0), sample(3.0)], deadline))
    await settle()
    with pytest.raises(QueueFull) as refused:
        await batcher.submit([sample(4.0), sample(5.0)], deadline)
    assert refused.value.retry_after_s > 0.0
    three.cancel()
    await settle()
    two = asyncio.create_task(batcher.submit([sample(4.0), sample(5.0)], deadline))
    await settle()
    run.gate.set()
    assert await first == 0.0
    assert [value_of(result) for result in await two] == [8.0, 10.0]
    await batcher.close()


async def test_a_cancelled_sample_gives_up_its_place_at_once() -> None:
    run, clock, depths = Doubler(), FakeClock(), []
    batcher = Batcher(
        "doubler", run, max_batch_size=4, max_queue_samples=16, clock=clock, on_depth=depths.append
    )
    deadline = Deadline.after(9.0, clock)
    run.gate.clear()
    first = asyncio.create_task(submit_one(batcher, 0.0, deadline))
    await settle()
    others = [asyncio.create_task(batcher.submit([sample(n)] * 3, deadline)) for n in range(2)]
    await settle()
    assert depths[-1] == 6
    others[0].cancel()
    await settle()
    assert depths[-1] == 3  # though the run before it is still under way
    others[1].cancel()
    await settle()
    assert depths[-1] == 0
    run.gate.set()
    assert await first == 0.0
    assert run.batches == [[0.0]]
    await batcher.close()


async def test_a_batch_grows_until_its_turn() -> None:
    turn = asyncio.Semaphore(1)
    first, second = Doubler(), Doubler()
    first.gate.clear()
    batchers = [
        Batcher(f"graph{n}", run, max_batch_size=8, max_queue_samples=8, turn=turn)
        for n, run in enumerate((first, second))
    ]
    asked = [asyncio.create_task(batchers[0].submit([sample(0.0)], Deadline.after(10)))]
    await settle()
    for value in (1.0, 2.0, 3.0):  # each in a turn of the loop of its own
        asked.append(asyncio.create_task(batchers[1].submit([sample(value)], Deadline.after(10))))
        await settle()
    assert second.batches == []
    first.gate.set()
    await asyncio.gather(*asked)
    assert second.batches == [[1.0, 2.0, 3.0]]
    await asyncio.gather(*(batcher.close() for batcher in batchers))


async def test_owners_take_turns() -> None:
    run, clock = Doubler(), FakeClock()
    batcher, deadline = batcher_of(run, clock, max_queue_samples=64), Deadline.after(9.0, clock)

    async def ask(owner: str, *values: float) -> list[float]:
        CALL.set(Call("x", deadline, owner=owner))
        return [value_of(result) for result in await batcher.submit([sample(v) for v in values], deadline)]

    run.gate.clear()
    tasks = [asyncio.create_task(ask("ada", 0.0))]
    await settle()
    tasks.append(asyncio.create_task(ask("greedy", *range(10, 20))))
    await settle()
    tasks += [asyncio.create_task(ask("ada", 1.0)), asyncio.create_task(ask("bob", 2.0, 3.0))]
    await settle()
    run.gate.set()
    assert await asyncio.gather(*tasks) == [[0.0], [2.0 * n for n in range(10, 20)], [2.0], [4.0, 6.0]]
    assert run.batches[1] == [10.0, 1.0, 2.0, 11.0]
    assert run.batches[2] == [3.0, 12.0, 13.0, 14.0]
    await batcher.close()


async def test_requests_of_one_owner_take_turns() -> None:
    run, clock = Doubler(), FakeClock()
    batcher, deadline = batcher_of(run, clock, max_queue_samples=64), Deadline.after(9.0, clock)
    run.gate.clear()
    tasks = [asyncio.create_task(batcher.submit([sample(0.0)], deadline))]
    await settle()
    for values in (range(10, 20), range(20, 26), (1,)):
        tasks.append(asyncio.create_task(batcher.submit([sample(float(n)) for n in values], deadline)))
        await settle()
    run.gate.set()
    await asyncio.gather(*tasks)
    assert run.batches[1:3] == [[10.0, 20.0, 1.0, 11.0], [21.0, 12.0, 22.0, 13.0]]
    await batcher.close()


async def test_no_owner_fills_the_queue() -> None:
    run, clock = Doubler(), FakeClock()
    batcher, deadline = batcher_of(run, clock, max_queue_samples=16), Deadline.after(9.0, clock)

    async def ask(owner: str, count: int) -> int:
        CALL.set(Call("x", deadline, owner=owner))
        return len(await batcher.submit([sample(1.0)] * count, deadline))

    run.gate.clear()
    tasks = [asyncio.create_task(ask("greedy", 1))]
    await settle()
    tasks += [asyncio.create_task(ask("greedy", 2)) for _ in range(7)]  # 14 wait: an eighth stays free
    await settle()
    with pytest.raises(QueueFull):
        await asyncio.create_task(ask("greedy", 1))
    tasks += [asyncio.create_task(ask("ada", 1)) for _ in range(2)]
    await settle()
    with pytest.raises(QueueFull):
        await asyncio.create_task(ask("bob", 1))  # now it is full
    run.gate.set()
    assert await asyncio.gather(*tasks) == [1] + [2] * 7 + [1, 1]
    await batcher.close()


@pytest.mark.parametrize(("waiting", "run_s"), [(8, 0.5), (16, 0.5), (16, 2.0)])
async def test_the_time_to_come_back_is_that_of_what_waits(waiting: int, run_s: float) -> None:
    run, clock = Doubler(), FakeClock()

    async def slow(samples: Sequence[Tensors]) -> Sequence[Tensors]:
        await clock.advance(run_s)
        return await run(samples)

    batcher = Batcher("doubler", slow, max_batch_size=4, max_queue_samples=waiting, clock=clock)
    deadline = Deadline.after(1e6, clock)
    for _ in range(30):  # learns how long a run takes
        await submit_one(batcher, 1.0, deadline)
    run.gate.clear()
    first = asyncio.create_task(submit_one(batcher, 0.0, deadline))
    await settle()
    others = asyncio.create_task(batcher.submit([sample(1.0)] * waiting, deadline))
    await settle()
    with pytest.raises(QueueFull) as refused:
        await submit_one(batcher, 1.0, deadline)
    assert refused.value.retry_after_s == pytest.approx(run_s * (1 + waiting / 4), rel=0.05)
    run.gate.set()
    await asyncio.gather(first, others)
    await batcher.close()


async def test_close_finishes_what_is_queued_and_refuses_the_rest() -> None:
    run, clock = Doubler(), FakeClock()
    batcher, deadline = batcher_of(run, clock), Deadline.after(9.0, clock)
    run.gate.clear()
    tasks = [asyncio.create_task(submit_one(batcher, float(n), deadline)) for n in range(6)]
    await settle()
    closing = asyncio.create_task(batcher.close())
    await settle()
    with pytest.raises(ShuttingDown):
        await batcher.submit([sample(1.0)], deadline)
    run.gate.set()
    assert await asyncio.gather(*tasks) == [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]
    await closing


@settings(max_examples=60, deadline=None)
@given(
    requests=st.lists(st.lists(st.integers(-1000, 1000), min_size=1, max_size=7), min_size=1, max_size=12),
    pauses=st.lists(st.integers(0, 3), min_size=12, max_size=12),
    max_batch_size=st.integers(1, 5),
)
def test_each_gets_its_own_whatever_the_order(
    requests: list[list[int]], pauses: list[int], max_batch_size: int
) -> None:
    async def play() -> None:
        run, clock = Doubler(), FakeClock()
        batcher = batcher_of(run, clock, max_batch_size=max_batch_size, max_queue_samples=1000)
        deadline = Deadline.after(9.0, clock)

        async def ask(values: list[int], pause: int) -> list[float]:
            for _ in range(pause):
                await asyncio.sleep(0)
            return [
                value_of(result) for result in await batcher.submit([sample(v) for v in values], deadline)
            ]

        answers = await asyncio.gather(*(ask(values, pauses[n]) for n, values in enumerate(requests)))
        assert answers == [[2.0 * value for value in values] for values in requests]
        assert max(len(batch) for batch in run.batches) <= max_batch_size
        await batcher.close()

    asyncio.run(play())
