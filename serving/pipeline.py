"""The pipeline: align -> encode -> refine -> edit -> decode, free of any transport.

Takes jobs, gives results (jobs.py). Who asks, and in which wire format, is the business of grpc_service.py and
http_api.py; how graphs run, that of a back end.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, TypeVar
from weakref import WeakSet

import numpy as np
import numpy.typing as npt

from serving.backends import Backend, Inference
from serving.bundle import Bundle, GraphKey, Role
from serving.call import Call
from serving.deadline import Deadline
from serving.edits import apply_edits, check_codes, check_edits, check_sampling, gaussian_inputs, truncate
from serving.errors import DeadlineExceeded, InvalidCode, NotReady, QueueFull, UnknownBundle
from serving.jobs import (
    Code,
    Decoded,
    DecodeJob,
    Edited,
    EditJob,
    EncodedPicture,
    Image,
    ImageFormat,
    Inversion,
    InvertJob,
    Losses,
    OutputOptions,
    RefineOptions,
    Sampled,
    SampleJob,
    StopReason,
)
from serving.metrics import Metrics
from serving.pictures import align_picture, check_output, encode_picture
from serving.refinement import Refinement, Refiner, RefineSettings, StopRule
from serving.settings import Settings

T = TypeVar("T")


class Pipeline:
    """Serves the bundles it is given. `ready` is False until warm-up is done.

    `draining` only tells: what a transport has accepted is finished even then.
    """

    def __init__(
        self, bundles: Mapping[str, Bundle], backend: Backend, settings: Settings, metrics: Metrics
    ) -> None:
        self.bundles = dict(bundles)  # the default bundle is the first
        self.settings = settings
        self.ready = False
        self.draining = False
        self.in_flight = 0
        self._backend = backend
        self._metrics = metrics
        self._answer_s = 0.0  # smoothed time to decode and encode an answer
        self._pictures = ThreadPoolExecutor(settings.picture_threads, thread_name_prefix="pictures")
        self._refiners: dict[GraphKey, Refiner] = {}
        self._requests: WeakSet[asyncio.Task[Any]] = WeakSet()  # those that have found a bundle
        self._requests_before: WeakSet[asyncio.Task[Any]] = WeakSet()
        self.exchange(bundles)

    def exchange(self, bundles: Mapping[str, Bundle]) -> None:
        """From now on requests find these bundles; those under way go on with what they have found."""
        rule = StopRule(self.settings.refine_window_steps, self.settings.refine_min_improvement_ratio)
        self.bundles = dict(bundles)
        self._refiners |= {
            bundle.graphs["refiner"].key: Refiner(bundle, self._backend, rule) for bundle in bundles.values()
        }
        self._requests_before, self._requests = self._requests, WeakSet()

    async def until_exchanged(self) -> None:
        """Returns when no request is under way with bundles of before the exchange, or its time is up."""
        if under_way := [task for task in self._requests_before if not task.done()]:
            await asyncio.wait(under_way, timeout=self.settings.max_deadline_s)
        current = {bundle.graphs["refiner"].key for bundle in self.bundles.values()}
        self._refiners = {key: refiner for key, refiner in self._refiners.items() if key in current}

    async def invert(self, job: InvertJob, call: Call) -> Inversion:
        """Picture -> code. Raises errors of the table only."""
        async with self._admitted(call):
            bundle = self._bundle(job.bundle)
            check_output(job.output)
            settings = RefineSettings.resolve(job.refine, bundle.refine, self.settings.max_refine_steps)
            return await self._invert(bundle, job.picture, settings, job.output, call)

    async def edit(self, job: EditJob, call: Call) -> Edited:
        """Picture or code -> edited code and picture. Raises errors of the table only."""
        async with self._admitted(call):
            bundle = self._bundle(job.bundle)
            check_output(job.output)
            check_edits(job.edits, bundle, self.settings.max_edits)
            if isinstance(job.source, EncodedPicture):
                settings = RefineSettings.resolve(job.refine, bundle.refine, self.settings.max_refine_steps)
                return await self._edit_picture(bundle, job, job.source, settings, call)
            codes = check_codes(job.source, bundle)
            if len(codes) != 1:
                raise InvalidCode(f"An edit takes one code, not {len(codes)}; send one request for each.")
            return await self._edit_code(bundle, job, codes[0], call)

    async def decode(self, job: DecodeJob, call: Call) -> Decoded:
        """Codes -> pictures, in their order. Raises errors of the table only."""
        async with self._admitted(call):
            bundle = self._bundle(job.bundle)
            check_output(job.output)
            self._check_count(sum(1 if code.ndim < 3 else len(code) for code in job.codes))
            codes = [check_codes(code, bundle, f"codes[{n}]") for n, code in enumerate(job.codes)]
            images = await self._generate(bundle, np.concatenate(codes), call)
            return Decoded(bundle.name, await self._encode_pictures(images, job.output, call))

    async def sample(self, job: SampleJob, call: Call) -> Sampled:
        """Seeds -> codes and pictures, in their order. Raises errors of the table only."""
        async with self._admitted(call):
            bundle = self._bundle(job.bundle)
            check_output(job.output)
            check_sampling(job.seeds, job.truncation, self.settings.max_codes)
            codes = await self._map(bundle, job.seeds, job.truncation, call)
            images: tuple[EncodedPicture, ...] = ()
            if job.output.image:
                pictures = await self._generate(bundle, codes, call)
                images = await self._encode_pictures(pictures, job.output, call)
            return Sampled(bundle.name, tuple(codes), images)

    async def warm_up(self) -> None:
        """Runs every graph of every bundle once, so that the first caller does not pay for it."""
        call = Call("warm-up", Deadline.after(self.settings.max_deadline_s))
        for bundle in self.bundles.values():
            side = bundle.resolution
            grey = EncodedPicture(bytes([128]) * (side * side * 3), ImageFormat.RAW, side, side)
            one_chunk = RefineSettings.resolve(RefineOptions(steps=1), bundle.refine, max_steps=1)
            await self._invert(bundle, grey, one_chunk, OutputOptions(), call)
            await self._map(bundle, (0,), 1.0, call)
        self.ready = True

    async def healthy(self) -> bool:
        """Whether a request sent now would be served."""
        return self.ready and not self.draining and await self._backend.healthy()

    async def close(self) -> None:
        self._pictures.shutdown(wait=True)

    # --- stages ------------------------------------------------------------------------------------------------

    async def _invert(
        self,
        bundle: Bundle,
        picture: EncodedPicture,
        settings: RefineSettings,
        output: OutputOptions,
        call: Call,
    ) -> Inversion:
        aligned, start, refined = await self._find_code(bundle, picture, settings, call)
        begun_s = call.deadline.clock.now()
        images, score = await self._generate_and_score(bundle, [start, refined.code], call)
        chosen = {
            "image": images[1] if output.image else None,
            "aligned": aligned if output.aligned else None,
            "start": images[0] if output.start else None,
        }
        pictures = await self._encode_named(chosen, output, call)
        self._learn_answer_time(call.deadline.clock.now() - begun_s)
        losses = _losses(aligned, images[0], images[1], refined)
        return Inversion(bundle.name, refined.code, score, losses, **pictures)

    async def _edit_picture(
        self, bundle: Bundle, job: EditJob, picture: EncodedPicture, settings: RefineSettings, call: Call
    ) -> Edited:
        aligned, start, refined = await self._find_code(bundle, picture, settings, call)
        begun_s = call.deadline.clock.now()
        with call.during("edit"):
            code = apply_edits(refined.code, job.edits, bundle)
        images, score = await self._generate_and_score(bundle, [start, refined.code, code], call)
        chosen = {
            "image": images[2] if job.output.image else None,
            "aligned": aligned if job.output.aligned else None,
            "start": images[0] if job.output.start else None,
        }
        pictures = await self._encode_named(chosen, job.output, call)
        self._learn_answer_time(call.deadline.clock.now() - begun_s)
        losses = _losses(aligned, images[0], images[1], refined)
        return Edited(bundle.name, code, refined.code, score, losses, **pictures)

    async def _edit_code(self, bundle: Bundle, job: EditJob, source: Code, call: Call) -> Edited:
        with call.during("edit"):
            code = apply_edits(source, job.edits, bundle)
        images, score = await self._generate_and_score(bundle, [code], call)
        chosen = {"image": images[0] if job.output.image else None}
        pictures = await self._encode_named(chosen, job.output, call)
        return Edited(bundle.name, code, source, score, None, **pictures)

    async def _find_code(
        self, bundle: Bundle, picture: EncodedPicture, settings: RefineSettings, call: Call
    ) -> tuple[Image, Code, Refinement]:
        """Align, encode, refine: the aligned picture, the encoder's code and what became of it."""
        with call.during("align"):
            aligned = await self._in_picture_thread(
                lambda: align_picture(
                    picture,
                    bundle.resolution,
                    max_bytes=self.settings.max_picture_bytes,
                    max_pixels=self.settings.max_picture_pixels,
                )
            )
        with call.during("encode") as lap:
            encoded = await self._infer(bundle, "encoder", {"image": aligned[None]}, call)
            lap.queued_s = encoded.queued_s
            start = np.array(encoded.outputs["code"][0], dtype=np.float32)
        if settings.steps == 0:
            return aligned, start, Refinement(start, 0.0, 0.0, 0, StopReason.NOT_REFINED)
        with call.during("refine") as lap:
            refined = await self._refiners[bundle.graphs["refiner"].key].refine(
                start, aligned, settings, call.deadline, self._answer_reserve_s
            )
            lap.queued_s = refined.queued_s
        return aligned, start, refined

    async def _map(
        self, bundle: Bundle, seeds: tuple[int, ...], truncation: float, call: Call
    ) -> npt.NDArray[np.float32]:
        """Seeds -> codes [N, L, 512]. Timed as `encode`: both make codes."""
        with call.during("encode") as lap:
            z = gaussian_inputs(seeds, bundle.code_size)
            mapped = await self._infer(bundle, "mapping", {"z": z}, call)
            lap.queued_s = mapped.queued_s
            return truncate(mapped.outputs["code"], bundle.mean_code, truncation)

    async def _generate(self, bundle: Bundle, codes: npt.NDArray[np.float32], call: Call) -> list[Image]:
        with call.during("decode") as lap:
            decoded = await self._infer(bundle, "generator", {"code": codes}, call)
            lap.queued_s = decoded.queued_s
            return list(decoded.outputs["image"])

    async def _generate_and_score(
        self, bundle: Bundle, codes: list[Code], call: Call
    ) -> tuple[list[Image], float]:
        """Pictures of all codes, domain score of the last. Equal codes are decoded once."""
        distinct = {id(code): code for code in codes}
        with call.during("decode") as lap:
            decoded, scored = await asyncio.gather(
                self._infer(bundle, "generator", {"code": np.stack(list(distinct.values()))}, call),
                self._infer(bundle, "critic", {"code": codes[-1][None]}, call),
            )
            lap.queued_s = max(decoded.queued_s, scored.queued_s)
        score = float(scored.outputs["score"][0, 0])
        self._metrics.domain_score.observe(score)
        image_of = dict(zip(distinct, decoded.outputs["image"], strict=True))
        return [image_of[id(code)] for code in codes], score

    async def _encode_pictures(
        self, images: list[Image], output: OutputOptions, call: Call
    ) -> tuple[EncodedPicture, ...]:
        with call.during("image"):
            if output.format is ImageFormat.RAW:  # a copy: not worth a thread
                return tuple(encode_picture(image, output) for image in images)
            return await self._in_picture_thread(
                lambda: tuple(encode_picture(image, output) for image in images)
            )

    async def _encode_named(
        self, chosen: Mapping[str, Image | None], output: OutputOptions, call: Call
    ) -> dict[str, EncodedPicture]:
        wanted = {name: image for name, image in chosen.items() if image is not None}
        encoded = await self._encode_pictures(list(wanted.values()), output, call) if wanted else ()
        return dict(zip(wanted, encoded, strict=True))

    # --- what the stages share ---------------------------------------------------------------------------------

    async def _infer(
        self, bundle: Bundle, role: Role, inputs: Mapping[str, npt.NDArray[Any]], call: Call
    ) -> Inference:
        return await self._backend.infer(bundle.graphs[role], inputs, call.deadline)

    async def _in_picture_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pictures, work)

    @asynccontextmanager
    async def _admitted(self, call: Call) -> AsyncIterator[None]:
        """Counts the request in, and holds it to its deadline."""
        if not self.ready:
            raise NotReady("The gateway is still loading its bundles; try again in a moment.")
        if self.in_flight >= self.settings.max_requests_in_flight:
            raise QueueFull(
                f"{self.in_flight} requests are in the pipeline already; try again a little later."
            )
        self.in_flight += 1
        self._metrics.in_flight.set(self.in_flight)
        try:
            async with asyncio.timeout(call.deadline.remaining_s):
                yield
        except TimeoutError:
            raise DeadlineExceeded(
                f"Time ran out in the stage {call.stage or 'admission'}; allow more time, or ask for fewer steps.",
                stage=call.stage,
            ) from None
        finally:
            self.in_flight -= 1
            self._metrics.in_flight.set(self.in_flight)

    def _bundle(self, name: str) -> Bundle:
        """By its name, the first by none. Raises UnknownBundle. Keeps its version until the request is answered."""
        request = asyncio.current_task()
        if request is not None:
            self._requests.add(request)
        if not name:
            return next(iter(self.bundles.values()))
        if name not in self.bundles:
            raise UnknownBundle(
                f"No bundle {name[:80]!r} is served here; there is {', '.join(self.bundles)}."
            )
        return self.bundles[name]

    def _check_count(self, count: int) -> None:
        if not 1 <= count <= self.settings.max_codes:
            raise InvalidCode(f"{count} codes; give 1 to {self.settings.max_codes}.")

    def _learn_answer_time(self, seconds: float) -> None:
        self._answer_s = (
            seconds if self._answer_s == 0.0 else self._answer_s + 0.3 * (seconds - self._answer_s)
        )

    def _answer_reserve_s(self) -> float:
        """What refinement leaves for decoding and answering: twice what these took lately, and some more."""
        return 2.0 * self._answer_s + self.settings.decode_reserve_ms / 1000.0


def _losses(aligned: Image, start: Image, final: Image, refined: Refinement) -> Losses:
    return Losses(
        pixel_mse_before=_pixel_mse(aligned, start),
        pixel_mse_after=_pixel_mse(aligned, final),
        refine_loss_before=refined.loss_before,
        refine_loss_after=refined.loss_after,
        steps_done=refined.steps_done,
        stop_reason=refined.stop_reason,
    )


def _pixel_mse(one: Image, other: Image) -> float:
    """Mean squared error on [-1, 1]."""
    difference = (one.astype(np.float32) - other.astype(np.float32)) / 127.5
    return float(np.mean(difference * difference))
