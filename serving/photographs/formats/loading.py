"""From the bytes of a picture to Pillow's pixels in the picture's own colours, and to upright ones.

A picture is converted band by band, so that no step takes more than 7 bytes for each of its pixels.
"""

from __future__ import annotations

import io
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TypeVar

import numpy as np
from PIL import AvifImagePlugin, ImageFile, UnidentifiedImageError
from PIL import Image as PillowImage

from serving.errors import InvalidPicture, PictureTooLarge
from serving.jobs import EncodedPicture
from serving.photographs.formats.chunks import png_profile, read_png, without_profile
from serving.photographs.formats.headers import READ_FORMATS, Header
from serving.photographs.formats.jpeg import check_scans, read_jpeg
from serving.photographs.formats.limits import DAMAGED
from serving.photographs.formats.metadata import Metadata, loaded_metadata, loaded_resolution
from serving.photographs.formats.tiff import pixels_only, read_tiff

T = TypeVar("T")

# EXIF orientation -> the operation that makes the picture upright.
TURNS = {
    2: PillowImage.Transpose.FLIP_LEFT_RIGHT,
    3: PillowImage.Transpose.ROTATE_180,
    4: PillowImage.Transpose.FLIP_TOP_BOTTOM,
    5: PillowImage.Transpose.TRANSPOSE,
    6: PillowImage.Transpose.ROTATE_270,
    7: PillowImage.Transpose.TRANSVERSE,
    8: PillowImage.Transpose.ROTATE_90,
}
# The orientations whose first row of pixels comes last when the picture is upright.
_FROM_THE_END = (3, 4, 6, 7)
_BAND_PIXELS = 2**18
# A picture of so many pixels is turned in one piece, which is faster and takes 8 bytes a pixel.
AT_ONCE = 2**24
# Pillow's modes -> those that a photograph is kept in: grey, RGB and CMYK of 8 bits; the first two may have alpha.
_OWN_MODES = {
    "1": "L",
    "L": "L",
    "I;16": "L",
    "I;16B": "L",
    "I;16L": "L",
    "LA": "LA",
    "La": "LA",
    "RGB": "RGB",
    "RGBX": "RGB",
    "YCbCr": "RGB",
    "P": "RGB",
    "PA": "RGBA",
    "RGBA": "RGBA",
    "RGBa": "RGBA",
    "CMYK": "CMYK",
}
_OTHER_ORDER = "B" if sys.byteorder == "little" else "L"
# Pillow's own check for decompression bombs stays on after ours. Its warnings, one for each odd tag, are of no use.
warnings.filterwarnings("ignore", module="PIL")
# The planes of an AVIF are decoded once, not once for each thread.
AvifImagePlugin.DEFAULT_MAX_THREADS = 1
# Each picture in one piece of memory: the memory of a large one is given back as a whole.
PillowImage.core.set_use_block_allocator(1)


def read_image(
    picture: EncodedPicture,
    header: Header,
    use: Callable[[PillowImage.Image, Metadata], T],
    *,
    lower: bool = False,
) -> T:
    """Opens a picture and passes it to `use`, with its metadata; a JPEG is not loaded yet.

    lower: of the samples of a 16-bit picture in colours, load the lower 8 bits, not the upper ones. Raises
    InvalidPicture and PictureTooLarge.
    """
    data, metadata = picture.data, None
    if header.format == "RAW":
        raw = PillowImage.frombytes("RGB", (header.width, header.height), data)
        return use(raw, Metadata())
    if header.format == "JPEG":
        jpeg = read_jpeg(data)
        check_scans(data, jpeg)
        metadata = Metadata(jpeg.exif, jpeg.xmp, jpeg.profile)
        # Without its metadata, which Pillow would read through.
        data = b"".join([data[:2], *jpeg.kept, memoryview(data)[jpeg.scan_start :]])
    elif header.format == "TIFF":
        tiff = read_tiff(data)
        metadata = Metadata(data, tiff.xmp, tiff.profile, tiff.resolution)
        data = pixels_only(data)
    elif header.format == "PNG":
        png = read_png(data)
        profile = png_profile(data, png)
        data = without_profile(data, png)
    try:
        with PillowImage.open(io.BytesIO(data), formats=[header.format]) as image:
            # An AVIF may name other sizes too (containers.py).
            larger = image.width * image.height > header.width * header.height
            if larger or (image.size != (header.width, header.height) and header.format != "AVIF"):
                raise InvalidPicture("The picture has two headers that differ; open it and save it again.")
            if header.format == "JPEG" and metadata is not None:
                return use(image, replace(metadata, resolution=loaded_resolution(image)))
            if lower:
                _swap_bytes(image)
            # A PNG may have its metadata after its pixels.
            image.load()
            if header.format == "PNG":
                metadata = replace(loaded_metadata(image), profile=profile)
            return use(image, metadata or loaded_metadata(image))
    except (InvalidPicture, PictureTooLarge):
        raise
    except UnidentifiedImageError:
        raise InvalidPicture(
            f"The bytes are not a {READ_FORMATS} picture; convert it to one of these."
        ) from None
    except (MemoryError, PillowImage.DecompressionBombError):
        raise PictureTooLarge("The picture takes too much memory to decode; send a smaller one.") from None
    # Decoders raise errors of many types on bytes that are made to break them.
    except Exception:
        raise InvalidPicture(DAMAGED) from None


# --- pixels in the picture's own colours --------------------------------------------------------------------------


