"""HEIC and HEIF files, as phones write them: read here, because the gateway does not. Needs the extra `heif`."""

from __future__ import annotations

import io
from typing import Final

from indomain.exceptions import InvalidPictureError, NotInstalledError

_HEIF_BRANDS: Final = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"})
_AVIF_BRANDS: Final = frozenset({b"avif", b"avis"})


def is_heif(data: bytes) -> bool:
    """Whether a file's first bytes are those of HEIC or HEIF. AVIF has the same container, and the gateway reads it."""
    if data[4:8] != b"ftyp":
        return False
    size = min(int.from_bytes(data[:4], "big"), 256)
    brands = {data[8:12], *(data[at : at + 4] for at in range(16, size, 4))}
    return data[8:12] in _HEIF_BRANDS and not brands & _AVIF_BRANDS


def heif_to_jpeg(data: bytes) -> bytes:
    """The first picture of a HEIF file as a JPEG (as a PNG where it is transparent), with its colour profile and EXIF.

    A PNG of a phone's picture would be over the gateway's limits.

    Raises:
        NotInstalledError: the package `pi-heif` is missing.
        InvalidPictureError: the file is damaged.
    """
    try:
        import pi_heif
    except ModuleNotFoundError as error:
        raise NotInstalledError(
            "the picture is HEIC or HEIF, which needs the package pi-heif: pip install 'indomain-client[heif]', or "
            "convert it to JPEG",
            reason="not_installed",
        ) from error
    buffer = io.BytesIO()
    try:
        image = pi_heif.open_heif(io.BytesIO(data)).to_pillow()
        about = {name: image.info[name] for name in ("icc_profile", "exif") if image.info.get(name)}
        if image.mode in ("L", "RGB"):
            image.save(buffer, "JPEG", quality=95, subsampling=0, **about)
        else:
            image.save(buffer, "PNG", compress_level=1, **about)
    except (ValueError, EOFError, OSError, RuntimeError, SyntaxError, MemoryError) as error:
        raise InvalidPictureError(
            f"the HEIC or HEIF file cannot be read ({str(error)[:100]}); open it and save it again",
            reason="invalid_picture",
        ) from error
    return buffer.getvalue()
