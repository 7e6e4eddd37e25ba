"""Requests made wrong, by mistake or on purpose: each a typed error on both transports, and the server goes on."""

from __future__ import annotations

import base64
import gzip
import json
import math
import socket
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf import json_format

from indomain.v1 import editing_pb2 as pb
from tests.serving.pictures import encoded, photograph, png_header, webp_header
from tests.serving.running_gateway import RunningGateway, settings_for

MAX_BYTES = 100_000


@pytest.fixture(scope="module")
def strict(tiny_repository: Any) -> Iterator[RunningGateway]:
    """A gateway with low limits, which serves a good request after every bad one."""
    running = RunningGateway(
        settings_for(
            tiny_repository,
            max_picture_bytes=MAX_BYTES,
            max_picture_pixels=250_000,
            max_request_bytes=4 * MAX_BYTES,
            max_codes=8,
            max_edits=4,
            max_refine_steps=50,
        )
    )
    yield running
    running.close()


@pytest.fixture(autouse=True)
def _goes_on(strict: RunningGateway) -> Iterator[None]:
    yield
    assert len(strict.stub.Sample(pb.SampleRequest(seeds=[1]), timeout=10).images) == 1
    assert strict.http.get("/readyz").status_code == 200


def refused_by_grpc(call: Any, request: Any) -> tuple[grpc.StatusCode, pb.ErrorDetail]:
    with pytest.raises(grpc.RpcError) as raised:
        call(request, timeout=10)
    trailing = dict(raised.value.trailing_metadata())
    detail = pb.ErrorDetail.FromString(trailing["indomain-error-bin"])
    assert raised.value.details() == detail.message
    assert "/" not in detail.message.replace("/docs", "").replace("/v1", "")
    return raised.value.code(), detail


def code_bytes(value: float = 0.0, layers: int = 6) -> bytes:
    code = np.zeros((layers, 512), "<f4")
    code[-1, -1] = value
    return code.tobytes()


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


PICTURES = {
    "empty": (b"", "invalid_picture"),
    "text": (b"hello", "invalid_picture"),
    "truncated png": (encoded(photograph())[:500], "invalid_picture"),
    "truncated jpeg": (encoded(photograph(), "JPEG")[:300], "invalid_picture"),
    "ppm": (encoded(photograph(), "PPM"), "invalid_picture"),
    "tga": (encoded(photograph(), "TGA"), "invalid_picture"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "invalid_picture"),
    "too many bytes": (b"\x89PNG" + b"\0" * MAX_BYTES, "picture_too_large"),
    "png bomb": (png_header(50_000, 50_000), "picture_too_large"),
    "webp bomb": (webp_header(16_000, 16_000), "picture_too_large"),
}


@pytest.mark.parametrize("name", PICTURES)
def test_pictures(name: str, strict: RunningGateway) -> None:
    data, reason = PICTURES[name]
    picture = pb.Picture(data=data)
    edits = [pb.EditStep(direction="smile", strength=1.0)]
    for call, request in (
        (strict.stub.Invert, pb.InvertRequest(picture=picture)),
        (strict.stub.Edit, pb.EditRequest(picture=picture, edits=edits)),
    ):
        status, detail = refused_by_grpc(call, request)
        assert status is grpc.StatusCode.INVALID_ARGUMENT
        assert (detail.reason, detail.stage, detail.retryable) == (reason, "align", False)
    body = {"picture": {"data": b64(data)}}
    form = strict.http.post("/v1/invert", files={"picture": ("x.png", data)})
    for answer in (strict.http.post("/v1/invert", json=body), strict.http.post("/v1/edit", json=body), form):
        assert answer.json()["reason"] == reason
        assert answer.status_code == (413 if reason == "picture_too_large" else 400)


CODES = {
    "NaN": (code_bytes(math.nan), [6, 512]),
    "infinity": (code_bytes(math.inf), [6, 512]),
    "absurd value": (code_bytes(1e20), [6, 512]),
    "too few layers": (code_bytes(layers=5), [5, 512]),
    "shape and bytes differ": (code_bytes(), [7, 512]),
    "shape overflows": (code_bytes(), [2**31 - 1, 2**31 - 1, 2**31 - 1]),
    "negative shape": (code_bytes(), [-6, -512]),
    "no shape": (code_bytes(), []),
    "flat": (code_bytes(), [3072]),
    "empty": (b"", [0, 6, 512]),
    "cut": (code_bytes()[:-1], [6, 512]),
}


