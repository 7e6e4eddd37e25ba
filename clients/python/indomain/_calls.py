"""The calls of the service: what each sends, and how its answer is read. No transport and no waiting here, so that
every kind of client shares it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Generic, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
from google.protobuf.message import Message
from PIL import Image

from indomain import _answers
from indomain._codes import CodeArray, code_to_wire, codes_to_wire
from indomain._pictures import WIRE_FORMATS, PictureFormat, PictureLike, is_picture, picture_to_wire
from indomain._results import (
    Align,
    Between,
    Diffused,
    Edit,
    Edited,
    FoundFaces,
    GatewayInfo,
    Inversion,
    InvertProgress,
    Mixed,
    Pasting,
    Refine,
    Result,
    Sample,
)
from indomain.v1 import editing_pb2

EditSource: TypeAlias = PictureLike | CodeArray | Result
"""A picture, which is inverted first; or a code float32 [L, 512], alone or within a result."""

Area: TypeAlias = tuple[float, float, float, float]
"""Left, top, right, bottom of a rectangle, in parts of the picture's sides."""

_Answer = TypeVar("_Answer")
_Other = TypeVar("_Other")


@dataclass(frozen=True)
class Call(Generic[_Answer]):
    """One call: the method's name in the contract, its request, and how an answer (or each of a stream's) is read.

    Codes in the request that the gateway has a handle for carry both; which of them travels is settled by each try.
    """

    method: str
    request: Message
    read: Callable[[Any], _Answer]

    def then(self, change: Callable[[_Answer], _Other]) -> Call[_Other]:
        """The same call, of whose answers something else is made."""
        return Call(self.method, self.request, lambda answer: change(self.read(answer)))


# --- options that calls share ------------------------------------------------------------------------


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
    pasted: bool = False,
    pasting: Pasting | None = None,
) -> editing_pb2.OutputOptions:
    return editing_pb2.OutputOptions(
        format=WIRE_FORMATS[picture_format],
        quality=quality,
        include_aligned=aligned,
        include_start=start,
        omit_codes=not codes,
        include_pasted=pasted,
        pasting=_choice("PASTING", pasting, editing_pb2.Pasting),
    )


def align_options(align: Align | None) -> editing_pb2.AlignOptions:
    """Raises ValueError for an alignment that there is not."""
    align = align or Align()
    kind = _choice("ALIGNMENT", align.alignment, editing_pb2.Alignment)
    return editing_pb2.AlignOptions(alignment=kind, face=align.face)


def _choice(prefix: str, name: str | None, enum: Any) -> Any:
    """A value of an enum by its short name, as "centre-crop"; None: the one that says nothing."""
    values = dict(enum.items())
    full = f"{prefix}_{'UNSPECIFIED' if name is None else name.upper().replace('-', '_')}"
    if full not in values:
        known = ", ".join(
            key.removeprefix(f"{prefix}_").lower().replace("_", "-") for key in list(values)[1:]
        )
        raise ValueError(f"{prefix.lower()} is {name!r}; it is one of {known}")
    return values[full]


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
    request: editing_pb2.EditRequest | editing_pb2.DiffuseRequest,
    region: Area | None,
    mask: PictureLike | None,
) -> None:
    if region is not None and mask is not None:
        raise ValueError("the area is a region or a mask; give one of them")
    if region is not None:
        left, top, right, bottom = region
        request.region.CopyFrom(editing_pb2.Region(left=left, top=top, right=right, bottom=bottom))
    if mask is not None:
        request.mask.CopyFrom(picture_to_wire(mask))


# --- calls -------------------------------------------------------------------------------------------


def info() -> Call[GatewayInfo]:
    return Call("ListBundles", editing_pb2.ListBundlesRequest(), _answers.gateway_info)


def find_faces(picture: PictureLike, *, bundle: str) -> Call[FoundFaces]:
    request = editing_pb2.FindFacesRequest(bundle=bundle, picture=picture_to_wire(picture))
    return Call("FindFaces", request, _answers.found_faces)


def invert(
    picture: PictureLike,
    *,
    bundle: str,
    refine: editing_pb2.RefineOptions,
    output: editing_pb2.OutputOptions,
    align: editing_pb2.AlignOptions,
) -> Call[Inversion]:
    request = editing_pb2.InvertRequest(
        bundle=bundle, picture=picture_to_wire(picture), refine=refine, output=output, align=align
    )
    return Call("Invert", request, _answers.inversion)


def watch_invert(
    picture: PictureLike,
    *,
    interval_s: float | None,
    previews: bool,
    bundle: str,
    refine: editing_pb2.RefineOptions,
    output: editing_pb2.OutputOptions,
    align: editing_pb2.AlignOptions,
) -> Call[InvertProgress | Inversion]:
    request = editing_pb2.WatchInvertRequest(
        bundle=bundle,
        picture=picture_to_wire(picture),
        refine=refine,
        output=output,
        align=align,
        interval_s=interval_s,
        omit_previews=not previews,
    )
    return Call("WatchInvert", request, _answers.watched)


