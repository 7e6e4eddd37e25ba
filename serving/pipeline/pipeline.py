"""The pipeline: takes jobs (jobs.py), returns results (results.py), free of any transport.

Each method of Pipeline is one job: it checks what is asked for, then runs stages (stages.py) and renders the result
(rendering.py). Back ends (backends/) run the graphs; wire/ converts messages into jobs.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing, nullcontext
from functools import partial
from typing import TypeVar

import numpy as np

from serving.access.admission import Admission, Streams
from serving.backends.backend import Backend
from serving.bundle import Bundle
from serving.call import Call, beside
from serving.deadline import Deadline
from serving.errors import InvalidCode, InvalidOption, ShuttingDown, about
from serving.jobs import (
    Alignment,
    AlignOptions,
    Code,
    DecodeJob,
    DiffuseJob,
    EditJob,
    EncodedPicture,
    FindFacesJob,
    ImageFormat,
    InterpolateJob,
    InvertJob,
    MeanJob,
    MixJob,
    NamedCode,
    Origin,
    OutputOptions,
    Path,
    RefineOptions,
    SampleJob,
    Source,
    WatchInvertJob,
)
from serving.photographs.areas import blend
from serving.photographs.decoders import Decoders
from serving.pipeline.bundles import ServedBundles
from serving.pipeline.editing import Editor, check_drawn
from serving.pipeline.edits import (
    check_codes,
    check_edits,
    check_label,
    check_mixing,
    check_sampling,
    mix_codes,
    rows_of_layers,
)
from serving.pipeline.handles import CodeHandles, Codes
from serving.pipeline.paths.geodesic import Geodesics, check_path
from serving.pipeline.paths.interpolation import Interpolator
from serving.pipeline.paths.mean import Means
from serving.pipeline.paths.patience import patiently
from serving.pipeline.refinement import ProgressReports, RefineSettings, Report, no_report
from serving.pipeline.rendering import Renderer, check_output
from serving.pipeline.session import EditSessions, Receive, SendAnswer
from serving.pipeline.stages import Aligned, Stages
from serving.results import (
    Decoded,
    Diffused,
    Edited,
    FoundFaces,
    InterpolationFrame,
    Inversion,
    InvertProgress,
    Mean,
    Mixed,
    Sampled,
)
from serving.settings import Settings
from serving.telemetry.metrics import Metrics

T = TypeVar("T")
Send = Callable[[T], Awaitable[None]]
"""Sends one of several answers, as soon as it is there."""


class Pipeline:
    """Serves bundles. It takes jobs once it is warmed up; every job raises errors of errors.py only.

    While it is `draining` it opens no new sessions and reports that it is not healthy, but still takes jobs: what a
    transport has accepted is finished.
    """

    def __init__(self, served: ServedBundles, backend: Backend, settings: Settings, metrics: Metrics) -> None:
        self.settings = settings
        self.draining = False
        self.sessions = EditSessions(self.edit, settings)
        self._served = served
        self._backend = backend
        self._admission = Admission(settings.max_requests_in_flight, metrics.in_flight.set)
        self._streams = Streams(settings.max_requests_in_flight)
        self._codes = Codes(
            CodeHandles(
                settings.max_code_handles, settings.max_code_handles_per_owner, settings.code_handle_expiry_s
            )
        )
        self.decoders = Decoders(settings, lambda reason: metrics.decoders_ended.labels(reason).inc())
        self._stages = Stages(backend, served, self.decoders, settings)
        self._renderer = Renderer(self._stages, metrics)
        self._interpolator = Interpolator(served, self._stages, self._renderer, settings)
        self._editor = Editor(self._stages, self._renderer, self._codes, settings.max_refine_steps)

    @property
    def bundles(self) -> Mapping[str, Bundle]:
        """The bundles that are served now, the default one first."""
        return self._served.by_name

    @property
    def ready(self) -> bool:
        """Whether it is warmed up."""
        return self._admission.open

    @property
    def in_flight(self) -> int:
        """How many requests it is working on."""
        return self._admission.in_flight

    async def warm_up(self) -> None:
        """Runs every graph of every bundle once, then takes jobs. Raises what the back end raises."""
        self.decoders.start()
        call = Call("warm-up", Deadline.after(self.settings.max_deadline_s))
        for bundle in self.bundles.values():
            await self._warm_up(bundle, call)
        self._admission.open = True

    async def _warm_up(self, bundle: Bundle, call: Call) -> None:
        """Inverts a grey picture with one refinement step and scores it, looks for faces if the bundle has a detector,
        maps a seed, and relabels it where the bundle can."""
        side = bundle.resolution
        grey = EncodedPicture(bytes([128]) * (side * side * 3), ImageFormat.RAW, side, side)
        one_step = RefineSettings.resolve(RefineOptions(steps=1), bundle.refine, max_steps=1)
        aligned = await self._stages.align(bundle, grey, AlignOptions(Alignment.CENTRE_CROP), call)
        start, refined = await self._stages.find_code(bundle, aligned.image, one_step, call)
        output = OutputOptions(identity_score=bundle.identity is not None)
        await self._renderer.render_refined(bundle, aligned, start, refined, refined.code, output, call)
        if bundle.face is not None:
            await self._stages.find_faces(bundle, grey, call)
        (code,) = await self._stages.map(bundle, (0,), 1.0, call)
        if "relabeller" in bundle.graphs:
            await self._stages.relabel(bundle, code, {}, call)

    @property
    def engines(self) -> Mapping[str, str]:
        """What runs each graph in this process, by the graph's model."""
        return self._backend.engines

    async def healthy(self) -> bool:
        """Whether a request that is sent now would be served."""
        return self.ready and not self.draining and await self._backend.healthy()

    async def close(self) -> None:
        """Ends its threads and decoders. No job may be running."""
        await self.decoders.close()

    # --- jobs --------------------------------------------------------------------------------------------------

    async def find_faces(self, job: FindFacesJob, call: Call) -> FoundFaces:
        """The faces on a picture, the largest first."""
        async with self._admission.admitted(call):
            return await self._stages.find_faces(self._served.find(job.bundle), job.picture, call)

    async def invert(self, job: InvertJob, call: Call) -> Inversion:
        """Picture -> code."""
        async with self._admission.admitted(call):
            bundle = self._served.find(job.bundle)
            check_output(job.output, bundle)
            settings = self._refine_settings(job.refine, bundle)
            return await self._invert(bundle, job, settings, call, no_report)

    async def watch_invert(self, job: WatchInvertJob, call: Call, send: Send[InvertProgress]) -> Inversion:
        """Picture -> code; sends the progress of the refinement, at most every `job.interval_s` seconds."""
        async with self._admission.admitted(call):
            invert, bundle = job.invert, self._served.find(job.invert.bundle)
            check_output(invert.output, bundle)
            if not job.interval_s >= 0.0:
                raise InvalidOption(f"interval_s is {job.interval_s}; give seconds, or 0 for every chunk.")
            settings = self._refine_settings(invert.refine, bundle)

            async def report(step: int, loss: float | None, code: Code) -> None:
                preview, score = None, None
                if job.previews:
                    (image,), (score,) = await self._stages.generate_and_score(
                        bundle, [code], 1, call.aside()
                    )
                    (preview,) = await self._stages.encode_pictures([image], invert.output, call.aside())
                await send(InvertProgress(step, settings.steps, loss, preview, score))

            async with ProgressReports(report, job.interval_s, call.deadline.clock) as progress:
                return await self._invert(bundle, invert, settings, call, progress.report)

    async def edit(self, job: EditJob, call: Call) -> Edited:
        """Picture or code -> edited code."""
        async with self._admission.admitted(call):
            bundle, options = self._served.find(job.bundle), job.options
            check_output(options.output, bundle)
            check_edits(options.edits, bundle, self.settings.max_edits)
            check_label(options.label, bundle, of_code=True)
            check_drawn(options, self._refine_settings(options.refine, bundle))
            return await self._editor.edit(bundle, job, call)

    async def edit_session(self, receive: Receive, send: SendAnswer, call: Call) -> None:
        """Edits one source again and again, as requests come (session.py)."""
        self._admission.check_open()
        if self.draining:
            raise ShuttingDown("The gateway is shutting down; ask another one, or later.")
        await self.sessions.run(receive, send, call)

    async def interpolate(self, job: InterpolateJob, call: Call, send: Send[InterpolationFrame]) -> None:
        """Sends the pictures on the way from one code to another, in order."""
        with self._streams.open(call.owner) as working:
            async with self._admission.admitted(call):
                bundle = self._served.find(job.bundle)
                check_output(job.output)
                settings = self._refine_settings(job.refine, bundle)
                self._interpolator.check(job, settings)
                with about("start"):
                    start, origin = await self._code_of(job.start, settings, job.align, bundle, call)
                with about("end"):
                    end, _ = await self._code_of(job.end, settings, job.align, bundle, call)
                frames = self._interpolator.frames(bundle, job, (start, end), origin, settings, call, working)
                async with aclosing(frames):
                    async for frame in frames:
                        await send(frame)

    async def mix(self, job: MixJob, call: Call) -> Mixed:
        """Moves layers of one code towards those of another, everywhere or within an area."""
        async with self._admission.admitted(call):
            bundle, change = self._served.find(job.bundle), None
            check_output(job.output, bundle)
            check_mixing(job.layers, job.strength, bundle)
            settings = self._refine_settings(job.refine, bundle)
            check_drawn(job, settings)
            # Each refinement that follows has as much time as the first.
            follow = isinstance(job.style, EncodedPicture) + (job.area is not None)
            reserve_s = call.deadline.remaining_s * follow / (follow + 1)
            with about("base"):
                base, origin = await self._code_of(job.base, settings, job.align, bundle, call, reserve_s)
            mask = await self._editor.mask_of(bundle, job.area, origin, call)
            reserve_s = 0.0 if mask is None else call.deadline.remaining_s / 2
            with about("style"):
                style, _ = await self._code_of(job.style, settings, job.align, bundle, call, reserve_s)
            with call.during("edit"):
                code = mix_codes(base, style, rows_of_layers(job.layers, bundle), job.strength)
            if mask is not None:
                code, change = await self._editor.hold(bundle, base, code, mask, settings, call)
            score, rendering = await self._renderer.render_code(bundle, code, base, origin, job.output, call)
            named = self._codes.name(code, bundle, job.output, call)
            return Mixed(bundle.name, named, score, rendering, change)

    async def mean(self, job: MeanJob, call: Call) -> Mean:
        """The mean of several codes, and how far each is from it."""
        async with self._admission.admitted(call):
            bundle = self._served.find(job.bundle)
            check_output(job.output)
            settings = self._refine_settings(job.refine, bundle)
            check_path(job.path, settings)
            if not 1 <= len(job.sources) <= self.settings.max_codes:
                raise InvalidOption(f"{len(job.sources)} sources; give 1 to {self.settings.max_codes}.")
            sources = await self._codes_of(job, settings, bundle, call)
            geodesics = Geodesics(bundle, self._stages, self._served.refiner(bundle), settings, nullcontext())
            codes = np.stack([code for code, _ in sources])
            means = Means(self._stages, geodesics, self.settings.max_codes)
            code, distances = await means.find(codes, job.path, call)
            first, origin = sources[0]
            render = partial(self._renderer.render_code, bundle, code, first, origin, job.output, call)
            score, rendering = await patiently(render, call)
            named = self._codes.name(code, bundle, job.output, call)
            return Mean(bundle.name, named, score, rendering, tuple(distances))

    async def diffuse(self, job: DiffuseJob, call: Call) -> Diffused:
        """Semantic diffusion: pastes an area of the target into the context, and inverts both together.

        Only the area counts in the refinement (Zhu et al. 2020, section 4.3).
        """
        async with self._admission.admitted(call):
            bundle, output = self._served.find(job.bundle), job.output
            check_output(output, bundle)
            settings = self._refine_settings(job.refine, bundle)
            with about("target"):
                target = await self._stages.align(bundle, job.target, AlignOptions(job.align.alignment), call)
            mask = await self._stages.mask(bundle, job.area, target.origin, call)
            with about("context"):
                context = await self._stages.align(bundle, job.context, job.align, call)
            both = Aligned(blend(target.image, context.image, mask), context.origin)
            start, refined = await self._stages.find_code(bundle, both.image, settings, call, mask=mask)
            rendered = await self._renderer.render_refined(
                bundle, both, start, refined, refined.code, output, call, mask=mask
            )
            named = self._codes.name(refined.code, bundle, output, call)
            return Diffused(bundle.name, named, rendered.score, rendered.losses, rendered.rendering)

    async def decode(self, job: DecodeJob, call: Call) -> Decoded:
        """Codes -> pictures, in their order."""
        async with self._admission.admitted(call):
            bundle = self._served.find(job.bundle)
            check_output(job.output)
            arrays = [self._codes.values(code, bundle, call) for code in job.codes]
            count = sum(1 if code.ndim < 3 else len(code) for code in arrays)
            if not 1 <= count <= self.settings.max_codes:
                raise InvalidCode(f"{count} codes; give 1 to {self.settings.max_codes}.")
            codes = [check_codes(code, bundle, f"codes[{n}]") for n, code in enumerate(arrays)]
            images = await self._stages.generate(bundle, np.concatenate(codes), call)
            return Decoded(bundle.name, await self._stages.encode_pictures(images, job.output, call))

    async def sample(self, job: SampleJob, call: Call) -> Sampled:
        """Seeds -> codes and pictures, in their order."""
        async with self._admission.admitted(call):
            bundle = self._served.find(job.bundle)
            check_output(job.output)
            check_sampling(job.seeds, job.truncation, self.settings.max_codes)
            check_label(job.label, bundle, of_code=False)
            if job.output.image:
                self._stages.check_room(bundle, "generator", len(job.seeds))
            codes = await self._stages.map(bundle, job.seeds, job.truncation, call, job.label)
            images: tuple[EncodedPicture, ...] = ()
            if job.output.image:
                pictures = await self._stages.generate(bundle, codes, call)
                images = await self._stages.encode_pictures(pictures, job.output, call)
            named = tuple(NamedCode(code, space=bundle.code_space) for code in codes)
            return Sampled(bundle.name, named, images)

    # --- parts of jobs -----------------------------------------------------------------------------------------

    def _refine_settings(self, options: RefineOptions, bundle: Bundle) -> RefineSettings:
        return RefineSettings.resolve(options, bundle.refine, self.settings.max_refine_steps)

    async def _invert(
        self, bundle: Bundle, job: InvertJob, settings: RefineSettings, call: Call, report: Report
    ) -> Inversion:
        aligned = await self._stages.align(bundle, job.picture, job.align, call)
        mask = None
        if job.mask is not None:
            mask = await self._stages.mask(bundle, job.mask, aligned.origin, call)
            # The encoder looks at the whole picture: where nothing is known it sees the mean face.
            (mean,) = await self._stages.generate(bundle, bundle.mean_code[None], call)
            aligned = Aligned(blend(aligned.image, mean, mask), aligned.origin)
        start, refined = await self._stages.find_code(
            bundle, aligned.image, settings, call, mask=mask, report=report
        )
        rendered = await self._renderer.render_refined(
            bundle, aligned, start, refined, refined.code, job.output, call, mask=mask
        )
        named = self._codes.name(refined.code, bundle, job.output, call)
        return Inversion(bundle.name, named, rendered.score, rendered.losses, rendered.rendering)

    async def _codes_of(
        self, job: MeanJob, settings: RefineSettings, bundle: Bundle, call: Call
    ) -> list[tuple[Code, Origin | None]]:
        """The code of each source, as `_code_of`; pictures are inverted beside each other."""
        # What follows is a refinement too: the inversions may take half of the time.
        reserve_s = call.deadline.remaining_s / 2 if job.path is Path.GEODESIC else 0.0

        async def find(n: int, source: Source, own: Call) -> tuple[Code, Origin | None]:
            with about(f"sources[{n}]"):
                return await self._code_of(source, settings, job.align, bundle, own, reserve_s)

        return await beside(call, [partial(find, n, source) for n, source in enumerate(job.sources)])

    async def _code_of(
        self,
        source: Source,
        settings: RefineSettings,
        align: AlignOptions,
        bundle: Bundle,
        call: Call,
        extra_reserve_s: float = 0.0,
    ) -> tuple[Code, Origin | None]:
        """The code of a source; a picture is inverted, and then its origin is returned, too."""
        if not isinstance(source, EncodedPicture):
            return self._codes.read_one(source, bundle, call), None
        aligned = await self._stages.align(bundle, source, align, call)
        _, refined = await self._stages.find_code(
            bundle, aligned.image, settings, call, extra_reserve_s=extra_reserve_s
        )
        return refined.code, aligned.origin
