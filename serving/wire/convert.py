"""Protobuf messages <-> jobs and results, and errors <-> gRPC status."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import grpc

from indomain.v1 import editing_pb2 as pb
from serving import __version__
from serving.bundle import Bundle, Direction, Preset
from serving.call import Call
from serving.errors import EditingError, InvalidOption, MalformedRequest
from serving.jobs import (
    DEFAULT_MIX_STRENGTH,
    DEFAULT_PROGRESS_INTERVAL_S,
    DEFAULT_QUALITY,
    DEFAULT_TRUNCATION,
    Alignment,
    AlignOptions,
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
    Pasting,
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
    Sampled,
    StopReason,
)
from serving.settings import Settings
from serving.wire.codes import code_array, code_bytes

ERROR_DETAIL_KEY = "indomain-error-bin"

_FORMATS = {
    pb.IMAGE_FORMAT_PNG: ImageFormat.PNG,
    pb.IMAGE_FORMAT_JPEG: ImageFormat.JPEG,
    pb.IMAGE_FORMAT_WEBP: ImageFormat.WEBP,
    pb.IMAGE_FORMAT_RAW: ImageFormat.RAW,
}
_ALIGNMENTS = {
    pb.ALIGNMENT_FACE: Alignment.FACE,
    pb.ALIGNMENT_CENTRE_CROP: Alignment.CENTRE_CROP,
}
_ALIGNMENTS_ON_WIRE = {value: key for key, value in _ALIGNMENTS.items()}
_PASTINGS = {pb.PASTING_CHANGE: Pasting.CHANGE, pb.PASTING_REPLACE: Pasting.REPLACE}
_FORMATS_ON_WIRE = {value: key for key, value in _FORMATS.items()}
_STOP_REASONS = {
    StopReason.NOT_REFINED: pb.STOP_REASON_NOT_REFINED,
    StopReason.STEPS_DONE: pb.STOP_REASON_STEPS_DONE,
    StopReason.CONVERGED: pb.STOP_REASON_CONVERGED,
    StopReason.DEADLINE: pb.STOP_REASON_DEADLINE,
    StopReason.DIVERGED: pb.STOP_REASON_DIVERGED,
    StopReason.PRESSURE: pb.STOP_REASON_PRESSURE,
}
_REFINE_FIELDS = ("steps", "quality", "learning_rate", "pixel_weight", "perceptual_weight", "domain_weight")

# --- messages -> jobs ---------------------------------------------------------------------------------------------


def find_faces_job(request: pb.FindFacesRequest) -> FindFacesJob:
    return FindFacesJob(_picture(request.picture), request.bundle)


def invert_job(request: pb.InvertRequest | pb.WatchInvertRequest) -> InvertJob:
    return InvertJob(_picture(request.picture), *_options(request))


def watch_invert_job(request: pb.WatchInvertRequest) -> WatchInvertJob:
    interval_s = request.interval_s if request.HasField("interval_s") else DEFAULT_PROGRESS_INTERVAL_S
    return WatchInvertJob(invert_job(request), interval_s, not request.omit_previews)


def edit_job(request: pb.EditRequest) -> EditJob:
    return EditJob(_source(request, "An edit"), _edit_options(request), request.bundle)


def _edit_options(request: pb.EditRequest) -> EditOptions:
    _, refine, output, align = _options(request)
    return EditOptions(_edits(request.edits), refine, output, align, _area(request))


def session_request(request: pb.EditSessionRequest) -> SessionRequest:
    """What cannot be read becomes its fault: one bad message does not end a session."""
    edit = request.edit
    try:
        source = _source(edit, "A session") if edit.WhichOneof("source") else None
        given = edit.HasField("output")
        return SessionRequest(request.sequence, _edit_options(edit), source, edit.bundle, given)
    except EditingError as error:
        return SessionRequest(request.sequence, fault=error)


def interpolate_job(request: pb.InterpolateRequest) -> InterpolateJob:
    start, end = _source(request.start, "The start"), _source(request.end, "The end")
    return InterpolateJob(start, end, request.count, *_options(request))


def mix_job(request: pb.MixRequest) -> MixJob:
    base, style = _source(request.base, "The base"), _source(request.style, "The style")
    strength = request.strength if request.HasField("strength") else DEFAULT_MIX_STRENGTH
    return MixJob(base, style, tuple(request.layers), strength, *_options(request))


def diffuse_job(request: pb.DiffuseRequest) -> DiffuseJob:
    target, context = _picture(request.target), _picture(request.context)
    return DiffuseJob(target, context, _area(request) or Region(), *_options(request))


def decode_job(request: pb.DecodeRequest) -> DecodeJob:
    codes = tuple(_code(code) for code in request.codes)
    return DecodeJob(codes, request.bundle, _output(request.output))


def sample_job(request: pb.SampleRequest) -> SampleJob:
    truncation = request.truncation if request.HasField("truncation") else DEFAULT_TRUNCATION
    return SampleJob(tuple(request.seeds), truncation, request.bundle, _output(request.output))


_Options = (
    pb.InvertRequest
    | pb.WatchInvertRequest
    | pb.EditRequest
    | pb.InterpolateRequest
    | pb.MixRequest
    | pb.DiffuseRequest
)


def _options(request: _Options) -> tuple[str, RefineOptions, OutputOptions, AlignOptions]:
    """What the jobs that take pictures have in common, in their fields' order."""
    return request.bundle, _refine(request.refine), _output(request.output), _align(request.align)


