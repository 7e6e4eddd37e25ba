"""Options that several calls share, and their messages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

from indomain.v1 import editing_pb2
from indomain.wire.pictures import WIRE_FORMATS, PictureFormat, PictureLike, about, picture_to_wire

Pasting: TypeAlias = Literal["change", "replace"]
"""How a result is put into its photograph: its change is added, or the generator's face replaces what is there."""

Alignment: TypeAlias = Literal["face", "centre-crop"]
"""Find a face and align it, or take the largest centred square."""

Path: TypeAlias = Literal["linear", "geodesic"]
"""The way between two codes: the straight line in W+, or the way of least energy in pictures that is found."""

Area: TypeAlias = tuple[float, float, float, float]
"""Left, top, right, bottom of a rectangle, as fractions of the picture's width and height."""


@dataclass(frozen=True)
class Edit:
    """One step along a direction.

    Attributes:
        direction: its name, e.g. `"smile"`, or a preset's.
        strength: in standard deviations of sampled codes along the direction; for a preset, the factor of its edits.
        layers: move only these of the direction's layers; empty: move all of them.
        keep: directions whose meaning must not change, e.g. `("age",)`.
    """

    direction: str
    strength: float
    layers: tuple[int, ...] = ()
    keep: tuple[str, ...] = ()


@dataclass(frozen=True)
class Refine:
    """How to refine the encoder's code; None takes the bundle's default.

    Attributes:
        steps: of the optimisation; 0 leaves the encoder's code as it is.
        quality: in place of steps, a name of `Bundle.quality_steps`: "fast", "balanced" or "best".
        learning_rate: how far the first step moves a code, in units of the code.
        pixel_weight, perceptual_weight, domain_weight, identity_weight: of the terms of the objective.
        allow_fewer_steps: where the gateway is busy, do fewer steps rather than wait or be refused.
        detail, noise: whether what the layers' vectors cannot say is found, too, as detail (`Bundle.detail`) or as
            noise maps (`Bundle.noise`); False: the code has none.
        grey: only the picture's grey values are known; its colours are found.
        downsampling: only means over squares of so many pixels of the aligned picture are known, 2, 4, 8 or 16; what is
            finer is found.
    """

    steps: int | None = None
    quality: str | None = None
    learning_rate: float | None = None
    pixel_weight: float | None = None
    perceptual_weight: float | None = None
    domain_weight: float | None = None
    allow_fewer_steps: bool | None = None
    detail: bool | None = None
    identity_weight: float | None = None
    grey: bool | None = None
    downsampling: int | None = None
    noise: bool | None = None


@dataclass(frozen=True)
class Align:
    """How a photograph is aligned before it is encoded.

    Attributes:
        alignment: `"face"` finds a face and aligns it as in the bundle's training pictures; `"centre-crop"` takes the
            largest centred square; None does what the bundle was trained for (`Bundle.alignment`), and takes a picture
            of exactly the bundle's size as it is.
        face: which of several faces, 0 the largest, in the order of `Client.find_faces`; None: the largest. In an edit
            several, in any order, or `"all"` that can be edited: `Edited.faces` has each of them, and `Edited.pasted`
            the photograph with all.
    """

    alignment: Alignment | None = None
    face: int | Sequence[int] | Literal["all"] | None = None


def refine_options(
    steps: int | None, quality: str | None, refine: Refine | str | None
) -> editing_pb2.RefineOptions:
    """The message of `refine`, of which a word is the quality; `steps` or `quality`, where given, replace its own."""
    refine = Refine(quality=refine) if isinstance(refine, str) else refine or Refine()
    options = {name: value for name, value in asdict(refine).items() if value is not None}
    if steps is not None or quality is not None:
        options |= {"steps": steps, "quality": quality}
    return editing_pb2.RefineOptions(**options)


def output_options(
    pasted: bool = False,
    pasting: Pasting | None = None,
    strip_metadata: bool = False,
    *,
    aligned: bool = False,
    start: bool = False,
    identity_score: bool = False,
    codes: bool = True,
    picture_format: PictureFormat | None = None,
    quality: int | None = None,
) -> editing_pb2.OutputOptions:
    """Which pictures to answer, and how. Raises ValueError where there is no such pasting."""
    return editing_pb2.OutputOptions(
        format=WIRE_FORMATS[picture_format] if picture_format else None,
        quality=quality,
        include_aligned=aligned,
        include_start=start,
        include_identity_score=identity_score,
        omit_codes=not codes,
        include_pasted=pasted,
        pasting=_enum_value("PASTING", pasting, editing_pb2.Pasting),
        strip_metadata=strip_metadata,
    )