@pytest.mark.parametrize("name", CODES)
def test_codes(name: str, strict: RunningGateway) -> None:
    data, shape = CODES[name]
    code = pb.Code(data=data, shape=shape)
    for call, request in (
        (strict.stub.Decode, pb.DecodeRequest(codes=[pb.Code(data=code_bytes(), shape=[6, 512]), code])),
        (strict.stub.Edit, pb.EditRequest(code=code)),
    ):
        status, detail = refused_by_grpc(call, request)
        assert (status, detail.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "invalid_code")
    body = {"data": b64(data), "shape": shape}
    for answer in (
        strict.http.post("/v1/decode", json={"codes": [body]}),
        strict.http.post("/v1/edit", json={"code": body}),
    ):
        assert (answer.status_code, answer.json()["reason"]) == (400, "invalid_code")


def good_code() -> dict[str, Any]:
    return {"data": b64(code_bytes()), "shape": [6, 512]}


OPTIONS: dict[str, tuple[str, dict[str, Any], str, int]] = {
    "unknown bundle": ("sample", {"seeds": [1], "bundle": "faces9"}, "unknown_bundle", 404),
    "no seeds": ("sample", {"seeds": []}, "invalid_option", 400),
    "too many seeds": ("sample", {"seeds": [1] * 9}, "invalid_option", 400),
    "truncation": ("sample", {"seeds": [1], "truncation": 7.0}, "invalid_option", 400),
    "quality": ("sample", {"seeds": [1], "output": {"quality": 101}}, "invalid_option", 400),
    "no codes": ("decode", {"codes": []}, "invalid_code", 400),
    "too many codes": ("decode", {"codes": [good_code()] * 9}, "invalid_code", 400),
    "several codes to edit": (
        "edit",
        {"code": {"data": b64(code_bytes() * 2), "shape": [2, 6, 512]}},
        "invalid_code",
        400,
    ),
    "unknown direction": (
        "edit",
        {"code": good_code(), "edits": [{"direction": "frown", "strength": 1.0}]},
        "unknown_direction",
        404,
    ),
    "strength": (
        "edit",
        {"code": good_code(), "edits": [{"direction": "smile", "strength": 1e9}]},
        "invalid_option",
        400,
    ),
    "layers": (
        "edit",
        {"code": good_code(), "edits": [{"direction": "smile", "strength": 1.0, "layers": [0]}]},
        "invalid_option",
        400,
    ),
    "too many edits": (
        "edit",
        {"code": good_code(), "edits": [{"direction": "smile", "strength": 0.1}] * 5},
        "invalid_option",
        400,
    ),
    "nothing to edit": ("edit", {"edits": []}, "malformed_request", 400),
    "steps": (
        "invert",
        {"picture": {"data": b64(encoded(photograph()))}, "refine": {"steps": 51}},
        "invalid_option",
        400,
    ),
    "rate": (
        "invert",
        {"picture": {"data": b64(encoded(photograph()))}, "refine": {"learning_rate": -1.0}},
        "invalid_option",
        400,
    ),
    "raw without size": (
        "invert",
        {"picture": {"data": b64(b"123"), "format": "raw"}},
        "invalid_picture",
        400,
    ),
}


def as_message(method: str, body: dict[str, Any]) -> Any:
    """The protobuf request with the same content: names are the same on both transports."""
    kind = {
        "sample": pb.SampleRequest,
        "decode": pb.DecodeRequest,
        "edit": pb.EditRequest,
        "invert": pb.InvertRequest,
    }
    text = json.dumps(body).replace('"raw"', '"IMAGE_FORMAT_RAW"')
    return json_format.Parse(text, kind[method]())


@pytest.mark.parametrize("name", OPTIONS)
def test_options(name: str, strict: RunningGateway) -> None:
    method, body, reason, status = OPTIONS[name]
    answer = strict.http.post(f"/v1/{method}", json=body)
    assert (answer.status_code, answer.json()["reason"]) == (status, reason)
    code, detail = refused_by_grpc(getattr(strict.stub, method.title()), as_message(method, body))
    assert detail.reason == reason
    assert code is (grpc.StatusCode.NOT_FOUND if status == 404 else grpc.StatusCode.INVALID_ARGUMENT)
    assert detail.message == answer.json()["message"]


