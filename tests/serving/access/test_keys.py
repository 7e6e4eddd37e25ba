"""API keys: who is let in, for what, how often; over both transports and through the SDK."""

from __future__ import annotations

import json
import logging
import os
import queue
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

import indomain
from indomain.v1 import editing_pb2 as pb
from serving.access.keys import Keys, make_key
from serving.access.lifecycle import Lifecycle
from serving.access.memory import MemoryBudget
from serving.errors import EditingError, KeyLimitReached, KeysInvalid, QueueFull, Unauthenticated
from serving.http.middleware import LifecycleMiddleware
from serving.settings import Settings
from serving.telemetry.metrics import Metrics
from tests.serving.messages import as_message, session_request
from tests.serving.pictures import encoded, photograph
from tests.serving.running_gateway import RunningGateway, settings_for
from tests.serving.waiting import wait_for

ROOT = Path(__file__).resolve().parents[3]
SAMPLE = pb.SampleRequest(seeds=[1])


class StandingClock:
    def __init__(self) -> None:
        self.moment_s = 100.0

    def now(self) -> float:
        return self.moment_s

    async def sleep_until(self, moment_s: float) -> None:
        self.moment_s = moment_s


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.toml"


def bearer(key: str) -> str:
    return f"Bearer {key}"


def refusal(keys: Keys, authorization: str | None, method: str = "Edit") -> EditingError:
    with pytest.raises(EditingError) as raised, keys.admit(authorization, method):
        pass
    return raised.value


def test_a_new_key_lets_its_owner_in_and_is_kept_nowhere(file: Path) -> None:
    alice, bob = make_key(file, "alice"), make_key(file, "bob")
    assert alice not in file.read_text()
    assert bob not in file.read_text()
    keys = Keys(file)
    with keys.admit(bearer(alice), "Edit") as owner:
        assert owner == "alice"
    with keys.admit(f"bearer  {bob}", "Sample") as owner:
        assert owner == "bob"
    for wrong in (None, "", "Bearer", bearer(""), bearer(alice[:-1]), bearer(alice + "x"), f"Basic {alice}"):
        error = refusal(keys, wrong)
        assert isinstance(error, Unauthenticated)
        assert alice not in error.message


def test_requests_a_second(file: Path) -> None:
    key, clock = make_key(file, "alice", requests_per_s=2.0), StandingClock()
    keys = Keys(file, clock)
    for _ in range(2):
        with keys.admit(bearer(key), "Edit"):
            pass
    error = refusal(keys, bearer(key))
    assert isinstance(error, KeyLimitReached)
    assert error.retry_after_s == pytest.approx(0.5)
    clock.moment_s += 0.5
    with keys.admit(bearer(key), "Edit"):
        pass
    refusal(keys, bearer(key))
    clock.moment_s += 3600.0  # an idle hour saves up no more than a second's worth
    for _ in range(2):
        with keys.admit(bearer(key), "Edit"):
            pass
    refusal(keys, bearer(key))


def test_requests_at_once_are_given_back_also_after_a_failure(file: Path) -> None:
    key, other = make_key(file, "alice", max_concurrent=1), make_key(file, "bob", max_concurrent=1)
    keys = Keys(file)
    with keys.admit(bearer(key), "Edit"):
        assert isinstance(refusal(keys, bearer(key)), KeyLimitReached)
        with keys.admit(bearer(other), "Edit"):
            pass
    with pytest.raises(ZeroDivisionError), keys.admit(bearer(key), "Edit"):
        raise ZeroDivisionError
    with keys.admit(bearer(key), "Edit"):
        pass


def test_a_refused_request_does_not_use_up_the_rate(file: Path) -> None:
    key, clock = make_key(file, "alice", requests_per_s=1.0, max_concurrent=1), StandingClock()
    keys = Keys(file, clock)
    with keys.admit(bearer(key), "Edit"):
        clock.moment_s += 1.0
        refusal(keys, bearer(key))
    with keys.admit(bearer(key), "Edit"):
        pass


