"""Refinement as the host steers it: best kept, early stop, deadline, divergence. The back end is scripted."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.backends.backend import Inference, Tensors
from serving.bundle import Bundle, GraphSpec
from serving.deadline import Deadline
from serving.errors import InvalidOption, QueueFull
from serving.jobs import RefineOptions
from serving.pipeline.refinement import Refinement, Refiner, RefineSettings, StopRule
from serving.repository.reader import read_bundle
from serving.results import StopReason
from tests.serving.waiting import FakeClock

NEVER = StopRule(window_steps=10, min_improvement_ratio=0.0)


class ScriptedRefiner:
    """Plays a list of losses: the loss before step k is losses[k]; the code before step k is filled with k.

    Each chunk takes `chunk_s` seconds of the clock, and gives way to others.
    """

    def __init__(self, losses: list[float], clock: FakeClock | None = None, chunk_s: float = 0.0) -> None:
        self._losses = losses
        self._clock = clock or FakeClock()
        self._chunk_s = chunk_s
        self.calls = 0

    async def load(self) -> None: ...

    async def add(self, bundles: Iterable[Bundle]) -> None: ...

    async def keep(self, bundles: Iterable[Bundle]) -> None: ...

    def check_room(self, graph: GraphSpec, count: int) -> None: ...

    async def infer(self, graph: GraphSpec, inputs: Tensors, deadline: Deadline) -> Inference:
        self.calls += 1
        await self._clock.advance(self._chunk_s)
        step = int(inputs["step"][0, 0])
        chunk = [self._losses[step], self._losses[step + 1]]
        best = int(np.argmin(chunk))
        next_value = math.nan if math.isnan(self._losses[step + 2]) else step + 2
        return Inference(
            {
                "next_code": np.full_like(inputs["code"], next_value),
                "next_first_moment": inputs["first_moment"],
                "next_second_moment": inputs["second_moment"],
                "next_step": inputs["step"] + 2.0,
                "loss": np.array([chunk], np.float32),
                "best_code": np.full_like(inputs["code"], step + best),
                "best_loss": np.array([[chunk[best]]], np.float32),
            }
        )

    @property
    def engines(self) -> Mapping[str, str]:
        return {}

    async def healthy(self) -> bool:
        return True

    async def close(self) -> None: ...


@pytest.fixture(scope="module")
def bundle(tiny_repository: Path) -> Bundle:
    return read_bundle(tiny_repository, "tiny16")


async def refine(
    bundle: Bundle,
    backend: ScriptedRefiner,
    steps: int,
    rule: StopRule = NEVER,
    deadline: Deadline | None = None,
    reserve_s: float = 0.0,
) -> Refinement:
    options = RefineSettings.resolve(RefineOptions(steps=steps), bundle.refine, 10_000)
    start = np.zeros((bundle.layers, bundle.code_size), np.float32)
    target = np.zeros((16, 16, 3), np.uint8)
    refiner = Refiner(bundle, backend, rule)
    return await refiner.refine(start, target, options, deadline or Deadline.after(30.0), lambda: reserve_s)


async def test_keeps_the_best_of_all_chunks(bundle: Bundle) -> None:
    result = await refine(bundle, ScriptedRefiner([5.0, 4.0, 1.0, 3.0, 6.0, 7.0, 8.0]), steps=6)
    assert (result.loss_before, result.loss_after, result.steps_done) == (5.0, 1.0, 6)
    assert np.all(result.code == 2.0)
    assert result.stop_reason is StopReason.STEPS_DONE


@settings(max_examples=50, deadline=None)
@given(losses=st.lists(st.floats(0.0, 1e6, width=32), min_size=9, max_size=9))
def test_never_worse_than_the_start(losses: list[float], tiny_repository: Path) -> None:
    bundle = read_bundle(tiny_repository, "tiny16", verify=False)
    result = asyncio.run(refine(bundle, ScriptedRefiner(losses), steps=8))
    assert result.loss_after <= result.loss_before == losses[0]
    assert result.loss_after == losses[int(result.code[0, 0])] == min(losses[:8])


async def test_stops_when_the_loss_no_longer_improves(bundle: Bundle) -> None:
    losses = [10.0, 5.0, 2.0] + [2.0 - 1e-6 * n for n in range(200)]
    backend = ScriptedRefiner(losses)
    result = await refine(bundle, backend, steps=100, rule=StopRule(6, 0.001))
    assert result.stop_reason is StopReason.CONVERGED
    assert result.steps_done == 10  # the window of 6 must lie wholly in the flat part
    assert backend.calls == 5


async def test_odd_steps_are_rounded_up_to_a_chunk(bundle: Bundle) -> None:
    result = await refine(bundle, ScriptedRefiner([3.0, 2.0, 1.0, 0.5, 0.2]), steps=3)
    assert result.steps_done == 4


async def test_stops_before_the_deadline_with_the_best_so_far(bundle: Bundle) -> None:
    clock = FakeClock()
    backend = ScriptedRefiner([float(1000 - n) for n in range(900)], clock, chunk_s=0.25)
    deadline = Deadline.after(4.0, clock)
    result = await refine(bundle, backend, steps=800, deadline=deadline, reserve_s=1.0)
    assert result.stop_reason is StopReason.DEADLINE
    # Twelve chunks of two steps would fit into the 3 s; one that is as long as what is left is not begun.
    assert result.steps_done == 22
    assert deadline.remaining_s >= 1.0
    assert result.loss_after < result.loss_before


async def test_batches_and_single_codes_are_timed_apart(bundle: Bundle) -> None:
    """Where a batch takes as long as one code: neither makes the other look cheap, or dear."""
    clock = FakeClock()
    refiner = Refiner(bundle, ScriptedRefiner([1.0] * 4, clock, chunk_s=0.25), NEVER)
    code = np.zeros((1, *bundle.code_shape), np.float32)
    image = np.zeros((1, bundle.resolution, bundle.resolution, 3), np.uint8)
    settings = RefineSettings.resolve(RefineOptions(steps=2), bundle.refine, 2)

    async def alone(spare_s: float) -> Refinement:
        deadline = Deadline.after(spare_s, clock)
        return await refiner.refine(code[0], image[0], settings, deadline, lambda: 0.0)

    async def together(spare_s: float) -> Inference | None:
        codes, images = code.repeat(8, 0), image.repeat(8, 0)
        return await refiner.move(codes, images, settings, Deadline.after(spare_s, clock), 0.0)

    assert (await alone(10.0)).steps_done == 2
    for _ in range(9):
        assert await together(0.5) is not None
    assert (await alone(0.2)).stop_reason is StopReason.DEADLINE
    assert await together(0.2) is None


async def test_a_chunk_that_would_overrun_is_given_up(bundle: Bundle) -> None:
    class Stuck(ScriptedRefiner):
        async def infer(self, graph: GraphSpec, inputs: Tensors, deadline: Deadline) -> Inference:
            await asyncio.Event().wait()
            raise AssertionError("nobody sets the event")

    result = await refine(bundle, Stuck([1.0] * 9), 4, deadline=Deadline.after(0.3), reserve_s=0.2)
    assert result.stop_reason is StopReason.DEADLINE
    assert result.steps_done == 0
    assert np.all(result.code == 0.0)


async def test_divergence_ends_it_and_the_best_before_is_kept(bundle: Bundle) -> None:
    result = await refine(
        bundle, ScriptedRefiner([3.0, 2.0, 1.5, 1.0, math.nan, math.nan, math.nan]), steps=6
    )
    assert result.stop_reason is StopReason.DIVERGED
    assert result.loss_after == 1.0
    assert np.isfinite(result.code).all()


class Full(ScriptedRefiner):
    """Has room for some chunks only."""

    def __init__(self, losses: list[float], chunks: int) -> None:
        super().__init__(losses)
        self._chunks = chunks

    async def infer(self, model: str, inputs: Tensors, deadline: Deadline) -> Inference:
        if self.calls == self._chunks:
            raise QueueFull("full")
        return await super().infer(model, inputs, deadline)


@pytest.mark.parametrize("chunks", [0, 2])
async def test_a_full_queue_gives_fewer_steps_where_that_is_allowed(bundle: Bundle, chunks: int) -> None:
    losses = [float(20 - n) for n in range(20)]
    options = RefineSettings.resolve(RefineOptions(steps=8, allow_fewer_steps=True), bundle.refine, 100)
    start, target = np.zeros((bundle.layers, bundle.code_size), np.float32), np.zeros((16, 16, 3), np.uint8)
    refiner = Refiner(bundle, Full(losses, chunks), NEVER)
    result = await refiner.refine(start, target, options, Deadline.after(30.0), lambda: 0.0)
    assert (result.steps_done, result.stop_reason) == (2 * chunks, StopReason.PRESSURE)
    assert np.all(result.code == max(0, 2 * chunks - 1))
    with pytest.raises(QueueFull):
        await refine(bundle, Full(losses, chunks), steps=8)


async def test_too_many_at_once_share_the_steps_where_that_is_allowed(bundle: Bundle) -> None:
    backend = ScriptedRefiner([float(100 - n) for n in range(100)])
    refiner = Refiner(bundle, backend, NEVER, max_at_full_steps=2)
    start, target = np.zeros((bundle.layers, bundle.code_size), np.float32), np.zeros((16, 16, 3), np.uint8)

    async def one(allow: bool) -> Refinement:
        options = RefineSettings.resolve(RefineOptions(steps=40, allow_fewer_steps=allow), bundle.refine, 100)
        return await refiner.refine(start, target, options, Deadline.after(30.0), lambda: 0.0)

    results = await asyncio.gather(*(one(allow=n % 2 == 0) for n in range(8)))
    assert [result.steps_done for result in results[1::2]] == [40] * 4
    assert results[0].steps_done == 10  # 40 * 2 / 8; who goes on finds one less beside it
    assert all(10 <= result.steps_done <= 20 for result in results[::2])
    assert {result.stop_reason for result in results[::2]} == {StopReason.PRESSURE}
    assert (await one(allow=True)).steps_done == 40  # nobody else is there


async def test_the_mask_and_the_reports_go_through(bundle: Bundle) -> None:
    masks: list[np.ndarray] = []

    class Looking(ScriptedRefiner):
        async def infer(self, model: str, inputs: Tensors, deadline: Deadline) -> Inference:
            masks.append(inputs["mask"])
            return await super().infer(model, inputs, deadline)

    options = RefineSettings.resolve(RefineOptions(steps=4), bundle.refine, 100)
    start, target = np.zeros((bundle.layers, bundle.code_size), np.float32), np.zeros((16, 16, 3), np.uint8)
    mask = np.random.default_rng(1).random((16, 16, 1), np.float32)
    reports: list[tuple[int, float | None]] = []
    refiner = Refiner(bundle, Looking([5.0, 4.0, 3.0, 2.0, 1.0]), NEVER)
    await refiner.refine(
        start, target, options, Deadline.after(30.0), lambda: 0.0,
        mask=mask, report=lambda step, loss, code: reports.append((step, loss)),
    )  # fmt: skip
    assert all(np.array_equal(seen[0], mask) for seen in masks)
    assert reports == [(2, 4.0), (4, 2.0)]


@pytest.mark.parametrize(
    "options",
    [
        RefineOptions(steps=-1),
        RefineOptions(steps=501),
        RefineOptions(learning_rate=math.nan),
        RefineOptions(learning_rate=-0.1),
        RefineOptions(pixel_weight=math.inf),
        RefineOptions(domain_weight=1e9),
        RefineOptions(quality="finest"),
        RefineOptions(quality="fast", steps=4),
        # The tiny bundle's refiner has none of these inputs.
        RefineOptions(identity_weight=0.1),
        RefineOptions(grey=True),
        RefineOptions(downsampling=4),
        RefineOptions(detail=True),
        RefineOptions(noise=True),
    ],
)
def test_options_out_of_range(options: RefineOptions, bundle: Bundle) -> None:
    with pytest.raises(InvalidOption):
        RefineSettings.resolve(options, bundle.refine, 500)


def test_what_a_refiner_cannot_do_may_still_be_declined(bundle: Bundle) -> None:
    declined = RefineOptions(identity_weight=0.0, grey=False, downsampling=1, detail=False, noise=False)
    assert RefineSettings.resolve(declined, bundle.refine, 500) == RefineSettings.resolve(
        RefineOptions(), bundle.refine, 500
    )


def test_squares_have_the_sides_that_refiners_know(bundle: Bundle) -> None:
    able = bundle.refine.model_copy(update={"downsampling": 1})
    assert RefineSettings.resolve(RefineOptions(downsampling=8), able, 500).downsampling == 8
    with pytest.raises(InvalidOption, match="downsampling is 3; it is one of 1, 2, 4, 8, 16"):
        RefineSettings.resolve(RefineOptions(downsampling=3), able, 500)


def test_quality_names_a_number_of_steps(bundle: Bundle) -> None:
    def steps(quality: str) -> int:
        return RefineSettings.resolve(RefineOptions(quality=quality), bundle.refine, 500).steps

    assert (steps("fast"), steps("best")) == (4, 500)  # never more than the gateway allows
