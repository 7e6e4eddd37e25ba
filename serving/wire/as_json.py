"""JSON bodies (bodies.py) <-> jobs and results."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import TypeVar

from pydantic import ValidationError

from serving import __version__
from serving.bundle import Bundle, Direction, Preset
from serving.call import Call
from serving.errors import EditingError, MalformedRequest
from serving.jobs import (
    DEFAULT_QUALITY,
    AlignOptions,
    Area,
    CodeHandle,
    CodeSource,
    Coordinates,
    DecodeJob,
    DiffuseJob,
    EditJob,
    EditOptions,
    EditStep,
    EncodedPicture,
    Face,
    FindFacesJob,
    ImageFormat,
    InterpolateJob,
    InvertJob,
    MixJob,
    NamedCode,
    OutputOptions,
    Placement,
    RefineOptions,
    Region,
    SampleJob,
    SessionRequest,
    Source,
    WatchInvertJob,
)
from serving.pipeline.session import SessionAnswer
from serving.results import (
    Decoded,
    Diffused,
    Edited,
    FoundFaces,
    InterpolationFrame,
    Inversion,
    InvertProgress,
    Losses,
    Mixed,
    Sampled,
)
from serving.settings import Settings
from serving.wire import bodies
from serving.wire.codes import code_array, code_bytes

BodyT = TypeVar("BodyT", bound=bodies.Body)


# --- JSON -> jobs -------------------------------------------------------------------------------------------------


def read_body(kind: type[BodyT], content: bytes | str) -> BodyT:
    """Raises MalformedRequest with the first thing that is wrong."""
    try:
        return kind.model_validate_json(content or b"{}")
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the body"
        raise MalformedRequest(f"{where[:120]}: {first['msg'][:200]}; /docs has the schema.") from None


def find_faces_job_from(body: bodies.FindFacesOptions, picture: EncodedPicture) -> FindFacesJob:
    return FindFacesJob(picture, body.bundle)


def invert_job_from(
    body: bodies.InvertOptions, picture: EncodedPicture, accept: ImageFormat | None
) -> InvertJob:
    return InvertJob(picture, *_options_from(body, accept))


def watch_invert_job_from(body: bodies.WatchOptions, picture: EncodedPicture) -> WatchInvertJob:
    return WatchInvertJob(invert_job_from(body, picture, None), body.interval_s, not body.omit_previews)


def edit_job_from(
    body: bodies.EditOptions,
    source: Source,
    area: Region | EncodedPicture | None,
    accept: ImageFormat | None,
) -> EditJob:
    return EditJob(source, _edit_options_from(body, area, accept), body.bundle)


def _edit_options_from(
    body: bodies.EditOptions, area: Area | None, accept: ImageFormat | None
) -> EditOptions:
    _, refine, output, align = _options_from(body, accept)
    return EditOptions(_edits_from(body.edits), refine, output, align, area)


def source_from(body: bodies.SourceBody | bodies.EditBody, what: str) -> Source:
    if (body.picture is None) == (body.code is None):
        raise MalformedRequest(f"{what} needs a picture or a code to start from; send exactly one of them.")
    if body.code is not None:
        return _code_from(body.code)
    assert body.picture is not None
    return picture_from(body.picture)


def area_from(
    region: bodies.RegionBody | None, mask: EncodedPicture | None
) -> Region | EncodedPicture | None:
    if region is not None and mask is not None:
        raise MalformedRequest("The area is a region or a mask; send one of them.")
    return mask if region is None else Region(**region.model_dump())


def session_request_from(body: bodies.SessionBody) -> SessionRequest:
    """What is wrong with it becomes its fault: one bad message does not end a session."""
    edit = body.edit
    try:
        named = edit.picture is not None or edit.code is not None
        source = source_from(edit, "A session") if named else None
        area = area_from(edit.region, picture_from(edit.mask) if edit.mask is not None else None)
        options = _edit_options_from(edit, area, None)
        given = "output" in edit.model_fields_set
        return SessionRequest(body.sequence, options, source, edit.bundle, given)
    except EditingError as error:
        return SessionRequest(body.sequence, fault=error)


def interpolate_job_from(body: bodies.InterpolateBody) -> InterpolateJob:
    start, end = source_from(body.start, "The start"), source_from(body.end, "The end")
    return InterpolateJob(start, end, body.count, *_options_from(body, None))


def mix_job_from(body: bodies.MixBody, accept: ImageFormat | None) -> MixJob:
    base, style = source_from(body.base, "The base"), source_from(body.style, "The style")
    return MixJob(base, style, tuple(body.layers), body.strength, *_options_from(body, accept))


def diffuse_job_from(
    body: bodies.DiffuseOptions, pictures: Mapping[str, EncodedPicture], accept: ImageFormat | None
) -> DiffuseJob:
    """`pictures`: target, context and perhaps mask."""
    area = area_from(body.region, pictures.get("mask")) or Region()
    return DiffuseJob(pictures["target"], pictures["context"], area, *_options_from(body, accept))


def decode_job_from(body: bodies.DecodeBody, accept: ImageFormat | None) -> DecodeJob:
    codes = tuple(_code_from(code) for code in body.codes)
    return DecodeJob(codes, body.bundle, _output_from(body.output, accept))


def sample_job_from(body: bodies.SampleBody, accept: ImageFormat | None) -> SampleJob:
    return SampleJob(tuple(body.seeds), body.truncation, body.bundle, _output_from(body.output, accept))


def picture_from(body: bodies.PictureBody) -> EncodedPicture:
    return EncodedPicture(body.data, body.format, body.width, body.height)


def _code_from(body: bodies.CodeBody) -> CodeSource:
    if body.handle and not body.data:
        return CodeHandle(body.handle)
    return NamedCode(code_array(body.data, body.shape), space=body.space)


def _edits_from(edits: list[bodies.EditStepBody]) -> tuple[EditStep, ...]:
    return tuple(
        EditStep(edit.direction, edit.strength, tuple(edit.layers), tuple(edit.keep)) for edit in edits
    )


def _refine_from(body: bodies.RefineBody) -> RefineOptions:
    return RefineOptions(**body.model_dump())


def _options_from(
    body: bodies.InvertOptions | bodies.InterpolateBody | bodies.MixBody, accept: ImageFormat | None
) -> tuple[str, RefineOptions, OutputOptions, AlignOptions]:
    """What the jobs that take pictures have in common, in their fields' order."""
    return body.bundle, _refine_from(body.refine), _output_from(body.output, accept), _align_from(body.align)


