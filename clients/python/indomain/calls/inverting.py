"""Calls that find the faces and the code of a picture."""

from __future__ import annotations

from indomain.calls.call import Call
from indomain.calls.options import (
    Align,
    Alignment,
    Pasting,
    Refine,
    align_options,
    mask_picture,
    output_options,
    refine_options,
)
from indomain.v1 import editing_pb2
from indomain.wire.pictures import PictureLike, picture_to_wire


def find_faces(
    image: PictureLike, *, bundle: str = "", timeout_s: float | None = None
) -> Call[editing_pb2.FindFacesResponse]:
    """Finds the faces on a picture, the largest first, and says which of them can be edited.

    Example:
        >>> [face.unusable for face in client.find_faces("portrait.png").faces]
        ['']

    Args:
        image, bundle, timeout_s: as in `invert`.

    Raises:
        what `invert` raises; InvalidOptionError: the bundle does not align pictures by faces.
    """
    request = editing_pb2.FindFacesRequest(bundle=bundle, picture=picture_to_wire(image))
    return Call("FindFaces", request, timeout_s)


def invert(
    image: PictureLike,
    *,
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
    mask: PictureLike | None = None,
    timeout_s: float | None = None,
) -> Call[editing_pb2.InvertResponse]:
    """Finds the latent code of a picture: align, encode, refine, decode.

    Example:
        >>> inversion = client.invert("portrait.png")
        >>> inversion.losses.pixel_mse_after < inversion.losses.pixel_mse_before
        True
        >>> inversion.edit(smile=1.0).image.save("smile.png")
        >>> inversion.save("portrait.npz")
        >>> indomain.Inversion.load("portrait.npz", client).edit(smile=-1.0).image.save("frown.png")

    Args:
        image: path, bytes of a PNG, JPEG or WebP file, file opened in binary, PIL picture, or uint8 [H, W, 3].
        bundle: its name; empty: the gateway's default.
        steps: refinement steps, 0 for the encoder's code as it is; None: the bundle's default.
        quality: in place of steps, "fast", "balanced" or "best" (`Bundle.quality_steps`).
        refine: the other refinement options; a word is the quality.
        include_aligned: also answer the picture as the encoder saw it, cropped and resized.
        include_start: also answer the picture of the encoder's code, before refinement.
        include_identity_score: also answer how likely the picture and the photograph show one person, where the bundle
            can say it (`Bundle.identity_score`).
        include_pasted: also answer the whole photograph with the result in its place (`pasted`).
        pasting: "change" adds what the edit changed to the photograph, "replace" puts the generator's face there; None:
            change where a picture is edited, replace where it is not.
        strip_metadata: `pasted` without the photograph's metadata (EXIF, with the place; XMP; resolution) and without
            its colour profile, in sRGB.
        align: how the photograph is aligned, and which of several faces is meant; `"centre-crop"` and `"face"` are
            short for `Align("centre-crop")` and `Align("face")`.
        mask: a picture that is white where the image is known; the rest is found (inpainting).
        timeout_s: seconds for the call; refinement stops in time to answer with the best code found so far.

    Raises:
        OSError, TypeError, ValueError: `image` cannot be read or is no picture.
        InvalidPictureError: the gateway cannot read the picture, or it is over the gateway's limits.
        FaceError: the picture has no face, or not the one asked for, or the face is too small or turned away.
        InvalidOptionError: a refinement option is out of its range, the mask is black everywhere, or the bundle has no
            identity score.
        UnknownBundleError: no such bundle.
    """
    request = editing_pb2.InvertRequest(
        bundle=bundle,
        picture=picture_to_wire(image),
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
        mask=mask_picture(mask),
    )
    return Call("Invert", request, timeout_s)


def watch_invert(
    image: PictureLike,
    *,
    interval_s: float | None = None,
    previews: bool = True,
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
    mask: PictureLike | None = None,
    timeout_s: float | None = None,
) -> Call[editing_pb2.WatchInvertResponse]:
    """Inverts a picture and reports progress: an `InvertProgress` now and then, and at the end the `Inversion`.

    Example:
        >>> for event in client.watch_invert("portrait.png", interval_s=0.5):
        ...     if isinstance(event, indomain.InvertProgress):
        ...         event.preview.save("preview.png")
        >>> event.edit(smile=1.0).image.save("smile.png")

    Args:
        interval_s: seconds between two reports, at least; 0: as often as there is news; None: a quarter of a second.
        previews: whether reports have a picture and a domain score; each costs a decoding.
        image, bundle, steps, quality, refine, include_aligned, include_start, include_identity_score, include_pasted,
            pasting, strip_metadata, align, mask, timeout_s: as in `invert`.

    Raises:
        what `invert` raises, when the first report is asked for. Leaving the iteration early stops the refinement.
    """
    request = editing_pb2.WatchInvertRequest(
        bundle=bundle,
        picture=picture_to_wire(image),
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
        mask=mask_picture(mask),
        interval_s=interval_s,
        omit_previews=not previews,
    )
    return Call("WatchInvert", request, timeout_s)
