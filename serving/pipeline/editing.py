"""Edits along directions and towards strokes: of a code, of the face on a photograph, and of several faces at once;
everywhere, or within an area."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from serving.bundle import Bundle, cleared
from serving.call import Call, beside
from serving.errors import InvalidOption
from serving.jobs import (
    Area,
    Code,
    CodeSource,
    EditJob,
    EditOptions,
    EncodedPicture,
    MixJob,
    Origin,
    OutputOptions,
)
from serving.photographs.areas import Mask, Strokes, area_change, blend, pixel_mse, soften
from serving.photographs.pasting import Patch
from serving.pipeline.edits import apply_edits, cut_to_range, follow_strokes
from serving.pipeline.handles import Codes
from serving.pipeline.refinement import RefineSettings
from serving.pipeline.rendering import Renderer, measure
from serving.pipeline.stages import Aligned, Stages
from serving.results import AreaChange, Edited, Losses


@dataclass(frozen=True, slots=True)
class _Drawn:
    """What the caller drew on the square, or None: a mask with soft edges, and strokes."""

    mask: Mask | None
    strokes: Strokes | None

    @property
    def refinements(self) -> int:
        """How many refinements follow the edits."""
        return (self.mask is not None) + (self.strokes is not None)


@dataclass(frozen=True, slots=True)
class _Applied:
    """A code after all edits, and how strokes and area went."""

    code: Code
    strokes: Losses | None = None
    area: AreaChange | None = None


class Editor:
    """Carries out edits that are checked. Methods raise what the stages raise."""

    def __init__(self, stages: Stages, renderer: Renderer, codes: Codes, max_refine_steps: int) -> None:
        self._stages = stages
        self._renderer = renderer
        self._codes = codes
        self._max_refine_steps = max_refine_steps

    async def edit(self, bundle: Bundle, job: EditJob, call: Call) -> Edited:
        """Edits a code, or a picture: then the face that `align` names, or several."""
        if not isinstance(job.source, EncodedPicture):
            return await self._edit_code(bundle, job, job.source, call)
        if job.options.align.several:
            return await self._edit_faces(bundle, job, job.source, call)
        aligned = await self._stages.align(bundle, job.source, job.options.align, call)
        edited, _ = await self._edit_aligned(bundle, job, aligned, job.options.output, call)
        return edited

    async def _edit_faces(self, bundle: Bundle, job: EditJob, picture: EncodedPicture, call: Call) -> Edited:
        """Edits several faces of a picture at once, and pastes all of them into it."""
        output = job.options.output
        faces = await self._stages.align_faces(bundle, picture, job.options.align, call)
        one = replace(output, pasted=False)
        edited = await beside(call, [partial(self._edit_aligned, bundle, job, face, one) for face in faces])
        pasted = await self._renderer.paste_all(picture, [patch for _, patch in edited], output, call)
        first, _ = edited[0]
        return replace(
            first,
            rendering=replace(first.rendering, pasted=pasted),
            faces=tuple(face for face, _ in edited),
        )

    async def _edit_aligned(
        self, bundle: Bundle, job: EditJob, aligned: Aligned, output: OutputOptions, call: Call
    ) -> tuple[Edited, Patch]:
        settings = self._refine_settings(job, bundle)
        drawn = await self._drawn(bundle, job, aligned.origin, call)
        # Each refinement that follows has as much time as the first.
        reserve_s = call.deadline.remaining_s * drawn.refinements / (drawn.refinements + 1)
        start, refined = await self._stages.find_code(
            bundle, aligned.image, settings, call, extra_reserve_s=reserve_s
        )
        applied = await self._apply(bundle, refined.code, job, drawn, call)
        rendered = await self._renderer.render_refined(
            bundle, aligned, start, refined, applied.code, output, call, edited=True
        )
        named = self._codes.name(applied.code, bundle, output, call)
        source = self._codes.name(refined.code, bundle, output, call)
        edited = Edited(
            bundle.name,
            named,
            source,
            rendered.score,
            rendered.losses,
            rendered.rendering,
            applied.area,
            applied.strokes,
        )
        return edited, rendered.patch

    async def _edit_code(self, bundle: Bundle, job: EditJob, source: CodeSource, call: Call) -> Edited:
        output = job.options.output
        drawn = await self._drawn(bundle, job, job.origin, call)
        before = self._codes.read_one(source, bundle, call)
        applied = await self._apply(bundle, before, job, drawn, call)
        score, rendering = await self._renderer.render_code(
            bundle, applied.code, before, job.origin, output, call
        )
        named = self._codes.name(applied.code, bundle, output, call)
        named_source = self._codes.name_source(before, source, bundle, output, call)
        return Edited(bundle.name, named, named_source, score, None, rendering, applied.area, applied.strokes)

    async def _apply(self, bundle: Bundle, source: Code, job: EditJob, drawn: _Drawn, call: Call) -> _Applied:
        """Gives a code the job's labels, applies its edits, follows the strokes, holds what has changed to the area."""
        options, relabelled = job.options, None
        if options.label:
            relabelled = await self._stages.relabel(bundle, source, options.label, call)
        with call.during("edit"):
            edits = cut_to_range(options.edits, bundle) if options.within_range else options.edits
            edited = apply_edits(source, edits, bundle, relabelled)
        if not drawn.refinements:
            return _Applied(edited)
        settings, followed = self._refine_settings(job, bundle), None
        if drawn.strokes is not None:
            reserve_s = 0.0 if drawn.mask is None else call.deadline.remaining_s / 2
            edited, followed = await self._follow(bundle, edited, drawn.strokes, settings, reserve_s, call)
        if drawn.mask is None:
            return _Applied(edited, followed)
        held, change = await self.hold(bundle, source, edited, drawn.mask, settings, call)
        return _Applied(held, followed, change)

    async def _follow(
        self,
        bundle: Bundle,
        code: Code,
        strokes: Strokes,
        settings: RefineSettings,
        reserve_s: float,
        call: Call,
    ) -> tuple[Code, Losses]:
        """Refines a code towards its picture with strokes painted on (Image2StyleGAN++, Abdal et al. 2020, scribbles).

        Only the layers' vectors follow: detail and noise would copy the strokes as they are, natural or not.
        """
        plain = cleared(code, bundle.groups)
        (before,) = await self._stages.generate(bundle, plain[None], call)
        target = strokes.painted_on(before)
        refined = await self._stages.refine(
            bundle,
            plain,
            target,
            replace(_all_known(settings), detail=False, noise=False),
            call,
            mask=strokes.weights(),
            extra_reserve_s=reserve_s,
        )
        (after,) = await self._stages.generate(bundle, refined.code[None], call)
        losses = measure(target, before, after, refined, strokes.cover)
        kept = cleared(code, settings.without(bundle))
        return follow_strokes(kept, refined.code, strokes.cover, bundle), losses

    async def hold(
        self, bundle: Bundle, source: Code, edited: Code, mask: Mask, settings: RefineSettings, call: Call
    ) -> tuple[Code, AreaChange]:
        """Holds a change of a code to a mask: a code is refined towards the edited picture inside it and the source's
        outside (Image2StyleGAN++, Abdal et al. 2020, local edits and local style transfer), from whichever of the two
        codes is nearer."""
        settings = _all_known(settings)
        before, unrestricted = await self._stages.generate(bundle, np.stack([source, edited]), call)
        wanted = blend(unrestricted, before, mask)
        if np.array_equal(wanted, unrestricted):
            # The edit changes nothing outside the mask.
            settings = replace(settings, steps=0)
        start, start_image = edited, unrestricted
        if pixel_mse(before, wanted) < pixel_mse(unrestricted, wanted):
            start, start_image = source, before
        refined = await self._stages.refine(bundle, start, wanted, settings, call)
        (after,) = await self._stages.generate(bundle, refined.code[None], call)
        losses = measure(wanted, start_image, after, refined, None)
        return refined.code, area_change(before, unrestricted, after, mask, losses)

    async def mask_of(
        self, bundle: Bundle, area: Area | None, origin: Origin | None, call: Call
    ) -> Mask | None:
        """The mask of an area, with soft edges; None without one. origin: the photograph that it may lie on."""
        return None if area is None else soften(await self._stages.mask(bundle, area, origin, call))

    async def _drawn(self, bundle: Bundle, job: EditJob, origin: Origin | None, call: Call) -> _Drawn:
        """What was drawn for an edit: the mask of its area, and its strokes."""
        strokes = job.options.strokes
        return _Drawn(
            await self.mask_of(bundle, job.options.area, origin, call),
            None if strokes is None else await self._stages.strokes(bundle, strokes, origin, call),
        )

    def _refine_settings(self, job: EditJob, bundle: Bundle) -> RefineSettings:
        return RefineSettings.resolve(job.options.refine, bundle.refine, self._max_refine_steps)


def check_drawn(drawn_on: EditOptions | MixJob, settings: RefineSettings) -> None:
    """Raises InvalidOption for an area or strokes without refinement. It is called before any graph runs."""
    drawn = [name for name in ("area", "strokes") if getattr(drawn_on, name, None) is not None]
    if drawn and settings.steps == 0:
        raise InvalidOption(
            f"{' and '.join(drawn)} need refinement; give refine.steps of 1 or more, or leave them out."
        )


def _all_known(settings: RefineSettings) -> RefineSettings:
    """Of the picture of a code everything is known, whatever was known of the photograph."""
    return replace(settings, grey=False, downsampling=1)