def _align_from(body: bodies.AlignBody) -> AlignOptions:
    return AlignOptions(body.alignment, body.face)


def _output_from(body: bodies.OutputBody, accept: ImageFormat | None) -> OutputOptions:
    return OutputOptions(
        format=body.format or accept or ImageFormat.PNG,
        quality=DEFAULT_QUALITY if body.quality is None else body.quality,
        image=not body.omit_image,
        aligned=body.include_aligned,
        start=body.include_start,
        codes=not body.omit_codes,
        pasted=body.include_pasted,
        pasting=body.pasting,
    )


# --- results -> JSON ----------------------------------------------------------------------------------------------


def find_faces_answer(result: FoundFaces, call: Call) -> bodies.FindFacesAnswer:
    return bodies.FindFacesAnswer(
        bundle=result.bundle,
        faces=[_face_answer(face) for face in result.faces],
        width=result.width,
        height=result.height,
        timings=_timings_answer(call),
        request_id=call.request_id,
    )


def invert_answer(result: Inversion, call: Call) -> bodies.InvertAnswer:
    return bodies.InvertAnswer(
        bundle=result.bundle,
        code=_code_answer(result.code),
        domain_score=result.domain_score,
        losses=_losses_answer(result.losses),
        image=_optional_answer(result.rendering.image),
        aligned=_optional_answer(result.rendering.aligned),
        start=_optional_answer(result.rendering.start),
        timings=_timings_answer(call),
        request_id=call.request_id,
        pasted=_optional_answer(result.rendering.pasted),
        placement=_placement_answer(result.rendering.placement),
    )


