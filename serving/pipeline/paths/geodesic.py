"""Geodesics of the latent space: the way between two codes on which pictures change least.

A way is a few codes in W+ with their pictures. Its energy is that of a discrete curve in the metric that the generator
pulls back from pictures (Chen et al. 2018, "Metrics for deep generative models"; Arvanitidis et al. 2018, "Latent space
oddity"; Shao et al. 2018, algorithm 1), with d the mean squared difference of two pictures on [-1, 1]:

    energy = (N - 1) * sum d(i, i+1)        length = sum sqrt d(i, i+1)        length^2 <= energy

The gateway has no gradient of this, but it has the refiner. With both neighbours fixed, the code that lowers the energy
most is the one whose picture is nearest to the mean of theirs: d(i-1, i) + d(i, i+1) = 2 d(i, mean) + a constant. So a
move is a run of the refiner from the code at hand towards that picture. The domain term of its objective keeps the code
native, which the energy alone does not: the cross-fade has the least energy of all. Where several ways meet in one code
(mean.py), that code has more neighbours, and the same holds of the mean of all of them.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from serving.backends.backend import Inference
from serving.bundle import Bundle
from serving.call import Call
from serving.errors import InvalidOption, QueueFull
from serving.jobs import Code, Image, Path
from serving.photographs.areas import pixel_mse
from serving.pipeline.edits import interpolate_codes
from serving.pipeline.paths.patience import patiently
from serving.pipeline.refinement import Refiner, RefineSettings
from serving.pipeline.stages import Stages

Codes = npt.NDArray[np.float32]  # [N, L, 512]

# A longer way is moved in parts: the state of its optimisers takes megabytes a picture.
_MOVES_AT_ONCE = 8
# Less than this part of the energy is not worth another round.
_LEAST_GAIN = 0.002


@dataclass(slots=True)
class Way:
    """Codes float32 [N, L, 512] from end to end, their pictures uint8 [H, W, 3], and the mean squared differences of
    neighbouring pictures on [-1, 1], of which there are N - 1."""

    codes: Codes
    images: list[Image]
    squared: list[float]

    @property
    def energy(self) -> float:
        return len(self.squared) * sum(self.squared)

    @property
    def length(self) -> float:
        return sum(math.sqrt(step) for step in self.squared)

    def neighbours(self, place: int) -> list[Image]:
        """The pictures beside one: two, or one of an end."""
        return self.images[max(place - 1, 0) : place] + self.images[place + 1 : place + 2]


Node = list[tuple[Way, int]]
"""A code, as its place on each of the ways that it is on."""


class Geodesics:
    """Finds the geodesics of one bundle. Methods raise what the back end raises.

    `turn` is entered for each step of the work, so that others get theirs between two steps.
    """

    def __init__(
        self,
        bundle: Bundle,
        stages: Stages,
        refiner: Refiner,
        settings: RefineSettings,
        turn: AbstractAsyncContextManager[Any],
    ) -> None:
        """settings: of each picture's refinement, as an inversion takes them, but for the perceptual term."""
        self._bundle = bundle
        self._stages = stages
        self._refiner = refiner
        self._settings = settings
        self._turn = turn

    async def find(self, start: Code, end: Code, count: int, call: Call) -> Codes:
        """`count` codes from start to end, float32 [N, L, 512], both ends exact.

        It begins with the straight line, and keeps of all changes those that lower the energy, so that its energy is at
        most the line's. No code is refined by more than `settings.steps` steps, rounded up to whole chunks: at most
        (count - 2) * ceil(steps / chunk) samples of the refiner. It ends earlier when little is gained, or with the
        time: there is left what answering takes.
        """
        # Decoding the line and the way after it takes as long as answering it does, each.
        if count == 2 or call.deadline.remaining_s <= 3 * self._reserve_s(count):
            return interpolate_codes(start, end, count)
        ways = await self.lines(start, [end], count, call)
        async for _ in self.relax(ways, self._reserve_s(count), call):
            pass
        return ways[0].codes

    async def lines(self, start: Code, ends: list[Code], count: int, call: Call) -> list[Way]:
        """The straight lines from one code to each of others, of `count` pictures each."""
        lines = [interpolate_codes(start, end, count) for end in ends]
        async with self._turn:
            codes = np.concatenate([start[None], *(line[1:] for line in lines)])
            first, *others = await self._stages.generate(self._bundle, codes, call)
        ways = []
        for n, line in enumerate(lines):
            images = [first, *others[n * (count - 1) : (n + 1) * (count - 1)]]
            ways.append(Way(line, images, await asyncio.to_thread(squared_steps, images)))
        return ways

    async def relax(
        self, ways: list[Way], reserve_s: float, call: Call, *, meeting: bool = False
    ) -> AsyncGenerator[None, None]:
        """Lowers the energy of ways of one size, in rounds; yields after each. Their ends stay as they are.

        meeting: they all begin in one code, which moves too. It ends when little is gained; when the time is up, but
        for `reserve_s`, and as much for drawing ways once more; or where no room comes until then.
        """
        rounds = math.ceil(self._settings.steps / self._bundle.refine.chunk_steps)
        if call.deadline.remaining_s <= 2 * reserve_s:
            return
        try:
            await self._space(ways, reserve_s, call)
            for _ in range(rounds):
                before = sum(way.energy for way in ways)
                moved = await self._move_all(ways, meeting, reserve_s, call)
                if not moved or call.deadline.remaining_s <= 2 * reserve_s:
                    break
                await self._space(ways, reserve_s, call)
                yield
                if before - sum(way.energy for way in ways) <= _LEAST_GAIN * before:
                    return
        except QueueFull:
            # What is found so far has cost too much to be thrown away.
            pass
        yield

    async def _space(self, ways: list[Way], reserve_s: float, call: Call) -> None:
        """Shifts codes along their ways to equal steps in pictures, but for ways that are better as they are."""
        shifted = [evenly_spaced(way.codes, way.squared) for way in ways]
        inner = np.concatenate([codes[1:-1] for codes in shifted])
        if not len(inner):
            return
        drawn = await self._draw(inner, reserve_s, call)
        for way, codes in zip(ways, shifted, strict=True):
            between, drawn = drawn[: len(codes) - 2], drawn[len(codes) - 2 :]
            images = [way.images[0], *between, way.images[-1]]
            squared = await asyncio.to_thread(squared_steps, images)
            if sum(squared) < sum(way.squared):
                way.codes, way.images, way.squared = codes, images, squared

    async def _move_all(self, ways: list[Way], meeting: bool, reserve_s: float, call: Call) -> bool:
        """Moves each code once: every other one first, then those between. No two neighbours move at once, so that each
        move by itself lowers the energy. False: there was no time, or no room, to go on."""
        last = len(ways[0].codes) - 1
        between = [[[(way, n)] for way in ways for n in range(first, last, 2)] for first in (1, 2)]
        if meeting:
            between[1].append([(way, 0) for way in ways])
        for nodes in between:
            for part in range(0, len(nodes), _MOVES_AT_ONCE):
                if not await self._move(nodes[part : part + _MOVES_AT_ONCE], reserve_s, call):
                    return False
        return True

    async def _move(self, nodes: list[Node], reserve_s: float, call: Call) -> bool:
        before = np.stack([way.codes[place] for (way, place), *_ in nodes])
        targets = await asyncio.to_thread(mean_pictures, nodes)

        async def move() -> Inference | None:
            async with self._turn:
                with call.during("refine") as timer:
                    chunk = await self._refiner.move(
                        before, targets, self._settings, call.deadline, reserve_s
                    )
                    timer.queued_s = chunk.queued_s if chunk else 0.0
                return chunk

        chunk = await patiently(move, call, reserve_s)
        if chunk is None:
            return False
        moved = np.asarray(chunk.outputs["best_code"], dtype=np.float32)
        moved = np.where(np.isfinite(moved).all(axis=(1, 2), keepdims=True), moved, before)
        images = await self._draw(moved, reserve_s, call)
        for node, code, image in zip(nodes, moved, images, strict=True):
            await asyncio.to_thread(keep_if_nearer, node, code, image)
        return True

    async def _draw(self, codes: Codes, reserve_s: float, call: Call) -> list[Image]:
        async def generate() -> list[Image]:
            async with self._turn:
                return await self._stages.generate(self._bundle, codes, call)

        return await patiently(generate, call, reserve_s)

    def _reserve_s(self, count: int) -> float:
        """The time that is left for the answers: each takes no longer than another result's."""
        return self._stages.answer_reserve_s() + count * self._stages.answer_s.value


