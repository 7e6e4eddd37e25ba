"""Geodesics of the latent space: the way between two codes on which pictures change least.

A way is a few codes in W+ with their pictures. Its energy is that of a discrete curve in the metric that the generator
pulls back from pictures (Chen et al. 2018, "Metrics for deep generative models"; Arvanitidis et al. 2018, "Latent space
oddity"; Shao et al. 2018, algorithm 1), with d the mean squared difference of two pictures on [-1, 1]:

    energy = (N - 1) * sum d(i, i+1)        length = sum sqrt d(i, i+1)        length^2 <= energy

The gateway has no gradient of this, but it has the refiner. With both neighbours fixed, the code that lowers the energy
most is the one whose picture is nearest to the mean of theirs: d(i-1, i) + d(i, i+1) = 2 d(i, mean) + a constant. So a
move is a run of the refiner from the code at hand towards that picture. The domain term of its objective keeps the code
native, which the energy alone does not: the cross-fade has the least energy of all.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from serving.bundle import Bundle
from serving.call import Call
from serving.jobs import Code, Image
from serving.photographs.areas import pixel_mse
from serving.pipeline.edits import interpolate_codes
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


class Geodesics:
    """Finds the geodesics of one bundle. Methods raise what the back end raises."""

    def __init__(self, bundle: Bundle, stages: Stages, refiner: Refiner, settings: RefineSettings) -> None:
        """settings: of each picture's refinement, as an inversion takes them, but for the perceptual term."""
        self._bundle = bundle
        self._stages = stages
        self._refiner = refiner
        self._settings = settings

    async def find(self, start: Code, end: Code, count: int, call: Call) -> Codes:
        """`count` codes from start to end, float32 [N, L, 512], both ends exact.

        It begins with the straight line, and keeps of all changes those that lower the energy, so that its energy is at
        most the line's. No code is refined by more than `settings.steps` steps, rounded up to whole chunks: at most
        (count - 2) * ceil(steps / chunk) samples of the refiner. It ends earlier when little is gained, or with the
        time: there is left what answering takes.
        """
        line = interpolate_codes(start, end, count)
        # Decoding the line and the way after it takes as long as answering it does, each.
        if count == 2 or call.deadline.remaining_s <= 3 * self._reserve_s(count):
            return line
        images = await self._stages.generate(self._bundle, line, call)
        way = await self._space(Way(line, images, await asyncio.to_thread(squared_steps, images)), call)
        for _ in range(math.ceil(self._settings.steps / self._bundle.refine.chunk_steps)):
            before = way.energy
            if not await self._move_all(way, call) or call.deadline.remaining_s <= 2 * self._reserve_s(count):
                break
            way = await self._space(way, call)
            if before - way.energy <= _LEAST_GAIN * before:
                break
        return way.codes

    async def _space(self, way: Way, call: Call) -> Way:
        """The way with its codes shifted along it to equal steps in pictures; or as it is, if that is no better."""
        codes = evenly_spaced(way.codes, way.squared)
        inner = await self._stages.generate(self._bundle, codes[1:-1], call)
        images = [way.images[0], *inner, way.images[-1]]
        spaced = Way(codes, images, await asyncio.to_thread(squared_steps, images))
        return spaced if spaced.energy < way.energy else way

    async def _move_all(self, way: Way, call: Call) -> bool:
        """Moves each code once: every other one first, then those between. No two neighbours move at once, so that each
        move by itself lowers the energy. False: there was no time, or no room, to go on."""
        last = len(way.codes) - 1
        for first in (1, 2):
            places = list(range(first, last, 2))
            for part in range(0, len(places), _MOVES_AT_ONCE):
                if not await self._move(way, places[part : part + _MOVES_AT_ONCE], call):
                    return False
        return True

    async def _move(self, way: Way, places: list[int], call: Call) -> bool:
        before = way.codes[places]
        with call.during("refine") as timer:
            targets = await asyncio.to_thread(mean_pictures, way.images, places)
            reserve_s = self._reserve_s(len(way.codes))
            chunk = await self._refiner.move(before, targets, self._settings, call.deadline, reserve_s)
            if chunk is None:
                return False
            timer.queued_s = chunk.queued_s
        moved = np.asarray(chunk.outputs["best_code"], dtype=np.float32)
        moved = np.where(np.isfinite(moved).all(axis=(1, 2), keepdims=True), moved, before)
        images = await self._stages.generate(self._bundle, moved, call)
        for place, code, image in zip(places, moved, images, strict=True):
            around = [way.images[place - 1], image, way.images[place + 1]]
            squared = await asyncio.to_thread(squared_steps, around)
            if sum(squared) < sum(way.squared[place - 1 : place + 1]):
                way.codes[place], way.images[place] = code, image
                way.squared[place - 1 : place + 1] = squared
        return True

    def _reserve_s(self, count: int) -> float:
        """The time that is left for the answers: each takes no longer than another result's."""
        return self._stages.answer_reserve_s() + count * self._stages.answer_s.value


def squared_steps(images: list[Image]) -> list[float]:
    """Mean squared differences of neighbours, on [-1, 1]: of N pictures N - 1."""
    return [pixel_mse(one, other) for one, other in pairwise(images)]


def mean_pictures(images: list[Image], places: list[int]) -> npt.NDArray[np.uint8]:
    """The mean of the two neighbours of each place, uint8 [N, H, W, 3]."""
    means = [(images[place - 1].astype(np.uint16) + images[place + 1] + 1) // 2 for place in places]
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
