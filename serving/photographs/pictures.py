"""A picture that a caller sent, as the pipeline asks for it: its size, squares of it, and the answer pasted into it.

Limits are checked against the header (formats/headers.py), before anything is decoded. EXIF orientation is applied. The
networks see sRGB on white, with 8 bits; an animation or a file of several pages gives its first picture. A centred
square is resized with Lanczos.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from PIL import Image as PillowImage

from serving.jobs import EncodedPicture, Image, ImageFormat, OutputOptions
from serving.photographs.alignment import Similarity
from serving.photographs.colours import ColourMode, Colours, colours_of
from serving.photographs.formats.encoding import encode_photograph, keeps_16_bits
from serving.photographs.formats.headers import Header, read_header
from serving.photographs.formats.loading import (
    AT_ONCE,
    TURNS,
    bands,
    is_sideways,
    lower_bytes,
    own_pixels,
    read_image,
    turned_upright,
)
from serving.photographs.formats.metadata import Metadata, answered_metadata
from serving.photographs.pasting import Patch, paste
from serving.photographs.photograph import Photograph, flattened

_COLOUR_MODES: dict[str, ColourMode] = {
    "L": "L",
    "LA": "L",
    "RGB": "RGB",
    "RGBA": "RGB",
    "CMYK": "CMYK",
}


class PictureReader:
    """A picture that a caller sent. What is asked of it decodes it.

    Its methods take processor time: call them off the event loop, and one at a time. They raise InvalidPicture and
    PictureTooLarge.
    """

    def __init__(self, picture: EncodedPicture, header: Header) -> None:
        self._picture = picture
        self._header = header
        self._photograph: Photograph | None = None

    def size(self) -> tuple[int, int]:
        """Width and height of the upright picture, which is decoded whole for what comes next."""
        photograph = self._opened()
        return photograph.width, photograph.height

    def centre_square(self, resolution: int) -> tuple[Image, tuple[int, int]]:
        """The centred square, uint8 [resolution, resolution, 3]; also the upright picture's width and height."""
        return read_image(
            self._picture,
            self._header,
            lambda image, metadata: _centre_square(image, metadata, self._header, resolution),
        )

    def cut(self, place: Similarity, side: int) -> Image:
        """The square at `place`, uint8 [side, side, 3]."""
        return self._opened().cut(place, side)

    def cut_on_both(self, place: Similarity, side: int) -> Image:
        """The square at `place` on black and on white, uint8 [2, side, side, 3]: what differs is transparent."""
        photograph = self._opened()
        return np.stack([photograph.cut(place, side, ground=ground) for ground in (0, 255)])

    def cut_for_detector(self, places: list[Similarity], side: int) -> Image:
        """The squares at `places`, uint8 [N, side, side, 3], black beyond the photograph's edges."""
        photograph = self._opened()
        return np.stack([photograph.cut(place, side, mirrored=False) for place in places])

    def paste(self, patches: Sequence[Patch], output: OutputOptions) -> EncodedPicture:
        """The photograph with results pasted in.

        It keeps its own colours, transparency, bits and metadata, as far as the format has them and `output` says so.
        """
        photograph, metadata = read_image(self._picture, self._header, self._whole)
        # What was looked at is of no further use.
        self._photograph = None
        if keeps_16_bits(self._header, output):
            photograph.lower = self._lower(photograph.picture, metadata)
        if _changes_colours(photograph, output):
            photograph, metadata = photograph.in_srgb(), replace(metadata, profile=b"")
        paste(photograph, patches)
        return _answer(photograph, metadata, output)

    def _opened(self) -> Photograph:
        if self._photograph is None:
            self._photograph, _ = read_image(self._picture, self._header, self._whole)
        return self._photograph

    def _whole(self, image: PillowImage.Image, metadata: Metadata) -> tuple[Photograph, Metadata]:
        own = own_pixels(image, self._header)
        colours, metadata = _colours(own, metadata)
        return Photograph(turned_upright(own, metadata.orientation), colours=colours), metadata

    def _lower(self, upper: PillowImage.Image, metadata: Metadata) -> PillowImage.Image | None:
        """The lower 8 bits of the samples, upright and in the same mode; None without them."""
        lower = lower_bytes(self._picture, self._header)
        if lower is None:
            return None
        lower = turned_upright(lower, metadata.orientation)
        if (lower.mode, upper.mode) == ("RGB", "RGBA"):
            # One colour is transparent. In 8 bits alpha is 0 or 255, in 16 bits twice that byte.
            lower.putalpha(upper.getchannel("A"))
        return lower if lower.mode == upper.mode else None


def _colours(own: PillowImage.Image, metadata: Metadata) -> tuple[Colours | None, Metadata]:
    """The colours of a picture, None for sRGB, and its metadata: without the profile if that is of no use."""
    colours = colours_of(metadata.profile, _COLOUR_MODES[own.mode])
    if colours is None:
        return None, replace(metadata, profile=b"") if metadata.profile else metadata
    return None if colours.is_srgb else colours, metadata


