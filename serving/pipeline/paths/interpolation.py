"""Interpolation: the pictures on a way from one code to another, a few at a time."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Sequence
from functools import partial

from serving.bundle import Bundle
from serving.call import Call
from serving.errors import InvalidOption
from serving.jobs import Code, EncodedPicture, Image, InterpolateJob, NamedCode, Origin, OutputOptions, Path
from serving.photographs.areas import pixel_mse
from serving.pipeline.bundles import ServedBundles
from serving.pipeline.edits import interpolate_codes
from serving.pipeline.paths.geodesic import Codes, Geodesics, check_path
from serving.pipeline.paths.patience import patiently
from serving.pipeline.refinement import RefineSettings
from serving.pipeline.rendering import Renderer
from serving.pipeline.stages import Stages
from serving.results import InterpolationFrame, Rendering
from serving.settings import Settings

# Frames that are made at once: a lone one first, which comes soon, then twice as many each time. Of an answer that
# nobody reads few are made.
_MAX_FRAMES_AT_ONCE = 8


class Interpolator:
    """Carries out interpolations. Methods raise what the stages raise."""

    def __init__(self, served: ServedBundles, stages: Stages, renderer: Renderer, settings: Settings) -> None:
        self._served = served
        self._stages = stages
        self._renderer = renderer
        self._settings = settings

    def check(self, job: InterpolateJob, settings: RefineSettings) -> None:
        """Raises InvalidOption. It is called before any graph runs."""
        check_path(job.path, settings)
        most, what = self._settings.max_interpolated_pictures, ""
        if job.path is Path.GEODESIC:
            # all of its pictures are held at once
            most, what = min(most, self._settings.max_codes), " for a geodesic"
        if not 2 <= job.count <= most:
            raise InvalidOption(f"count is {job.count}; it goes from 2 to {most}{what}.")

    async def frames(
        self,
        bundle: Bundle,
        job: InterpolateJob,
        ends: tuple[Code, Code],
        origin: Origin | None,
        settings: RefineSettings,
        call: Call,
        working: asyncio.Semaphore,
    ) -> AsyncGenerator[InterpolationFrame, None]:
        """The pictures from one end to the other, in order.

        origin: the photograph of the first end. settings: of the refinement that finds a geodesic. working: is entered
        while frames are made, and not while they are sent.
        """
        output, way = job.output, None
        if job.path is Path.GEODESIC:
            geodesics = Geodesics(bundle, self._stages, self._served.refiner(bundle), settings, working)
            way = await geodesics.find(*ends, job.count, call)
        seen: list[Image] = []  # the first picture, and the one before
        energy = length = 0.0
        first, count = 0, 1
        while first < job.count:
            part = self._codes(job, ends, way, slice(first, first + count), call)
            draw = partial(self._draw, bundle, part, output, call, working)
            # A geodesic has cost too much to be thrown away where there is no room for its pictures.
            images, scores, pictures = await (draw() if way is None else patiently(draw, call))
            seen = seen or [images[0], images[0]]
            for n, (code, score, picture) in enumerate(zip(part, scores, pictures, strict=True)):
                step = pixel_mse(seen[1], images[n])
                energy, length, seen[1] = energy + (job.count - 1) * step, length + math.sqrt(step), images[n]
                named = NamedCode(code if output.codes else None, space=bundle.code_space)
                pasted = await self._renderer.paste(origin, seen[0], images[n], output, call)
                rendering = Rendering(picture, pasted=pasted, placement=origin.placement if origin else None)
                position = (first + n) / (job.count - 1)
                yield InterpolationFrame(
                    bundle.name, first + n, position, named, score, rendering, energy, length
                )
            first += len(part)
            count = min(2 * count, _MAX_FRAMES_AT_ONCE)

    async def _draw(
        self, bundle: Bundle, codes: list[Code], output: OutputOptions, call: Call, working: asyncio.Semaphore
    ) -> tuple[list[Image], list[float], Sequence[EncodedPicture | None]]:
        """Pictures of codes, their domain scores, and the pictures as they are answered."""
        async with working:
            images, scores = await self._stages.generate_and_score(bundle, codes, len(codes), call)
            pictures: Sequence[EncodedPicture | None] = [None] * len(codes)
            if output.image:
                pictures = await self._stages.encode_pictures(images, output, call)
        return images, scores, pictures

    def _codes(
        self, job: InterpolateJob, ends: tuple[Code, Code], way: Codes | None, part: slice, call: Call
    ) -> list[Code]:
        """A part of the codes: of a way that is there, or of the straight line.

        Of a line not all are made at once: they may take ten megabytes, for whoever does not read them, too.
        """
        if way is not None:
            return list(way[part])
        with call.during("edit"):
            return list(interpolate_codes(*ends, job.count, part))
