"""Domain-regularised refinement of a code, in chunks of K steps: when to go on, when to stop, what to keep.

The steps themselves are the graph `B_refiner` (pixel + perceptual + domain loss; Zhu et al. 2020, eq. 3). Its
optimiser's state passes through here unread, so the chunks of different requests share batches; deadline and
cancellation are looked at between chunks.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from serving.backends import Backend, Inference
from serving.bundle import REFINE_SETTINGS, Bundle, RefineDefaults
from serving.deadline import Deadline
from serving.errors import InvalidOption, QueueFull
from serving.jobs import Code, Image, RefineOptions
from serving.results import StopReason

_MAX_RATE = 10.0
_MAX_WEIGHT = 1e4


@dataclass(frozen=True, slots=True)
class RefineSettings:
    """What is asked of one refinement, nothing left open."""

    steps: int
    learning_rate: float
    pixel_weight: float
    perceptual_weight: float
    domain_weight: float
    allow_fewer_steps: bool = False

    @classmethod
    def resolve(cls, options: RefineOptions, defaults: RefineDefaults, max_steps: int) -> RefineSettings:
        """Fills in the bundle's defaults. Raises InvalidOption."""

        def choose(name: str, upper: float) -> float:
            wanted = getattr(options, name)
            value = float(getattr(defaults, name) if wanted is None else wanted)
            if not (math.isfinite(value) and 0.0 <= value <= upper):
                raise InvalidOption(f"refine.{name} is {value}; it goes from 0 to {upper:g}.")
            return value

        steps = min(defaults.steps, max_steps) if options.steps is None else options.steps
        if options.quality is not None:
            if options.steps is not None:
                raise InvalidOption("refine.quality stands for a number of steps; give it or refine.steps.")
            if options.quality not in defaults.quality_steps:
                raise InvalidOption(
                    f"refine.quality is {options.quality[:40]!r}; the bundle has "
                    f"{', '.join(defaults.quality_steps) or 'none'}."
                )
            steps = min(defaults.quality_steps[options.quality], max_steps)
        if not 0 <= steps <= max_steps:
            raise InvalidOption(f"refine.steps is {steps}; it goes from 0 (not at all) to {max_steps}.")
        return cls(
            steps=steps,
            learning_rate=choose("learning_rate", _MAX_RATE),
            pixel_weight=choose("pixel_weight", _MAX_WEIGHT),
            perceptual_weight=choose("perceptual_weight", _MAX_WEIGHT),
            domain_weight=choose("domain_weight", _MAX_WEIGHT),
            allow_fewer_steps=options.allow_fewer_steps,
        )


@dataclass(frozen=True, slots=True)
class StopRule:
    """Stop when the best loss fell by less than `min_improvement_ratio` of itself over `window_steps` steps."""

    window_steps: int
    min_improvement_ratio: float

    def converged(self, best_loss_at: list[tuple[int, float]]) -> bool:
        """`best_loss_at`: (steps done, best loss so far), in order."""
        if self.min_improvement_ratio <= 0.0 or not best_loss_at:
            return False
        steps_now, loss_now = best_loss_at[-1]
        before = [loss for steps, loss in best_loss_at if steps <= steps_now - self.window_steps]
        return bool(before) and before[-1] - loss_now < self.min_improvement_ratio * abs(before[-1])


@dataclass(frozen=True, slots=True)
class Refinement:
    """`code` is the best that was seen: its loss is never above the start's."""

    code: Code
    loss_before: float
    loss_after: float
    steps_done: int
    stop_reason: StopReason
    queued_s: float = 0.0


Report = Callable[[int, float | None, Code], None]
"""Told of an inversion under way: steps done, the best loss so far (None before the first step), and its code."""


def unreported(steps_done: int, loss: float | None, code: Code) -> None:
    """Tells nobody."""