def _align(options: pb.AlignOptions) -> AlignOptions:
    if options.alignment not in (pb.ALIGNMENT_UNSPECIFIED, *_ALIGNMENTS):
        raise InvalidOption(
            f"align.alignment {options.alignment} is unknown; FACE and CENTRE_CROP are there."
        )
    face = options.face if options.HasField("face") else None
    return AlignOptions(_ALIGNMENTS.get(options.alignment), face)


def _source(message: pb.EditRequest | pb.Source, what: str) -> Source:
    if message.WhichOneof("source") == "code":
        return _code(message.code)
    if message.WhichOneof("source") == "picture":
        return _picture(message.picture)
    raise MalformedRequest(f"{what} needs a picture or a code to start from; send exactly one of them.")


def _area(
    message: pb.EditRequest | pb.DiffuseRequest,
) -> Region | EncodedPicture | None:
    if message.WhichOneof("area") == "region":
        region = message.region
        return Region(region.left, region.top, region.right, region.bottom)
    return _picture(message.mask) if message.WhichOneof("area") == "mask" else None


def _code(code: pb.Code) -> CodeSource:
    if code.handle and not code.data:
        return CodeHandle(code.handle)
    return NamedCode(code_array(code.data, code.shape), space=code.space)


def _edits(edits: Iterable[pb.EditStep]) -> tuple[EditStep, ...]:
    return tuple(
        EditStep(edit.direction, edit.strength, tuple(edit.layers), tuple(edit.keep)) for edit in edits
    )


def _picture(picture: pb.Picture) -> EncodedPicture:
    if picture.format not in (pb.IMAGE_FORMAT_UNSPECIFIED, *_FORMATS):
        raise InvalidOption(f"Picture format {picture.format} is unknown; leave it out to have it found.")
    return EncodedPicture(picture.data, _FORMATS.get(picture.format), picture.width, picture.height)


def _refine(options: pb.RefineOptions) -> RefineOptions:
    given: dict[str, Any] = {
        name: getattr(options, name) for name in _REFINE_FIELDS if options.HasField(name)
    }
    return RefineOptions(**given, allow_fewer_steps=options.allow_fewer_steps)


def _output(options: pb.OutputOptions) -> OutputOptions:
    if options.format not in (pb.IMAGE_FORMAT_UNSPECIFIED, *_FORMATS):
        raise InvalidOption(f"output.format {options.format} is unknown; PNG, JPEG, WEBP and RAW are there.")
    if options.pasting not in (pb.PASTING_UNSPECIFIED, *_PASTINGS):
        raise InvalidOption(f"output.pasting {options.pasting} is unknown; CHANGE and REPLACE are there.")
    return OutputOptions(
        format=_FORMATS.get(options.format, ImageFormat.PNG),
        quality=options.quality if options.HasField("quality") else DEFAULT_QUALITY,
        image=not options.omit_image,
        aligned=options.include_aligned,
        start=options.include_start,
        codes=not options.omit_codes,
        pasted=options.include_pasted,
        pasting=_PASTINGS.get(options.pasting),
    )


# --- results -> messages ------------------------------------------------------------------------------------------


def find_faces_response(result: FoundFaces, call: Call) -> pb.FindFacesResponse:
    return pb.FindFacesResponse(
        bundle=result.bundle,
        faces=[_pb_face(face) for face in result.faces],
        width=result.width,
        height=result.height,
        timings=_pb_timings(call),
        request_id=call.request_id,
    )


