"""The warm-up: runs every graph of a bundle once, so that the first caller does not wait for it."""

from __future__ import annotations

from serving.bundle import Bundle
from serving.call import Call
from serving.jobs import Alignment, AlignOptions, EncodedPicture, ImageFormat, OutputOptions, RefineOptions
from serving.pipeline.refinement import RefineSettings
from serving.pipeline.rendering import Renderer
from serving.pipeline.stages import Stages


async def warm_up(bundle: Bundle, stages: Stages, renderer: Renderer, call: Call) -> None:
    """Inverts a grey picture with one refinement step, looks for faces if the bundle has a detector, maps a seed.

    Raises what the back end raises.
    """
    side = bundle.resolution
    grey = EncodedPicture(bytes([128]) * (side * side * 3), ImageFormat.RAW, side, side)
    one_step = RefineSettings.resolve(RefineOptions(steps=1), bundle.refine, max_steps=1)
    aligned = await stages.align(bundle, grey, AlignOptions(Alignment.CENTRE_CROP), call)
    start, refined = await stages.find_code(bundle, aligned.image, one_step, call)
    await renderer.render_refined(bundle, aligned, start, refined, refined.code, OutputOptions(), call)
    if bundle.face is not None:
        await stages.find_faces(bundle, grey, call)
    await stages.map(bundle, (0,), 1.0, call)
