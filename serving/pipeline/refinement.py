"""Domain-regularised refinement of a code, in chunks of K steps: when to go on, when to stop, which code to keep.

The steps themselves are the graph `B_refiner` (pixel + perceptual + domain loss; Zhu et al. 2020, eq. 3). The state of
its optimiser passes through here unread, so that chunks of different requests share batches. Deadline and cancellation
are checked between chunks.
"""

from __future__ import annotations

import asyncio
import math
from collections import defaultdict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from serving.backends.backend import Backend, Inference
from serving.bundle import Bundle, RefineDefaults, RowGroup, cleared, first_inputs
from serving.deadline import Clock, Deadline
from serving.errors import EditingError, InvalidOption, QueueFull
from serving.jobs import Code, Image, RefineOptions
from serving.results import StopReason
from serving.telemetry.average import ExponentialAverage

_MAX_RATE = 10.0
_MAX_WEIGHT = 1e4
# An encoder does not give a sampled code back exactly, so that the domain term pulls at it, too. Beside pixels alone
# its whole weight lets no code move; with this part of it, codes on geodesics keep their domain score.
_SHARE_OF_DOMAIN_IN_MOVES = 0.04
DOWNSAMPLINGS = (1, 2, 4, 8, 16)
# What not every refiner can do: the value that asks for nothing, and why it cannot.
_OPTIONAL: dict[str, tuple[float, str]] = {
    "detail": (False, "the bundle's codes have none"),
    "noise": (False, "the bundle's codes have no noise maps"),
    "identity_weight": (0.0, "the bundle's refiner has no identity term"),
    "grey": (False, "the bundle's refiner compares colours only"),
    "downsampling": (1, "the bundle's refiner compares single pixels only"),
}


@dataclass(frozen=True, slots=True)
class RefineSettings:
    """The settings of one refinement: what the request names, and the bundle's defaults for the rest."""

    steps: int
    learning_rate: float
    pixel_weight: float
    perceptual_weight: float
    domain_weight: float
    identity_weight: float = 0.0
    grey: bool = False
    downsampling: int = 1
    detail: bool = False
    noise: bool = False
    allow_fewer_steps: bool = False

    def without(self, bundle: Bundle) -> list[RowGroup]:
        """The groups of a code's additional rows that are not found."""
        return [group for group in bundle.groups if not getattr(self, group.name)]

    @classmethod
    def resolve(cls, options: RefineOptions, defaults: RefineDefaults, max_steps: int) -> RefineSettings:
        """Fills in the bundle's defaults. Raises InvalidOption."""

        def choose(name: str, upper: float) -> float:
            wanted, default = getattr(options, name), getattr(defaults, name)
            value = float((0.0 if default is None else default) if wanted is None else wanted)
            if not (math.isfinite(value) and 0.0 <= value <= upper):
                raise InvalidOption(f"refine.{name} is {value}; it goes from 0 to {upper:g}.")
            return value

        def switch(name: str) -> bool:
            wanted, default = getattr(options, name), getattr(defaults, name)
            # Nothing would hold what detail draws between the squares of which only means are known.
            return bool(default and downsampling == 1 if wanted is None else wanted)

        for name, (nothing, cannot) in _OPTIONAL.items():
            if getattr(defaults, name) is None and getattr(options, name) not in (None, nothing):
                raise InvalidOption(f"refine.{name} is given, and {cannot}; leave it out.")
        downsampling = options.downsampling or defaults.downsampling or 1
        if downsampling not in DOWNSAMPLINGS:
            raise InvalidOption(
                f"refine.downsampling is {downsampling}; it is one of {', '.join(map(str, DOWNSAMPLINGS))}."
            )
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
            identity_weight=choose("identity_weight", _MAX_WEIGHT),
            grey=bool(defaults.grey if options.grey is None else options.grey),
            downsampling=downsampling,
            detail=switch("detail"),
            noise=switch("noise"),
            allow_fewer_steps=options.allow_fewer_steps,
        )