def test_strengths_that_are_no_numbers(strict: RunningGateway) -> None:
    for value in (math.nan, math.inf, -math.inf):
        edits = [pb.EditStep(direction="smile", strength=value)]
        code = pb.Code(data=code_bytes(), shape=[6, 512])
        _, detail = refused_by_grpc(strict.stub.Edit, pb.EditRequest(code=code, edits=edits))
        assert detail.reason == "invalid_option"
        text = json.dumps({"code": good_code(), "edits": [{"direction": "smile", "strength": value}]})
        headers = {"content-type": "application/json"}
        answer = strict.http.post("/v1/edit", content=text, headers=headers)
        assert answer.status_code == 400


@pytest.mark.parametrize(
    ("content", "content_type", "reason", "status"),
    [
        (b"{", "application/json", "malformed_request", 400),
        (b"", "application/json", "malformed_request", 400),
        (b"[]", "application/json", "malformed_request", 400),
        (b'{"seeds": [1], "sedes": 2}', "application/json", "malformed_request", 400),
        (b'{"seeds": "many"}', "application/json", "malformed_request", 400),
        (b"\xff\xfe", "application/json", "malformed_request", 400),
        (b"seeds=1", "application/x-www-form-urlencoded", "unsupported_media_type", 415),
    ],
)
def test_bodies(content: bytes, content_type: str, reason: str, status: int, strict: RunningGateway) -> None:
    answer = strict.http.post("/v1/sample", content=content, headers={"content-type": content_type})
    assert (answer.status_code, answer.json()["reason"]) == (status, reason)


@pytest.mark.parametrize(
    ("files", "data"),
    [
        ({"foto": b"x"}, {}),
        ({"picture": encoded(photograph())}, {"options": "{"}),
        ({"picture": encoded(photograph())}, {"options": '{"steps": 3}'}),
    ],
)
def test_forms(files: dict[str, bytes], data: dict[str, str], strict: RunningGateway) -> None:
    answer = strict.http.post("/v1/invert", files=files, data=data)
    assert (answer.status_code, answer.json()["reason"]) == (400, "malformed_request")


@pytest.mark.parametrize("charset", ["punycode", "idna", "undefined", "unicode_escape", "utf-16"])
def test_a_forms_texts_are_utf_8_whatever_it_says(charset: str, strict: RunningGateway) -> None:
    body = (
        b'--b\r\nContent-Disposition: form-data; name="options"\r\n\r\n' + b"a-" * 20_000 + b"\r\n--b--\r\n"
    )
    headers = {"content-type": f"multipart/form-data; boundary=b; charset={charset}"}
    answer = strict.http.post("/v1/invert", content=body, headers=headers)
    assert (answer.status_code, answer.json()["reason"]) == (400, "malformed_request")


def test_half_a_surrogate_pair_in_json(strict: RunningGateway) -> None:
    headers = {"content-type": "application/json"}
    for body in (b'{"\\ud800": 1}', b'{"bundle": "\\ud800"}'):
        answer = strict.http.post("/v1/sample", content=body, headers=headers)
        assert (answer.status_code, answer.json()["reason"]) == (400, "malformed_request")


def test_a_form_without_its_boundary(strict: RunningGateway) -> None:
    headers = {"content-type": "multipart/form-data"}
    answer = strict.http.post("/v1/invert", content=b"--x", headers=headers)
    assert (answer.status_code, answer.json()["reason"]) == (400, "malformed_request")


def test_paths_and_methods(strict: RunningGateway) -> None:
    gone = strict.http.get("/v2/invert")
    assert (gone.status_code, gone.json()["reason"]) == (404, "not_found")
    wrong = strict.http.get("/v1/invert")
    assert (wrong.status_code, wrong.json()["reason"]) == (405, "method_not_allowed")


def test_time_limit_header(strict: RunningGateway) -> None:
    for value in ("soon", "-1", "nan", "0"):
        answer = strict.http.get("/v1/bundles", headers={"x-timeout-s": value})
        assert (answer.status_code, answer.json()["reason"]) == (400, "invalid_option")


def test_requests_over_the_limit(strict: RunningGateway) -> None:
    huge = pb.InvertRequest(picture=pb.Picture(data=b"\0" * (5 * MAX_BYTES)))
    with pytest.raises(grpc.RpcError) as raised:
        strict.stub.Invert(huge, timeout=10)
    assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    answer = strict.http.post("/v1/invert", files={"picture": b"\0" * (5 * MAX_BYTES)})
    assert (answer.status_code, answer.json()["reason"]) == (413, "request_too_large")


