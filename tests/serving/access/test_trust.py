"""What the gateway keeps from others: safe defaults, headers, foreign pages, what answers and log lines do not hold."""

from __future__ import annotations

import io
import json
import logging
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from pydantic import ValidationError
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

import indomain
from indomain.v1 import editing_pb2 as pb
from serving.access.keys import make_key
from serving.photographs import pictures
from serving.photographs.formats import loading
from serving.pipeline import editing, pipeline, stages
from serving.settings import Settings
from serving.telemetry.logs import JsonFormatter, LibraryFilter, TextFormatter
from tests.serving.pictures import encoded, photograph
from tests.serving.running_gateway import RunningGateway, run_command, settings_for
from tests.serving.waiting import wait_for

APP = "https://app.example.com"


# --- defaults ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost"])
def test_loopback_needs_no_keys(host: str) -> None:
    assert Settings(host=host).host == host


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.5", "gateway.example.com", ""])
def test_elsewhere_somebody_must_say_who_may_call(host: str, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="nothing says who may call"):
        Settings(host=host)
    assert Settings(host=host, keys_file=tmp_path / "keys.toml")
    assert Settings(host=host, insecure=True)


def test_the_default_is_loopback_and_closed() -> None:
    settings = Settings()
    assert (settings.host, settings.cors_origins, settings.insecure) == ("127.0.0.1", (), False)
    assert settings.operations_port is None


def test_a_start_that_would_be_open_to_all_says_what_to_do() -> None:
    done = run_command("--host", "0.0.0.0")
    assert done.returncode == 2
    assert "keys_file" in done.stderr
    assert "insecure" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_file_of_keys_lets_nobody_in(tmp_path: Path) -> None:
    done = run_command("--keys-file", str(tmp_path / "nowhere.toml"))
    assert done.returncode == 1
    assert "file of keys" in done.stderr


@pytest.mark.parametrize(
    "half", [{"tls_certificate": "a.pem"}, {"tls_key": "a.key"}, {"tls_client_authorities": "a.pem"}]
)
def test_tls_is_whole_or_not_at_all(half: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="tls_key"):
        Settings(**half)  # type: ignore[arg-type]


# --- browsers ----------------------------------------------------------------------------------------


def test_headers_that_browsers_heed_are_on_every_answer(gateway: RunningGateway) -> None:
    for path in ("/v1/bundles", "/docs", "/healthz", "/nothing", "/metrics"):
        headers = gateway.http.get(path).headers
        assert headers["x-content-type-options"] == "nosniff", path
        assert "frame-ancestors 'none'" in headers["content-security-policy"], path
        assert headers["referrer-policy"] == "no-referrer"
        assert "server" not in headers
        assert "access-control-allow-origin" not in headers
    assert gateway.http.get("/v1/bundles").headers["cache-control"] == "no-store"
    assert "unsafe-inline" not in gateway.http.get("/v1/bundles").headers["content-security-policy"]


def test_pages_of_other_origins_are_refused(gateway: RunningGateway) -> None:
    for origin in ("https://evil.example", "null"):
        answer = gateway.http.post("/v1/sample", json={"seeds": [1]}, headers={"origin": origin})
        assert (answer.status_code, answer.json()["reason"]) == (403, "permission_denied")
        assert "access-control-allow-origin" not in answer.headers
    own = gateway.http.post("/v1/sample", json={"seeds": [1]}, headers={"origin": gateway.url})
    assert own.status_code == 200


def test_named_origins_may_call(start_gateway: Callable[..., RunningGateway], tmp_path: Path) -> None:
    key = make_key(tmp_path / "keys.toml", "page")
    running = start_gateway(cors_origins=f"{APP}, https://other.example", keys_file=tmp_path / "keys.toml")
    asked = {
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type",
    }
    preflight = running.http.options("/v1/sample", headers={"origin": APP, **asked})
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == APP
    assert "access-control-allow-credentials" not in preflight.headers
    answer = running.http.post(
        "/v1/sample", json={"seeds": [1]}, headers={"origin": APP, "authorization": f"Bearer {key}"}
    )
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, APP)
    refused = running.http.post("/v1/sample", json={"seeds": [1]}, headers={"origin": APP})
    assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, APP)
    foreign = running.http.options("/v1/sample", headers={"origin": "https://evil.example", **asked})
    assert "access-control-allow-origin" not in foreign.headers