def starting_code(encoded: Code, bundle: Bundle, settings: RefineSettings) -> Code:
    """The code float32 [L, 512] that a refinement starts from: the encoder's.

    Where only grey values are known, its finer half is the mean code's: there the colours are, and the encoder has seen
    none.
    """
    start = np.array(encoded, dtype=np.float32)
    if settings.grey:
        finer = slice(bundle.layers // 2, bundle.layers)
        start[finer] = bundle.mean_code[finer]
    return start


@dataclass(frozen=True, slots=True)
class StopRule:
    """Stops once the best loss has fallen by less than `min_improvement_ratio` of itself over `window_steps` steps."""

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
    """How a refinement ended. `code` has the lowest loss of all codes seen, the start among them."""

    code: Code
    loss_before: float
    loss_after: float
    steps_done: int
    stop_reason: StopReason
    queued_s: float = 0.0


Report = Callable[[int, float | None, Code], None]
"""Called during an inversion with the steps done, the best loss so far (None before the first step), and its code."""


def no_report(steps_done: int, loss: float | None, code: Code) -> None:
    """A Report that does nothing."""


class Refiner:
    """Refines codes of one bundle. It knows how long a chunk takes lately and how many refinements run now.

    Beyond `max_at_full_steps` at once, refinements that allow fewer steps get fewer.
    """

    def __init__(self, bundle: Bundle, backend: Backend, rule: StopRule, max_at_full_steps: int = 8) -> None:
        self._bundle = bundle
        self._backend = backend
        self._rule = rule
        self._max_at_full_steps = max_at_full_steps
        self._running = 0
        # By how many codes it has: on a GPU a batch takes little longer than one, on a processor as many times as long.
        self._chunk_s: defaultdict[int, ExponentialAverage] = defaultdict(lambda: ExponentialAverage(0.3))

    async def refine(
        self,
        start: Code,
        target: Image,
        settings: RefineSettings,
        deadline: Deadline,
        reserve_s: Callable[[], float],
        *,
        mask: npt.NDArray[np.float32] | None = None,
        report: Report = no_report,
    ) -> Refinement:
        """Refines a code float32 [L, 512] towards a target picture uint8 [H, W, 3].

        It stops after `settings.steps` steps, on convergence, or when only `reserve_s()` seconds are left before the
        deadline. mask: float32 [H, W, 1], the weight of each pixel; None:
        all count alike. Raises what the back end raises, but no QueueFull if fewer steps are allowed.
        """
        self._running += 1
        try:
            return await self._refine(start, target, settings, deadline, reserve_s, mask, report)
        finally:
            self._running -= 1

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
        start = cleared(start, settings.without(self._bundle))
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
            # The comparison is false for NaN, which is never the best.
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

    async def move(
        self,
        codes: npt.NDArray[np.float32],
        targets: npt.NDArray[np.uint8],
        settings: RefineSettings,
        deadline: Deadline,
        reserve_s: float,
    ) -> Inference | None:
        """One chunk from each of several codes float32 [N, L, 512] towards a target uint8 [N, H, W, 3] of its own, by
        pixels and, with less weight, domain alone; `best_code` has none that is farther from its target, by that
        objective.

        None: it would end later than `reserve_s` before the deadline, or there is no room and fewer steps are allowed.
        Raises what the back end raises.
        """
        # Detail would be found for whatever the target is, native or not; codes that have some keep it in the picture.
        kept = {group.name: bool(codes[:, group.rows].any()) for group in self._bundle.groups}
        held = settings.domain_weight * _SHARE_OF_DOMAIN_IN_MOVES
        by_pixels = replace(settings, perceptual_weight=0.0, identity_weight=0.0, domain_weight=held, **kept)
        state = first_inputs(self._bundle, codes, targets, by_pixels)
        self._running += 1
        try:
            return await self._chunk_in_time(state, deadline, reserve_s)
        except QueueFull:
            if not settings.allow_fewer_steps:
                raise
            return None
        finally:
            self._running -= 1

    def _fair_steps(self, settings: RefineSettings) -> int:
        """The steps asked for; fewer while too many refinements run at once and this one allows it."""
        if not settings.allow_fewer_steps or self._running <= self._max_at_full_steps:
            return settings.steps
        return max(1, settings.steps * self._max_at_full_steps // self._running)

    async def _chunk_in_time(
        self, state: dict[str, npt.NDArray[Any]], deadline: Deadline, reserve_s: float
    ) -> Inference | None:
        """Runs one chunk. None if it would end, or did end, later than `reserve_s` before the deadline."""
        spare_s, chunk_s = deadline.remaining_s - reserve_s, self._chunk_s[len(state["code"])]
        if spare_s <= chunk_s.value:
            # One slow chunk must not stop all later requests that have less time than it took.
            chunk_s.shrink(0.8)
            return None
        started_s = deadline.clock.now()
        try:
            async with asyncio.timeout(spare_s):
                chunk = await self._backend.infer(self._bundle.graphs["refiner"], state, deadline)
        except TimeoutError:
            return None
        finally:
            chunk_s.add(deadline.clock.now() - started_s)
        return chunk


class ProgressReports:
    """Sends reports of a refinement while it runs, without holding it up: use it as `async with` around the work.

    The first report is sent at once, the others at least `interval_s` apart. While one report is being sent, others
    are left out.
    """

    def __init__(
        self, send: Callable[[int, float | None, Code], Awaitable[None]], interval_s: float, clock: Clock
    ) -> None:
        self._send = send
        self._interval_s = interval_s
        self._clock = clock
        self._next_s = clock.now()
        self._sending: asyncio.Task[None] | None = None

    def report(self, step: int, loss: float | None, code: Code) -> None:
        """A Report."""
        now_s = self._clock.now()
        if now_s < self._next_s or (self._sending is not None and not self._sending.done()):
            return
        self._next_s = now_s + self._interval_s
        self._sending = asyncio.create_task(self._try_to_send(step, loss, code), name="progress")

    async def _try_to_send(self, step: int, loss: float | None, code: Code) -> None:
        # If there is no room or time for a preview, the result must not fail.
        with suppress(EditingError):
            await self._send(step, loss, code)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Waits for the last report, so that the result comes after it; cancels it if the work failed."""
        if self._sending is None:
            return
        if kind is not None:
            self._sending.cancel()
        await asyncio.gather(self._sending, return_exceptions=True)