def edit_answer(result: Edited, call: Call) -> bodies.EditAnswer:
    return bodies.EditAnswer(
        bundle=result.bundle,
        code=_code_answer(result.code),
        source_code=_code_answer(result.source_code),
        domain_score=result.domain_score,
        losses=_losses_answer(result.losses) if result.losses else None,
        image=_optional_answer(result.rendering.image),
        aligned=_optional_answer(result.rendering.aligned),
        start=_optional_answer(result.rendering.start),
        area=bodies.AreaChangeAnswer(**asdict(result.area)) if result.area else None,
        timings=_timings_answer(call),
        request_id=call.request_id,
        pasted=_optional_answer(result.rendering.pasted),
        placement=_placement_answer(result.rendering.placement),
    )


def progress_answer(progress: InvertProgress, call: Call) -> bodies.ProgressAnswer:
    return bodies.ProgressAnswer(
        step=progress.step,
        steps=progress.steps,
        loss=progress.loss,
        preview=_optional_answer(progress.preview),
        domain_score=progress.domain_score,
        request_id=call.request_id,
    )


def session_answer(answer: SessionAnswer) -> tuple[bodies.SessionAnswerBody, list[bytes]]:
    """The text message, and the pictures that follow it as they are: `image`, then `pasted`, those that are there."""
    body = bodies.SessionAnswerBody(sequence=answer.sequence, skipped=answer.skipped)
    if isinstance(answer.outcome, EditingError):
        body.error = error_answer(answer.outcome, answer.call.request_id)
        return body, []
    rendering = answer.outcome.rendering
    image, pasted = rendering.image, rendering.pasted
    bare = replace(rendering, image=_without_data(image), pasted=_without_data(pasted))
    emptied = replace(answer.outcome, rendering=bare)
    body.edited = edit_answer(emptied, answer.call)
    return body, [picture.data for picture in (image, pasted) if picture is not None]


def _without_data(picture: EncodedPicture | None) -> EncodedPicture | None:
    return None if picture is None else replace(picture, data=b"")


def between_answer(result: InterpolationFrame, call: Call) -> bodies.BetweenAnswer:
    return bodies.BetweenAnswer(
        bundle=result.bundle,
        index=result.index,
        position=result.position,
        code=_code_answer(result.code),
        domain_score=result.domain_score,
        image=_optional_answer(result.rendering.image),
        timings=_timings_answer(call),
        request_id=call.request_id,
        pasted=_optional_answer(result.rendering.pasted),
        placement=_placement_answer(result.rendering.placement),
    )


def mix_answer(result: Mixed, call: Call) -> bodies.MixAnswer:
    return bodies.MixAnswer(
        bundle=result.bundle,
        code=_code_answer(result.code),
        domain_score=result.domain_score,
        image=_optional_answer(result.rendering.image),
        timings=_timings_answer(call),
        request_id=call.request_id,
        pasted=_optional_answer(result.rendering.pasted),
        placement=_placement_answer(result.rendering.placement),
    )


def diffuse_answer(result: Diffused, call: Call) -> bodies.DiffuseAnswer:
    return bodies.DiffuseAnswer(
        bundle=result.bundle,
        code=_code_answer(result.code),
        domain_score=result.domain_score,
        losses=_losses_answer(result.losses),
        image=_optional_answer(result.rendering.image),
        aligned=_optional_answer(result.rendering.aligned),
        start=_optional_answer(result.rendering.start),
        timings=_timings_answer(call),
        request_id=call.request_id,
        pasted=_optional_answer(result.rendering.pasted),
        placement=_placement_answer(result.rendering.placement),
    )


def decode_answer(result: Decoded, call: Call) -> bodies.DecodeAnswer:
    images = [_picture_answer(image) for image in result.images]
    return bodies.DecodeAnswer(
        bundle=result.bundle, images=images, timings=_timings_answer(call), request_id=call.request_id
    )


def sample_answer(result: Sampled, call: Call) -> bodies.SampleAnswer:
    return bodies.SampleAnswer(
        bundle=result.bundle,
        codes=[_code_answer(code) for code in result.codes],
        images=[_picture_answer(image) for image in result.images],
        timings=_timings_answer(call),
        request_id=call.request_id,
    )


def bundles_answer(bundles: Mapping[str, Bundle], settings: Settings, call: Call) -> bodies.BundlesAnswer:
    limits = {name: getattr(settings, name) for name in bodies.LimitsAnswer.model_fields}
    return bodies.BundlesAnswer(
        bundles=[_bundle_answer(bundle) for bundle in bundles.values()],
        limits=bodies.LimitsAnswer(**limits),
        server_version=__version__,
        request_id=call.request_id,
    )