def invert_response(result: Inversion, call: Call) -> pb.InvertResponse:
    return pb.InvertResponse(
        bundle=result.bundle,
        code=_pb_code(result.code),
        image=_pb_optional(result.rendering.image),
        domain_score=result.domain_score,
        losses=_pb_losses(result.losses),
        timings=_pb_timings(call),
        request_id=call.request_id,
        aligned=_pb_optional(result.rendering.aligned),
        start=_pb_optional(result.rendering.start),
        pasted=_pb_optional(result.rendering.pasted),
        placement=_pb_placement(result.rendering.placement),
    )


def invert_progress(progress: InvertProgress, call: Call) -> pb.WatchInvertResponse:
    return pb.WatchInvertResponse(
        progress=pb.InvertProgress(
            step=progress.step,
            steps=progress.steps,
            loss=progress.loss,
            preview=_pb_optional(progress.preview),
            domain_score=progress.domain_score,
            request_id=call.request_id,
        )
    )


def watched_inversion(result: Inversion, call: Call) -> pb.WatchInvertResponse:
    return pb.WatchInvertResponse(result=invert_response(result, call))


def edit_response(result: Edited, call: Call) -> pb.EditResponse:
    return pb.EditResponse(
        bundle=result.bundle,
        code=_pb_code(result.code),
        image=_pb_optional(result.rendering.image),
        domain_score=result.domain_score,
        losses=_pb_losses(result.losses) if result.losses else None,
        timings=_pb_timings(call),
        request_id=call.request_id,
        source_code=_pb_code(result.source_code),
        aligned=_pb_optional(result.rendering.aligned),
        start=_pb_optional(result.rendering.start),
        pasted=_pb_optional(result.rendering.pasted),
        placement=_pb_placement(result.rendering.placement),
        area=_pb_area_change(result.area) if result.area else None,
    )


def session_response(answer: SessionAnswer) -> pb.EditSessionResponse:
    response = pb.EditSessionResponse(sequence=answer.sequence, skipped=answer.skipped)
    if isinstance(answer.outcome, EditingError):
        response.error.CopyFrom(error_detail(answer.outcome, answer.call.request_id))
    else:
        response.edited.CopyFrom(edit_response(answer.outcome, answer.call))
    return response


def interpolate_response(result: InterpolationFrame, call: Call) -> pb.InterpolateResponse:
    return pb.InterpolateResponse(
        bundle=result.bundle,
        index=result.index,
        position=result.position,
        code=_pb_code(result.code),
        image=_pb_optional(result.rendering.image),
        domain_score=result.domain_score,
        timings=_pb_timings(call),
        request_id=call.request_id,
        pasted=_pb_optional(result.rendering.pasted),
        placement=_pb_placement(result.rendering.placement),
    )


def mix_response(result: Mixed, call: Call) -> pb.MixResponse:
    return pb.MixResponse(
        bundle=result.bundle,
        code=_pb_code(result.code),
        image=_pb_optional(result.rendering.image),
        domain_score=result.domain_score,
        timings=_pb_timings(call),
        request_id=call.request_id,
        pasted=_pb_optional(result.rendering.pasted),
        placement=_pb_placement(result.rendering.placement),
    )


def diffuse_response(result: Diffused, call: Call) -> pb.DiffuseResponse:
    return pb.DiffuseResponse(
        bundle=result.bundle,
        code=_pb_code(result.code),
        image=_pb_optional(result.rendering.image),
        domain_score=result.domain_score,
        losses=_pb_losses(result.losses),
        timings=_pb_timings(call),
        request_id=call.request_id,
        aligned=_pb_optional(result.rendering.aligned),
        start=_pb_optional(result.rendering.start),
        pasted=_pb_optional(result.rendering.pasted),
        placement=_pb_placement(result.rendering.placement),
    )


def decode_response(result: Decoded, call: Call) -> pb.DecodeResponse:
    return pb.DecodeResponse(
        bundle=result.bundle,
        images=[_pb_picture(image) for image in result.images],
        timings=_pb_timings(call),
        request_id=call.request_id,
    )


def sample_response(result: Sampled, call: Call) -> pb.SampleResponse:
    return pb.SampleResponse(
        bundle=result.bundle,
        codes=[_pb_code(code) for code in result.codes],
        images=[_pb_picture(image) for image in result.images],
        timings=_pb_timings(call),
        request_id=call.request_id,
    )


def bundles_response(bundles: Mapping[str, Bundle], settings: Settings, call: Call) -> pb.ListBundlesResponse:
    return pb.ListBundlesResponse(
        bundles=[_pb_bundle(bundle) for bundle in bundles.values()],
        limits=_pb_limits(settings),
        server_version=__version__,
        request_id=call.request_id,
    )


def _pb_code(code: NamedCode) -> pb.Code:
    if code.values is None:
        return pb.Code(handle=code.handle, space=code.space)
    data = code_bytes(code.values)
    return pb.Code(data=data, shape=code.values.shape, handle=code.handle, space=code.space)


