"""Calls with several sources: interpolate, mix, mean, diffuse."""

from __future__ import annotations

from collections.abc import Iterable

from indomain.calls.call import Call
from indomain.calls.options import (
    Align,
    Alignment,
    Area,
    Pasting,
    Path,
    Refine,
    align_options,
    output_options,
    path_value,
    put_area,
    refine_options,
)
from indomain.calls.sources import EditSource, bundle_of, put_source
from indomain.v1 import editing_pb2
from indomain.wire.pictures import PictureLike, about, picture_to_wire


def _source(name: str, source: EditSource) -> editing_pb2.Source:
    with about(name):
        return put_source(editing_pb2.Source(), source)


def _picture(name: str, picture: PictureLike) -> editing_pb2.Picture:
    with about(name):
        return picture_to_wire(picture)


def interpolate(
    start: EditSource,
    end: EditSource,
    count: int = 8,
    *,
    path: Path = "linear",
    bundle: str = "",
    steps: int | None = None,
    quality: str | None = None,
    refine: Refine | str | None = None,
    include_pasted: bool = False,
    pasting: Pasting | None = None,
    strip_metadata: bool = False,
    align: Align | Alignment | None = None,
    timeout_s: float | None = None,
) -> Call[editing_pb2.InterpolateResponse]:
    """Gives the pictures on the way from one code to another, in order, each as soon as it is decoded.

    Example:
        >>> for frame in client.interpolate("portrait.png", "other.png", 3):
        ...     frame.image.save(f"way{frame.index}.png")

    Args:
        start, end: pictures, codes float32 [L, 512], or results, as in `edit`.
        count: number of pictures, with both ends; from 2 to `Limits.max_interpolated_pictures`, of a geodesic to
            `Limits.max_codes`.
        path: "linear", even steps on the straight line in W+; or "geodesic", the way of least energy that is found, on
            which the picture changes little and evenly from step to step. Each picture between the ends is refined for
            that: it takes as long as to invert it, and the first one comes once the whole way is there.
        bundle, steps, quality, refine, align, timeout_s: as in `edit`.
        include_pasted, pasting, strip_metadata: as in `invert`; the photograph is that of `start`.

    Raises:
        what `edit` raises, when the first picture is asked for.
        ValueError: there is no such path.
    """
    request = editing_pb2.InterpolateRequest(
        bundle=bundle_of(bundle, start, end),
        start=_source("start", start),
        end=_source("end", end),
        count=count,
        path=path_value(path),
        refine=refine_options(steps, quality, refine),
        output=output_options(include_pasted, pasting, strip_metadata),
        align=align_options(align),
    )
    return Call("Interpolate", request, timeout_s)


def mix(
    base: EditSource,
    style: EditSource,
    layers: Iterable[int],
    strength: float | None = None,
    *,
    region: Area | None = None,
    mask: PictureLike | None = None,
    bundle: str = "",
    steps: int | None = None,
    quality: str | None = None,
    refine: Refine | str | None = None,
    include_identity_score: bool = False,
    include_pasted: bool = False,
    pasting: Pasting | None = None,
    strip_metadata: bool = False,
    align: Align | Alignment | None = None,
    timeout_s: float | None = None,
) -> Call[editing_pb2.MixResponse]:
    """Puts layers of one code into another, everywhere or in an area.

    Example:
        >>> coloured = client.mix("portrait.png", "other.png", layers=[4, 5])
        >>> hair = client.mix("portrait.png", "other.png", layers=[4, 5], region=(0, 0, 1, 0.3))

    Args:
        base, style: pictures, codes float32 [L, 512], or results, as in `edit`.
        layers: taken from the style; low ones hold pose and shape, high ones colours and texture.
        strength: 0 keeps the base's layers, 1 replaces them; None: 1.
        region, mask: as in `edit`, of the base: only there the style shows, and the code is refined for that.
        bundle, steps, quality, refine, align, timeout_s: as in `edit`.
        include_identity_score, include_pasted, pasting, strip_metadata: as in `edit`; the photograph is that of `base`.

    Raises:
        what `edit` raises; InvalidOptionError also: the bundle has no such layers, or the strength is out of its range.
    """
    request = editing_pb2.MixRequest(
        bundle=bundle_of(bundle, base, style),
        base=_source("base", base),
        style=_source("style", style),
        layers=layers,
        strength=strength,
        refine=refine_options(steps, quality, refine),
        output=output_options(include_pasted, pasting, strip_metadata, identity_score=include_identity_score),
        align=align_options(align),
    )
    put_area(request, region, mask)
    return Call("Mix", request, timeout_s)


def mean(
    sources: Iterable[EditSource],
    *,
    path: Path = "linear",
    bundle: str = "",
    steps: int | None = None,
    quality: str | None = None,
    refine: Refine | str | None = None,
    include_pasted: bool = False,
    pasting: Pasting | None = None,
    strip_metadata: bool = False,
    align: Align | Alignment | None = None,
    timeout_s: float | None = None,
) -> Call[editing_pb2.MeanResponse]:
    """Gives the mean of several codes, which all count alike, and its distance from each.

    Example:
        >>> [sample] = client.sample([7])
        >>> mean = client.mean(["portrait.png", "other.png", sample], path="geodesic")
        >>> print(mean.distances)
        (...)

    Args:
        sources: pictures, codes float32 [L, 512], or results, as in `edit`; from 1 to `Limits.max_codes`.
        path: "linear", the mean of the codes' numbers; or "geodesic", the Fréchet mean: the code whose squared lengths
            of ways to all sources add up to the least that is found. It takes as long as to invert 1 + 2 pictures a
            source.
        bundle, steps, quality, refine, align, timeout_s: as in `edit`.
        include_pasted, pasting, strip_metadata: as in `invert`; the photograph is that of the first source.

    Raises:
        what `edit` raises; InvalidOptionError: there are no sources, or too many.
        ValueError: there is no such path.
    """
    sources = list(sources)
    request = editing_pb2.MeanRequest(
        bundle=bundle_of(bundle, *sources),
        sources=[_source(f"sources[{n}]", source) for n, source in enumerate(sources)],
        path=path_value(path),
        refine=refine_options(steps, quality, refine),
        output=output_options(include_pasted, pasting, strip_metadata),
        align=align_options(align),
    )
    return Call("Mean", request, timeout_s)


def diffuse(
    target: PictureLike,
    context: PictureLike,
    *,
    region: Area | None = None,
    mask: PictureLike | None = None,
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
) -> Call[editing_pb2.DiffuseResponse]:
    """Semantic diffusion: pastes a region of a target into a context, and refines the code on that region, so that the
    rest of the picture follows.

    Example:
        >>> moved = client.diffuse("portrait.png", "other.png", region=(0.25, 0.3, 0.75, 0.8))

    Args:
        target, context: pictures, as in `invert`.
        region: left, top, right, bottom as fractions of the aligned picture's sides; None, without a mask: the middle
            of a face.
        mask: in place of a region, a picture that is white where the target counts.
        include_aligned: also answer the target pasted into the context, as the encoder saw it.
        include_identity_score: also answer how likely the picture and the target pasted into the context show one
            person.
        bundle, steps, quality, refine, include_start, include_pasted, pasting, strip_metadata, align,
            timeout_s: as in `invert`; the photograph is the context.

    Raises:
        what `invert` raises; InvalidOptionError also: the region or the mask is empty.
    """
    request = editing_pb2.DiffuseRequest(
        bundle=bundle,
        target=_picture("target", target),
        context=_picture("context", context),
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
    )
    put_area(request, region, mask)
    return Call("Diffuse", request, timeout_s)
