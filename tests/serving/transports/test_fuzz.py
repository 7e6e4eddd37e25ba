"""Anything at all for input: it is served, or refused with an error of the table; no crash, no internal error.

A short, repeatable run in the suite; `make fuzz` runs FUZZ_INPUTS inputs for each door and watches the memory. What has
found something is kept below as a test of its own.
"""

from __future__ import annotations

import base64
import copy
import gc
import io
import json
import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from indomain.v1 import editing_pb2 as pb
from serving.errors import ERROR_TABLE, InvalidPicture, PictureTooLarge
from serving.jobs import EncodedPicture, ImageFormat, OutputOptions
from serving.photographs.alignment import Similarity
from serving.photographs.formats.headers import read_header
from serving.photographs.pasting import Patch
from serving.photographs.pictures import PictureReader, centre_square
from serving.wire.bounds import MAX_VALUES
from serving.wire.json import MAX_VALUES as JSON_MAX_VALUES
from tests.serving.messages import session_request
from tests.serving.pictures import (
    DISPLAY_P3,
    cmyk_profile,
    encoded,
    grey_profile,
    jpeg_of_scans,
    jpeg_with_segments,
    photograph,
    png_16_bit,
    png_header,
    rgb_profile,
    webp_header,
    zero_png,
)
from tests.serving.running_gateway import RunningGateway, settings_for