def own_pixels(image: PillowImage.Image, header: Header) -> PillowImage.Image:
    """A loaded picture in mode L, LA, RGB, RGBA or CMYK, as it lies; of 16 bits, the upper 8.

    `image` cannot be used afterwards: its memory is given back. Raises InvalidPicture.
    """
    image.load()
    mode = _OWN_MODES.get(image.mode)
    if mode is None:
        raise InvalidPicture(
            f"The picture's pixels are of a kind that is not read (Pillow's mode {image.mode}); save it as RGB with 8 "
            "or 16 bits."
        )
    key = image.info.get("transparency")
    if image.mode.startswith("I"):
        own = PillowImage.new("L", image.size)
        for start, band in bands(image, 0, image.height):
            own.paste(PillowImage.fromarray((np.asarray(band) >> 8).astype(np.uint8)), (0, start))
        image.close()
        return own
    if key is not None and mode in ("L", "RGB"):
        if image.mode == "RGB":
            image.putalpha(_alpha_of_key(image, key, header))
            del image.info["transparency"]
            return image
        mode += "A"
    if image.mode == mode:
        return image
    own = PillowImage.new(mode, image.size)
    for start, band in bands(image, 0, image.height):
        own.paste(band.convert(mode), (0, start))
    image.close()
    return own


def _alpha_of_key(image: PillowImage.Image, key: tuple[int, ...], header: Header) -> PillowImage.Image:
    """The alpha of a picture in which one colour is transparent. Of 16 bits only the upper 8 are compared."""
    colour = np.array(key) >> 8 if header.bits == 16 else np.array(key)
    alpha = PillowImage.new("L", image.size)
    for start, band in bands(image, 0, image.height):
        opaque = (np.asarray(band) != colour).any(-1)
        alpha.paste(PillowImage.fromarray(opaque.astype(np.uint8) * 255), (0, start))
    return alpha


def turned_upright(image: PillowImage.Image, orientation: int) -> PillowImage.Image:
    """The picture upright. `image` cannot be used afterwards."""
    if orientation not in TURNS:
        return image
    if image.mode != "RGB" or image.width * image.height <= AT_ONCE:
        return image.transpose(TURNS[orientation])
    # Pillow's RGB takes 4 bytes a pixel. Beside one such picture there is only room for an array, which takes 3.
    width, height = image.size[::-1] if is_sideways(orientation) else image.size
    pixels = np.empty((height, width, 3), np.uint8)
    for start, band in bands(image, 0, image.height):
        part = band.transpose(TURNS[orientation])
        if orientation in _FROM_THE_END:
            start = image.height - start - band.height
        left, top = (start, 0) if is_sideways(orientation) else (0, start)
        pixels[top : top + part.height, left : left + part.width] = np.asarray(part)
    image.close()
    return PillowImage.fromarray(pixels)


def is_sideways(orientation: int) -> bool:
    """Whether an upright picture's width is the stored one's height."""
    return 5 <= orientation <= 8


def bands(
    image: PillowImage.Image, first: int, last: int, multiple: int = 1
) -> Iterator[tuple[int, PillowImage.Image]]:
    """The rows from `first` to before `last` in bands, each with the number of its own first row.

    The number of rows in a band is a multiple of `multiple`, but for the last one.
    """
    rows = max(1, _BAND_PIXELS // image.width // multiple) * multiple
    for start in range(first, last, rows):
        yield start, image.crop((0, start, image.width, min(last, start + rows)))


# --- 16 bits ------------------------------------------------------------------------------------------------------


def lower_bytes(picture: EncodedPicture, header: Header) -> PillowImage.Image | None:
    """The lower 8 bits of the samples of a 16-bit picture, as it lies, in mode L, RGB or RGBA; None if it has none.

    Pillow keeps the upper 8 bits of colours. Told that the bytes of a number stand the other way round, it keeps the
    lower ones. Raises InvalidPicture and PictureTooLarge.
    """
    if header.bits != 16:
        return None
    return read_image(picture, header, _lower_pixels, lower=True)


def _swap_bytes(image: ImageFile.ImageFile) -> None:
    """Makes an opened picture load the lower bytes of its samples, if Pillow would load the upper ones."""
    tiles = []
    for tile in image.tile:
        rawmode, *others = tile.args if isinstance(tile.args, tuple) else (tile.args,)
        if image.mode.startswith("I") or ";16" not in rawmode:
            return
        if rawmode == "LA;16B":
            # There is no such way for grey with alpha: all four bytes are loaded, as if each were a channel.
            rawmode = "RGBA"
        else:
            rawmode = rawmode[:-1] + {"L": "B", "B": "L", "N": _OTHER_ORDER}[rawmode[-1]]
        tiles.append(tile._replace(args=(rawmode, *others) if others else rawmode))
    image.info["grey with alpha"] = any(tile.args == "RGBA" for tile in tiles)
    image.tile = tiles


def _lower_pixels(image: PillowImage.Image, _: Metadata) -> PillowImage.Image | None:
    if image.mode.startswith("I"):
        lower = PillowImage.new("L", image.size)
        for start, band in bands(image, 0, image.height):
            lower.paste(PillowImage.fromarray((np.asarray(band) & 255).astype(np.uint8)), (0, start))
        return lower
    if image.info.get("grey with alpha"):
        grey, alpha = image.getchannel("G"), image.getchannel("A")
        return PillowImage.merge("RGBA", (grey, grey, grey, alpha))
    return image if image.mode in ("RGB", "RGBA") else None
