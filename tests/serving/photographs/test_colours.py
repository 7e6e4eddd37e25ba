"""A pasted photograph stays the caller's own: colours, transparency, bits, metadata; outside the face each bit."""

from __future__ import annotations

import io
import json
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from indomain.v1 import editing_pb2 as pb
from serving.errors import InvalidPicture
from serving.jobs import EncodedPicture, ImageFormat, OutputOptions
from serving.photographs.alignment import Similarity
from serving.photographs.formats import headers
from serving.photographs.formats.headers import read_header
from serving.photographs.formats.limits import MAX_PROFILE_BYTES, is_plain
from serving.photographs.pasting import Patch
from serving.photographs.pictures import PictureReader
from tests.serving.pictures import (
    ADOBE_RGB,
    DISPLAY_P3,
    PROPHOTO,
    cmyk_profile,
    encoded,
    grey_profile,
    icc_profile,
    jpeg_segment,
    photograph,
    png_16_bit,
    rgb_profile,
    samples_of_png,
)
from tests.serving.running_gateway import RunningGateway

PROFILES = {
    "P3": rgb_profile(*DISPLAY_P3),
    "AdobeRGB": rgb_profile(*ADOBE_RGB),
    "ProPhoto": rgb_profile(*PROPHOTO),
}
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
PHOTOGRAPH = Image.fromarray(photograph(3, 96, 80))
PLACE = Similarity.square(48 + 40j, 40, 10)
BEFORE = np.full((32, 32, 3), 120, np.uint8)
# Lighter and warmer, so that all channels change.
AFTER = BEFORE + np.array([40, 15, 10], np.uint8)
OUTSIDE = np.ones((80, 96), bool)
OUTSIDE[15:66, 22:74] = False


def reader(data: bytes) -> PictureReader:
    picture = EncodedPicture(data)
    return PictureReader(picture, read_header(picture, 2**25, 2**25))


def paste(data: bytes, *, replace: bool = False, **output: Any) -> bytes:
    before = None if replace else BEFORE
    return reader(data).paste([Patch(PLACE, before, AFTER, True)], OutputOptions(**output)).data


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def seen(image: Image.Image) -> np.ndarray:
    """What a viewer shows that knows profiles: sRGB, int [H, W, 3]."""
    profile = image.info.get("icc_profile")
    if not profile:
        return np.asarray(image.convert("RGB")).astype(int)
    own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    srgb = ImageCms.createProfile("sRGB")
    return np.asarray(ImageCms.profileToProfile(image, own, srgb, outputMode="RGB")).astype(int)


# --- colours ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("format", ["PNG", "WEBP", "JPEG"])
@pytest.mark.parametrize("replace", [False, True])
def test_a_photograph_keeps_its_own_colours(profile: str, format: str, replace: bool) -> None:
    options = {"lossless": True} if format == "WEBP" else {}
    source = encoded(np.asarray(PHOTOGRAPH), format, icc_profile=PROFILES[profile], **options)
    answer = opened(paste(source, replace=replace))
    assert answer.info["icc_profile"] == PROFILES[profile]
    own, pasted = np.asarray(opened(source).convert("RGB")), np.asarray(answer)
    assert np.array_equal(pasted[OUTSIDE], own[OUTSIDE])
    if not replace:
        changed = (seen(answer) - seen(opened(source)))[40, 48]
        assert np.abs(changed - [40, 15, 10]).max() <= 3


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("format", ["PNG", "JPEG"])
def test_networks_see_what_little_cms_shows(profile: str, format: str) -> None:
    source = encoded(
        np.asarray(PHOTOGRAPH.crop((0, 0, 80, 80))), format, quality=95, icc_profile=PROFILES[profile]
    )
    wanted = seen(opened(source))
    square, _ = reader(source).centre_square(80)
    assert np.abs(square.astype(int) - wanted).max() <= 1
    cut = reader(source).cut(Similarity(80, 0j), 80)
    assert np.abs(cut.astype(int) - wanted).max() <= 1
    assert np.abs(np.asarray(opened(source)).astype(int) - wanted).mean() > 3


