"""The call `Edit`, and the session in which one source is edited again and again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from indomain.calls.call import Call
from indomain.calls.options import (
    Align,
    Alignment,
    Area,
    Edit,
    Pasting,
    Refine,
    align_options,
    edit_steps,
    output_options,
    put_area,
    refine_options,
)
from indomain.calls.sources import EditSource, bundle_of, name_codes, put_source
from indomain.v1 import editing_pb2
from indomain.wire.pictures import PictureFormat, PictureLike, about, picture_to_wire

# Options of `edit` that concern its source and its answer. A session takes them once, when it is opened.
OPENING_OPTIONS: Final = frozenset(
    {
        *("bundle", "steps", "quality", "refine", "align", "timeout_s"),
        *("include_aligned", "include_start", "include_identity_score"),
        *("include_pasted", "pasting", "strip_metadata"),
    }
)


def edit(
    source: EditSource,
    *edits: Edit,
    keep: Iterable[str] = (),
    region: Area | None = None,
    mask: PictureLike | None = None,
    strokes: PictureLike | None = None,
    within_range: bool = False,
    label: Mapping[str, float] | None = None,
    bundle: str = "",
    steps: int | None = None,
    quality: str | None = None,
    refine: Refine | str | None = None,
    include_aligned: bool = False,
    include_start: bool = False,
    include_identity_score: bool = False,
    include_pasted: bool = False,
    pasting: Pasting | None = None,
    strip_metadata: bool = False,
    align: Align | Alignment | None = None,
    timeout_s: float | None = None,
    **strengths: float,
) -> Call[editing_pb2.EditResponse]:
    """Moves a picture's code along directions, or gives it other labels.

    Example:
        >>> younger = client.edit("portrait.png", smile=1.0, age=-1.0)
        >>> older = client.edit("portrait.png", age=1.0, keep=["smile"])
        >>> smiling = client.edit("portrait.png", smile=1.0, region=(0.2, 0.6, 0.8, 0.95))
        >>> redder = client.edit("portrait.png", strokes="lips.png")
        >>> back = client.edit(younger, indomain.Edit("age", 1.0, layers=(0, 1)))

    Args:
        source: a picture, which is inverted first; or a code float32 [L, 512], or a result of `invert` or `edit`.
        edits: for directions that need layers, or whose names are no Python names. Edits add up.
        strengths: direction = strength, in standard deviations of sampled codes; or preset = factor of its edits.
        keep: directions whose meaning no edit may change.
        region: left, top, right, bottom as fractions of the aligned picture's sides: only there the picture changes.
            The code is refined for that.
        mask: in place of a region, a picture that is white where the picture changes.
        strokes: a picture with transparency, e.g. a PIL picture in mode RGBA, which is painted onto the edited picture.
            The code is refined so that its picture follows the strokes where they are, as far as it stays natural.
            Strokes and masks of a photograph's size lie on it; other, square ones on the aligned picture.
        within_range: cut each strength to the range of its direction (of a preset: to 0..1).
        label: labels that the picture is to have, of a bundle whose generator was trained with some (`Bundle.labels`),
            each 0..1: `{"smiling": 1}`. Those that are not named stay. The edits come after it.
        include_identity_score: also answer how likely the picture and the photograph show one person; where the source
            is a code, the edited picture and that of the code.
        bundle, steps, quality, refine, include_aligned, include_start, include_pasted, pasting, strip_metadata, align,
            timeout_s: as in `invert`; all but the first and the last count only where the source is a picture, the
            refinement also with an area or strokes.

    Raises:
        OSError, TypeError, ValueError: `source`, `mask` or `strokes` cannot be read or is neither picture nor code.
        UnknownDirectionError, UnknownBundleError: no such direction, no such bundle.
        InvalidPictureError, InvalidCodeError, InvalidOptionError: the gateway refuses the source or an option.
    """
    request = editing_pb2.EditRequest(
        bundle=bundle_of(bundle, source),
        edits=edit_steps(edits, strengths, keep),
        refine=refine_options(steps, quality, refine),
        output=output_options(
            include_pasted,
            pasting,
            strip_metadata,
            aligned=include_aligned,
            start=include_start,
            identity_score=include_identity_score,
        ),
        align=align_options(align),
        within_range=within_range,
        label=label,
    )
    put_source(request, source)
    put_area(request, region, mask)
    if strokes is not None:
        with about("strokes"):
            request.strokes.CopyFrom(picture_to_wire(strokes))
    if not request.HasField("picture"):
        request.ClearField("align")
        if not request.HasField("area") and not request.HasField("strokes"):
            request.ClearField("refine")
    return Call("Edit", request, timeout_s)


def session(
    source: EditSource,
    *,
    bundle: str = "",
    steps: int | None = None,
    quality: str | None = None,
    refine: Refine | str | None = None,
    include_identity_score: bool = False,
    include_pasted: bool = False,
    pasting: Pasting | None = None,
    strip_metadata: bool = False,
    align: Align | Alignment | None = None,
    picture_format: PictureFormat | None = None,
    picture_quality: int | None = None,
    timeout_s: float | None = None,
) -> Call[editing_pb2.EditSessionResponse]:
    """Opens a session in which one source is edited again and again, e.g. while somebody drags a slider. The source is
    inverted once. A session that fails is not tried again.

    Example:
        >>> with client.session("portrait.png", picture_format="jpeg") as session:
        ...     for strength in (0.25, 0.5, 1.0):
        ...         picture = session.edit(smile=strength)

    Args:
        source, bundle, steps, quality, refine, include_identity_score, align: as in `edit`.
        include_pasted, pasting, strip_metadata: each answer also has the whole photograph with the result in its place.
        picture_format, picture_quality: of the answers, in place of the client's; quality 1..100 for JPEG and WebP.
        timeout_s: seconds for the whole session; None: no limit.

    Raises:
        OSError, TypeError, ValueError: `source` cannot be read or is neither picture nor code.
    """
    request = editing_pb2.EditRequest(
        bundle=bundle_of(bundle, source),
        refine=refine_options(steps, quality, refine),
        output=output_options(
            include_pasted,
            pasting,
            strip_metadata,
            identity_score=include_identity_score,
            codes=False,
            picture_format=picture_format,
            quality=picture_quality,
        ),
        align=align_options(align),
    )
    put_source(request, source)
    # A session is not tried again, so a handle that the gateway has forgotten would end it: send the code.
    name_codes(request, by_handle=False)
    return Call("EditSession", editing_pb2.EditSessionRequest(edit=request), timeout_s)