def error_answer(error: EditingError, request_id: str) -> bodies.ErrorAnswer:
    return bodies.ErrorAnswer(
        reason=error.row.reason,
        code=error.row.grpc_code,
        message=error.message,
        stage=error.stage,
        retryable=error.row.retryable,
        retry_after_s=error.retry_after_s,
        request_id=request_id,
    )


def _code_answer(code: NamedCode) -> bodies.CodeAnswer:
    if code.values is None:
        return bodies.CodeAnswer(handle=code.handle or None, space=code.space)
    data = base64.b64encode(code_bytes(code.values)).decode()
    shape = list(code.values.shape)
    return bodies.CodeAnswer(data=data, shape=shape, handle=code.handle or None, space=code.space)


def _face_answer(face: Face) -> bodies.FaceAnswer:
    return bodies.FaceAnswer(
        box=_box_answer(face),
        score=face.score,
        landmarks=_points_answer(face.landmarks),
        corners=_points_answer(face.corners),
        roll_degrees=face.roll_degrees,
        unusable=face.unusable,
    )


def _placement_answer(placement: Placement | None) -> bodies.PlacementAnswer | None:
    if placement is None:
        return None
    found = placement.found
    return bodies.PlacementAnswer(
        alignment=placement.alignment,
        face=placement.face,
        faces=placement.faces,
        box=None if found is None else _box_answer(found),
        landmarks=[] if found is None else _points_answer(found.landmarks),
        corners=_points_answer(placement.corners),
        roll_degrees=placement.roll_degrees,
        width=placement.width,
        height=placement.height,
    )


def _box_answer(face: Face) -> bodies.BoxAnswer:
    left, top, right, bottom = face.box
    return bodies.BoxAnswer(left=left, top=top, right=right, bottom=bottom)


def _points_answer(points: Coordinates) -> list[bodies.PointAnswer]:
    return [bodies.PointAnswer(x=x, y=y) for x, y in points]


def _optional_answer(picture: EncodedPicture | None) -> bodies.PictureAnswer | None:
    return None if picture is None else _picture_answer(picture)


def _picture_answer(picture: EncodedPicture) -> bodies.PictureAnswer:
    return bodies.PictureAnswer(
        data=base64.b64encode(picture.data).decode(),
        format=picture.format or ImageFormat.PNG,
        width=picture.width,
        height=picture.height,
    )


def _losses_answer(losses: Losses) -> bodies.LossesAnswer:
    return bodies.LossesAnswer(**asdict(losses))


def _timings_answer(call: Call) -> list[bodies.StageTimingAnswer]:
    return [bodies.StageTimingAnswer(stage=stage, seconds=seconds) for stage, seconds in call.timings]


def _bundle_answer(bundle: Bundle) -> bodies.BundleAnswer:
    return bodies.BundleAnswer(
        name=bundle.name,
        resolution=bundle.resolution,
        layers=bundle.layers,
        code_size=bundle.code_size,
        directions=[_direction_answer(direction) for direction in bundle.directions.values()],
        refine=bodies.RefineDefaultsAnswer(**bundle.refine.model_dump()),
        alignment=bundle.alignment,
        licence=bundle.licence,
        summary=bundle.limits,
        data=bundle.data,
        code_space=bundle.code_space,
        presets=[_preset_answer(preset) for preset in bundle.presets.values()],
    )


def _preset_answer(preset: Preset) -> bodies.PresetAnswer:
    edits = [bodies.EditStepBody(**asdict(edit)) for edit in preset.edits]
    return bodies.PresetAnswer(name=preset.name, label=preset.label, edits=edits)


def _direction_answer(direction: Direction) -> bodies.DirectionAnswer:
    held_out = direction.held_out
    return bodies.DirectionAnswer(
        name=direction.name,
        label=direction.label,
        layers=list(direction.layers),
        range_min=direction.range[0],
        range_max=direction.range[1],
        held_out=bodies.HeldOutAnswer(metric=held_out.metric, value=held_out.value) if held_out else None,
        conditioned_on=list(direction.conditioned_on),
    )
