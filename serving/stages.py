"""The stages of a request, one method each: align, encode and refine, map, decode and score, encode the pictures.

Each is timed on its call, and errors of the table leave it with its name. Which job takes which, pipeline.py says.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from serving.backends import Backend, Inference
from serving.bundle import Bundle, GraphKey, Role
from serving.call import Call
from serving.edits import gaussian_inputs, truncate
from serving.jobs import Code, EncodedPicture, Image, ImageFormat, OutputOptions, StopReason
from serving.pictures import align_picture, encode_picture
from serving.refinement import Refinement, Refiner, RefineSettings, Report, StopRule, unreported
from serving.settings import Settings

T = TypeVar("T")


class Stages:
    """Runs single stages on a back end. Knows its bundles' refiners, and how long answers have taken lately."""

    def __init__(self, backend: Backend, settings: Settings) -> None:
        self._backend = backend
        self._settings = settings
        self._pictures = ThreadPoolExecutor(settings.picture_threads, thread_name_prefix="pictures")
        self._answer_s = 0.0  # smoothed time to decode and encode an answer
        self._refiners: dict[GraphKey, Refiner] = {}

    def exchange(self, bundles: Mapping[str, Bundle]) -> None:
        """Refines for these bundles too from now on."""
        rule = StopRule(self._settings.refine_window_steps, self._settings.refine_min_improvement_ratio)
        comfortable = self._settings.max_refinements_at_full_steps
        self._refiners |= {
            bundle.graphs["refiner"].key: Refiner(bundle, self._backend, rule, comfortable)
            for bundle in bundles.values()
        }

    def keep_only(self, bundles: Mapping[str, Bundle]) -> None:
        """Forgets what it knows of others."""
        current = {bundle.graphs["refiner"].key for bundle in bundles.values()}
        self._refiners = {key: refiner for key, refiner in self._refiners.items() if key in current}

    async def align(self, bundle: Bundle, picture: EncodedPicture, call: Call) -> Image:
        with call.during("align"):
            return await self._in_picture_thread(
                lambda: align_picture(
                    picture,
                    bundle.resolution,
                    max_bytes=self._settings.max_picture_bytes,
                    max_pixels=self._settings.max_picture_pixels,
                )
            )

    async def find_code(
        self,
        bundle: Bundle,
        aligned: Image,
        settings: RefineSettings,
        call: Call,
        *,
        mask: npt.NDArray[np.float32] | None = None,
        report: Report = unreported,
        kept_s: float = 0.0,
    ) -> tuple[Code, Refinement]:
        """Encode, refine: the encoder's code and what became of it. `kept_s` are left for what follows."""
        with call.during("encode") as lap:
            encoded = await self._infer(bundle, "encoder", {"image": aligned[None]}, call)
            lap.queued_s = encoded.queued_s
            start = np.array(encoded.outputs["code"][0], dtype=np.float32)
        report(0, None, start)
        return start, await self.refine(
            bundle, start, aligned, settings, call, mask=mask, report=report, kept_s=kept_s
        )

    async def refine(
        self,
        bundle: Bundle,
        start: Code,
        target: Image,
        settings: RefineSettings,
        call: Call,
        *,
        mask: npt.NDArray[np.float32] | None = None,
        report: Report = unreported,
        kept_s: float = 0.0,
    ) -> Refinement:
        """A code on its way to a target; `start` as it is where no step is asked for."""
        if settings.steps == 0:
            return Refinement(start, 0.0, 0.0, 0, StopReason.NOT_REFINED)
        refiner = self._refiners[bundle.graphs["refiner"].key]
        with call.during("refine") as lap:
            refined = await refiner.refine(
                start,
                target,
                settings,
                call.deadline,
                lambda: self._answer_reserve_s() + kept_s,
                mask=mask,
                report=report,
            )
            lap.queued_s = refined.queued_s
        return refined

    async def map(
        self, bundle: Bundle, seeds: tuple[int, ...], truncation: float, call: Call
    ) -> npt.NDArray[np.float32]:
        """Seeds -> codes [N, L, 512]. Timed as `encode`: both make codes."""
        with call.during("encode") as lap:
            z = gaussian_inputs(seeds, bundle.z_size)
            mapped = await self._infer(bundle, "mapping", {"z": z}, call)
            lap.queued_s = mapped.queued_s
            return truncate(mapped.outputs["code"], bundle.mean_code, truncation)

    async def generate(self, bundle: Bundle, codes: npt.NDArray[np.float32], call: Call) -> list[Image]:
        with call.during("decode") as lap:
            decoded = await self._infer(bundle, "generator", {"code": codes}, call)
            lap.queued_s = decoded.queued_s
            return list(decoded.outputs["image"])

    async def generate_and_score(
        self, bundle: Bundle, codes: Sequence[Code], scored: int, call: Call
    ) -> tuple[list[Image], list[float]]:
        """Pictures of all codes, domain scores of the last `scored`. Equal codes are decoded once."""
        distinct = {id(code): code for code in codes}
        with call.during("decode") as lap:
            decoded, critic = await asyncio.gather(
                self._infer(bundle, "generator", {"code": np.stack(list(distinct.values()))}, call),
                self._infer(bundle, "critic", {"code": np.stack(codes[-scored:])}, call),
            )
            lap.queued_s = max(decoded.queued_s, critic.queued_s)
        image_of = dict(zip(distinct, decoded.outputs["image"], strict=True))
        scores = [float(score) for score in critic.outputs["score"][:, 0]]
        return [image_of[id(code)] for code in codes], scores

    async def encode_pictures(
        self, images: list[Image], output: OutputOptions, call: Call
    ) -> tuple[EncodedPicture, ...]:
        with call.during("image"):
            if output.format is ImageFormat.RAW:  # a copy: not worth a thread
                return tuple(encode_picture(image, output) for image in images)
            return await self._in_picture_thread(
                lambda: tuple(encode_picture(image, output) for image in images)
            )

    async def encode_named(
        self, chosen: Mapping[str, Image | None], output: OutputOptions, call: Call
    ) -> dict[str, EncodedPicture]:
        wanted = {name: image for name, image in chosen.items() if image is not None}
        encoded = await self.encode_pictures(list(wanted.values()), output, call) if wanted else ()
        return dict(zip(wanted, encoded, strict=True))

    async def _infer(
        self, bundle: Bundle, role: Role, inputs: Mapping[str, npt.NDArray[Any]], call: Call
    ) -> Inference:
        return await self._backend.infer(bundle.graphs[role], inputs, call.deadline)

    async def _in_picture_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pictures, work)

    def learn_answer_time(self, seconds: float) -> None:
        self._answer_s = (
            seconds if self._answer_s == 0.0 else self._answer_s + 0.3 * (seconds - self._answer_s)
        )

    def _answer_reserve_s(self) -> float:
        """What refinement leaves for decoding and answering: twice what these took lately, and some more."""
        return 2.0 * self._answer_s + self._settings.decode_reserve_ms / 1000.0

    def close(self) -> None:
        self._pictures.shutdown(wait=True)