def test_a_message_a_little_over_the_limit_is_told_the_setting(strict: RunningGateway) -> None:
    limit = strict.gateway.settings.max_request_bytes
    over = pb.InvertRequest(picture=pb.Picture(data=b"\0" * limit))
    _, detail = refused_by_grpc(strict.stub.Invert, over)
    assert detail.reason == "request_too_large"
    assert str(limit) in detail.message
    assert "INDOMAIN_MAX_REQUEST_BYTES" in detail.message


# --- a picture in other forms ------------------------------------------------------------------------


def test_a_picture_alone_is_a_body(strict: RunningGateway) -> None:
    picture = encoded(photograph(), "JPEG")
    options = json.dumps({"refine": {"steps": 0}, "edits": [{"direction": "smile", "strength": 1.0}]})
    as_form = strict.http.post("/v1/edit", files={"picture": picture}, data={"options": options})
    headers = {"content-type": "image/jpeg"}
    alone = strict.http.post("/v1/edit", content=picture, headers=headers, params={"options": options})
    assert (alone.status_code, as_form.status_code) == (200, 200)
    assert alone.json()["image"] == as_form.json()["image"]
    # without options, as `curl --data-binary @me.jpg` would
    assert strict.http.post("/v1/invert", content=picture, headers=headers).status_code == 200


@pytest.mark.parametrize("query", [{"smile": "1"}, {"options": "{"}, {"options": '{"smile": 1}'}])
def test_options_of_a_picture_alone_are_read_strictly(query: dict[str, str], strict: RunningGateway) -> None:
    answer = strict.http.post(
        "/v1/edit", content=encoded(photograph()), headers={"content-type": "image/png"}, params=query
    )
    assert (answer.status_code, answer.json()["reason"]) == (400, "malformed_request")
    assert any(word in answer.json()["message"] for word in ("smile", "JSON"))


def test_a_picture_alone_is_no_body_where_no_picture_is_asked_for(strict: RunningGateway) -> None:
    answer = strict.http.post("/v1/sample", content=b"x", headers={"content-type": "image/png"})
    assert (answer.status_code, answer.json()["reason"]) == (415, "unsupported_media_type")
    assert "image/png" in answer.json()["message"]


def test_data_urls_are_pictures(strict: RunningGateway) -> None:
    text = base64.b64encode(encoded(photograph())).decode()
    bodies = [{"picture": {"data": data}} for data in (text, f"data:image/png;base64,{text}")]
    plain, url = (strict.http.post("/v1/invert", json=body).json()["code"] for body in bodies)
    assert plain["data"] == url["data"]
    refused = strict.http.post("/v1/invert", json={"picture": {"data": "data:image/png,%89PNG"}})
    assert (refused.status_code, refused.json()["reason"]) == (400, "malformed_request")
    assert "picture.data is a data URL without base64" in refused.json()["message"]


def test_a_body_that_hides_its_length_is_not_read_to_its_end(strict: RunningGateway) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(100):
            yield b" " * MAX_BYTES

    answer = strict.http.post("/v1/sample", content=chunks(), headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["reason"]) == (413, "request_too_large")


def test_a_length_that_is_announced_is_refused_before_the_body(strict: RunningGateway) -> None:
    with socket.create_connection(("127.0.0.1", strict.gateway.http_port), timeout=10) as connection:
        lines = (
            "POST /v1/sample HTTP/1.1",
            "host: localhost",
            "content-type: application/json",
            "content-length: 99999999",
        )
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        assert b" 413 " in connection.recv(200)


# --- which part of a request is at fault -------------------------------------------------------------

GOOD_PICTURE = encoded(photograph(width=16, height=16))
GOOD_SOURCE = pb.Source(picture=pb.Picture(data=GOOD_PICTURE))
BAD_SOURCES = {
    "text": (pb.Source(picture=pb.Picture(data=b"hello")), "invalid_picture"),
    "too many pixels": (pb.Source(picture=pb.Picture(data=png_header(50_000, 50_000))), "picture_too_large"),
    "a code of another shape": (pb.Source(code=pb.Code(data=code_bytes(), shape=[3, 1024])), "invalid_code"),
    "a code whose bytes are missing": (pb.Source(code=pb.Code(data=b"", shape=[6, 512])), "invalid_code"),
    "an unknown handle": (pb.Source(code=pb.Code(handle="nobody's")), "unknown_code_handle"),
}