def edit(
    source: EditSource,
    steps: Iterable[editing_pb2.EditStep],
    region: Area | None = None,
    mask: PictureLike | None = None,
    *,
    bundle: str,
    refine: editing_pb2.RefineOptions,
    output: editing_pb2.OutputOptions,
    align: editing_pb2.AlignOptions,
) -> Call[Edited]:
    request = editing_pb2.EditRequest(bundle=_bundle_of(bundle, source), edits=steps, output=output)
    _put_source(request, source)
    put_area(request, region, mask)
    if request.HasField("picture") or request.WhichOneof("area"):
        request.refine.CopyFrom(refine)
    if request.HasField("picture"):
        request.align.CopyFrom(align)
    return Call("Edit", request, _answers.edited)


def session_opening(
    source: EditSource,
    *,
    bundle: str,
    refine: editing_pb2.RefineOptions,
    output: editing_pb2.OutputOptions,
    align: editing_pb2.AlignOptions,
) -> editing_pb2.EditSessionRequest:
    """A request of a session that names its source: by its code, as there is no second try within a session."""
    edit = editing_pb2.EditRequest(
        bundle=_bundle_of(bundle, source), refine=refine, output=output, align=align
    )
    _put_source(edit, source)
    name_codes(edit, by_handle=False)
    return editing_pb2.EditSessionRequest(edit=edit)


def interpolate(
    start: EditSource,
    end: EditSource,
    count: int,
    *,
    bundle: str,
    refine: editing_pb2.RefineOptions,
    output: editing_pb2.OutputOptions,
    align: editing_pb2.AlignOptions,
) -> Call[Between]:
    request = editing_pb2.InterpolateRequest(
        bundle=_bundle_of(bundle, start, end),
        start=_put_source(editing_pb2.Source(), start),
        end=_put_source(editing_pb2.Source(), end),
        count=count,
        refine=refine,
        output=output,
        align=align,
    )
    return Call("Interpolate", request, _answers.between)


def mix(
    base: EditSource,
    style: EditSource,
    layers: Iterable[int],
    strength: float | None,
    *,
    bundle: str,
    refine: editing_pb2.RefineOptions,
    output: editing_pb2.OutputOptions,
    align: editing_pb2.AlignOptions,
) -> Call[Mixed]:
    request = editing_pb2.MixRequest(
        bundle=_bundle_of(bundle, base, style),
        base=_put_source(editing_pb2.Source(), base),
        style=_put_source(editing_pb2.Source(), style),
        layers=layers,
        strength=strength,
        refine=refine,
        output=output,
        align=align,
    )
    return Call("Mix", request, _answers.mixed)


def diffuse(
    target: PictureLike,
    context: PictureLike,
    region: Area | None,
    mask: PictureLike | None,
    *,
    bundle: str,
    refine: editing_pb2.RefineOptions,
    output: editing_pb2.OutputOptions,
    align: editing_pb2.AlignOptions,
) -> Call[Diffused]:
    request = editing_pb2.DiffuseRequest(
        bundle=bundle,
        target=picture_to_wire(target),
        context=picture_to_wire(context),
        refine=refine,
        output=output,
        align=align,
    )
    put_area(request, region, mask)
    return Call("Diffuse", request, _answers.diffused)


def decode(
    codes: npt.ArrayLike, *, bundle: str, output: editing_pb2.OutputOptions
) -> Call[list[Image.Image]]:
    request = editing_pb2.DecodeRequest(bundle=bundle, codes=codes_to_wire(codes), output=output)
    return Call("Decode", request, _answers.decoded)


def sample(
    seeds: int | Iterable[int],
    truncation: float | None,
    *,
    bundle: str,
    output: editing_pb2.OutputOptions,
) -> Call[list[Sample]]:
    wanted: Sequence[int] = [seeds] if isinstance(seeds, int) else list(seeds)
    request = editing_pb2.SampleRequest(bundle=bundle, seeds=wanted, truncation=truncation, output=output)
    return Call("Sample", request, lambda answer: _answers.samples(wanted, answer))


# --- codes and handles -------------------------------------------------------------------------------


def has_handles(request: Message) -> bool:
    """Whether a code of the request may go by the gateway's handle for it."""
    return any(code.handle for code in _codes_in(request))


def name_codes(request: Message, *, by_handle: bool) -> None:
    """Leaves of each code that has a handle either the handle or the values."""
    for code in _codes_in(request):
        if code.handle:
            for field in ("data", "shape") if by_handle else ("handle",):
                code.ClearField(field)


def _codes_in(request: Message) -> Iterator[editing_pb2.Code]:
    for _, value in request.ListFields():
        if isinstance(value, editing_pb2.Code):
            yield value
        elif isinstance(value, editing_pb2.Source):
            yield from _codes_in(value)


# --- sources -----------------------------------------------------------------------------------------


def _bundle_of(bundle: str, *sources: EditSource) -> str:
    """The bundle that is named, or that of the first result."""
    return bundle or next((source.bundle for source in sources if isinstance(source, Result)), "")


_HasSource = TypeVar("_HasSource", editing_pb2.EditRequest, editing_pb2.Source)


def _put_source(message: _HasSource, source: EditSource) -> _HasSource:
    """The message, with the source in it."""
    if isinstance(source, Result):
        message.code.CopyFrom(code_to_wire(source.code))
        message.code.handle = getattr(source, "handle", "")
        message.code.space = source.code_space
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
