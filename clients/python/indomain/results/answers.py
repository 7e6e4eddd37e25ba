"""Answers of the gateway as results: each function reads one kind of message."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from google.protobuf.message import Message
from PIL import Image

from indomain.calls.options import Edit, Refine
from indomain.results.bundles import (
    Bundle,
    DetailCodes,
    Direction,
    GatewayInfo,
    HeldOut,
    Label,
    Limits,
    NoiseMaps,
    Preset,
)
from indomain.results.inversion import Inversion
from indomain.results.measures import AreaChange, Face, FoundFaces, Losses, Placement, Points
from indomain.results.pictures import (
    Diffused,
    Edited,
    InterpolationFrame,
    Inverted,
    InvertProgress,
    Mean,
    Mixed,
    Sample,
    SessionPicture,
)
from indomain.v1 import editing_pb2
from indomain.wire.codes import code_from_wire
from indomain.wire.pictures import photograph_from_wire, picture_from_wire

_Inversion = TypeVar("_Inversion", bound=Inversion)
_Inverted = TypeVar("_Inverted", bound=Inverted)


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


def found_faces(answer: editing_pb2.FindFacesResponse) -> FoundFaces:
    return FoundFaces(
        bundle=answer.bundle,
        faces=tuple(
            Face(
                box=_box(face.box),
                score=face.score,
                landmarks=_points(face.landmarks),
                corners=_points(face.corners),
                roll_degrees=face.roll_degrees,
                unusable=face.unusable,
            )
            for face in answer.faces
        ),
        width=answer.width,
        height=answer.height,
    )


def inversion(
    answer: editing_pb2.InvertResponse, kind: type[_Inversion], edit: Callable[..., Any]
) -> _Inversion:
    """The inversion, as an `Inversion` or `AsyncInversion`; `edit` is the client's method."""
    return replace(_inverted(answer, kind), _edit=edit)


def diffused(answer: editing_pb2.DiffuseResponse) -> Diffused:
    return _inverted(answer, Diffused)


def edited(answer: editing_pb2.EditResponse) -> Edited:
    return Edited(
        bundle=answer.bundle,
        code=code_from_wire(answer.code),
        source_code=code_from_wire(answer.source_code),
        image=picture_from_wire(answer.image),
        domain_score=answer.domain_score,
        losses=_optional_losses(answer, "losses"),
        stage_seconds=_stage_seconds(answer.timings),
        request_id=answer.request_id,
        aligned=_optional_picture(answer, "aligned", answer.aligned),
        start=_optional_picture(answer, "start", answer.start),
        handle=answer.code.handle,
        code_space=answer.code.space,
        source_handle=answer.source_code.handle,
        pasted=_photograph(answer),
        placement=_placement(answer),
        area=_area_change(answer),
        faces=tuple(edited(face) for face in answer.faces),
        strokes=_optional_losses(answer, "strokes"),
        identity_score=_identity_score(answer),
    )


def inversion_event(
    answer: editing_pb2.WatchInvertResponse, read: Callable[[editing_pb2.InvertResponse], _Inversion]
) -> InvertProgress | _Inversion:
    """A report of progress, or the inversion, which `read` makes."""
    if answer.WhichOneof("event") == "result":
        return read(answer.result)
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
        losses=_optional_losses(edited, "losses"),
        stage_seconds=_stage_seconds(edited.timings),
        request_id=edited.request_id,
        pasted=_photograph(edited),
        placement=_placement(edited),
        area=_area_change(edited),
        strokes=_optional_losses(edited, "strokes"),
        identity_score=_identity_score(edited),
    )


def interpolation_frame(answer: editing_pb2.InterpolateResponse) -> InterpolationFrame:
    return InterpolationFrame(
        index=answer.index,
        position=answer.position,
        bundle=answer.bundle,
        code=code_from_wire(answer.code),
        image=picture_from_wire(answer.image),
        domain_score=answer.domain_score,
        code_space=answer.code.space,
        pasted=_photograph(answer),
        placement=_placement(answer),
        energy=answer.energy,
        length=answer.length,
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
        code_space=answer.code.space,
        pasted=_photograph(answer),
        placement=_placement(answer),
        area=_area_change(answer),
        identity_score=_identity_score(answer),
    )


def mean(answer: editing_pb2.MeanResponse) -> Mean:
    return Mean(
        bundle=answer.bundle,
        code=code_from_wire(answer.code),
        image=picture_from_wire(answer.image),
        domain_score=answer.domain_score,
        stage_seconds=_stage_seconds(answer.timings),
        request_id=answer.request_id,
        handle=answer.code.handle,
        code_space=answer.code.space,
        pasted=_photograph(answer),
        placement=_placement(answer),
        distances=tuple(answer.distances),
    )