def test_the_file_is_read_again_and_a_broken_one_changes_nothing(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    old, clock = make_key(file, "alice"), StandingClock()
    keys = Keys(file, clock)
    new = make_key(file, "bob")
    clock.moment_s += 5.0
    with keys.admit(bearer(new), "Edit") as owner:
        assert owner == "bob"
    file.write_text("[[key]\n")
    clock.moment_s += 5.0
    with keys.admit(bearer(old), "Edit"):
        assert "stay in force" in caplog.text
    file.write_text("# nobody any more\n")
    clock.moment_s += 5.0
    assert isinstance(refusal(keys, bearer(old)), Unauthenticated)
    file.unlink()
    clock.moment_s += 5.0
    assert isinstance(refusal(keys, bearer(new)), Unauthenticated)


@pytest.mark.parametrize(
    "text",
    [
        "key = 3",
        '[[key]]\nowner = "alice"',
        f'[[key]]\nowner = "a b"\nsha256 = "{"0" * 64}"',
        f'[[key]]\nowner = "alice"\nsha256 = "{"0" * 64}"\nrequest_per_s = 2',
        f'[[key]]\nowner = "alice"\nsha256 = "{"0" * 63}g"',
        f'[[key]]\nowner = "alice"\nsha256 = "{"0" * 64}"\n' * 2,
    ],
)
def test_files_that_are_wrong(text: str, file: Path) -> None:
    file.write_text(text)
    with pytest.raises(KeysInvalid) as raised:
        Keys(file)
    assert str(file.parent) not in raised.value.message


def test_the_command_prints_a_key_once(file: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "serving", "key", "alice", "--max-concurrent", "3", "--methods", "Edit"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "INDOMAIN_KEYS_FILE": str(file)},
    )
    key = done.stdout.strip()
    (entry,) = tomllib.loads(file.read_text())["key"]
    assert (entry["owner"], entry["max_concurrent"], entry["methods"]) == ("alice", 3, ["Edit"])
    with Keys(file).admit(bearer(key), "Edit"):
        pass


# --- through the gateway -----------------------------------------------------------------------------


class Guarded:
    """A gateway that wants keys."""

    def __init__(self, running: RunningGateway, **keys: str) -> None:
        self.running = running
        self.keys = keys