def test_a_profile_of_srgb_changes_nothing_and_stays() -> None:
    plain, named = (encoded(np.asarray(PHOTOGRAPH), **options) for options in ({}, {"icc_profile": SRGB}))
    assert np.array_equal(reader(plain).centre_square(64)[0], reader(named).centre_square(64)[0])
    answer = opened(paste(named))
    assert answer.info["icc_profile"] == SRGB
    assert np.array_equal(np.asarray(answer), np.asarray(opened(paste(plain))))


def test_grey_stays_grey_in_its_own_tones() -> None:
    profile = grey_profile(1.0)
    grey = np.asarray(PHOTOGRAPH.convert("L"))
    source = encoded(grey, icc_profile=profile)
    answer = opened(paste(source))
    assert (answer.mode, answer.info["icc_profile"]) == ("L", profile)
    assert np.array_equal(np.asarray(answer)[OUTSIDE], grey[OUTSIDE])
    # Its numbers are light itself: what is seen is lighter than they are, and the change is smaller in them.
    square, _ = reader(source).centre_square(80)
    wanted = ((grey[40, 48] / 255) ** (1 / 2.4) * 1.055 - 0.055) * 255
    assert abs(float(square[40, 40].mean()) - wanted) <= 2
    in_srgb = opened(paste(source, format=ImageFormat.WEBP, quality=100))
    assert "icc_profile" not in in_srgb.info
    stripped = opened(paste(source, strip_metadata=True))
    assert np.abs(seen(in_srgb) - seen(stripped)).max() <= 1


def test_a_print_keeps_its_inks_as_jpeg_and_is_seen_alike_as_png() -> None:
    profile = cmyk_profile()
    source = io.BytesIO()
    PHOTOGRAPH.convert("CMYK").save(source, "JPEG", quality=95, icc_profile=profile)
    own = opened(source.getvalue())
    png = opened(paste(source.getvalue()))
    assert png.mode == "RGB"
    assert "icc_profile" not in png.info
    assert np.abs(seen(png) - seen(own))[OUTSIDE].max() <= 1
    jpeg = opened(paste(source.getvalue(), format=ImageFormat.JPEG, quality=100))
    assert (jpeg.mode, jpeg.info["icc_profile"]) == ("CMYK", profile)
    assert np.abs(np.asarray(jpeg).astype(int) - np.asarray(own))[OUTSIDE].mean() <= 0.5
    assert (seen(jpeg) - seen(own))[40, 48, 0] > 15
    square, _ = reader(source.getvalue()).centre_square(80)
    assert np.abs(square.astype(int) - seen(own)[:, 8:88]).max() <= 2
    # Without a profile Pillow's own conversion holds.
    without = opened(paste(encoded_cmyk()))
    assert np.abs(seen(without) - seen(opened(encoded_cmyk())))[OUTSIDE].max() == 0


def encoded_cmyk() -> bytes:
    target = io.BytesIO()
    PHOTOGRAPH.convert("CMYK").save(target, "JPEG", quality=95)
    return target.getvalue()


@pytest.mark.parametrize(
    "profile",
    [
        b"no profile at all",
        PROFILES["P3"][:300],
        PROFILES["P3"][:128] + b"\xff" * 372,
        PROFILES["P3"] + bytes(MAX_PROFILE_BYTES),
        grey_profile(2.2),
        icc_profile(b"mntr", b"RGB ", b"XYZ ", {}),
    ],
    ids=["rubbish", "cut", "tags", "large", "of grey", "empty"],
)
def test_profiles_that_are_of_no_use_are_ignored(profile: bytes) -> None:
    plain = encoded(np.asarray(PHOTOGRAPH))
    for format in ("PNG", "JPEG", "WEBP"):
        try:
            source = encoded(np.asarray(PHOTOGRAPH), format, icc_profile=profile)
        except (ValueError, OSError):
            continue  # Pillow does not write it
        answer = opened(paste(source))
        assert "icc_profile" not in answer.info
        if format == "PNG":
            assert np.array_equal(np.asarray(answer), np.asarray(opened(paste(plain))))


def test_only_plain_profiles_are_read_in_the_gateways_own_process() -> None:
    for profile in (*PROFILES.values(), SRGB, grey_profile(2.2)):
        assert is_plain(profile)
        for format in ("PNG", "JPEG", "WEBP"):
            data = encoded(np.asarray(PHOTOGRAPH), format, icc_profile=profile)
            assert read_header(EncodedPicture(data), 2**25, 2**25).quick
    for profile in (cmyk_profile(), b"", b"rubbish" * 40, PROFILES["P3"] + bytes(20_000)):
        assert not is_plain(profile)
    data = encoded(np.asarray(PHOTOGRAPH), "JPEG", icc_profile=cmyk_profile())
    assert not read_header(EncodedPicture(data), 2**25, 2**25).quick