INPUTS = int(os.environ.get("FUZZ_INPUTS", "0"))  # for each door; 0: the short run
TURN = 1000  # inputs between two looks at the memory; what the generator remembers of them ends with a turn
TURNS = max(1, INPUTS // TURN)
MAX_GROWTH_BYTES = 32 * 1024 * 1024
AT_FAULT = {row.reason for row in ERROR_TABLE.values() if row.http_status < 500}


def fuzz(inputs: int) -> Any:
    """Settings of one door: `inputs` of them in the short run."""
    return settings(
        max_examples=TURN if INPUTS else inputs,
        deadline=None,
        database=None,
        derandomize=not INPUTS,  # the suite gives the same result every time
        phases=[Phase.explicit, Phase.generate] if INPUTS else [Phase.explicit, Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )


@pytest.fixture(scope="module")
def target(tiny_repository: Path) -> Iterator[RunningGateway]:
    """A gateway with low limits, so that what is valid is quick."""
    running = RunningGateway(
        settings_for(
            tiny_repository,
            max_request_bytes=200_000,
            max_picture_bytes=50_000,
            max_picture_pixels=200_000,
            max_codes=4,
            max_edits=4,
            max_refine_steps=4,
            log_level="error",
        )
    )
    yield running
    # Whatever came in, it still serves, and nothing is left waiting.
    assert running.stub.Sample(pb.SampleRequest(seeds=[1]), timeout=10).images
    assert running.metric("indomain_requests_in_flight") == 0
    for reason in ("internal", "backend_failed", "backend_unavailable"):
        assert running.metric("indomain_rejected_total", reason=reason) == 0, reason
    running.close()


@pytest.fixture
def flat_memory(request: pytest.FixtureRequest, memory_by_door: dict[str, list[int]]) -> Iterator[None]:
    """In the long run: once caches have filled, in its first quarter, the process does not grow."""
    yield
    gc.collect()
    seen = memory_by_door.setdefault(request.function.__name__, [])
    seen.append(resident_bytes())
    if INPUTS and len(seen) == TURNS:
        after_a_quarter, at_the_end = seen[TURNS // 4], seen[-1]
        print(
            f"\n{request.function.__name__}: {TURNS * TURN} inputs, memory {after_a_quarter / 2**20:.0f} MiB after a "
            f"quarter, {at_the_end / 2**20:.0f} MiB at the end"
        )
        assert at_the_end - after_a_quarter < MAX_GROWTH_BYTES


@pytest.fixture(scope="module")
def memory_by_door() -> dict[str, list[int]]:
    return {}


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# --- inputs ------------------------------------------------------------------------------------------


@st.composite
def damaged(draw: st.DrawFn, samples: list[bytes], most: int = 8) -> bytes:
    """A sample with some bytes changed, taken out, put in, doubled, or its end cut off."""
    data = bytearray(draw(st.sampled_from(samples)))
    for _ in range(draw(st.integers(0, most))):
        at = draw(st.integers(0, len(data)))
        match draw(st.integers(0, 5)):
            case 0:
                data[at : at + 1] = bytes([draw(st.integers(0, 255))])
            case 1:
                data[at : at + 4] = draw(
                    st.sampled_from([b"\0" * 4, b"\xff" * 4, b"\x7f\xff\xff\xff", b"\x80\0\0\0"])
                )
            case 2:
                del data[at : at + draw(st.integers(1, 64))]
            case 3:
                data[at:at] = draw(st.binary(max_size=16))
            case 4:
                data[at:at] = data[at : at + draw(st.integers(1, 64))]
            case 5:
                del data[at:]
    return bytes(data)


def exif_block() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif.get_ifd(0x8769)[0x9003] = "2024:05:01 10:00:00"
    exif.get_ifd(0x8825)[1] = "N"
    return exif


def pictures() -> list[bytes]:
    """Small ones of every kind that is read, and some that are not."""
    small = photograph(1, 20, 14)
    grey = small[:, :, 0]
    transparent = np.dstack([small, grey])
    profile = rgb_profile(*DISPLAY_P3)
    return [
        encoded(small),
        encoded(grey),
        encoded(transparent),
        encoded(grey.astype(np.uint16) << 8),
        encoded(small, "JPEG"),
        encoded(small, "JPEG", progressive=True),
        encoded(grey, "JPEG"),
        encoded(small, "WEBP"),
        encoded(transparent, "WEBP", lossless=True),
        *(encoded(small, format) for format in ("GIF", "BMP", "AVIF")),
        *(
            encoded(small, "TIFF", compression=kind)
            for kind in ("raw", "tiff_lzw", "tiff_adobe_deflate", "jpeg")
        ),
        encoded(grey.astype(np.uint16) << 8, "TIFF"),
        png_16_bit(transparent.astype(np.uint16) << 7),
        *(
            encoded(small, format, icc_profile=profile, exif=exif_block())
            for format in ("PNG", "JPEG", "WEBP", "TIFF")
        ),
        encoded(small, "JPEG", icc_profile=cmyk_profile()),
        encoded(grey, "PNG", icc_profile=grey_profile(2.2)),
        png_header(60_000, 60_000),
        webp_header(16_000, 16_000),
    ]


PICTURES = pictures()
STROKES = encoded(np.pad(np.full((4, 8, 4), 200, np.uint8), ((6, 6), (4, 4), (0, 0))))
CODE = np.zeros((6, 512), "<f4").tobytes()
EDITS = [pb.EditStep(direction="smile", strength=1.0, layers=[2])]
OUTPUT = pb.OutputOptions(format=pb.IMAGE_FORMAT_JPEG, quality=80, include_start=True)
MESSAGES = {
    "ListBundles": [pb.ListBundlesRequest()],
    "Invert": [
        pb.InvertRequest(
            picture=pb.Picture(data=PICTURES[0]), refine=pb.RefineOptions(steps=2), output=OUTPUT
        ),
        pb.InvertRequest(
            picture=pb.Picture(data=bytes(48), format=pb.IMAGE_FORMAT_RAW, width=4, height=4),
            refine=pb.RefineOptions(steps=0, learning_rate=0.1, domain_weight=1.0),
        ),
    ],
    "Edit": [
        pb.EditRequest(code=pb.Code(data=CODE, shape=[6, 512]), edits=EDITS, output=OUTPUT),
        pb.EditRequest(
            picture=pb.Picture(data=PICTURES[4]), edits=EDITS, refine=pb.RefineOptions(quality="fast")
        ),
        pb.EditRequest(
            code=pb.Code(data=CODE, shape=[6, 512]),
            strokes=pb.Picture(data=STROKES),
            refine=pb.RefineOptions(steps=2),
        ),
    ],
    "WatchInvert": [
        pb.WatchInvertRequest(
            picture=pb.Picture(data=PICTURES[0]), refine=pb.RefineOptions(steps=2), interval_s=0.0
        )
    ],
    "EditSession": [
        session_request(sequence=1, code=pb.Code(data=CODE, shape=[6, 512]), edits=EDITS, output=OUTPUT),
        session_request(sequence=2, picture=pb.Picture(data=PICTURES[5]), refine=pb.RefineOptions(steps=0)),
    ],
    "Interpolate": [
        pb.InterpolateRequest(
            start=pb.Source(code=pb.Code(data=CODE, shape=[6, 512])),
            end=pb.Source(picture=pb.Picture(data=PICTURES[0])),
            count=2,
            refine=pb.RefineOptions(steps=0),
        )
    ],
    "Mix": [
        pb.MixRequest(
            base=pb.Source(code=pb.Code(data=CODE, shape=[6, 512])),
            style=pb.Source(code=pb.Code(data=CODE, shape=[6, 512])),
            layers=[1, 2],
            strength=0.5,
            mask=pb.Picture(data=PICTURES[1]),
            refine=pb.RefineOptions(steps=2),
        )
    ],
    "Mean": [
        pb.MeanRequest(
            sources=[
                pb.Source(code=pb.Code(data=CODE, shape=[6, 512])),
                pb.Source(picture=pb.Picture(data=PICTURES[0])),
            ],
            path=pb.PATH_GEODESIC,
            refine=pb.RefineOptions(steps=2),
        )
    ],
    "Diffuse": [
        pb.DiffuseRequest(
            target=pb.Picture(data=PICTURES[0]),
            context=pb.Picture(data=PICTURES[4]),
            region=pb.Region(left=0.2, top=0.2, right=0.8, bottom=0.8),
            refine=pb.RefineOptions(steps=2),
        ),
        pb.DiffuseRequest(
            target=pb.Picture(data=PICTURES[0]),
            context=pb.Picture(data=PICTURES[4]),
            mask=pb.Picture(data=PICTURES[1]),
            refine=pb.RefineOptions(steps=0),
        ),
    ],
    "Decode": [pb.DecodeRequest(codes=[pb.Code(data=CODE, shape=[6, 512])], bundle="tiny16")],
    "Sample": [pb.SampleRequest(seeds=[1, 2], truncation=0.5, output=OUTPUT)],
}
B64_CODE = {"data": base64.b64encode(CODE).decode(), "shape": [6, 512]}
B64_STROKES = {"data": base64.b64encode(STROKES).decode()}
B64_PICTURE = {"data": base64.b64encode(PICTURES[0]).decode()}
BODIES: dict[str, list[dict[str, Any]]] = {
    "sample": [{"seeds": [1, 2], "truncation": 0.5, "output": {"format": "jpeg", "quality": 80}}],
    "decode": [{"codes": [B64_CODE], "bundle": "tiny16"}],
    "edit": [
        {"code": B64_CODE, "edits": [{"direction": "smile", "strength": 1.0, "layers": [2]}]},
        {"picture": B64_PICTURE, "edits": [], "refine": {"quality": "fast"}},
        {"code": B64_CODE, "strokes": B64_STROKES, "refine": {"steps": 2}},
    ],
    "invert": [
        {"picture": B64_PICTURE, "refine": {"steps": 2, "pixel_weight": 1.0}, "output": {"omit_image": True}}
    ],
    "watch-invert": [{"picture": B64_PICTURE, "refine": {"steps": 2}, "interval_s": 0.0}],
    "interpolate": [{"start": {"code": B64_CODE}, "end": {"code": B64_CODE}, "count": 2}],
    "mix": [{"base": {"code": B64_CODE}, "style": {"code": B64_CODE}, "layers": [1, 2], "strength": 0.5}],
    "mean": [{"sources": [{"code": B64_CODE}, {"picture": B64_PICTURE}], "refine": {"steps": 2}}],
    "diffuse": [
        {
            "target": B64_PICTURE,
            "context": B64_PICTURE,
            "region": {"left": 0.2, "top": 0.2, "right": 0.8, "bottom": 0.8},
            "refine": {"steps": 2},
        }
    ],
}
SESSION = [
    {"sequence": 1, "code": B64_CODE, "edits": BODIES["edit"][0]["edits"], "output": {"format": "jpeg"}},
    {"sequence": 2, "picture": B64_PICTURE, "refine": {"steps": 0}},
]

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=12)
    | st.sampled_from(
        ["", "tiny16", "raw", "smile", "fast", "=", "AAAA", "\0", "\ud800", "1e999", "9" * 400]
    ),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=6,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path to every value of a JSON document."""
    found = [path] if path else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        found += places(inner, (*path, key))
    return found


@st.composite
def bent(draw: st.DrawFn, bodies: list[dict[str, Any]]) -> bytes:
    """A valid body with values replaced, left out or added; now and then its text damaged, too."""
    body = copy.deepcopy(draw(st.sampled_from(bodies)))
    for _ in range(draw(st.integers(0, 3))):
        found = places(body)
        if not found:
            break
        *path, last = draw(st.sampled_from(found))
        holder = body
        for key in path:
            holder = holder[key]
        match draw(st.integers(0, 2)):
            case 0:
                holder[last] = draw(values)
            case 1:
                del holder[last]
            case 2 if isinstance(holder, dict):
                holder[draw(st.text(max_size=8))] = draw(values)
            case _:
                holder.append(draw(values)) if isinstance(holder, list) else None
    text = json.dumps(body).encode()
    return draw(damaged([text], most=3)) if draw(st.integers(0, 3)) == 0 else text


@st.composite
def forms(draw: st.DrawFn) -> tuple[str, bytes]:
    """(content type, body) of a form with a picture and options, both perhaps damaged, as perhaps is the whole."""
    boundary = draw(st.sampled_from(["x", "----abc", "a" * 70, "", "ü", '"', "x; charset=utf-7"]))
    parts = draw(
        st.lists(
            st.tuples(
                st.sampled_from(
                    ["picture", "options", "target", "context", "mask", "strokes", "", "\0", "ü"]
                ),
                st.sampled_from(['; filename="a.png"', "", "; filename=", "; filename*=utf-8''%ff"]),
                st.sampled_from(
                    ["", "content-type: image/png\r\n", "content-type: text/plain; charset=utf-16\r\n"]
                ),
                damaged(PICTURES, most=2) | bent(BODIES["edit"]) | st.binary(max_size=40),
            ),
            max_size=4,
        )
    )
    body = b"".join(
        f'--{boundary}\r\ncontent-disposition: form-data; name="{name}"{file}\r\n{kind}\r\n'.encode()
        + content
        + b"\r\n"
        for name, file, kind, content in parts
    )
    body += f"--{boundary}--\r\n".encode()
    if draw(st.integers(0, 3)) == 0:
        body = draw(damaged([body], most=4))
    return f"multipart/form-data; boundary={boundary}", body


FIELDS = ("codes", "edits", "seeds", "sources", "picture", "unknown")


@st.composite
def limit_pictures(draw: st.DrawFn) -> bytes:
    """Pictures at the bounds of what is decoded: of pixels, of JPEG's segments and scans."""
    match draw(st.integers(0, 3)):
        case 0:
            width = draw(st.integers(1, 4000))
            return zero_png(
                width, max(1, draw(near(200_000)) // width), bits=draw(st.sampled_from([1, 8, 16]))
            )
        case 1:
            return jpeg_with_segments(draw(near(1000)))
        case 2:
            return jpeg_of_scans(draw(near(100)), side=draw(st.sampled_from([16, 400, 450])))
        case _:
            return png_header(draw(near(447)), draw(near(447)))


# --- doors -------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("flat_memory")
@pytest.mark.parametrize("turn", range(TURNS))
@fuzz(150)
@given(data=damaged(PICTURES) | st.binary(max_size=200), kind=st.sampled_from([None, ImageFormat.RAW]))
def test_pictures(turn: int, data: bytes, kind: ImageFormat | None) -> None:
    picture = EncodedPicture(data, kind, width=len(data) % 40, height=len(data) // 40)
    try:
        aligned, _ = centre_square(picture, 16, max_bytes=50_000, max_pixels=200_000)
    except (InvalidPicture, PictureTooLarge):
        return
    assert (aligned.shape, aligned.dtype) == ((16, 16, 3), np.uint8)


@pytest.mark.usefixtures("flat_memory")
@pytest.mark.parametrize("turn", range(TURNS))
@fuzz(150)
@given(data=damaged(PICTURES), format=st.sampled_from(ImageFormat), strip=st.booleans())
def test_pasting(turn: int, data: bytes, format: ImageFormat, strip: bool) -> None:
    """Profiles and metadata are damaged, too: the answer can be opened, and is upright."""
    picture = EncodedPicture(data)
    before = np.full((8, 8, 3), 100, np.uint8)
    patch = Patch(Similarity(10, 3 + 2j), before, before + np.uint8(50), False)
    try:
        reader = PictureReader(picture, read_header(picture, 50_000, 200_000))
        answer = reader.paste([patch], OutputOptions(format, strip_metadata=strip))
        size = reader.size()
    except (InvalidPicture, PictureTooLarge):
        return
    if format is not ImageFormat.RAW:
        with Image.open(io.BytesIO(answer.data)) as image:
            image.load()
            assert image.size == size
            assert image.getexif().get(0x0112, 1) == 1


@pytest.mark.usefixtures("flat_memory")
@pytest.mark.parametrize("turn", range(TURNS))
@fuzz(150)
@given(data=st.data())
def test_protobuf(turn: int, target: RunningGateway, data: st.DataObject) -> None:
    method = data.draw(st.sampled_from(sorted(MESSAGES)))
    body = data.draw(
        damaged([message.SerializeToString() for message in MESSAGES[method]]) | st.binary(max_size=100)
    )
    check_over_grpc(target, method, body)


@pytest.mark.usefixtures("flat_memory")
@pytest.mark.parametrize("turn", range(TURNS))
@fuzz(100)
@given(data=st.data())
def test_json(turn: int, target: RunningGateway, data: st.DataObject) -> None:
    route = data.draw(st.sampled_from(sorted(BODIES)))
    check_over_http(target, route, "application/json", data.draw(bent(BODIES[route])))


@pytest.mark.usefixtures("flat_memory")
@pytest.mark.parametrize("turn", range(TURNS))
@fuzz(100)
@given(form=forms(), route=st.sampled_from(["invert", "edit", "diffuse", "watch-invert"]))
@example(form=("multipart/form-data; boundary=x", b"--x\r\n\r\n\r\n--x--\r\n"), route="invert")
def test_multipart(turn: int, target: RunningGateway, form: tuple[str, bytes], route: str) -> None:
    check_over_http(target, route, *form)


@pytest.mark.usefixtures("flat_memory")
@pytest.mark.parametrize("turn", range(TURNS))
@fuzz(60)
@given(
    path=st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="#"), max_size=40),
    method=st.sampled_from(["GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD"]),
    headers=st.dictionaries(
        st.sampled_from(
            ["accept", "x-request-id", "x-timeout-s", "content-type", "origin", "traceparent", "range"]
        ),
        st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=40).map(str.strip),
        max_size=4,
    ),
)
def test_paths_and_headers(
    turn: int, target: RunningGateway, path: str, method: str, headers: dict[str, str]
) -> None:
    prefix = "/v1/" if len(path) % 2 else "/"
    answer = target.http.request(method, f"{target.url}{prefix}{path}", headers=headers)
    if method != "HEAD" and answer.status_code >= 400:
        check_refusal(answer)
    assert answer.status_code < 500


@pytest.mark.usefixtures("flat_memory")
@pytest.mark.parametrize("turn", range(TURNS))
@fuzz(40)
@given(messages=st.lists(bent(SESSION) | damaged(PICTURES), min_size=1, max_size=3))
def test_websocket(turn: int, target: RunningGateway, messages: list[bytes]) -> None:
    url = target.url.replace("http", "ws")
    with connect(f"{url}/v1/edit-session", compression=None) as connection:
        for message in messages:
            try:
                connection.send(message.decode())
            except UnicodeDecodeError:
                connection.send(message)
            told = json.loads(connection.recv(timeout=20))
            if "error" in told:
                assert told["error"]["reason"] in AT_FAULT, told
            elif "image" in told["edited"]:
                assert connection.recv(timeout=20)


@st.composite
def near(draw: st.DrawFn, bound: int) -> int:
    """A count or size at a bound, a little beside it, or far beyond."""
    return draw(st.integers(bound - 2, bound + 2) | st.integers(0, 3 * bound))


@pytest.mark.usefixtures("flat_memory")
@pytest.mark.parametrize("turn", range(TURNS))
@fuzz(60)
@given(data=st.data())
def test_limits(turn: int, target: RunningGateway, data: st.DataObject) -> None:
    """Sizes and counts around each bound: values, nesting, bytes, chunks, segments and scans of pictures."""
    match data.draw(
        st.sampled_from(["protobuf", "json", "nested", "body", "chunks", "websocket", "picture"])
    ):
        case "protobuf":
            method, value = data.draw(
                st.sampled_from(
                    [
                        ("Edit", b"\x22\x00"),
                        ("Decode", b"\x12\x00"),
                        ("Sample", b"\x10\x01"),
                        ("EditSession", b"\x78\x01"),
                        ("WatchInvert", b"\x7a\x00"),
                    ]
                )
            )
            check_over_grpc(target, method, value * data.draw(near(MAX_VALUES)))
        case "json":
            item, field = data.draw(
                st.tuples(st.sampled_from(["0", "{}", "[]", '""', "null"]), st.sampled_from(FIELDS))
            )
            items = ",".join([item] * data.draw(near(JSON_MAX_VALUES)))
            body = f'{{"{field}":[{items}]}}'.encode()
            check_over_http(target, data.draw(st.sampled_from(sorted(BODIES))), "application/json", body)
        case "nested":
            depth = data.draw(near(1000))
            opening, closing = data.draw(st.sampled_from([("[", "]"), ('{"edits":', "}")]))
            check_over_http(target, "edit", "application/json", (opening * depth + closing * depth).encode())
        case "body":
            body = b" " * data.draw(near(200_000))
            kind = data.draw(st.sampled_from(["application/json", "multipart/form-data; boundary=x"]))
            check_over_http(target, "edit", kind, body)
        case "chunks":
            check_chunks(target, data.draw(near(64)), data.draw(near(256)))
        case "websocket":
            text = data.draw(st.booleans())
            check_websocket(target, b" " * data.draw(near(200_000)), text=text)
        case "picture":
            check_over_grpc(
                target,
                "Invert",
                pb.InvertRequest(picture=pb.Picture(data=data.draw(limit_pictures()))).SerializeToString(),
            )


def check_chunks(target: RunningGateway, size: int, count: int) -> None:
    """A body in chunks of one size is answered, or its connection cut."""
    with socket.create_connection(("127.0.0.1", target.gateway.http_port), timeout=20.0) as opened:
        head = b"POST /v1/sample HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        chunk = b"%x\r\n%b\r\n" % (size, b" " * size) if size else b""
        with suppress(ConnectionError):
            opened.sendall(head + b"transfer-encoding: chunked\r\n\r\n" + chunk * count + b"0\r\n\r\n")
            assert opened.recv(1000)[9:12] in (b"", b"400", b"413", b"200")


def check_websocket(target: RunningGateway, message: bytes, *, text: bool) -> None:
    """A message is answered with an error, or the session ends with one."""
    url = target.url.replace("http", "ws")
    with connect(f"{url}/v1/edit-session", compression=None) as connection:
        try:
            connection.send(message.decode() if text else message)
            told = json.loads(connection.recv(timeout=20))
        except ConnectionClosed:
            return
        assert told.get("error", told)["reason"] in AT_FAULT, told


def check_over_grpc(target: RunningGateway, method: str, body: bytes) -> None:
    """Sends it as the only message of a call, and reads all answers."""
    described = pb.DESCRIPTOR.services_by_name["Editing"].methods_by_name[method]
    path = f"/indomain.v1.Editing/{method}"
    if described.client_streaming:
        answer = target.channel.stream_stream(path)(iter([body]), timeout=20)
    elif described.server_streaming:
        answer = target.channel.unary_stream(path)(body, timeout=20)
    else:
        answer = target.channel.unary_unary(path).future(body, timeout=20)
    if described.server_streaming:
        with suppress(grpc.RpcError):
            check_session(list(answer)) if described.client_streaming else list(answer)
    if answer.code() is not grpc.StatusCode.OK:
        told = dict(answer.trailing_metadata() or ()).get("indomain-error-bin", b"")
        assert pb.ErrorDetail.FromString(told).reason in AT_FAULT, (answer.code(), answer.details())


def check_session(answers: list[bytes]) -> None:
    """A request that fails does so in its answer."""
    for answer in map(pb.EditSessionResponse.FromString, answers):
        if answer.WhichOneof("outcome") == "error":
            assert answer.error.reason in AT_FAULT, answer.error


def check_over_http(target: RunningGateway, route: str, content_type: str, body: bytes) -> None:
    answer = target.http.post(f"/v1/{route}", content=body, headers={"content-type": content_type.encode()})
    if answer.status_code != 200:
        check_refusal(answer)
    elif answer.headers["content-type"].startswith("text/event-stream") and "event: error" in answer.text:
        told = json.loads(answer.text.partition("event: error\ndata: ")[2].partition("\n")[0])
        assert told["reason"] in AT_FAULT, told


def check_refusal(answer: httpx.Response) -> None:
    told = answer.json()
    assert told["reason"] in AT_FAULT, told
    assert told["request_id"] == answer.headers["x-request-id"]


# --- what has found something --------------------------------------------------------------------------


@pytest.mark.parametrize("body", [b"\xff\xff\xff", b"\x0a\x05abc"])
@pytest.mark.parametrize("method", MESSAGES)
def test_bytes_that_are_no_message(target: RunningGateway, method: str, body: bytes) -> None:
    """gRPC itself answers UNKNOWN and logs a trace."""
    check_over_grpc(target, method, body)


@pytest.mark.parametrize("path", ["/", "/studio/page.js", "/static-offline-docs/swagger-ui.css"])
@pytest.mark.parametrize("range_", ["", "e)Jt", "bytes=0-9", "bytes=9999999-", "bytes=5-1"])
def test_files_are_answered_whole_whatever_range_is_asked_for(
    target: RunningGateway, path: str, range_: str
) -> None:
    """Starlette answered a broken range as text, without a reason."""
    whole = target.http.get(path)
    answer = target.http.get(path, headers={"range": range_})
    assert (answer.status_code, answer.content) == (200, whole.content)
