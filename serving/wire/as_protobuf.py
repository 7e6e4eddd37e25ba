"""Protobuf messages <-> jobs and results, and errors <-> gRPC status."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt

from indomain.v1 import editing_pb2 as pb
from serving import __version__
from serving.bundle import Bundle, Direction
from serving.call import Call
from serving.errors import EditingError, InvalidOption, MalformedRequest
from serving.jobs import (
    Decoded,
    DecodeJob,
    Edited,
    EditJob,
    EditStep,
    EncodedPicture,
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
from serving.settings import Settings
from serving.wire.codes import code_array, code_bytes

ERROR_DETAIL_KEY = "indomain-error-bin"

_DEFAULTS = OutputOptions()
_DEFAULT_TRUNCATION = SampleJob(()).truncation
_FORMATS = {
    pb.IMAGE_FORMAT_PNG: ImageFormat.PNG,
    pb.IMAGE_FORMAT_JPEG: ImageFormat.JPEG,
    pb.IMAGE_FORMAT_WEBP: ImageFormat.WEBP,
    pb.IMAGE_FORMAT_RAW: ImageFormat.RAW,
}
_FORMATS_ON_WIRE = {value: key for key, value in _FORMATS.items()}
_STOP_REASONS = {
    StopReason.NOT_REFINED: pb.STOP_REASON_NOT_REFINED,
    StopReason.STEPS_DONE: pb.STOP_REASON_STEPS_DONE,
    StopReason.CONVERGED: pb.STOP_REASON_CONVERGED,
    StopReason.DEADLINE: pb.STOP_REASON_DEADLINE,
    StopReason.DIVERGED: pb.STOP_REASON_DIVERGED,
}
_REFINE_FIELDS = ("steps", "quality", "learning_rate", "pixel_weight", "perceptual_weight", "domain_weight")

# --- messages -> jobs ---------------------------------------------------------------------------------------------


def invert_job(request: pb.InvertRequest) -> InvertJob:
    return InvertJob(
        _picture(request.picture), request.bundle, _refine(request.refine), _output(request.output)
    )


def edit_job(request: pb.EditRequest) -> EditJob:
    source: EncodedPicture | npt.NDArray[np.float32]
    if request.WhichOneof("source") == "code":
        source = code_array(request.code.data, request.code.shape)
    elif request.WhichOneof("source") == "picture":
        source = _picture(request.picture)
    else:
        raise MalformedRequest("An edit needs a picture or a code to start from; send exactly one of them.")
    edits = tuple(EditStep(edit.direction, edit.strength, tuple(edit.layers)) for edit in request.edits)
    return EditJob(source, edits, request.bundle, _refine(request.refine), _output(request.output))


def decode_job(request: pb.DecodeRequest) -> DecodeJob:
    codes = tuple(code_array(code.data, code.shape) for code in request.codes)
    return DecodeJob(codes, request.bundle, _output(request.output))


def sample_job(request: pb.SampleRequest) -> SampleJob:
    truncation = request.truncation if request.HasField("truncation") else _DEFAULT_TRUNCATION
    return SampleJob(tuple(request.seeds), truncation, request.bundle, _output(request.output))


def _picture(picture: pb.Picture) -> EncodedPicture:
    if picture.format not in (pb.IMAGE_FORMAT_UNSPECIFIED, *_FORMATS):
        raise InvalidOption(f"Picture format {picture.format} is unknown; leave it out to have it found.")
    return EncodedPicture(picture.data, _FORMATS.get(picture.format), picture.width, picture.height)


def _refine(options: pb.RefineOptions) -> RefineOptions:
    given: dict[str, Any] = {
        name: getattr(options, name) for name in _REFINE_FIELDS if options.HasField(name)
    }
    return RefineOptions(**given)


def _output(options: pb.OutputOptions) -> OutputOptions:
    if options.format not in (pb.IMAGE_FORMAT_UNSPECIFIED, *_FORMATS):
        raise InvalidOption(f"output.format {options.format} is unknown; PNG, JPEG, WEBP and RAW are there.")
    return OutputOptions(
        format=_FORMATS.get(options.format, ImageFormat.PNG),
        quality=options.quality if options.HasField("quality") else _DEFAULTS.quality,
        image=not options.omit_image,
        aligned=options.include_aligned,
        start=options.include_start,
    )


# --- results -> messages ------------------------------------------------------------------------------------------


def invert_response(result: Inversion, call: Call) -> pb.InvertResponse:
    return pb.InvertResponse(
        bundle=result.bundle,
        code=_pb_code(result.code),
        image=_pb_optional(result.image),
        domain_score=result.domain_score,
        losses=_pb_losses(result.losses),
        timings=_pb_timings(call),
        request_id=call.request_id,
        aligned=_pb_optional(result.aligned),
        start=_pb_optional(result.start),
    )


def edit_response(result: Edited, call: Call) -> pb.EditResponse:
    return pb.EditResponse(
        bundle=result.bundle,
        code=_pb_code(result.code),
        image=_pb_optional(result.image),
        domain_score=result.domain_score,
        losses=_pb_losses(result.losses) if result.losses else None,
        timings=_pb_timings(call),
        request_id=call.request_id,
        source_code=_pb_code(result.source_code),
        aligned=_pb_optional(result.aligned),
        start=_pb_optional(result.start),
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


def _pb_code(code: npt.NDArray[np.float32]) -> pb.Code:
    return pb.Code(data=code_bytes(code), shape=code.shape)


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
    )


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
    )