def check_path(path: Path, settings: RefineSettings) -> None:
    """Raises InvalidOption for geodesics without refinement. It is called before any graph runs."""
    if path is Path.GEODESIC and settings.steps == 0:
        raise InvalidOption("A geodesic needs refinement; give refine.steps of 1 or more.")


def keep_if_nearer(node: Node, code: Code, image: Image) -> None:
    """Puts a code and its picture at a node's places, if the picture is nearer to all its neighbours together."""
    found = [[pixel_mse(other, image) for other in way.neighbours(place)] for way, place in node]
    before = [way.squared[max(place - 1, 0) : place + 1] for way, place in node]
    if sum(map(sum, found)) < sum(map(sum, before)):
        for (way, place), squared in zip(node, found, strict=True):
            way.codes[place], way.images[place] = code, image
            way.squared[max(place - 1, 0) : place + 1] = squared


def squared_steps(images: list[Image]) -> list[float]:
    """Mean squared differences of neighbours, on [-1, 1]: of N pictures N - 1."""
    return [pixel_mse(one, other) for one, other in pairwise(images)]


def mean_pictures(nodes: list[Node]) -> npt.NDArray[np.uint8]:
    """The mean of all neighbours of each node, uint8 [N, H, W, 3]."""
    means = []
    for node in nodes:
        around = [image for way, place in node for image in way.neighbours(place)]
        means.append((sum(image.astype(np.uint32) for image in around) + len(around) // 2) // len(around))
    return np.stack(means).astype(np.uint8)


def evenly_spaced(codes: Codes, squared: list[float]) -> Codes:
    """Codes on the same polyline float32 [N, L, 512], spaced by equal parts of its length in pictures; both ends exact.

    squared: the squared lengths of its N - 1 pieces. A way of no length stays as it is.
    """
    passed = np.concatenate([[0.0], np.cumsum(np.sqrt(squared))])
    if passed[-1] == 0.0:
        return codes
    last = len(codes) - 1
    wanted = np.linspace(0.0, passed[-1], len(codes))
    # The place of each new code among the old ones, as 2.25 for a quarter of the way from code 2 to code 3.
    places = np.interp(wanted, passed, np.arange(len(codes)))
    places[0], places[-1] = 0.0, last
    before = np.minimum(places.astype(int), last - 1)
    share = (places - before).astype(np.float32)[:, None, None]
    spaced: Codes = (1 - share) * codes[before] + share * codes[before + 1]
    return spaced