def pictures(answer: editing_pb2.DecodeResponse) -> list[Image.Image]:
    return [picture_from_wire(image) for image in answer.images]


def samples(seeds: Sequence[int], answer: editing_pb2.SampleResponse) -> list[Sample]:
    return [
        Sample(
            seed=seed,
            bundle=answer.bundle,
            code=code_from_wire(code),
            image=picture_from_wire(image),
            code_space=code.space,
        )
        for seed, code, image in zip(seeds, answer.codes, answer.images, strict=True)
    ]


def _inverted(
    answer: editing_pb2.InvertResponse | editing_pb2.DiffuseResponse, kind: type[_Inverted]
) -> _Inverted:
    return kind(
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
        code_space=answer.code.space,
        pasted=_photograph(answer),
        placement=_placement(answer),
        identity_score=_identity_score(answer),
    )


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
            **{
                name: getattr(refine, name)
                for name in ("detail", "identity_weight", "grey", "downsampling", "noise")
                if refine.HasField(name)
            },
        ),
        chunk_steps=refine.chunk_steps,
        quality_steps=dict(refine.quality_steps),
        alignment=bundle.alignment,
        licence=bundle.licence,
        summary=bundle.summary,
        data=bundle.data,
        code_space=bundle.code_space,
        presets={preset.name: _preset(preset) for preset in bundle.presets},
        detail=_detail(bundle.detail) if bundle.HasField("detail") else None,
        labels={label.name: _label(label) for label in bundle.labels},
        noise=_noise(bundle.noise) if bundle.HasField("noise") else None,
        identity_score=bundle.identity_score,
    )


def _detail(detail: editing_pb2.DetailCodes) -> DetailCodes:
    return DetailCodes(detail.rows, detail.layer, detail.side, detail.maps, detail.fade)


def _label(label: editing_pb2.Label) -> Label:
    return Label(label.name, label.frequency, _held_out(label))


def _held_out(told: editing_pb2.Label | editing_pb2.Direction) -> HeldOut | None:
    return HeldOut(told.held_out.metric, told.held_out.value) if told.HasField("held_out") else None


def _noise(noise: editing_pb2.NoiseMaps) -> NoiseMaps:
    return NoiseMaps(noise.rows, tuple(noise.layers), tuple(noise.sides), noise.fade)


def _preset(preset: editing_pb2.Preset) -> Preset:
    edits = (
        Edit(step.direction, step.strength, tuple(step.layers), tuple(step.keep)) for step in preset.edits
    )
    return Preset(name=preset.name, label=preset.label, edits=tuple(edits))


def _direction(direction: editing_pb2.Direction) -> Direction:
    return Direction(
        name=direction.name,
        label=direction.label,
        layers=tuple(direction.layers),
        range=(direction.range_min, direction.range_max),
        held_out=_held_out(direction),
        conditioned_on=tuple(direction.conditioned_on),
    )


def _placement(
    answer: editing_pb2.InvertResponse
    | editing_pb2.EditResponse
    | editing_pb2.InterpolateResponse
    | editing_pb2.MixResponse
    | editing_pb2.MeanResponse
    | editing_pb2.DiffuseResponse,
) -> Placement | None:
    if not answer.HasField("placement"):
        return None
    placement = answer.placement
    alignment = editing_pb2.Alignment.Name(placement.alignment)
    return Placement(
        alignment=alignment.removeprefix("ALIGNMENT_").lower().replace("_", "-"),
        face=placement.face,
        faces=placement.faces,
        box=_box(placement.box) if placement.HasField("box") else None,
        landmarks=_points(placement.landmarks),
        corners=_points(placement.corners),
        roll_degrees=placement.roll_degrees,
        width=placement.width,
        height=placement.height,
    )


def _box(box: editing_pb2.Box) -> tuple[float, float, float, float]:
    return box.left, box.top, box.right, box.bottom


def _points(points: Iterable[editing_pb2.Point]) -> Points:
    return tuple((point.x, point.y) for point in points)


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


def _optional_losses(answer: editing_pb2.EditResponse, name: str) -> Losses | None:
    return _losses(getattr(answer, name)) if answer.HasField(name) else None


def _identity_score(answer: Any) -> float | None:
    return answer.identity_score if answer.HasField("identity_score") else None


def _area_change(answer: editing_pb2.EditResponse | editing_pb2.MixResponse) -> AreaChange | None:
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


def _photograph(answer: Any) -> Image.Image | None:
    return photograph_from_wire(answer.pasted) if answer.HasField("pasted") else None
