"""The mean of several codes: of their numbers in W+, or the Fréchet mean in the metric pulled back from pictures.

Kühnel, Fletcher, Joshi, Sommer, "Latent space non-linear statistics" (2018, arXiv 1805.07632): the point whose squared
geodesic distances to all codes add up to the least. Here a star is relaxed: ways from one code, the hub, to each of the
others. Their discrete energies (geodesic.py) add up to no less than the squared lengths, and to the same where steps
are even. With its neighbours fixed, the hub's best picture is the mean of theirs; so it moves as all codes of a way do.
"""

from __future__ import annotations

import numpy as np

from serving.call import Call
from serving.jobs import Code, Path
from serving.pipeline.paths.geodesic import Codes, Geodesics, Way
from serving.pipeline.stages import Stages

# Pictures of each way beyond the hub's own, where there is room for so many.
_PICTURES = 3


class Means:
    """Finds means of codes of one bundle. Methods raise what the back end raises."""

    def __init__(self, stages: Stages, geodesics: Geodesics, most_pictures: int) -> None:
        """most_pictures: of all ways together, about; at least one of each."""
        self._stages = stages
        self._geodesics = geodesics
        self._most_pictures = most_pictures

    async def find(self, codes: Codes, path: Path, call: Call) -> tuple[Code, list[float]]:
        """The mean of codes float32 [N, L, 512], float32 [L, 512], and the length of its way to each of them.

        A geodesic mean begins as the linear one with its straight lines, and the best of what is found is kept: the
        squares of its lengths add up to no more. It ends as a geodesic does.
        """
        hub: Code = codes.mean(axis=0, dtype=np.float64).astype(np.float32)
        pictures = max(1, min(_PICTURES, self._most_pictures // len(codes)))
        begun_s = call.deadline.clock.now()
        ways = await self._geodesics.lines(hub, list(codes), 1 + pictures, call)
        best = _star(ways)
        if path is Path.GEODESIC and len(codes) > 1:
            reserve_s = self._stages.answer_reserve_s() + call.deadline.clock.now() - begun_s
            async for _ in self._geodesics.relax(ways, reserve_s, call, meeting=True):
                best = min(best, _star(ways), key=lambda star: sum(length**2 for length in star[1]))
        return best


def _star(ways: list[Way]) -> tuple[Code, list[float]]:
    return ways[0].codes[0].copy(), [way.length for way in ways]
