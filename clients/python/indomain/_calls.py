"""Arguments to request messages, and answers to results. No transport here, so that every kind of client shares it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
from google.protobuf.message import Message
from PIL import Image

from indomain._codes import CodeArray, code_from_wire, code_to_wire, codes_to_wire
from indomain._pictures import (
    WIRE_FORMATS,
    PictureFormat,
    PictureLike,
    is_picture,
    picture_from_wire,
    picture_to_wire,
)
from indomain._results import (
    AreaChange,
    Between,
    Bundle,
    Diffused,
    Direction,
    Edit,
    Edited,
    GatewayInfo,
    HeldOut,
    Inversion,
    InvertProgress,
    Limits,
    Losses,
    Mixed,
    Preset,
    Refine,
    Sample,
    SessionPicture,
)
from indomain.v1 import editing_pb2

Result: TypeAlias = Inversion | Edited | Mixed | Diffused | Between | Sample
EditSource: TypeAlias = PictureLike | CodeArray | Result
"""A picture, which is inverted first; or a code float32 [L, 512], alone or within a result."""
Region: TypeAlias = tuple[float, float, float, float]
"""Left, top, right, bottom in parts of the picture's sides."""


# --- requests ----------------------------------------------------------------------------------------


def refine_options(
    steps: int | None, quality: str | None, refine: Refine | None
) -> editing_pb2.RefineOptions:
    """`steps` or `quality` alone are the common cases; they win over those of `refine`."""
    options = {name: value for name, value in asdict(refine or Refine()).items() if value is not None}
    if steps is not None or quality is not None:
        options |= {"steps": steps, "quality": quality}
    return editing_pb2.RefineOptions(**options)


def output_options(
    picture_format: PictureFormat,
    *,
    aligned: bool = False,
    start: bool = False,
    codes: bool = True,
    quality: int | None = None,
) -> editing_pb2.OutputOptions:
    return editing_pb2.OutputOptions(
        format=WIRE_FORMATS[picture_format],
        quality=quality,
        include_aligned=aligned,
        include_start=start,
        omit_codes=not codes,
    )


def invert_request(
    picture: PictureLike,
    *,
    bundle: str,
    refine: editing_pb2.RefineOptions,
    output: editing_pb2.OutputOptions,
) -> editing_pb2.InvertRequest:
    return editing_pb2.InvertRequest(
        bundle=bundle, picture=picture_to_wire(picture), refine=refine, output=output
    )


def watch_invert_request(
    invert: editing_pb2.InvertRequest, *, interval_s: float | None, previews: bool
) -> editing_pb2.WatchInvertRequest:
    return editing_pb2.WatchInvertRequest(
        bundle=invert.bundle,
        picture=invert.picture,
        refine=invert.refine,
        output=invert.output,
        interval_s=interval_s,
        omit_previews=not previews,
    )


def edit_request(
    source: EditSource,
    steps: list[editing_pb2.EditStep],
    region: Region | None = None,
    mask: PictureLike | None = None,
    *,
    bundle: str,
    refine: editing_pb2.RefineOptions,
    output: editing_pb2.OutputOptions,
    by_handle: bool,
) -> editing_pb2.EditRequest:
    request = editing_pb2.EditRequest(bundle=_bundle_of(bundle, source), edits=steps, output=output)
    _put_source(request, source, by_handle=by_handle)
    put_area(request, region, mask)
    if request.HasField("picture") or request.WhichOneof("area"):
        request.refine.CopyFrom(refine)
    return request


def edit_steps(
    edits: Iterable[Edit], strengths: Mapping[str, float], keep: Iterable[str] = ()
) -> list[editing_pb2.EditStep]:
    """`keep` counts for every step, beside what a step keeps itself."""
    steps = [*edits, *(Edit(name, strength) for name, strength in strengths.items())]
    kept = [keep] if isinstance(keep, str) else list(keep)
    return [
        editing_pb2.EditStep(
            direction=step.direction, strength=step.strength, layers=step.layers, keep=[*step.keep, *kept]
        )
        for step in steps
    ]