# --- transparency -------------------------------------------------------------------------------------------------


def with_alpha(mode: str) -> Image.Image:
    alpha = Image.fromarray(np.tile(np.linspace(0, 255, 96).astype(np.uint8), (80, 1)))
    picture = PHOTOGRAPH.convert("L" if mode == "LA" else "RGB")
    picture.putalpha(alpha)
    return picture


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize("format", [ImageFormat.PNG, ImageFormat.WEBP])
def test_transparency_stays(mode: str, format: ImageFormat) -> None:
    source = io.BytesIO()
    with_alpha(mode).save(source, "PNG", icc_profile=PROFILES["P3"] if mode == "RGBA" else grey_profile(1.8))
    answer = opened(paste(source.getvalue(), format=format, quality=100))
    assert answer.mode == ("RGBA" if format is ImageFormat.WEBP else mode)
    own = np.asarray(with_alpha(mode).convert(answer.mode))
    pasted = np.asarray(answer)
    assert np.array_equal(pasted[:, :, -1], own[:, :, -1])
    if answer.mode == mode:
        assert np.array_equal(pasted[OUTSIDE], own[OUTSIDE])
    assert pasted[40, 60, 0] != own[40, 60, 0]


def test_what_is_transparent_is_white_where_there_is_no_transparency() -> None:
    source = io.BytesIO()
    with_alpha("RGBA").save(source, "PNG")
    jpeg = np.asarray(opened(paste(source.getvalue(), format=ImageFormat.JPEG, quality=95)))
    assert jpeg[:, 0].min() > 240
    raw = np.frombuffer(paste(source.getvalue(), format=ImageFormat.RAW), np.uint8).reshape(80, 96, 3)
    assert raw[:, 0].min() == 255


def test_pictures_with_a_palette_or_one_transparent_colour_keep_their_transparency() -> None:
    palette = PHOTOGRAPH.quantize(32)
    one = Image.new("RGB", (96, 80), (10, 200, 30))
    one.paste(PHOTOGRAPH.crop((0, 0, 48, 80)))
    for picture, key in ((palette, palette.getpixel((5, 5))), (one, (10, 200, 30))):
        source = io.BytesIO()
        picture.save(source, "PNG", transparency=key)
        answer = opened(paste(source.getvalue()))
        wanted = np.asarray(opened(source.getvalue()).convert("RGBA"))
        assert answer.mode == "RGBA"
        assert np.array_equal(np.asarray(answer)[:, :, 3], wanted[:, :, 3])
        assert np.array_equal(np.asarray(answer)[OUTSIDE], wanted[OUTSIDE])
        assert wanted[:, :, 3].min() == 0


# --- 16 bits ------------------------------------------------------------------------------------------------------

RANDOM = np.random.Generator(np.random.PCG64(1))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("replace", [False, True])
def test_16_bits_stay_16_bits(channels: int, replace: bool) -> None:
    samples = RANDOM.integers(0, 65536, (80, 96, channels), np.uint16)
    answer = samples_of_png(paste(png_16_bit(samples), replace=replace))
    # Pillow's grey with alpha is RGBA.
    wanted = samples[:, :, [0, 0, 0, 1]] if channels == 2 else samples
    assert np.array_equal(answer[OUTSIDE], wanted[OUTSIDE])
    if channels in (2, 4):
        assert np.array_equal(answer[:, :, -1], wanted[:, :, -1])


def test_a_change_is_added_in_16_bits() -> None:
    rising = np.tile(np.arange(96, dtype=np.uint16) * 100 + 9000, (80, 1))
    waves = np.tile((np.sin(np.arange(80) / 5) * 9000 + 20000).astype(np.uint16)[:, None], (1, 96))
    samples = np.stack([rising, waves, waves], axis=-1)
    answer = samples_of_png(paste(png_16_bit(samples))).astype(int)
    assert np.abs((answer - samples)[40, 48] - np.array([40, 15, 10]) * 257).max() < 300
    # A gradient finer than 8 bits stays one.
    assert len(np.unique(answer[40, 40:56, 0])) == 16