@pytest.fixture(scope="module")
def guarded(tiny_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    file = tmp_path_factory.mktemp("keys") / "keys.toml"
    keys = {
        "alice": make_key(file, "alice"),
        "slow": make_key(file, "slow", requests_per_s=0.01),
        "viewer": make_key(file, "viewer", methods=("ListBundles", "Metrics")),
    }
    running = RunningGateway(settings_for(tiny_repository, keys_file=file, operations_port=0))
    yield Guarded(running, **keys)
    running.close()


def over_grpc(guarded: Guarded, key: str | None) -> tuple[grpc.StatusCode, str, float]:
    metadata = [] if key is None else [("authorization", bearer(key))]
    with pytest.raises(grpc.RpcError) as raised:
        guarded.running.stub.Sample(SAMPLE, timeout=10, metadata=metadata)
    detail = pb.ErrorDetail.FromString(dict(raised.value.trailing_metadata())["indomain-error-bin"])
    return raised.value.code(), detail.reason, detail.retry_after_s


def over_http(guarded: Guarded, key: str | None, path: str = "/v1/sample") -> httpx.Response:
    headers = {} if key is None else {"authorization": bearer(key)}
    if path == "/v1/sample":
        return guarded.running.http.post(path, json={"seeds": [1]}, headers=headers)
    return guarded.running.http.get(path, headers=headers)


def test_with_a_key_and_without_on_both_transports(guarded: Guarded) -> None:
    for key in (None, "indomain_of-nobody"):
        assert over_grpc(guarded, key)[:2] == (grpc.StatusCode.UNAUTHENTICATED, "unauthenticated")
        answer = over_http(guarded, key)
        assert (answer.status_code, answer.json()["reason"]) == (401, "unauthenticated")
        assert answer.headers["www-authenticate"] == "Bearer"
    metadata = [("authorization", bearer(guarded.keys["alice"]))]
    assert guarded.running.stub.Sample(SAMPLE, timeout=10, metadata=metadata).images
    assert over_http(guarded, guarded.keys["alice"]).status_code == 200


def test_a_key_for_some_methods_only(guarded: Guarded) -> None:
    viewer = guarded.keys["viewer"]
    assert over_grpc(guarded, viewer)[:2] == (grpc.StatusCode.PERMISSION_DENIED, "permission_denied")
    assert over_http(guarded, viewer).status_code == 403
    assert over_http(guarded, viewer, "/v1/bundles").status_code == 200
    assert over_http(guarded, viewer, "/metrics").status_code == 200


def test_a_keys_own_limit(guarded: Guarded) -> None:
    slow = guarded.keys["slow"]
    metadata = [("authorization", bearer(slow))]
    assert guarded.running.stub.Sample(SAMPLE, timeout=10, metadata=metadata).images
    code, reason, retry_after_s = over_grpc(guarded, slow)
    assert (code, reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "key_limit")
    assert 10.0 < retry_after_s <= 100.0
    answer = over_http(guarded, slow)
    assert (answer.status_code, answer.json()["reason"]) == (429, "key_limit")
    assert 10 < int(answer.headers["retry-after"]) <= 100
    assert over_http(guarded, guarded.keys["alice"]).status_code == 200


def test_what_is_open_without_a_key(guarded: Guarded) -> None:
    for path in ("/healthz", "/readyz", "/docs", "/openapi.json"):
        assert over_http(guarded, None, path).status_code == 200, path
    for path in ("/metrics", "/v1/bundles", "/v1/nothing"):
        assert over_http(guarded, None, path).status_code == 401, path
    assert over_http(guarded, None, "/openapi.json").json()["security"] == [{"key": []}]


def test_the_operations_port_has_probes_and_metrics_and_no_more(guarded: Guarded) -> None:
    url = f"http://127.0.0.1:{guarded.running.gateway.operations_port}"
    assert httpx.get(f"{url}/readyz").status_code == 200
    assert "indomain_stage_seconds" in httpx.get(f"{url}/metrics").text
    assert httpx.post(f"{url}/v1/sample", json={"seeds": [1]}).status_code == 404
    assert httpx.get(f"{url}/docs").status_code == 404


def test_the_sdk_sends_its_key(guarded: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    target = guarded.running.target
    monkeypatch.delenv("INDOMAIN_API_KEY", raising=False)
    with indomain.Client(target) as client, pytest.raises(indomain.UnauthenticatedError):
        client.info()
    with indomain.Client(target, api_key=guarded.keys["viewer"]) as client:
        assert client.info().bundles
        with pytest.raises(indomain.PermissionDeniedError):
            client.sample(1)
    with indomain.Client(target, api_key=guarded.keys["slow"]) as client:
        with pytest.raises(indomain.KeyLimitError) as raised:  # at the latest the second
            [client.sample(1, timeout_s=5) for _ in range(2)]
        assert raised.value.retryable
        assert isinstance(raised.value, indomain.OverloadedError)
    monkeypatch.setenv("INDOMAIN_API_KEY", guarded.keys["alice"])
    with indomain.Client(target) as client:
        assert client.sample(1)
    with pytest.raises(ValueError, match="API key"):
        indomain.Client(target, api_key="two words\n")


def test_a_key_that_is_taken_away_stops_working_without_a_restart(
    start_gateway: Callable[..., RunningGateway], file: Path
) -> None:
    key = make_key(file, "alice")
    running = start_gateway(keys_file=file)
    headers = {"authorization": bearer(key)}
    assert running.http.get("/v1/bundles", headers=headers).status_code == 200
    file.write_text("")
    wait_for(lambda: running.http.get("/v1/bundles", headers=headers).status_code == 401, timeout_s=60.0)


# --- streams -----------------------------------------------------------------------------------------


def session_over_websocket(guarded: Guarded, **options: Any) -> None:
    url = guarded.running.url.replace("http", "ws")
    with connect(f"{url}/v1/edit-session", compression=None, **options) as connection:
        connection.send(encoded(photograph()))
        assert "edited" in json.loads(connection.recv(timeout=20))


def test_streams_need_a_key_on_every_way(guarded: Guarded) -> None:
    picture = pb.Picture(data=encoded(photograph()))
    stub, key = guarded.running.stub, bearer(guarded.keys["alice"])
    streams = [
        lambda **options: stub.WatchInvert(pb.WatchInvertRequest(picture=picture), **options),
        lambda **options: stub.EditSession(iter([session_request(picture=picture)]), **options),
    ]
    for open_stream in streams:
        with pytest.raises(grpc.RpcError) as raised:
            list(open_stream(timeout=20))
        assert raised.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert list(open_stream(timeout=20, metadata=[("authorization", key)]))
    files = {"picture": encoded(photograph())}
    assert guarded.running.http.post("/v1/watch-invert", files=files).status_code == 401
    headers = {"authorization": key}
    assert guarded.running.http.post("/v1/watch-invert", files=files, headers=headers).status_code == 200
    with pytest.raises(InvalidStatus) as refused:
        session_over_websocket(guarded)
    assert refused.value.response.status_code == 401
    session_over_websocket(guarded, additional_headers=headers)
    session_over_websocket(guarded, subprotocols=["indomain.v1", f"bearer.{guarded.keys['alice']}"])


def test_the_sdks_streams_send_the_key(guarded: Guarded) -> None:
    photo = encoded(photograph())
    with indomain.Client(guarded.running.target, api_key=guarded.keys["alice"]) as client:
        assert list(client.watch_invert(photo))
        with client.session(photo) as session:
            assert session.edit(smile=1.0)


# --- websockets: at the border itself, whatever routes there are --------------------------------------


async def open_websocket(
    file: Path, *headers: tuple[str, str], subprotocols: tuple[str, ...] = ()
) -> list[dict[str, Any]]:
    """What the server is told when somebody opens a websocket like this."""
    sent: list[dict[str, Any]] = []

    async def accept(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    scope = {
        "type": "websocket",
        "path": "/v1/session",
        "headers": [(name.encode(), value.encode()) for name, value in (("host", "here"), *headers)],
        "subprotocols": list(subprotocols),
        "extensions": {"websocket.http.response": {}},
    }
    lifecycle = Lifecycle(Settings(), Metrics(), MemoryBudget(1), Keys(file))
    await LifecycleMiddleware(accept, Settings(), lifecycle)(scope, receive, send)  # type: ignore[arg-type]
    return sent


async def test_websockets_need_a_key_too(file: Path) -> None:
    key = make_key(file, "alice")
    refused = await open_websocket(file)
    assert refused[0]["status"] == 401
    assert b"unauthenticated" in refused[1]["body"]
    by_header = await open_websocket(file, ("authorization", bearer(key)))
    assert by_header[0]["type"] == "websocket.accept"
    by_subprotocol = await open_websocket(file, subprotocols=("indomain.v1", f"bearer.{key}"))
    assert by_subprotocol[0]["type"] == "websocket.accept"
    foreign = await open_websocket(file, ("authorization", bearer(key)), ("origin", "https://evil.example"))
    assert foreign[0]["status"] == 403


def test_a_bad_key_for_metrics_leaves_a_log_line(
    start_gateway: Callable[..., RunningGateway], file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_key(file, "alice")
    running = start_gateway(keys_file=file)
    with caplog.at_level(logging.INFO, "serving.requests"):
        for path in ("/metrics", "/v1/find-faces"):
            answer = running.http.get(path, headers={"authorization": "Bearer nobody's"})
            assert answer.status_code == 401
        wait_for(lambda: len(caplog.records) >= 2)
    told = [getattr(record, "fields", {}) for record in caplog.records]
    assert [(each["method"], each["code"]) for each in told] == [
        ("/metrics", "UNAUTHENTICATED"),
        ("FindFaces", "UNAUTHENTICATED"),
    ]


def test_a_sessions_messages_are_charged_to_its_key(
    start_gateway: Callable[..., RunningGateway], file: Path
) -> None:
    key = make_key(file, "alice", requests_per_s=1.0)
    running = start_gateway(keys_file=file)
    metadata = [("authorization", f"Bearer {key}")]
    code = as_message(np.full((6, 512), 0.05, np.float32))
    requests = [session_request(1, code=code), *(session_request(n) for n in range(2, 30))]
    answers = list(running.stub.EditSession(iter(requests), metadata=metadata, timeout=30))
    edited = [answer for answer in answers if answer.WhichOneof("outcome") == "edited"]
    assert len(edited) <= 2
    assert {answer.error.reason for answer in answers if answer not in edited} <= {"key_limit"}


def test_a_key_that_is_taken_out_ends_its_session(
    start_gateway: Callable[..., RunningGateway], file: Path
) -> None:
    key = make_key(file, "alice")
    make_key(file, "bob")
    running = start_gateway(keys_file=file)
    requests: queue.SimpleQueue[pb.EditSessionRequest] = queue.SimpleQueue()
    requests.put(session_request(1, code=as_message(np.full((6, 512), 0.05, np.float32))))
    answers = running.stub.EditSession(
        iter(requests.get, None), metadata=[("authorization", f"Bearer {key}")], timeout=60
    )
    assert next(answers).WhichOneof("outcome") == "edited"
    file.unlink()
    make_key(file, "bob")

    def goes_on() -> bool:
        requests.put(session_request(2))
        next(answers)
        return False

    with pytest.raises(grpc.RpcError) as raised:
        wait_for(goes_on, timeout_s=20.0)
    assert raised.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_one_owner_may_not_hold_all_sessions_nor_all_memory(
    start_gateway: Callable[..., RunningGateway], file: Path
) -> None:
    keys = {name: make_key(file, name) for name in ("alice", "bob")}
    running = start_gateway(keys_file=file, max_sessions=8)
    code = as_message(np.full((6, 512), 0.05, np.float32))

    def open_session(name: str) -> Any:
        requests: queue.SimpleQueue[pb.EditSessionRequest] = queue.SimpleQueue()
        requests.put(session_request(1, code=code))
        metadata = [("authorization", f"Bearer {keys[name]}")]
        return running.stub.EditSession(iter(requests.get, None), metadata=metadata, timeout=60)

    opened = [open_session("alice") for _ in range(7)]
    assert all(next(answers).WhichOneof("outcome") == "edited" for answers in opened)
    with pytest.raises(grpc.RpcError) as raised:
        next(open_session("alice"))
    assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert next(open_session("bob")).WhichOneof("outcome") == "edited"
    for answers in opened:
        answers.cancel()


def test_one_owner_may_not_hold_all_memory() -> None:
    memory = MemoryBudget(800)
    with memory.request("alice") as hold, memory.request("bob") as hold_too:
        hold(600)
        with pytest.raises(QueueFull, match="share while others ask"):
            hold(101)
        hold_too(100)
        with pytest.raises(QueueFull):
            hold(1)
    assert memory.held_bytes == 0


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "evil.example"}, 403),
        ({"host": "evil.example", "origin": "http://evil.example"}, 403),
        ({"host": "["}, 400),
        ({"origin": "http://["}, 400),
        ({"host": "localhost:8080"}, 200),
        ({"host": "127.0.0.1:8080"}, 200),
        ({"host": "studio.example"}, 200),
    ],
)
def test_strangers_names_are_refused(named: RunningGateway, headers: dict[str, str], status: int) -> None:
    assert named.http.get("/v1/bundles", headers=headers).status_code == status


@pytest.fixture(scope="module")
def named(tiny_repository: Path) -> Iterator[RunningGateway]:
    running = RunningGateway(settings_for(tiny_repository, allowed_hosts="studio.example"))
    yield running
    running.close()
