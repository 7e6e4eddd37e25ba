"""The end of most jobs: decodes and scores the resulting code, encodes the pictures, pastes into the photograph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from serving.bundle import Bundle
from serving.call import Call
from serving.errors import InvalidOption
from serving.jobs import Alignment, Code, EncodedPicture, Image, Origin, OutputOptions, Pasting
from serving.photographs.alignment import Similarity
from serving.photographs.areas import Mask, pixel_mse
from serving.photographs.pasting import Patch
from serving.pipeline.edits import with_rows_of
from serving.pipeline.refinement import Refinement
from serving.pipeline.stages import Aligned, Stages
from serving.results import Losses, Rendering
from serving.telemetry.metrics import Metrics


@dataclass(frozen=True, slots=True)
class Rendered:
    """A code that was made from a picture: its domain score, how refinement went, its pictures, and what to paste."""

    score: float
    losses: Losses
    rendering: Rendering
    patch: Patch


class Renderer:
    """Turns codes into the pictures and figures of a result."""

    def __init__(self, stages: Stages, metrics: Metrics) -> None:
        self._stages = stages
        self._metrics = metrics

    async def render_refined(
        self,
        bundle: Bundle,
        aligned: Aligned,
        start: Code,
        refined: Refinement,
        code: Code,
        output: OutputOptions,
        call: Call,
        *,
        mask: Mask | None = None,
        edited: bool = False,
    ) -> Rendered:
        """Renders a code that was made from a picture.

        start: the encoder's code. code: the refined code, or, if `edited`, what edits made of it. mask: the part of
        the aligned picture that counts in the losses. Raises InvalidOption, and what the back end raises.
        """
        begun_s = call.deadline.clock.now()
        # What is pasted is a change by the edit alone: before and after have the same detail and noise.
        before_edit = [with_rows_of(refined.code, code, bundle)] if edited and output.pasted else []
        codes = [start, refined.code, *before_edit, code]
        images, (score,) = await self._stages.generate_and_score(bundle, codes, 1, call)
        self._metrics.domain_score.observe(score)
        wanted = [
            images[-1] if output.image else None,
            aligned.image if output.aligned else None,
            images[0] if output.start else None,
        ]
        image, aligned_image, start_image = await self._stages.encode_wanted(wanted, output, call)
        before = images[-2] if edited else None
        if before_edit:
            aligned.origin.unedited = (before_edit[0], bundle.graphs["generator"].sha256, images[-2])
        patch = _patch(aligned.origin, before, images[-1])
        pasted = await self.paste_all(aligned.origin.picture, [patch], output, call)
        same = await self._identity_score(bundle, aligned.image, images[-1], output, call)
        origin = aligned.origin
        rendering = Rendering(image, aligned_image, start_image, pasted, origin.placement, same, origin)
        self._stages.answer_s.add(call.deadline.clock.now() - begun_s)
        return Rendered(score, measure(aligned.image, images[0], images[1], refined, mask), rendering, patch)

    async def render_code(
        self,
        bundle: Bundle,
        code: Code,
        source: Code,
        origin: Origin | None,
        output: OutputOptions,
        call: Call,
    ) -> tuple[float, Rendering]:
        """Renders a code that was made from another code: its domain score and its pictures.

        origin: the photograph of the source, if it is known. Raises InvalidOption, and what the back end raises.
        """
        # Pasting needs the source's picture, too, and so does the identity score where there is no photograph.
        unedited, before = source, None
        if output.pasted and origin is not None:
            unedited = with_rows_of(source, code, bundle)
            before = _seen_before(origin, unedited, bundle)
        compared = output.identity_score if origin is None else output.pasted
        codes = [unedited, code] if compared and before is None else [code]
        images, (score,) = await self._stages.generate_and_score(bundle, codes, 1, call)
        before, after = images[0] if before is None else before, images[-1]
        if output.pasted and origin is not None:
            origin.unedited = (unedited, bundle.graphs["generator"].sha256, before)
        self._metrics.domain_score.observe(score)
        (image,) = await self._stages.encode_wanted([after if output.image else None], output, call)
        pasted = await self.paste(origin, before, after, output, call)
        same = await self._identity_score(bundle, origin.square if origin else before, after, output, call)
        placement = origin.placement if origin else None
        return score, Rendering(image, None, None, pasted, placement, same, origin)

    async def _identity_score(
        self, bundle: Bundle, before: Image, after: Image, output: OutputOptions, call: Call
    ) -> float | None:
        """How likely two pictures show one person; None if that was not asked for."""
        if not output.identity_score:
            return None
        assert bundle.identity is not None, "check_output has looked"
        one, other = await self._stages.describe(bundle, [before, after], call)
        exponent = bundle.identity.steepness * (float(np.linalg.norm(one - other)) - bundle.identity.middle)
        # Beyond 80 the score is 0 to every digit that a float32 has.
        return float(1 / (1 + np.exp(min(exponent, 80.0))))

    async def paste(
        self, origin: Origin | None, before: Image | None, after: Image, output: OutputOptions, call: Call
    ) -> EncodedPicture | None:
        """The photograph with the result pasted in; None if that was not asked for.

        before: the picture of the code before an edit; None if nothing was edited. Raises InvalidOption.
        """
        if not output.pasted:
            return None
        if origin is None:
            raise InvalidOption(
                "There is no photograph to paste into, as a code is edited; send the picture, or send it to an edit "
                "session, which keeps it."
            )
        return await self.paste_all(origin.picture, [_patch(origin, before, after)], output, call)

    async def paste_all(
        self, picture: EncodedPicture, patches: Sequence[Patch], output: OutputOptions, call: Call
    ) -> EncodedPicture | None:
        """The same for several results of one photograph."""
        if not output.pasted:
            return None
        if output.pasting is Pasting.CHANGE and any(patch.before is None for patch in patches):
            raise InvalidOption(
                "Nothing is edited whose change could be pasted; ask for the pasting replace."
            )
        if output.pasting is Pasting.REPLACE:
            patches = [replace(patch, before=None) for patch in patches]
        return await self._stages.pasted_picture(picture, patches, output, call)


def check_output(output: OutputOptions, compared_in: Bundle | None = None) -> None:
    """Raises InvalidOption. compared_in: the bundle, for jobs whose results have an identity score."""
    if not 1 <= output.quality <= 100:
        raise InvalidOption(f"output.quality is {output.quality}; it goes from 1 to 100.")
    if not output.identity_score:
        return
    if compared_in is None:
        raise InvalidOption(
            "This call compares no two faces; leave include_identity_score out. Invert, Edit, Mix and Diffuse do."
        )
    if compared_in.identity is None:
        raise InvalidOption(
            f"Bundle {compared_in.name} has no identity score; leave include_identity_score out, or export the bundle "
            "from a run with an alignment.json."
        )


def _seen_before(origin: Origin, code: Code, bundle: Bundle) -> Image | None:
    """The picture of an unedited code, if it was decoded for the edit before."""
    if origin.unedited is None:
        return None
    known, generator, image = origin.unedited
    return image if generator == bundle.graphs["generator"].sha256 and np.array_equal(known, code) else None


def _patch(origin: Origin, before: Image | None, after: Image) -> Patch:
    placement = origin.placement
    place = Similarity.of_corners(placement.corners)
    return Patch(place, before, after, placement.alignment is Alignment.FACE)


def measure(aligned: Image, start: Image, final: Image, refined: Refinement, mask: Mask | None) -> Losses:
    """The losses of a refinement: pictures before and after it against the aligned picture, inside the mask."""
    before = pixel_mse(aligned, start, mask)
    return Losses(
        pixel_mse_before=before,
        # Without refinement both pictures are one array.
        pixel_mse_after=before if final is start else pixel_mse(aligned, final, mask),
        refine_loss_before=refined.loss_before,
        refine_loss_after=refined.loss_after,
        steps_done=refined.steps_done,
        stop_reason=refined.stop_reason,
    )