class _Smoothed:
    """A running mean of seconds, 0 until the first."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def add(self, seconds: float) -> None:
        self.seconds = seconds if self.seconds == 0.0 else self.seconds + 0.3 * (seconds - self.seconds)

    def forget_a_little(self) -> None:
        """So that one slow moment is not held against all who have less time than it took."""
        self.seconds *= 0.8


class Refiner:
    """Refines codes of one bundle. Keeps only how long a chunk takes and how many refinements are under way; everything
    else belongs to a request. Beyond `comfortable` at once, those that allow fewer steps get fewer."""

    def __init__(self, bundle: Bundle, backend: Backend, rule: StopRule, comfortable: int = 8) -> None:
        self._bundle = bundle
        self._backend = backend
        self._rule = rule
        self._comfortable = comfortable
        self._under_way = 0
        self._chunk_time = _Smoothed()

    async def refine(
        self,
        start: Code,
        target: Image,
        settings: RefineSettings,
        deadline: Deadline,
        reserve_s: Callable[[], float],
        *,
        mask: npt.NDArray[np.float32] | None = None,
        report: Report = unreported,
    ) -> Refinement:
        """Refines until `settings.steps`, convergence, or until only `reserve_s()` is left before the deadline.

        start: float32 [L, 512]; target: uint8 [H, W, 3]; mask: float32 [H, W, 1], how much each place counts, all
        alike if left out. Raises what the back end raises, but for QueueFull where fewer steps are allowed.
        """
        self._under_way += 1
        try:
            return await self._refine(start, target, settings, deadline, reserve_s, mask, report)
        finally:
            self._under_way -= 1

    async def _refine(
        self,
        start: Code,
        target: Image,
        settings: RefineSettings,
        deadline: Deadline,
        reserve_s: Callable[[], float],
        mask: npt.NDArray[np.float32] | None,
        report: Report,
    ) -> Refinement:
        chunk_steps = self._bundle.refine.chunk_steps
        best_code, best_loss, loss_before = start, math.inf, 0.0
        best_loss_at: list[tuple[int, float]] = []
        state = first_inputs(self._bundle, start[None], target[None], settings)
        if mask is not None:
            state["mask"] = mask[None]
        steps_done, queued_s = 0, 0.0
        reason = StopReason.NOT_REFINED if settings.steps == 0 else StopReason.STEPS_DONE
        while steps_done < settings.steps:
            if steps_done >= self._fair_steps(settings):
                reason = StopReason.PRESSURE
                break
            try:
                chunk = await self._chunk_in_time(state, deadline, reserve_s())
            except QueueFull:
                if not settings.allow_fewer_steps:
                    raise
                reason = StopReason.PRESSURE
                break
            if chunk is None:
                reason = StopReason.DEADLINE
                break
            queued_s += chunk.queued_s
            outputs = chunk.outputs
            if steps_done == 0:
                loss_before = float(outputs["loss"][0, 0])
            steps_done += chunk_steps
            # Also false for NaN: what is not a number is never the best.
            if float(outputs["best_loss"][0, 0]) < best_loss and np.isfinite(outputs["best_code"]).all():
                best_loss = float(outputs["best_loss"][0, 0])
                best_code = np.array(outputs["best_code"][0], dtype=np.float32)
            if not np.isfinite(outputs["next_code"]).all():
                reason = StopReason.DIVERGED
                break
            best_loss_at.append((steps_done, best_loss))
            report(steps_done, best_loss, best_code)
            if self._rule.converged(best_loss_at):
                reason = StopReason.CONVERGED
                break
            for part in self._bundle.graphs["refiner"].state:
                state[part.name] = outputs[f"next_{part.name}"]
        if not math.isfinite(best_loss):
            best_loss = loss_before
        return Refinement(best_code, loss_before, best_loss, steps_done, reason, queued_s)

    def _fair_steps(self, settings: RefineSettings) -> int:
        """The steps that are asked for, or this refinement's share of them while there are too many at once."""
        if not settings.allow_fewer_steps or self._under_way <= self._comfortable:
            return settings.steps
        return max(1, settings.steps * self._comfortable // self._under_way)

    async def _chunk_in_time(
        self, state: dict[str, npt.NDArray[Any]], deadline: Deadline, reserve_s: float
    ) -> Inference | None:
        """One chunk; None if it would end, or did end, later than `reserve_s` before the deadline."""
        spare_s = deadline.remaining_s - reserve_s
        if spare_s <= self._chunk_time.seconds:
            self._chunk_time.forget_a_little()
            return None
        started_s = deadline.clock.now()
        try:
            async with asyncio.timeout(spare_s):
                chunk = await self._backend.infer(self._bundle.graphs["refiner"], state, deadline)
        except TimeoutError:
            return None
        finally:
            self._chunk_time.add(deadline.clock.now() - started_s)
        return chunk


def first_inputs(
    bundle: Bundle, codes: npt.NDArray[np.float32], targets: npt.NDArray[np.uint8], settings: RefineSettings
) -> dict[str, npt.NDArray[Any]]:
    """The refiner's inputs before the first step: codes float32 [N, L, 512], targets uint8 [N, H, W, 3]."""
    inputs: dict[str, npt.NDArray[Any]] = {
        part.name: np.zeros((len(codes), *part.shape[1:]), dtype=np.float32)
        for part in bundle.graphs["refiner"].state
    }
    inputs |= {"code": codes, "target": targets}
    inputs["mask"] = np.ones((*targets.shape[:3], 1), dtype=np.float32)
    for name in REFINE_SETTINGS:
        inputs[name] = np.full((len(codes), 1), getattr(settings, name), dtype=np.float32)
    return inputs