def put_area(
    request: editing_pb2.EditRequest | editing_pb2.EditSessionRequest | editing_pb2.DiffuseRequest,
    region: Region | None,
    mask: PictureLike | None,
) -> None:
    if region is not None and mask is not None:
        raise ValueError("the area is a region or a mask; give one of them")
    if region is not None:
        left, top, right, bottom = region
        request.region.CopyFrom(editing_pb2.Region(left=left, top=top, right=right, bottom=bottom))
    if mask is not None:
        request.mask.CopyFrom(picture_to_wire(mask))


def session_opening(
    source: EditSource,
    *,
    bundle: str,
    refine: editing_pb2.RefineOptions,
    output: editing_pb2.OutputOptions,
) -> editing_pb2.EditSessionRequest:
    """A request of a session that names its source: by its code, as there is no second try within a session."""
    request = editing_pb2.EditSessionRequest(bundle=_bundle_of(bundle, source), refine=refine, output=output)
    _put_source(request, source, by_handle=False)
    return request


def interpolate_request(
    start: EditSource,
    end: EditSource,
    count: int,
    *,
    bundle: str,
    refine: editing_pb2.RefineOptions,
    output: editing_pb2.OutputOptions,
    by_handle: bool,
) -> editing_pb2.InterpolateRequest:
    return editing_pb2.InterpolateRequest(
        bundle=_bundle_of(bundle, start, end),
        start=_put_source(editing_pb2.Source(), start, by_handle=by_handle),
        end=_put_source(editing_pb2.Source(), end, by_handle=by_handle),
        count=count,
        refine=refine,
        output=output,
    )


def mix_request(
    base: EditSource,
    style: EditSource,
    layers: Iterable[int],
    strength: float | None,
    *,
    bundle: str,
    refine: editing_pb2.RefineOptions,
    output: editing_pb2.OutputOptions,
    by_handle: bool,
) -> editing_pb2.MixRequest:
    return editing_pb2.MixRequest(
        bundle=_bundle_of(bundle, base, style),
        base=_put_source(editing_pb2.Source(), base, by_handle=by_handle),
        style=_put_source(editing_pb2.Source(), style, by_handle=by_handle),
        layers=layers,
        strength=strength,
        refine=refine,
        output=output,
    )


def diffuse_request(
    target: PictureLike,
    context: PictureLike,
    region: Region | None,
    mask: PictureLike | None,
    *,
    bundle: str,
    refine: editing_pb2.RefineOptions,
    output: editing_pb2.OutputOptions,
) -> editing_pb2.DiffuseRequest:
    request = editing_pb2.DiffuseRequest(
        bundle=bundle,
        target=picture_to_wire(target),
        context=picture_to_wire(context),
        refine=refine,
        output=output,
    )
    put_area(request, region, mask)
    return request


def decode_request(
    codes: npt.ArrayLike, *, bundle: str, output: editing_pb2.OutputOptions
) -> editing_pb2.DecodeRequest:
    return editing_pb2.DecodeRequest(bundle=bundle, codes=codes_to_wire(codes), output=output)


def sample_request(
    seeds: list[int], truncation: float | None, *, bundle: str, output: editing_pb2.OutputOptions
) -> editing_pb2.SampleRequest:
    request = editing_pb2.SampleRequest(bundle=bundle, seeds=seeds, output=output)
    if truncation is not None:
        request.truncation = truncation
    return request


def _bundle_of(bundle: str, *sources: EditSource) -> str:
    """The bundle that is named, or that of the first result."""
    return bundle or next((source.bundle for source in sources if isinstance(source, Result)), "")


_HasSource = TypeVar(
    "_HasSource", editing_pb2.EditRequest, editing_pb2.EditSessionRequest, editing_pb2.Source
)


def _put_source(message: _HasSource, source: EditSource, *, by_handle: bool) -> _HasSource:
    """The message, with the source in it; by its handle where it has one and that is asked for."""
    if isinstance(source, Result):
        handle = getattr(source, "handle", "")
        if handle and by_handle:
            message.code.handle = handle
        else:
            message.code.CopyFrom(code_to_wire(source.code))
    elif is_picture(source):
        message.picture.CopyFrom(picture_to_wire(source))
    else:
        message.code.CopyFrom(_single_code_to_wire(source))
    return message


