"""Pictures and codes as files: which names they have, and how they are read and written."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image, ImageCms

from indomain import Client, Code, Diffused, Edited, InterpolationFrame, Inversion, Mixed
from indomain.cli import report
from indomain.cli.arguments import UsageError
from indomain.cli.output import write_file
from indomain.latents import CodeReader
from indomain.wire.heif import is_heif

# How results are written.
PICTURE_SUFFIXES: Final = frozenset({".png", ".jpg", ".jpeg", ".webp"})
CODE_SUFFIX: Final = ".npy"
# A whole result in one file, as `Result.save` writes it.
RESULT_SUFFIX: Final = ".npz"
# What is read: pictures by the gateway (HEIC: by the SDK), codes by `indomain.load_code`.
SOURCE_SUFFIXES: Final = PICTURE_SUFFIXES | {
    *(".apng", ".jpe", ".jfif", ".jif", ".mpo", ".tif", ".tiff", ".bmp", ".dib", ".gif", ".avif"),
    *(".heic", ".heif", ".hif"),
}
# Pictures that are not read.
_OTHER_PICTURES: Final = frozenset(
    {
        *(
            ".jp2",
            ".j2k",
            ".jxl",
            ".psd",
            ".svg",
            ".pdf",
            ".eps",
            ".ico",
            ".icns",
            ".tga",
            ".pcx",
            ".dds",
            ".qoi",
        ),
        *(".ppm", ".pgm", ".pbm", ".pnm", ".exr", ".hdr", ".xcf"),
        # Of cameras' sensors.
        *(
            ".cr2",
            ".cr3",
            ".crw",
            ".nef",
            ".nrw",
            ".arw",
            ".dng",
            ".raf",
            ".orf",
            ".rw2",
            ".pef",
            ".srw",
            ".raw",
        ),
    }
)
CODE_SUFFIXES: Final = frozenset({CODE_SUFFIX, RESULT_SUFFIX, ".pt", ".pth", ".pkl"})
# The first bytes of pictures, for files whose names do not say what they are.
_STARTS: Final = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF8", b"II*\0", b"MM\0*")


def code_reader(client: Client, bundle: str) -> CodeReader:
    """Reads codes for a bundle; of one that looks foreign it says so on standard error."""
    return CodeReader(client, bundle, on_foreign=report.say)


def source_of(path: Path, codes: CodeReader) -> Path | Code:
    """What `Client.edit` takes: the code in a file of codes, otherwise the picture's path.

    Raises OSError, IndomainError.
    """
    return codes.read(path) if path.suffix.lower() in CODE_SUFFIXES else path


def is_picture_file(path: Path) -> bool:
    """Whether a file is a picture: by its name, or else by its first bytes. Raises OSError."""
    if path.suffix.lower() in SOURCE_SUFFIXES:
        return True
    with path.open("rb") as file:
        return is_picture(file.read(64))


def is_picture(head: bytes) -> bool:
    """Whether a file that begins so is a picture."""
    webp = head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    avif = head[4:12] in (b"ftypavif", b"ftypavis")
    return head.startswith(_STARTS) or webp or avif or is_heif(head)


def why_not_read(path: Path) -> str:
    """Why a file that is no picture to `is_picture_file` is left out."""
    if path.suffix.lower() in _OTHER_PICTURES:
        return f"pictures of the kind {path.suffix.lower()} are not read: convert it to PNG or JPEG"
    return "no picture"


def check_drawing(flag: str, drawing: Path | None) -> None:
    """Raises UsageError where the mask or the strokes of a flag cannot be read: each picture would fail, and look as if
    it were at fault."""
    if drawing is None:
        return
    try:
        with Image.open(drawing) as image:
            image.load()
    except OSError as error:
        raise UsageError(
            f"{flag} {drawing}: {error.strerror or 'it is no picture that can be read'}"
        ) from None
    # Pillow raises errors of many types for damaged pictures.
    except Exception:
        raise UsageError(f"{flag} {drawing}: it is a damaged picture, or a far too large one") from None


def picture_of(result: Inversion | Edited | InterpolationFrame | Mixed | Diffused) -> Image.Image:
    """The photograph with the result in its place where that was asked for (--paste), otherwise the result."""
    return result.image if result.pasted is None else result.pasted


def save_picture(image: Image.Image, path: Path) -> None:
    """Writes a picture in the format of its file name, with its colour profile and metadata. Raises OutputError."""
    file_format = Image.registered_extensions()[path.suffix.lower()]
    if image.format == file_format and "encoded" in image.info:
        # As it was answered: Pillow would keep 8 of 16 bits.
        write_file(path, image.info["encoded"])
        return
    kept = {name: image.info[name] for name in ("icc_profile", "exif", "xmp", "dpi") if name in image.info}
    image = _as_written(image, file_format)
    # The profile of a grey picture does not fit one in colours.
    if image.mode not in ("L", "LA") and kept.get("icc_profile", b"")[16:20] == b"GRAY":
        del kept["icc_profile"]
    encoded = io.BytesIO()
    # PNG ignores the quality.
    image.save(encoded, file_format, quality=95, **kept)
    write_file(path, encoded.getvalue())


def _as_written(image: Image.Image, file_format: str) -> Image.Image:
    """A picture in a mode that JPEG or WebP has, with 8 bits. In JPEG, what is transparent becomes white."""
    if image.mode == "I;16":
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if file_format == "WEBP" and image.mode in ("L", "LA"):
        rgb = _grey_as_srgb(image)
        if image.mode == "LA":
            rgb.putalpha(image.getchannel("A"))
        return rgb
    if file_format == "JPEG" and image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        flat = Image.alpha_composite(white, image.convert("RGBA"))
        return flat.convert("L" if image.mode == "LA" else "RGB")
    return image


def _grey_as_srgb(image: Image.Image) -> Image.Image:
    """A grey picture in mode RGB, by its colour profile if it has one."""
    profile, grey = image.info.get("icc_profile"), image.convert("L")
    if not profile:
        return grey.convert("RGB")
    srgb = ImageCms.createProfile("sRGB")
    own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    converted = ImageCms.profileToProfile(grey, own, srgb, outputMode="RGB")
    # It is None only where a picture is changed in place.
    assert converted is not None
    return converted


def save_code(code: np.ndarray, path: Path) -> None:
    """Writes a code as .npy. Raises OutputError.

    NumPy itself would not notice where the last bytes do not fit on the disk.
    """
    encoded = io.BytesIO()
    np.save(encoded, code)
    write_file(path, encoded.getvalue())


def save_result(result: Inversion, path: Path) -> None:
    """Writes what `Inversion.load` and `indomain edit` read. Raises OutputError."""
    content = io.BytesIO()
    result.save(content)
    write_file(path, content.getvalue())


def save_with_code(result: Mixed | Diffused, output: Path) -> None:
    """Writes the picture of a result, and its code (.npy) beside it.

    Raises OutputError.
    """
    save_picture(picture_of(result), output)
    save_code(result.code, output.with_suffix(CODE_SUFFIX))


def check_picture_name(output: Path, also: str = "") -> None:
    """Raises UsageError where pictures are not written in the format that the name stands for. also: other names."""
    if output.suffix.lower() not in PICTURE_SUFFIXES:
        raise UsageError(f"{output}: the result is written as .png, .jpg or .webp{also}")


def check_sheet_name(output: Path, also: str = "") -> None:
    """The same for what is written on one sheet, or into the folder `output`."""
    if output.suffix.lower() in SOURCE_SUFFIXES | {".npy", ".npz"} and not output.is_dir():
        check_picture_name(output, also)


def save_pictures(images: Sequence[Image.Image], output: Path, names: Sequence[str]) -> list[Path]:
    """Writes pictures on one sheet, where `output` is a picture's file name, otherwise into the folder `output`.

    Returns the file of each picture. Raises OutputError.
    """
    if output.suffix.lower() in PICTURE_SUFFIXES:
        save_picture(_sheet(images), output)
        return [output] * len(images)
    paths = [output / name for name in names]
    for image, path in zip(images, paths, strict=True):
        save_picture(image, path)
    return paths


def save_animation(images: Sequence[Image.Image], output: Path) -> None:
    """Writes pictures as an animated GIF that runs there and back. Raises OutputError."""
    encoded = io.BytesIO()
    there_and_back = [*images, *images[-2:0:-1]]
    there_and_back[0].save(
        encoded, "GIF", save_all=True, append_images=there_and_back[1:], duration=80, loop=0
    )
    write_file(output, encoded.getvalue())


def _sheet(images: Sequence[Image.Image]) -> Image.Image:
    """All pictures on one, in a grid that is as close to a square as it can be."""
    columns = math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    width, height = images[0].size
    sheet = Image.new("RGB", (columns * width, rows * height), "white")
    for index, image in enumerate(images):
        sheet.paste(image, (index % columns * width, index // columns * height))
    return sheet