# --- sizes -------------------------------------------------------------------------------------------


def test_a_message_over_the_limit_is_a_typed_error_of_the_sdk(
    start_gateway: Callable[..., RunningGateway],
) -> None:
    running = start_gateway(max_request_bytes=20_000)
    with indomain.Client(running.target) as client:
        with pytest.raises(indomain.RequestTooLargeError):
            client.edit(b"\x89PNG" + b"\0" * 50_000, smile=1.0)
        assert client.sample(1)


def test_all_requests_together_are_bounded_too(start_gateway: Callable[..., RunningGateway]) -> None:
    running = start_gateway(max_bytes_in_flight=30_000)
    large = {"picture": b"\0" * 40_000}
    answer = running.http.post("/v1/invert", files=large)
    assert (answer.status_code, answer.json()["reason"]) == (429, "queue_full")
    with pytest.raises(grpc.RpcError) as raised:
        running.stub.Invert(pb.InvertRequest(picture=pb.Picture(data=large["picture"])), timeout=10)
    assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    for _ in range(20):  # what has ended counts no more
        assert running.http.post("/v1/invert", files={"picture": b"\0" * 10_000}).status_code == 400


def test_a_refusal_reaches_a_caller_who_is_still_sending(
    start_gateway: Callable[..., RunningGateway], tmp_path: Path
) -> None:
    make_key(tmp_path / "keys.toml", "alice")
    running = start_gateway(keys_file=tmp_path / "keys.toml")
    answer = running.http.post("/v1/invert", files={"picture": b"\0" * 8_000_000})
    assert (answer.status_code, answer.json()["reason"]) == (401, "unauthenticated")
    assert running.http.get("/v1/bundles").status_code == 401


def test_metadata_over_the_limit_is_refused(gateway: RunningGateway) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        gateway.stub.Sample(pb.SampleRequest(seeds=[1]), metadata=[("x-much", "a" * 100_000)], timeout=10)
    assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    with suppress(httpx.ReadError, httpx.WriteError):  # it may be cut off while it is still sending
        assert gateway.http.get("/healthz", headers={"x-much": "a" * 200_000}).status_code in (400, 431)
    assert gateway.http.get("/healthz").status_code == 200


# --- what answers do not hold --------------------------------------------------------------------------


class Boom(Exception):
    def __init__(self) -> None:
        super().__init__(f"secret at {__file__}")


@pytest.fixture(scope="module")
def failing(tiny_repository: Path) -> Iterator[RunningGateway]:
    running = RunningGateway(settings_for(tiny_repository), interpose=True)
    yield running
    running.close()


def explode(*_: object, **__: object) -> None:
    raise Boom