def mask_picture(mask: PictureLike | None) -> editing_pb2.Picture | None:
    """The message of a mask. Raises OSError, TypeError or ValueError, which name it."""
    if mask is None:
        return None
    with about("mask"):
        return picture_to_wire(mask)


def path_value(path: Path) -> editing_pb2.Path:
    """The value of a way; that of a line is left out, as older gateways know no other. Raises ValueError where there is
    no such way."""
    value: editing_pb2.Path = _enum_value("PATH", path, editing_pb2.Path)
    return editing_pb2.PATH_UNSPECIFIED if path == "linear" else value


def align_options(align: Align | Alignment | None) -> editing_pb2.AlignOptions:
    """The message of `align`; a word is its `alignment`.

    Raises ValueError where there is no such alignment, and where `face` is no face; TypeError.
    """
    if not isinstance(align, str | Align | None):
        raise TypeError(f'align is an indomain.Align, "face" or "centre-crop", not {align!r}')
    align = Align(align) if isinstance(align, str) else align or Align()
    message = editing_pb2.AlignOptions(
        alignment=_enum_value("ALIGNMENT", align.alignment, editing_pb2.Alignment)
    )
    face = align.face
    if face == "all":
        message.all_faces = True
    elif isinstance(face, str):
        raise ValueError(f'face is {face!r}; it is a number, numbers, or "all"')
    elif isinstance(face, Sequence):
        if not face:
            raise ValueError("face has no numbers; leave it out for the largest face")
        message.faces.extend(int(number) for number in face)
    elif face is not None:
        message.face = face
    return message


def _enum_value(prefix: str, name: str | None, enum: Any) -> Any:
    """The value of an enum for its short name: `"centre-crop"` is ALIGNMENT_CENTRE_CROP. None: unspecified.

    Raises ValueError where the enum has no such value.
    """
    values = dict(enum.items())
    full = f"{prefix}_{'UNSPECIFIED' if name is None else name.upper().replace('-', '_')}"
    if full not in values:
        known = ", ".join(
            key.removeprefix(f"{prefix}_").lower().replace("_", "-") for key in list(values)[1:]
        )
        raise ValueError(f"{prefix.lower()} is {name!r}; it is one of {known}")
    return values[full]


def edit_steps(
    edits: Iterable[Edit], strengths: Mapping[str, float], keep: Iterable[str]
) -> list[editing_pb2.EditStep]:
    """The steps of an edit; each keeps what it says itself, and all directions of `keep`.

    Raises TypeError where a strength is no number: then the name is no direction, but a misspelt option.
    """
    for name, strength in strengths.items():
        if not hasattr(strength, "__float__"):
            raise TypeError(f"edit has no option {name!r}; if it is a direction, its strength is a number")
    steps = [*edits, *(Edit(name, strength) for name, strength in strengths.items())]
    kept = [keep] if isinstance(keep, str) else list(keep)
    return [
        editing_pb2.EditStep(
            direction=step.direction, strength=step.strength, layers=step.layers, keep=[*step.keep, *kept]
        )
        for step in steps
    ]


def put_area(
    request: editing_pb2.EditRequest | editing_pb2.MixRequest | editing_pb2.DiffuseRequest,
    region: Area | None,
    mask: PictureLike | None,
) -> None:
    """Puts an area into a request; none where both are None.

    Raises ValueError where both are given or the region has not four numbers, and what `picture_to_wire` raises.
    """
    if region is not None and mask is not None:
        raise ValueError("the area is a region or a mask; give one of them")
    if region is not None:
        if len(region) != 4:
            raise ValueError(f"a region is left, top, right, bottom, each from 0 to 1, not {region!r}")
        left, top, right, bottom = region
        request.region.CopyFrom(editing_pb2.Region(left=left, top=top, right=right, bottom=bottom))
    if (picture := mask_picture(mask)) is not None:
        request.mask.CopyFrom(picture)
