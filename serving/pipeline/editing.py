"""Edits: of a code, of the face on a photograph, and of several faces at once; everywhere, or within an area."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np

from serving.bundle import Bundle
from serving.call import Call, beside
from serving.jobs import Area, Code, CodeSource, EditJob, EncodedPicture, Origin, OutputOptions
from serving.photographs.areas import Mask, area_change, blend, pixel_mse, soften
from serving.photographs.pasting import Patch
from serving.pipeline.edits import apply_edits, cut_to_range
from serving.pipeline.handles import Codes
from serving.pipeline.refinement import RefineSettings
from serving.pipeline.rendering import Renderer, measure
from serving.pipeline.stages import Aligned, Stages
from serving.results import AreaChange, Edited


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
        options = job.options
        settings = self._refine_settings(job, bundle)
        mask = await self._mask(bundle, options.area, aligned.origin, call)
        # With an area a second refinement follows: the first may take half of the time.
        reserve_s = 0.0 if mask is None else call.deadline.remaining_s / 2
        start, refined = await self._stages.find_code(
            bundle, aligned.image, settings, call, extra_reserve_s=reserve_s
        )
        code, change = await self._apply(bundle, refined.code, job, mask, call)
        rendered = await self._renderer.render_refined(
            bundle, aligned, start, refined, code, output, call, edited=True
        )
        named = self._codes.name(code, bundle, output, call)
        source = self._codes.name(refined.code, bundle, output, call)
        edited = Edited(
            bundle.name, named, source, rendered.score, rendered.losses, rendered.rendering, change
        )
        return edited, rendered.patch

    async def _edit_code(self, bundle: Bundle, job: EditJob, source: CodeSource, call: Call) -> Edited:
        options = job.options
        mask = await self._mask(bundle, options.area, job.origin, call)
        before = self._codes.read_one(source, bundle, call)
        code, change = await self._apply(bundle, before, job, mask, call)
        score, rendering = await self._renderer.render_code(
            bundle, code, before, job.origin, options.output, call
        )
        named = self._codes.name(code, bundle, options.output, call)
        named_source = self._codes.name_source(before, source, bundle, options.output, call)
        return Edited(bundle.name, named, named_source, score, None, rendering, change)

    async def _apply(
        self, bundle: Bundle, source: Code, job: EditJob, mask: Mask | None, call: Call
    ) -> tuple[Code, AreaChange | None]:
        """Applies the job's edits to a code; with a mask, so that the picture changes only inside it.

        For that a code is refined towards the edited picture inside the mask and the source's picture outside
        (Image2StyleGAN++, Abdal et al. 2020), from whichever of the two codes is nearer.
        """
        with call.during("edit"):
            edits = job.options.edits
            edited = apply_edits(
                source, cut_to_range(edits, bundle) if job.options.within_range else edits, bundle
            )
        if mask is None:
            return edited, None
        settings = self._refine_settings(job, bundle)
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

    async def _mask(
        self, bundle: Bundle, area: Area | None, origin: Origin | None, call: Call
    ) -> Mask | None:
        """The mask of an edit's area, with soft edges."""
        return None if area is None else soften(await self._stages.mask(bundle, area, origin, call))

    def _refine_settings(self, job: EditJob, bundle: Bundle) -> RefineSettings:
        return RefineSettings.resolve(job.options.refine, bundle.refine, self._max_refine_steps)