@pytest.mark.parametrize(
    ("where", "name"),
    [
        (pictures.PictureReader, "centre_square"),
        (stages, "encode_picture"),
        (editing, "apply_edits"),
        (pipeline.RefineSettings, "resolve"),
        (loading, "PillowImage"),
    ],
)
def test_no_path_and_no_trace_wherever_it_breaks(
    where: object, name: str, failing: RunningGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(where, name, explode)
    photo = encoded(photograph())
    request = pb.EditRequest(
        picture=pb.Picture(data=photo), edits=[pb.EditStep(direction="smile", strength=1.0)]
    )
    with pytest.raises(grpc.RpcError) as raised:
        failing.stub.Edit(request, timeout=20)
    options = json.dumps({"edits": [{"direction": "smile", "strength": 1.0}]})
    answer = failing.http.post("/v1/edit", files={"picture": photo}, data={"options": options})
    assert answer.status_code == 500
    trailing = str(raised.value.trailing_metadata())
    for told in (str(raised.value.details()), trailing, answer.text, str(answer.headers)):
        for leak in ("secret", "Traceback", ".py", "/work", str(Path(__file__).parent), "Boom", sys.prefix):
            assert leak not in told


def test_a_back_end_that_breaks_keeps_its_reasons(failing: RunningGateway) -> None:
    async def before(model: str) -> None:
        explode()

    failing.backend.before = before
    try:
        answer = failing.http.post("/v1/sample", json={"seeds": [1]})
    finally:
        failing.backend.before = None
    assert answer.status_code == 500
    assert not re.search(r"secret|Traceback|\.py|Boom", answer.text)


# --- log lines ---------------------------------------------------------------------------------------


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """All that is logged at any level, as JSON."""
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield written
    root.removeHandler(handler)
    root.setLevel(level)


def test_one_line_a_request_without_picture_or_key(
    start_gateway: Callable[..., RunningGateway], tmp_path: Path, lines: io.StringIO, photo_png: bytes
) -> None:
    key = make_key(tmp_path / "keys.toml", "alice")
    running = start_gateway(keys_file=tmp_path / "keys.toml")
    metadata = [("authorization", f"Bearer {key}"), ("x-request-id", "over-grpc")]
    running.stub.Invert(pb.InvertRequest(picture=pb.Picture(data=photo_png)), metadata=metadata, timeout=20)
    headers = {"authorization": f"Bearer {key}", "x-request-id": "over-http"}
    running.http.post("/v1/invert", files={"picture": photo_png}, headers=headers)
    running.http.post("/v1/invert", files={"picture": b"\x89PNG"}, headers=headers | {"x-request-id": "bad"})
    running.http.get("/v1/bundles", headers={"x-request-id": "keyless", "authorization": "Bearer guess-123"})

    # A line is written after its answer has gone out; those of the client in this process are not meant.
    ids = {"over-grpc", "over-http", "bad", "keyless"}

    def written() -> list[str]:
        return [line for line in lines.getvalue().splitlines() if '"logger": "serving' in line]

    def logged() -> dict[str, dict[str, Any]]:
        entries = [json.loads(line) for line in written()]
        return {entry["request_id"]: entry for entry in entries if entry.get("request_id") in ids}

    wait_for(lambda: set(logged()) == ids)
    requests = logged()
    for name, transport in (("over-grpc", "grpc"), ("over-http", "http")):
        entry = requests[name]
        assert (entry["owner"], entry["transport"], entry["method"], entry["code"]) == (
            "alice",
            transport,
            "Invert",
            "OK",
        )
        assert entry["seconds"] > 0.0
        assert {"align", "encode", "refine", "decode"} <= set(entry["stages"])
    assert (requests["bad"]["code"], requests["keyless"]["code"]) == ("INVALID_ARGUMENT", "UNAUTHENTICATED")
    assert requests["keyless"]["owner"] == "anonymous"
    for line in written():
        assert key not in line
        assert "guess-123" not in line
        assert len(line) < 1000  # no room for a picture


def test_a_refused_websocket_is_a_request_like_others(
    start_gateway: Callable[..., RunningGateway], caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    keys = tmp_path / "keys.toml"
    make_key(keys, "alice")
    running = start_gateway(keys_file=keys)
    address = f"ws://127.0.0.1:{running.gateway.http_port}/v1/edit-session"
    with caplog.at_level(logging.INFO), caplog.filtering(LibraryFilter()):
        with pytest.raises(InvalidStatus, match="401"):
            connect(address)
        wait_for(lambda: "EditSession UNAUTHENTICATED" in caplog.text)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_the_trace_of_a_failure_is_in_the_log_under_its_request_id(
    failing: RunningGateway, lines: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures.PictureReader, "centre_square", explode)
    files = {"picture": encoded(photograph())}
    failing.http.post("/v1/invert", files=files, headers={"x-request-id": "broken-1"})
    (entry,) = [json.loads(line) for line in lines.getvalue().splitlines() if "traceback" in line]
    assert (entry["request_id"], entry["level"]) == ("broken-1", "error")
    assert "Boom" in entry["traceback"]


def test_text_for_people_has_the_same() -> None:
    record = logging.LogRecord("serving.requests", logging.INFO, "", 0, "%s", ("Edit",), None)
    record.fields = {"code": "OK"}
    assert TextFormatter().format(record).endswith("serving.requests Edit | code=OK")