def _pb_face(face: Face) -> pb.Face:
    return pb.Face(
        box=_pb_box(face),
        score=face.score,
        landmarks=_pb_points(face.landmarks),
        corners=_pb_points(face.corners),
        roll_degrees=face.roll_degrees,
        unusable=face.unusable,
    )


def _pb_placement(placement: Placement | None) -> pb.Placement | None:
    if placement is None:
        return None
    found = placement.found
    return pb.Placement(
        alignment=_ALIGNMENTS_ON_WIRE[placement.alignment],
        face=placement.face,
        faces=placement.faces,
        box=None if found is None else _pb_box(found),
        landmarks=() if found is None else _pb_points(found.landmarks),
        corners=_pb_points(placement.corners),
        roll_degrees=placement.roll_degrees,
        width=placement.width,
        height=placement.height,
    )


def _pb_box(face: Face) -> pb.Box:
    left, top, right, bottom = face.box
    return pb.Box(left=left, top=top, right=right, bottom=bottom)


def _pb_points(points: Coordinates) -> list[pb.Point]:
    return [pb.Point(x=x, y=y) for x, y in points]


def _pb_optional(picture: EncodedPicture | None) -> pb.Picture | None:
    return None if picture is None else _pb_picture(picture)


def _pb_picture(picture: EncodedPicture) -> pb.Picture:
    return pb.Picture(
        data=picture.data,
        format=_FORMATS_ON_WIRE[picture.format or ImageFormat.PNG],
        width=picture.width,
        height=picture.height,
    )


def _pb_losses(losses: Losses) -> pb.Losses:
    return pb.Losses(
        pixel_mse_before=losses.pixel_mse_before,
        pixel_mse_after=losses.pixel_mse_after,
        refine_loss_before=losses.refine_loss_before,
        refine_loss_after=losses.refine_loss_after,
        steps_done=losses.steps_done,
        stop_reason=_STOP_REASONS[losses.stop_reason],
    )


def _pb_area_change(change: AreaChange) -> pb.AreaChange:
    return pb.AreaChange(
        inside_mse_before=change.inside_mse_before,
        inside_mse_after=change.inside_mse_after,
        outside_mse_before=change.outside_mse_before,
        outside_mse_after=change.outside_mse_after,
        losses=_pb_losses(change.losses),
    )


def _pb_timings(call: Call) -> list[pb.StageTiming]:
    return [pb.StageTiming(stage=stage, seconds=seconds) for stage, seconds in call.timings]


def _pb_bundle(bundle: Bundle) -> pb.Bundle:
    return pb.Bundle(
        name=bundle.name,
        resolution=bundle.resolution,
        layers=bundle.layers,
        code_size=bundle.code_size,
        directions=[_pb_direction(direction) for direction in bundle.directions.values()],
        refine=pb.RefineDefaults(**bundle.refine.model_dump()),
        alignment=bundle.alignment,
        licence=bundle.licence,
        summary=bundle.limits,
        data=bundle.data,
        code_space=bundle.code_space,
        presets=[_pb_preset(preset) for preset in bundle.presets.values()],
    )


def _pb_preset(preset: Preset) -> pb.Preset:
    edits = [
        pb.EditStep(direction=edit.direction, strength=edit.strength, layers=edit.layers, keep=edit.keep)
        for edit in preset.edits
    ]
    return pb.Preset(name=preset.name, label=preset.label, edits=edits)


def _pb_direction(direction: Direction) -> pb.Direction:
    held_out = direction.held_out
    return pb.Direction(
        name=direction.name,
        label=direction.label,
        layers=direction.layers,
        range_min=direction.range[0],
        range_max=direction.range[1],
        held_out=pb.HeldOut(metric=held_out.metric, value=held_out.value) if held_out else None,
        conditioned_on=direction.conditioned_on,
    )


def _pb_limits(settings: Settings) -> pb.Limits:
    return pb.Limits(**{field.name: getattr(settings, field.name) for field in pb.Limits.DESCRIPTOR.fields})


# --- errors -------------------------------------------------------------------------------------------------------


def grpc_status(error: EditingError) -> grpc.StatusCode:
    return grpc.StatusCode[error.row.grpc_code]


def error_detail(error: EditingError, request_id: str) -> pb.ErrorDetail:
    return pb.ErrorDetail(
        reason=error.row.reason,
        message=error.message,
        stage=error.stage,
        retryable=error.row.retryable,
        retry_after_s=error.retry_after_s,
        request_id=request_id,
        code=error.row.grpc_code,
    )