def centre_square(
    picture: EncodedPicture, resolution: int, *, max_bytes: int, max_pixels: int
) -> tuple[Image, tuple[int, int]]:
    """The same as PictureReader.centre_square, for one picture at once."""
    return PictureReader(picture, read_header(picture, max_bytes, max_pixels)).centre_square(resolution)


# --- the encoder's square -----------------------------------------------------------------------------------------


def _centre_square(
    image: PillowImage.Image, metadata: Metadata, header: Header, resolution: int
) -> tuple[Image, tuple[int, int]]:
    full, orientation = image.size, metadata.orientation
    if image.format == "JPEG":
        # The decoder may halve the size as it goes; at four times the wanted size the result stays within
        # one level of 255.
        image.draft(None, (4 * resolution, 4 * resolution))
    own = own_pixels(image, header)
    colours, _ = _colours(own, metadata)
    width, height = own.size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    # A centred square stays centred when it is turned: so turn the small picture, not the large one.
    square = _in_srgb(_resized(own, (left, top, left + side, top + side), resolution), colours)
    if orientation in TURNS:
        square = square.transpose(TURNS[orientation])
    return np.array(square, dtype=np.uint8), full[::-1] if is_sideways(orientation) else full


def _in_srgb(square: PillowImage.Image, colours: Colours | None) -> PillowImage.Image:
    """A picture in its own colours as sRGB on white."""
    rgb = flattened(square, colours)
    return colours.to_srgb(rgb) if colours is not None and colours.mode == "RGB" else rgb


def _resized(image: PillowImage.Image, box: tuple[int, int, int, int], resolution: int) -> PillowImage.Image:
    """The square `box` of a picture, resized to [resolution, resolution] in the picture's own mode."""
    size, lanczos = (resolution, resolution), PillowImage.Resampling.LANCZOS
    if image.size == size:
        return image
    if image.mode in ("LA", "RGBA") and image.width * image.height > AT_ONCE:
        return _resized_in_bands(image, box, resolution)
    return image.resize(size, lanczos, box=box, reducing_gap=3.0)


def _resized_in_bands(
    image: PillowImage.Image, box: tuple[int, int, int, int], resolution: int
) -> PillowImage.Image:
    """The same for a large picture with transparency.

    As Pillow resizes: pixels weigh as much as they cover. Pillow would convert all of the picture first.
    """
    size, lanczos = (resolution, resolution), PillowImage.Resampling.LANCZOS
    weighted = {"LA": "La", "RGBA": "RGBa"}[image.mode]
    scale = (box[2] - box[0]) / resolution
    by = max(1, int(scale / 3.0))
    # The filter reaches over three pixels of the result.
    reach = int(3 * max(1.0, scale)) + 1
    left, top = max(0, box[0] - reach), max(0, box[1] - reach)
    right, bottom = min(image.width, box[2] + reach), min(image.height, box[3] + reach)
    reduced = PillowImage.new(weighted, (-(-(right - left) // by), -(-(bottom - top) // by)))
    for start, band in bands(image, top, bottom, by):
        part = band.crop((left, 0, right, band.height)).convert(weighted)
        reduced.paste(part.reduce(by), (0, (start - top) // by))
    inside = (
        (box[0] - left) / by,
        (box[1] - top) / by,
        (box[2] - left) / by,
        (box[3] - top) / by,
    )
    return reduced.resize(size, lanczos, box=inside).convert(image.mode)


# --- the answer ---------------------------------------------------------------------------------------------------


def _changes_colours(photograph: Photograph, output: OutputOptions) -> bool:
    """Whether the answer cannot have the photograph's own colours, and is in sRGB."""
    colours, mode = photograph.colours, photograph.picture.mode
    if mode == "CMYK" and (colours is None or output.format is not ImageFormat.JPEG):
        return True
    if colours is None:
        return False
    # Raw pixels have no profile, and WebP has none for grey.
    without_profile = output.strip_metadata or output.format is ImageFormat.RAW
    grey_webp = colours.mode == "L" and output.format is ImageFormat.WEBP
    return without_profile or grey_webp or colours.back is None


def _answer(photograph: Photograph, metadata: Metadata, output: OutputOptions) -> EncodedPicture:
    """Encodes a photograph in the form that is nearest to its own and that the format has."""
    picture, lower = photograph.picture, photograph.lower
    if output.strip_metadata or output.format is ImageFormat.RAW:
        kept = Metadata()
    else:
        kept = answered_metadata(metadata, picture.width, picture.height)
    if output.format is ImageFormat.RAW:
        picture = flattened(picture, None)
    elif output.format is ImageFormat.JPEG and picture.mode in ("LA", "RGBA"):
        mode = "L" if picture.mode == "LA" else "RGB"
        picture = flattened(picture, None).convert(mode)
    elif output.format is ImageFormat.WEBP and picture.mode in ("L", "LA"):
        kept = replace(kept, profile=b"")
    return encode_photograph(picture, lower, kept, output)