@pytest.mark.parametrize("bad", BAD_SOURCES)
@pytest.mark.parametrize(
    ("rpc", "field"), [("Mix", "base"), ("Mix", "style"), ("Interpolate", "start"), ("Interpolate", "end")]
)
def test_of_two_sources_the_bad_one_is_named(rpc: str, field: str, bad: str, strict: RunningGateway) -> None:
    source, reason = BAD_SOURCES[bad]
    message: Any = pb.MixRequest(layers=[0]) if rpc == "Mix" else pb.InterpolateRequest(count=2)
    for name in ("base", "style") if rpc == "Mix" else ("start", "end"):
        getattr(message, name).CopyFrom(source if name == field else GOOD_SOURCE)
    check_names(strict, rpc, message, field, reason)


@pytest.mark.parametrize("field", ["target", "context", "mask"])
def test_of_the_pictures_of_a_diffusion_the_bad_one_is_named(field: str, strict: RunningGateway) -> None:
    pictures = {
        name: pb.Picture(data=b"hello" if name == field else GOOD_PICTURE)
        for name in ("target", "context", "mask")
    }
    check_names(strict, "Diffuse", pb.DiffuseRequest(**pictures), field, "invalid_picture")


@pytest.mark.parametrize("field", ["mask", "strokes"])
def test_a_bad_drawing_of_an_edit_is_named(field: str, strict: RunningGateway) -> None:
    message = pb.EditRequest(
        picture=pb.Picture(data=GOOD_PICTURE), edits=[pb.EditStep(direction="smile", strength=1.0)]
    )
    getattr(message, field).data = b"hello"
    check_names(strict, "Edit", message, field, "invalid_picture")


def check_names(strict: RunningGateway, rpc: str, message: Any, field: str, reason: str) -> None:
    """Over both transports the request is refused, and the message begins with the field that is at fault."""
    if rpc == "Interpolate":
        detail = refused_by_grpc(
            lambda *args, **options: list(strict.stub.Interpolate(*args, **options)), message
        )[1]
    else:
        detail = refused_by_grpc(getattr(strict.stub, rpc), message)[1]
    body = json_format.MessageToDict(message, preserving_proto_field_name=True)
    answer = strict.http.post(f"/v1/{rpc.lower()}", json=body).json()
    assert (detail.reason, answer["reason"]) == (reason, reason)
    assert detail.message.startswith(f"{field}: ")
    assert answer["message"] == detail.message


# --- nothing is dropped without a word ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ([("picture", GOOD_PICTURE), ("picture", GOOD_PICTURE)], "'picture' more than once"),
        ([("picture", GOOD_PICTURE), ("options", b"{}"), ("options", b"{}")], "'options' more than once"),
        ([("picture", GOOD_PICTURE), ("options", b'{"picture": {"data": "AAAA"}}')], "have 'picture'"),
        ([("picture", GOOD_PICTURE), ("options", b'{"code": {"handle": "a"}}')], "have 'code'"),
        ([("mask", GOOD_PICTURE), ("options", b'{"region": {"right": 1, "bottom": 1}}')], "have 'region'"),
        (
            [("picture", GOOD_PICTURE), ("options", b'{"edits": [], "edits": []}')],
            "edits comes more than once",
        ),
    ],
)
def test_a_form_says_everything_once(
    parts: list[tuple[str, bytes]], says: str, strict: RunningGateway
) -> None:
    answer = strict.http.post("/v1/edit", files=[(name, (name, content)) for name, content in parts])
    assert (answer.status_code, answer.json()["reason"]) == (400, "malformed_request")
    assert says in answer.json()["message"]


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ([("options", "{}"), ("options", "{}")], "'options' more than once"),
        ([("options", '{"picture": {"data": "AAAA"}}')], "have 'picture'"),
        ([("options", '{"code": {"handle": "a"}}')], "have 'code'"),
    ],
)
def test_a_picture_alone_is_the_only_source(
    query: list[tuple[str, str]], says: str, strict: RunningGateway
) -> None:
    headers = {"content-type": "image/png"}
    answer = strict.http.post("/v1/edit", content=GOOD_PICTURE, headers=headers, params=query)
    assert (answer.status_code, answer.json()["reason"]) == (400, "malformed_request")
    assert says in answer.json()["message"]


def test_a_compressed_body_is_refused_by_its_name(strict: RunningGateway) -> None:
    headers = {"content-type": "image/png", "content-encoding": "gzip"}
    answer = strict.http.post("/v1/invert", content=gzip.compress(GOOD_PICTURE), headers=headers)
    assert (answer.status_code, answer.json()["reason"]) == (415, "unsupported_media_type")
    assert "'gzip'" in answer.json()["message"]