@pytest.mark.parametrize("orientation", [3, 6])
def test_16_bits_are_turned_upright_too(orientation: int) -> None:
    samples = RANDOM.integers(0, 65536, (80, 96, 3), np.uint16)
    turned = np.rot90(samples, {3: 2, 6: 1}[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    answer = paste(png_16_bit(turned, eXIf=exif.tobytes().removeprefix(b"Exif\0\0")))
    assert np.array_equal(samples_of_png(answer)[OUTSIDE], samples[OUTSIDE])


def test_16_bits_with_a_profile_keep_both() -> None:
    samples = RANDOM.integers(0, 65536, (80, 96, 3), np.uint16)
    source = png_16_bit(samples, iCCP=b"P3\0\0" + zlib.compress(PROFILES["P3"]))
    answer = paste(source)
    assert np.array_equal(samples_of_png(answer)[OUTSIDE], samples[OUTSIDE])
    assert opened(answer).info["icc_profile"] == PROFILES["P3"]
    assert opened(paste(source, strip_metadata=True)).mode == "RGB"


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate"])
def test_a_tiff_of_16_bits_is_answered_in_16_bits(order: str, compression: str) -> None:
    grey = RANDOM.integers(0, 65536, (80, 96), np.uint16)
    source = io.BytesIO()
    picture = Image.frombytes(
        "I;16" if order == "<" else "I;16B", (96, 80), grey.astype(f"{order}u2").tobytes()
    )
    picture.save(source, "TIFF", compression=compression)
    assert np.array_equal(samples_of_png(paste(source.getvalue()))[:, :, 0][OUTSIDE], grey[OUTSIDE])


# --- metadata -----------------------------------------------------------------------------------------------------


def with_metadata(format: str) -> bytes:
    exif = Image.Exif()
    exif.update({0x0112: 6, 0x010F: "Camera", 0x011A: 300.0, 0x011B: 150.0, 0x0128: 2})
    details = {0x9003: "2024:05:01 10:00:00", 0x927C: b"note" * 50, 0xA002: 80, 0xA003: 96}
    exif.get_ifd(0x8769).update(details | {0x9286: b"ASCII\0\0\0" + b"hello " * 20})
    exif.get_ifd(0x8825)[1] = "N"
    thumbnail = encoded(photograph(9, 32, 32), "JPEG")
    block = bytearray(exif.tobytes().removeprefix(b"Exif\0\0"))
    first = int.from_bytes(block[8:10], "little")
    # A directory with a thumbnail follows the first one, as cameras write it.
    block[10 + 12 * first : 14 + 12 * first] = len(block).to_bytes(4, "little")
    rows = [(0x0103, 3, 6), (0x0201, 4, len(block) + 2 + 36 + 4), (0x0202, 4, len(thumbnail))]
    block += struct.pack("<H", len(rows))
    for tag, kind, value in rows:
        block += struct.pack("<HHII", tag, kind, 1, value)
    block += bytes(4) + thumbnail
    preview = "/9j/4AAQSkZJRgABAQAAAQABAADtest" * 40
    xmp = f'<x:xmpmeta><rdf tiff:Orientation="6" dc:title="me"/><xmpGImg:image>{preview}</xmpGImg:image></x:xmpmeta>'
    options: dict[str, Any] = {"exif": b"Exif\0\0" + bytes(block), "icc_profile": PROFILES["P3"]}
    if format == "PNG":
        options["pnginfo"] = PngInfo()
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", xmp)
    else:
        options["xmp"] = xmp.encode()
    if format != "WEBP":
        options["dpi"] = (300, 150)
    return encoded(np.asarray(PHOTOGRAPH.transpose(Image.Transpose.ROTATE_90)), format, **options)


@pytest.mark.parametrize("source", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("answer", [ImageFormat.PNG, ImageFormat.JPEG, ImageFormat.WEBP])
def test_metadata_stays_without_previews(source: str, answer: ImageFormat) -> None:
    image = opened(paste(with_metadata(source), format=answer))
    assert image.size == (96, 80)
    exif = image.getexif()
    assert exif[0x0112] == 1
    assert exif[0x010F] == "Camera"
    details = exif.get_ifd(0x8769)
    assert details[0x9003] == "2024:05:01 10:00:00"
    assert details[0x9286].endswith(b"hello ")
    assert (details[0xA002], details[0xA003]) == (96, 80)
    assert exif.get_ifd(0x8825)[1] == "N"
    assert 0x927C not in details
    assert not exif.get_ifd(0x0201)
    assert b"\xff\xd8\xff" not in image.info["exif"][6:]
    xmp = image.info["xmp"]
    assert b'tiff:Orientation="1"' in xmp
    assert b'dc:title="me"' in xmp
    assert b"4AAQSkZJRg" not in xmp
    assert image.info["icc_profile"] == PROFILES["P3"]
    if answer is not ImageFormat.WEBP:
        # The picture was turned by a quarter.
        assert image.info["dpi"] == pytest.approx((150, 300), abs=0.5)


@pytest.mark.parametrize("answer", [ImageFormat.PNG, ImageFormat.JPEG, ImageFormat.WEBP])
def test_stripped_photographs_are_pixels_in_srgb(answer: ImageFormat) -> None:
    source = with_metadata("JPEG")
    kept, stripped = (
        opened(paste(source, format=answer, quality=100, strip_metadata=strip)) for strip in (False, True)
    )
    for name in ("exif", "xmp", "icc_profile", "dpi"):
        assert name not in stripped.info
    assert not stripped.getexif()
    assert np.abs(seen(stripped) - seen(kept))[OUTSIDE].mean() < 1.5


def test_broken_metadata_is_left_out() -> None:
    plain = encoded(np.asarray(PHOTOGRAPH), "JPEG")
    for block in (
        b"Exif\0\0",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0MM\0*\0\0\0\x08\xff\xff",
        b"Exif\0\0II*\0\x08\0\0\0\x01\0\x69\x87\x04\0\x01\0\0\0\xff\xff\xff\xff" + bytes(4),
        # One directory that is its own part.
        b"Exif\0\0II*\0\x08\0\0\0\x01\0\x69\x87\x04\0\x01\0\0\0\x08\0\0\0" + bytes(4),
        # Many values that lie upon each other.
        b"Exif\0\0II*\0\x08\0\0\0\xd0\x07" + b"\x0f\x01\x02\0\xa0\x0f\0\0\x08\0\0\0" * 2000,
    ):
        answer = paste(plain[:2] + jpeg_segment(0xE1, block) + plain[2:])
        assert np.array_equal(np.asarray(opened(answer)), np.asarray(opened(paste(plain))))
        assert len(opened(answer).info.get("exif", b"")) < 200


# --- formats ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["TIFF", "BMP", "GIF", "AVIF"])
def test_other_formats_are_pasted_into(format: str) -> None:
    picture = PHOTOGRAPH.quantize(64) if format == "GIF" else PHOTOGRAPH
    target = io.BytesIO()
    picture.save(target, format, **({"exif": exif_of(6)} if format == "AVIF" else {}))
    source = target.getvalue()
    answer = opened(paste(source))
    if format == "AVIF":
        assert answer.size == (80, 96)
        return
    own = np.asarray(opened(source).convert("RGB"))
    assert np.array_equal(np.asarray(answer.convert("RGB"))[OUTSIDE], own[OUTSIDE])


def exif_of(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.mark.parametrize("format", ["TIFF", "GIF", "PNG", "WEBP", "AVIF"])
def test_the_first_of_several_pictures_counts(format: str) -> None:
    target = io.BytesIO()
    first, second = (Image.fromarray(photograph(seed, 96, 80)) for seed in (3, 4))
    first.save(target, format, save_all=True, append_images=[second], quality=95)
    square, size = reader(target.getvalue()).centre_square(80)
    assert size == (96, 80)
    assert np.abs(square.astype(int) - np.asarray(first)[:, 8:88]).mean() < 8


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"])
def test_tiffs_with_orientation_profile_and_resolution(compression: str) -> None:
    target = io.BytesIO()
    PHOTOGRAPH.transpose(Image.Transpose.ROTATE_90).save(
        target,
        "TIFF",
        compression=compression,
        tiffinfo={0x0112: 6, 0x010F: "Scanner"},
        icc_profile=PROFILES["AdobeRGB"],
        dpi=(300, 150),
    )
    answer = opened(paste(target.getvalue()))
    assert answer.size == (96, 80)
    assert answer.info["icc_profile"] == PROFILES["AdobeRGB"]
    assert answer.info["dpi"] == pytest.approx((150, 300), abs=0.5)
    assert answer.getexif()[0x010F] == "Scanner"
    assert answer.getexif()[0x0112] == 1
    if compression != "jpeg":
        assert np.array_equal(np.asarray(answer)[OUTSIDE], np.asarray(PHOTOGRAPH)[OUTSIDE])


@pytest.mark.parametrize(
    ("picture", "options"),
    [
        (Image.fromarray(np.zeros((8, 8), np.float32)), {}),
        (Image.fromarray(np.zeros((8, 8), np.int32)), {}),
        (Image.new("1", (8, 8)), {"compression": "group4"}),
        (Image.new("LAB", (8, 8)), {}),
    ],
    ids=["floats", "32 bits", "fax", "lab"],
)
def test_tiffs_of_other_kinds_are_refused_in_words(picture: Image.Image, options: dict[str, Any]) -> None:
    target = io.BytesIO()
    picture.save(target, "TIFF", **options)
    with pytest.raises(InvalidPicture, match="not read"):
        reader(target.getvalue()).centre_square(8)


def camera_raw(kind: str) -> bytes:
    """A file that Pillow reads: only what cameras write into its first directory says that it is no photograph."""
    tags = {"preview": {254: 1}, "DNG": {50706: b"\1\4\0\0"}, "CR2": {}}[kind]
    target = io.BytesIO()
    Image.new("RGB", (16, 12), "teal").save(target, "TIFF", tiffinfo=tags)
    data = target.getvalue()
    if kind == "CR2":
        # The directory goes to the end, and a mark stands in the place that this makes.
        (start,) = struct.unpack_from("<I", data, 4)
        data = data[:4] + struct.pack("<I", len(data)) + b"CR\2\0" + data[12:] + data[start:]
    return data


@pytest.mark.parametrize("kind", ["preview", "DNG", "CR2"])
def test_what_a_cameras_sensor_saw_is_refused_by_its_name(kind: str) -> None:
    """Its first picture is a preview of some hundred pixels: that would be edited without a word."""
    with pytest.raises(InvalidPicture, match="raw file"):
        reader(camera_raw(kind)).centre_square(8)


def test_tiffs_and_avifs_are_always_decoded_in_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    for format in ("TIFF", "AVIF"):
        data = encoded(np.asarray(PHOTOGRAPH), format)
        assert not read_header(EncodedPicture(data), 2**25, 2**25).quick
    monkeypatch.setattr(headers, "_AVIF", False)
    with pytest.raises(InvalidPicture, match="not a PNG"):
        read_header(EncodedPicture(encoded(np.asarray(PHOTOGRAPH), "AVIF")), 2**25, 2**25)


# --- through the gateway ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strip", [False, True])
def test_both_transports_answer_the_photograph_as_it_was(gateway: RunningGateway, strip: bool) -> None:
    source = with_metadata("JPEG")
    output = pb.OutputOptions(include_pasted=True, strip_metadata=strip)
    steps = pb.RefineOptions(steps=0)
    over_grpc = gateway.stub.Invert(
        pb.InvertRequest(picture=pb.Picture(data=source), refine=steps, output=output)
    )
    options = {"refine": {"steps": 0}, "output": {"include_pasted": True, "strip_metadata": strip}}
    over_http = gateway.http.post(
        "/v1/invert",
        files={"picture": source},
        data={"options": json.dumps(options)},
        headers={"accept": "image/png"},
    )
    assert over_http.content == over_grpc.pasted.data
    answer = opened(over_grpc.pasted.data)
    assert ("icc_profile" in answer.info, bool(answer.getexif())) == (not strip, not strip)


def test_a_tiff_of_16_bits_comes_through_its_process(gateway: RunningGateway) -> None:
    grey = RANDOM.integers(0, 65536, (80, 96), np.uint16)
    answer = gateway.stub.Invert(
        pb.InvertRequest(
            picture=pb.Picture(data=encoded(grey, "TIFF")),
            refine=pb.RefineOptions(steps=0),
            output=pb.OutputOptions(include_pasted=True),
        )
    )
    samples = samples_of_png(answer.pasted.data)[:, :, 0]
    assert np.array_equal(samples[:, :5], grey[:, :5])
    assert len(np.unique(samples >> 8)) > 200