def _single_code_to_wire(source: object) -> editing_pb2.Code:
    array = np.asarray(source)
    if not np.issubdtype(array.dtype, np.floating):
        raise TypeError(
            "what is edited is a picture (path, bytes, PIL image, uint8 array), a floating-point code [L, 512] or "
            f"a result of invert or edit, not {type(source).__name__}"
        )
    return code_to_wire(array)


# --- answers -----------------------------------------------------------------------------------------


def gateway_info(answer: editing_pb2.ListBundlesResponse) -> GatewayInfo:
    return GatewayInfo(
        bundles=tuple(_bundle(bundle) for bundle in answer.bundles),
        limits=Limits(
            max_picture_bytes=answer.limits.max_picture_bytes,
            max_picture_pixels=answer.limits.max_picture_pixels,
            max_codes=answer.limits.max_codes,
            max_refine_steps=answer.limits.max_refine_steps,
            max_edits=answer.limits.max_edits,
            max_request_bytes=answer.limits.max_request_bytes,
            max_interpolated_pictures=answer.limits.max_interpolated_pictures,
        ),
        version=answer.server_version,
    )


def inversion(answer: editing_pb2.InvertResponse) -> Inversion:
    return Inversion(
        bundle=answer.bundle,
        code=code_from_wire(answer.code),
        image=picture_from_wire(answer.image),
        losses=_losses(answer.losses),
        domain_score=answer.domain_score,
        stage_seconds=_stage_seconds(answer.timings),
        request_id=answer.request_id,
        aligned=_optional_picture(answer, "aligned", answer.aligned),
        start=_optional_picture(answer, "start", answer.start),
        handle=answer.code.handle,
    )


def edited(answer: editing_pb2.EditResponse) -> Edited:
    return Edited(
        bundle=answer.bundle,
        code=code_from_wire(answer.code),
        source_code=code_from_wire(answer.source_code),
        image=picture_from_wire(answer.image),
        domain_score=answer.domain_score,
        losses=_losses(answer.losses) if answer.HasField("losses") else None,
        stage_seconds=_stage_seconds(answer.timings),
        request_id=answer.request_id,
        aligned=_optional_picture(answer, "aligned", answer.aligned),
        start=_optional_picture(answer, "start", answer.start),
        handle=answer.code.handle,
        source_handle=answer.source_code.handle,
        area=_area_change(answer),
    )


def watched(answer: editing_pb2.WatchInvertResponse) -> InvertProgress | Inversion:
    if answer.WhichOneof("event") == "result":
        return inversion(answer.result)
    progress = answer.progress
    return InvertProgress(
        step=progress.step,
        steps=progress.steps,
        loss=progress.loss if progress.HasField("loss") else None,
        preview=_optional_picture(progress, "preview", progress.preview),
        domain_score=progress.domain_score if progress.HasField("domain_score") else None,
    )


def session_picture(answer: editing_pb2.EditSessionResponse) -> SessionPicture:
    edited = answer.edited
    return SessionPicture(
        sequence=answer.sequence,
        skipped=answer.skipped,
        image=picture_from_wire(edited.image),
        domain_score=edited.domain_score,
        losses=_losses(edited.losses) if edited.HasField("losses") else None,
        stage_seconds=_stage_seconds(edited.timings),
        request_id=edited.request_id,
        area=_area_change(edited),
    )


def between(answer: editing_pb2.InterpolateResponse) -> Between:
    return Between(
        index=answer.index,
        position=answer.position,
        bundle=answer.bundle,
        code=code_from_wire(answer.code),
        image=picture_from_wire(answer.image),
        domain_score=answer.domain_score,
    )


def mixed(answer: editing_pb2.MixResponse) -> Mixed:
    return Mixed(
        bundle=answer.bundle,
        code=code_from_wire(answer.code),
        image=picture_from_wire(answer.image),
        domain_score=answer.domain_score,
        stage_seconds=_stage_seconds(answer.timings),
        request_id=answer.request_id,
        handle=answer.code.handle,
    )


