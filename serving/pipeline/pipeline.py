"""The pipeline: align -> encode -> refine -> edit -> decode, free of any transport.

Takes jobs, gives results (jobs.py). Who asks, and in which wire format, is the business of grpc_service.py and
http_api.py; how graphs run, that of a back end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar
from weakref import WeakSet

import numpy as np
import numpy.typing as npt

from serving.access.admission import Admission
from serving.access.intake import Intake
from serving.backends import Backend
from serving.bundle import Bundle
from serving.call import Call
from serving.deadline import Deadline
from serving.errors import InvalidCode, InvalidOption, OtherCodeSpace, QueueFull, ShuttingDown, UnknownBundle
from serving.jobs import (
    Alignment,
    AlignOptions,
    Code,
    CodeHandle,
    CodeSource,
    DecodeJob,
    DiffuseJob,
    EditJob,
    EncodedPicture,
    FindFacesJob,
    Image,
    ImageFormat,
    InterpolateJob,
    InvertJob,
    MixJob,
    NamedCode,
    Origin,
    OutputOptions,
    Pasting,
    RefineOptions,
    Region,
    SampleJob,
    Source,
    WatchInvertJob,
)
from serving.photographs.areas import Area, area_change, mask_area, paste, pixel_mse, region_area, soften
from serving.photographs.pictures import check_output
from serving.pipeline.edits import (
    apply_edits,
    check_codes,
    check_edits,
    check_mixing,
    check_sampling,
    codes_between,
    mix_codes,
)
from serving.pipeline.handles import CodeHandles
from serving.pipeline.progress import Progress
from serving.pipeline.refinement import Refinement, RefineSettings, Report, unreported
from serving.pipeline.session import EditSession, Receive, SessionAnswer
from serving.pipeline.stages import Aligned, Stages
from serving.results import (
    AreaChange,
    Decoded,
    Diffused,
    Edited,
    FoundFaces,
    InterpolationFrame,
    Inversion,
    InvertProgress,
    Losses,
    Mixed,
    Rendering,
    Sampled,
)
from serving.settings import Settings
from serving.telemetry.metrics import Metrics

T = TypeVar("T")
Tell = Callable[[T], Awaitable[None]]
"""Takes one answer of several, as soon as it is there."""

_PICTURES_AT_ONCE = 8  # of an interpolation: enough to fill a batch, few enough that the first come soon


class Pipeline:
    """Serves the bundles it is given. `ready` is False until warm-up is done.

    `draining` only tells: what a transport has accepted is finished even then.
    """

    def __init__(
        self, bundles: Mapping[str, Bundle], backend: Backend, settings: Settings, metrics: Metrics
    ) -> None:
        self.bundles = dict(bundles)  # the default bundle is the first
        self.settings = settings
        self.draining = False
        self._admission = Admission(settings.max_requests_in_flight, metrics.in_flight.set)
        self._handles = CodeHandles(
            settings.max_code_handles, settings.max_code_handles_per_owner, settings.code_handle_expiry_s
        )
        self._sessions: set[EditSession] = set()
        self._session_photographs = Intake(settings.max_session_photograph_bytes)
        self._backend = backend
        self._metrics = metrics
        self._stages = Stages(backend, settings)
        self._requests: WeakSet[asyncio.Task[Any]] = WeakSet()  # those that have found a bundle
        self._requests_before: WeakSet[asyncio.Task[Any]] = WeakSet()
        self.exchange(bundles)

    @property
    def ready(self) -> bool:
        return self._admission.open

    @property
    def in_flight(self) -> int:
        return self._admission.in_flight

    def exchange(self, bundles: Mapping[str, Bundle]) -> None:
        """From now on requests find these bundles; those under way go on with what they have found."""
        self.bundles = dict(bundles)
        self._stages.exchange(bundles)
        self._requests_before, self._requests = self._requests, WeakSet()

    async def until_exchanged(self) -> None:
        """Returns when no request is under way with bundles of before the exchange, or its time is up."""
        if under_way := [task for task in self._requests_before if not task.done()]:
            await asyncio.wait(under_way, timeout=self.settings.max_deadline_s)
        self._stages.keep_only(self.bundles)

    async def find_faces(self, job: FindFacesJob, call: Call) -> FoundFaces:
        """The faces on a picture, the largest first. Raises errors of the table only."""
        async with self._admission.admitted(call):
            return await self._stages.find_faces(self._bundle(job.bundle), job.picture, call)

    async def invert(self, job: InvertJob, call: Call) -> Inversion:
        """Picture -> code. Raises errors of the table only."""
        async with self._admission.admitted(call):
            bundle = self._bundle(job.bundle)
            check_output(job.output)
            settings = self._refine_settings(job.refine, bundle)
            return await self._invert(bundle, job, settings, call)

    async def watch_invert(self, job: WatchInvertJob, call: Call, tell: Tell[InvertProgress]) -> Inversion:
        """The same; tells how it goes, at most every `job.interval_s` seconds. Raises errors of the table only."""
        async with self._admission.admitted(call):
            invert, bundle = job.invert, self._bundle(job.invert.bundle)
            check_output(invert.output)
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
                await tell(InvertProgress(step, settings.steps, loss, preview, score))

            async with Progress(report, job.interval_s, call.deadline.clock) as progress:
                return await self._invert(bundle, invert, settings, call, progress.report)

    async def edit(self, job: EditJob, call: Call) -> Edited:
        """Picture or code -> edited code and picture. Raises errors of the table only."""
        async with self._admission.admitted(call):
            bundle, options = self._bundle(job.bundle), job.options
            check_output(options.output)
            check_edits(options.edits, bundle, self.settings.max_edits)
            if options.area is not None and self._refine_settings(options.refine, bundle).steps == 0:
                raise InvalidOption("An area needs refinement; give refine.steps of 1 or more, or no area.")
            if isinstance(job.source, EncodedPicture):
                return await self._edit_picture(bundle, job, job.source, call)
            return await self._edit_code(bundle, job, job.source, call)

    async def edit_session(self, receive: Receive, tell: Tell[SessionAnswer], call: Call) -> None:
        """Edits of one source as they come, the newest first. Raises errors of the table only."""
        self._admission.check_open()
        if self.draining:
            raise ShuttingDown("The gateway is shutting down; ask another one, or later.")
        if len(self._sessions) >= self.settings.max_sessions:
            raise QueueFull(
                f"{len(self._sessions)} edit sessions are open already; try again a little later."
            )
        with self._session_photographs.request() as take:
            session = EditSession(
                self.edit,
                receive,
                tell,
                take,
                call,
                request_s=self.settings.default_deadline_s,
                idle_s=self.settings.session_idle_s,
            )
            self._sessions.add(session)
            try:
                await session.run()
            finally:
                self._sessions.discard(session)

    async def interpolate(self, job: InterpolateJob, call: Call, tell: Tell[InterpolationFrame]) -> None:
        """Tells the pictures on the way from one code to another, in order. Raises errors of the table only."""
        async with self._admission.admitted(call):
            bundle = self._bundle(job.bundle)
            check_output(job.output)
            if not 2 <= job.count <= self.settings.max_interpolated_pictures:
                raise InvalidOption(
                    f"count is {job.count}; it goes from 2 to {self.settings.max_interpolated_pictures}."
                )
            settings = self._refine_settings(job.refine, bundle)
            start, origin = await self._code_of(job.start, settings, job.align, bundle, call)
            end, _ = await self._code_of(job.end, settings, job.align, bundle, call)
            with call.during("edit"):
                codes = list(codes_between(start, end, job.count))
            placement = None if origin is None else origin.placement
            first_image: Image | None = None
            for first in range(0, job.count, _PICTURES_AT_ONCE):
                part = codes[first : first + _PICTURES_AT_ONCE]
                images, scores = await self._stages.generate_and_score(bundle, part, len(part), call)
                pictures: Sequence[EncodedPicture | None] = [None] * len(part)
                if job.output.image:
                    pictures = await self._stages.encode_pictures(images, job.output, call)
                first_image = images[0] if first_image is None else first_image
                for n, (code, score, picture) in enumerate(zip(part, scores, pictures, strict=True), first):
                    named = NamedCode(code if job.output.codes else None, space=bundle.code_space)
                    pasted = await self._pasted(origin, first_image, images[n - first], job.output, call)
                    rendering = Rendering(picture, pasted=pasted, placement=placement)
                    position = n / (job.count - 1)
                    await tell(InterpolationFrame(bundle.name, n, position, named, score, rendering))

    async def mix(self, job: MixJob, call: Call) -> Mixed:
        """Layers of one code put into another. Raises errors of the table only."""
        async with self._admission.admitted(call):
            bundle = self._bundle(job.bundle)
            check_output(job.output)
            check_mixing(job.layers, job.strength, bundle)
            settings = self._refine_settings(job.refine, bundle)
            base, origin = await self._code_of(job.base, settings, job.align, bundle, call)
            style, _ = await self._code_of(job.style, settings, job.align, bundle, call)
            with call.during("edit"):
                code = mix_codes(base, style, job.layers, job.strength)
            score, rendering = await self._show_code(bundle, code, base, origin, job.output, call)
            return Mixed(bundle.name, self._named(code, bundle, job.output, call), score, rendering)

    async def diffuse(self, job: DiffuseJob, call: Call) -> Diffused:
        """A region of a target pasted into a context, refined where the target is (Zhu et al. 2020, section 4.3).
        Raises errors of the table only."""
        async with self._admission.admitted(call):
            bundle = self._bundle(job.bundle)
            check_output(job.output)
            settings = self._refine_settings(job.refine, bundle)
            target = await self._stages.align(bundle, job.target, AlignOptions(job.align.alignment), call)
            mask = await self._area(bundle, job.area, target.origin, call)
            context = await self._stages.align(bundle, job.context, job.align, call)
            both = Aligned(paste(target.image, context.image, mask), context.origin)
            start, refined = await self._stages.find_code(bundle, both.image, settings, call, mask=mask)
            score, losses, rendering = await self._show(
                bundle, both, start, refined, refined.code, job.output, call, mask
            )
            named = self._named(refined.code, bundle, job.output, call)
            return Diffused(bundle.name, named, score, losses, rendering)

    async def decode(self, job: DecodeJob, call: Call) -> Decoded:
        """Codes -> pictures, in their order. Raises errors of the table only."""
        async with self._admission.admitted(call):
            bundle = self._bundle(job.bundle)
            check_output(job.output)
            arrays = [self._array(code, bundle, call) for code in job.codes]
            self._check_count(sum(1 if code.ndim < 3 else len(code) for code in arrays))
            codes = [check_codes(code, bundle, f"codes[{n}]") for n, code in enumerate(arrays)]
            images = await self._stages.generate(bundle, np.concatenate(codes), call)
            return Decoded(bundle.name, await self._stages.encode_pictures(images, job.output, call))

    async def sample(self, job: SampleJob, call: Call) -> Sampled:
        """Seeds -> codes and pictures, in their order. Raises errors of the table only."""
        async with self._admission.admitted(call):
            bundle = self._bundle(job.bundle)
            check_output(job.output)
            check_sampling(job.seeds, job.truncation, self.settings.max_codes)
            if job.output.image:
                self._stages.check_room(bundle, "generator", len(job.seeds))
            codes = await self._stages.map(bundle, job.seeds, job.truncation, call)
            images: tuple[EncodedPicture, ...] = ()
            if job.output.image:
                pictures = await self._stages.generate(bundle, codes, call)
                images = await self._stages.encode_pictures(pictures, job.output, call)
            return Sampled(
                bundle.name, tuple(NamedCode(code, space=bundle.code_space) for code in codes), images
            )

    async def warm_up(self) -> None:
        """Runs every graph of every bundle once, so that the first caller does not pay for it."""
        call = Call("warm-up", Deadline.after(self.settings.max_deadline_s))
        for bundle in self.bundles.values():
            side = bundle.resolution
            grey = EncodedPicture(bytes([128]) * (side * side * 3), ImageFormat.RAW, side, side)
            one_chunk = RefineSettings.resolve(RefineOptions(steps=1), bundle.refine, max_steps=1)
            as_it_is = AlignOptions(Alignment.CENTRE_CROP)
            await self._invert(bundle, InvertJob(grey, align=as_it_is), one_chunk, call)
            if bundle.face is not None:
                await self._stages.find_faces(bundle, grey, call)
            await self._stages.map(bundle, (0,), 1.0, call)
        self._admission.open = True

    async def healthy(self) -> bool:
        """Whether a request sent now would be served."""
        return self.ready and not self.draining and await self._backend.healthy()

    async def end_sessions(self) -> None:
        """Has edit sessions answer what has come in, and end."""
        await asyncio.gather(*(session.end() for session in self._sessions))

    async def close(self) -> None:
        self._stages.close()

    # --- parts of jobs ---------------------------------------------------------------------------------------------

    async def _invert(
        self,
        bundle: Bundle,
        job: InvertJob,
        settings: RefineSettings,
        call: Call,
        report: Report = unreported,
    ) -> Inversion:
        aligned = await self._stages.align(bundle, job.picture, job.align, call)
        start, refined = await self._stages.find_code(bundle, aligned.image, settings, call, report=report)
        score, losses, rendering = await self._show(
            bundle, aligned, start, refined, refined.code, job.output, call
        )
        named = self._named(refined.code, bundle, job.output, call)
        return Inversion(bundle.name, named, score, losses, rendering)

    async def _edit_picture(
        self, bundle: Bundle, job: EditJob, picture: EncodedPicture, call: Call
    ) -> Edited:
        settings = self._refine_settings(job.options.refine, bundle)
        aligned = await self._stages.align(bundle, picture, job.options.align, call)
        area = await self._soft_area(bundle, job, aligned.origin, call)
        kept_s = 0.0 if area is None else call.deadline.remaining_s / 2
        start, refined = await self._stages.find_code(bundle, aligned.image, settings, call, kept_s=kept_s)
        code, change = await self._edited(bundle, refined.code, job, area, call)
        score, losses, rendering = await self._show(
            bundle, aligned, start, refined, code, job.options.output, call, edited=True
        )
        named = self._named(code, bundle, job.options.output, call)
        source = self._named(refined.code, bundle, job.options.output, call)
        return Edited(bundle.name, named, source, score, losses, rendering, change)

    async def _edit_code(self, bundle: Bundle, job: EditJob, code_source: CodeSource, call: Call) -> Edited:
        area = await self._soft_area(bundle, job, job.origin, call)
        source = self._one_code(bundle, code_source, call)
        code, change = await self._edited(bundle, source, job, area, call)
        score, rendering = await self._show_code(bundle, code, source, job.origin, job.options.output, call)
        named = self._named(code, bundle, job.options.output, call)
        if isinstance(code_source, CodeHandle):
            named_source = NamedCode(source, code_source.name, bundle.code_space)
        elif isinstance(code_source, NamedCode) and code_source.handle:
            named_source = code_source
        else:
            named_source = self._kept(source, bundle, call)
        if not job.options.output.codes:
            named_source = named_source.by_handle()
        return Edited(bundle.name, named, named_source, score, None, rendering, change)

    async def _edited(
        self, bundle: Bundle, source: Code, job: EditJob, area: Area | None, call: Call
    ) -> tuple[Code, AreaChange | None]:
        """The source's code with the job's edits. With an area, a code that shows them there and the source elsewhere
        (Image2StyleGAN++, Abdal et al. 2020): refined towards both pasted together, from the nearer of the two."""
        with call.during("edit"):
            code = apply_edits(source, job.options.edits, bundle)
        if area is None:
            return code, None
        settings = self._refine_settings(job.options.refine, bundle)
        before, everywhere = await self._stages.generate(bundle, np.stack([source, code]), call)
        wanted = paste(everywhere, before, area)
        if np.array_equal(wanted, everywhere):  # nothing to hold back
            settings = replace(settings, steps=0)
        start, begun = code, everywhere
        if pixel_mse(before, wanted) < pixel_mse(everywhere, wanted):
            start, begun = source, before
        refined = await self._stages.refine(bundle, start, wanted, settings, call)
        (after,) = await self._stages.generate(bundle, refined.code[None], call)
        losses = _losses(wanted, begun, after, refined, None)
        return refined.code, area_change(before, everywhere, after, area, losses)

    async def _show(
        self,
        bundle: Bundle,
        aligned: Aligned,
        start: Code,
        refined: Refinement,
        code: Code,
        output: OutputOptions,
        call: Call,
        mask: Area | None = None,
        *,
        edited: bool = False,
    ) -> tuple[float, Losses, Rendering]:
        """What is answered of a code that came of a picture: its domain score, how refinement went, the pictures."""
        begun_s = call.deadline.clock.now()
        images, (score,) = await self._stages.generate_and_score(bundle, [start, refined.code, code], 1, call)
        self._metrics.domain_score.observe(score)
        wanted = [
            images[2] if output.image else None,
            aligned.image if output.aligned else None,
            images[0] if output.start else None,
        ]
        image, seen, begun = await self._stages.encode_wanted(wanted, output, call)
        before = images[1] if edited else None
        pasted = await self._pasted(aligned.origin, before, images[2], output, call)
        rendering = Rendering(image, seen, begun, pasted, aligned.origin.placement)
        self._stages.learn_answer_time(call.deadline.clock.now() - begun_s)
        return score, _losses(aligned.image, images[0], images[1], refined, mask), rendering

    async def _show_code(
        self,
        bundle: Bundle,
        code: Code,
        source: Code,
        origin: Origin | None,
        output: OutputOptions,
        call: Call,
    ) -> tuple[float, Rendering]:
        """What is answered of a code that came of others: its domain score and its picture."""
        codes = [source, code] if output.pasted and origin is not None else [code]
        images, (score,) = await self._stages.generate_and_score(bundle, codes, 1, call)
        self._metrics.domain_score.observe(score)
        (image,) = await self._stages.encode_wanted([images[-1] if output.image else None], output, call)
        pasted = await self._pasted(origin, images[0], images[-1], output, call)
        placement = None if origin is None else origin.placement
        return score, Rendering(image, pasted=pasted, placement=placement)

    async def _pasted(
        self, origin: Origin | None, before: Image | None, after: Image, output: OutputOptions, call: Call
    ) -> EncodedPicture | None:
        """The photograph with the result pasted in, if that is wanted. `before`: the picture that was edited, if one
        was. Raises InvalidOption."""
        if not output.pasted:
            return None
        if origin is None:
            raise InvalidOption(
                "There is no photograph to paste into, as a code is edited; send the picture, or send it to an edit "
                "session, which keeps it."
            )
        if output.pasting is Pasting.CHANGE and before is None:
            raise InvalidOption(
                "Nothing is edited whose change could be pasted; ask for the pasting replace."
            )
        base = None if output.pasting is Pasting.REPLACE else before
        return await self._stages.paste(origin, base, after, output, call)

    async def _soft_area(
        self, bundle: Bundle, job: EditJob, origin: Origin | None, call: Call
    ) -> Area | None:
        area = job.options.area
        return None if area is None else soften(await self._area(bundle, area, origin, call))

    async def _area(
        self, bundle: Bundle, area: Region | EncodedPicture, origin: Origin | None, call: Call
    ) -> Area:
        """`origin`: the photograph that a mask may be of."""
        if isinstance(area, Region):
            return region_area(area, bundle.resolution)
        return mask_area(await self._stages.cut_mask(bundle, area, origin, call))

    async def _code_of(
        self, source: Source, settings: RefineSettings, align: AlignOptions, bundle: Bundle, call: Call
    ) -> tuple[Code, Origin | None]:
        """The code of a source, which is inverted if it is a picture, and then also where it came of."""
        if isinstance(source, EncodedPicture):
            aligned = await self._stages.align(bundle, source, align, call)
            return (await self._stages.find_code(bundle, aligned.image, settings, call))[
                1
            ].code, aligned.origin
        return self._one_code(bundle, source, call), None

    # --- what the stages share ---------------------------------------------------------------------------------

    def _refine_settings(self, options: RefineOptions, bundle: Bundle) -> RefineSettings:
        return RefineSettings.resolve(options, bundle.refine, self.settings.max_refine_steps)

    def _array(self, source: CodeSource, bundle: Bundle, call: Call) -> npt.NDArray[np.float32]:
        if isinstance(source, CodeHandle):
            return self._handles.find(call.owner, bundle.code_space, source.name)
        if isinstance(source, NamedCode):
            assert source.values is not None, "who has a handle alone sends a CodeHandle"
            if source.space not in ("", bundle.code_space):
                raise OtherCodeSpace(
                    f"The code is one of {source.space[:80]} and means nothing to {bundle.code_space}; ask the bundle "
                    "that it came from, or invert the picture again with this one."
                )
            return source.values
        return source

    def _one_code(self, bundle: Bundle, source: CodeSource, call: Call) -> Code:
        """float32 [L, 512]. Raises InvalidCode, UnknownCodeHandle."""
        codes = check_codes(self._array(source, bundle, call), bundle)
        if len(codes) != 1:
            raise InvalidCode(f"One code is taken here, not {len(codes)}; send one request for each.")
        code: Code = codes[0]
        return code

    def _named(self, code: Code, bundle: Bundle, output: OutputOptions, call: Call) -> NamedCode:
        """A code as it is answered: with a handle, and itself unless the handle is enough."""
        named = self._kept(code, bundle, call)
        return named if output.codes else named.by_handle()

    def _kept(self, code: Code, bundle: Bundle, call: Call) -> NamedCode:
        return NamedCode(code, self._handles.keep(call.owner, bundle.code_space, code), bundle.code_space)

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


def _losses(
    aligned: Image,
    start: Image,
    final: Image,
    refined: Refinement,
    mask: Area | None,
) -> Losses:
    before = pixel_mse(aligned, start, mask)
    return Losses(
        pixel_mse_before=before,
        pixel_mse_after=before if final is start else pixel_mse(aligned, final, mask),
        refine_loss_before=refined.loss_before,
        refine_loss_after=refined.loss_after,
        steps_done=refined.steps_done,
        stop_reason=refined.stop_reason,
    )