def diffused(answer: editing_pb2.DiffuseResponse) -> Diffused:
    return Diffused(
        bundle=answer.bundle,
        code=code_from_wire(answer.code),
        image=picture_from_wire(answer.image),
        losses=_losses(answer.losses),
        domain_score=answer.domain_score,
        stage_seconds=_stage_seconds(answer.timings),
        request_id=answer.request_id,
        aligned=_optional_picture(answer, "aligned", answer.aligned),
        start=_optional_picture(answer, "start", answer.start),
        handle=answer.code.handle,
    )


def decoded(answer: editing_pb2.DecodeResponse) -> list[Image.Image]:
    return [picture_from_wire(image) for image in answer.images]


def samples(seeds: list[int], answer: editing_pb2.SampleResponse) -> list[Sample]:
    return [
        Sample(seed=seed, bundle=answer.bundle, code=code_from_wire(code), image=picture_from_wire(image))
        for seed, code, image in zip(seeds, answer.codes, answer.images, strict=True)
    ]


def _bundle(bundle: editing_pb2.Bundle) -> Bundle:
    refine = bundle.refine
    return Bundle(
        name=bundle.name,
        resolution=bundle.resolution,
        layers=bundle.layers,
        code_size=bundle.code_size,
        directions={direction.name: _direction(direction) for direction in bundle.directions},
        refine=Refine(
            steps=refine.steps,
            learning_rate=refine.learning_rate,
            pixel_weight=refine.pixel_weight,
            perceptual_weight=refine.perceptual_weight,
            domain_weight=refine.domain_weight,
        ),
        chunk_steps=refine.chunk_steps,
        quality_steps=dict(refine.quality_steps),
        alignment=bundle.alignment,
        licence=bundle.licence,
        summary=bundle.summary,
        data=bundle.data,
        presets={preset.name: _preset(preset) for preset in bundle.presets},
    )


def _preset(preset: editing_pb2.Preset) -> Preset:
    edits = (
        Edit(step.direction, step.strength, tuple(step.layers), tuple(step.keep)) for step in preset.edits
    )
    return Preset(name=preset.name, label=preset.label, edits=tuple(edits))


def _direction(direction: editing_pb2.Direction) -> Direction:
    held_out = direction.held_out
    return Direction(
        name=direction.name,
        label=direction.label,
        layers=tuple(direction.layers),
        range=(direction.range_min, direction.range_max),
        held_out=HeldOut(held_out.metric, held_out.value) if direction.HasField("held_out") else None,
        conditioned_on=tuple(direction.conditioned_on),
    )


def _losses(losses: editing_pb2.Losses) -> Losses:
    reason = editing_pb2.StopReason.Name(losses.stop_reason)
    return Losses(
        pixel_mse_before=losses.pixel_mse_before,
        pixel_mse_after=losses.pixel_mse_after,
        refine_loss_before=losses.refine_loss_before,
        refine_loss_after=losses.refine_loss_after,
        steps_done=losses.steps_done,
        stop_reason=reason.removeprefix("STOP_REASON_").lower(),
    )


def _area_change(answer: editing_pb2.EditResponse) -> AreaChange | None:
    if not answer.HasField("area"):
        return None
    return AreaChange(
        inside_mse_before=answer.area.inside_mse_before,
        inside_mse_after=answer.area.inside_mse_after,
        outside_mse_before=answer.area.outside_mse_before,
        outside_mse_after=answer.area.outside_mse_after,
        losses=_losses(answer.area.losses),
    )


def _stage_seconds(timings: Iterable[editing_pb2.StageTiming]) -> dict[str, float]:
    seconds: dict[str, float] = {}
    for timing in timings:
        seconds[timing.stage] = seconds.get(timing.stage, 0.0) + timing.seconds
    return seconds


def _optional_picture(answer: Message, name: str, picture: editing_pb2.Picture) -> Image.Image | None:
    return picture_from_wire(picture) if answer.HasField(name) else None
