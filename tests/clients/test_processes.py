"""Nobody gets another's answer: clients in children of a fork, in threads and event loops, copied, and beside answers
of other requests."""

from __future__ import annotations

import asyncio
import copy
import json
import pickle
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import grpc
import httpx
import numpy as np
import pytest

import indomain
from indomain.clients.session import EditSession
from indomain.v1 import editing_pb2
from tests.clients.scripted_gateway import Failure, ScriptedGateway
from tests.clients.support import PORTRAIT
from tests.serving.running_gateway import RunningGateway

TRANSPORTS = ["grpc", "http"]


def address_of(gateway: RunningGateway, transport: str) -> str:
    return gateway.target if transport == "grpc" else gateway.url


# --- forks ------------------------------------------------------------------------------------------------------------

# A process of its own: pytest's has threads of the gateway, which no fork should copy.
PROGRAM = """
import asyncio, multiprocessing, os, sys
import indomain
address, repository = sys.argv[1:3]

def in_child(work):
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return pool.apply_async(work).get(timeout=20)

def said(work):
    try:
        return work()
    except indomain.IndomainError as error:
        return type(error).__name__
"""


def run(program: str, address: str, repository: object = "") -> str:
    """What a program prints that forks while it uses clients."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM + program, address, str(repository)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_children_of_a_fork_get_their_own_answers(live_gateway: RunningGateway, transport: str) -> None:
    program = """
client = indomain.Client(address, timeout_s=10)
def first(seed):
    return round(float(client.sample(seed)[0].code[0, 0]), 5)
right = [first(seed) for seed in range(60)]
with multiprocessing.get_context("fork").Pool(4) as pool:
    got = pool.map(first, range(60), chunksize=1)
print(sum(a == b for a, b in zip(got, right)))
print(first(0) == right[0])
"""
    assert run(program, address_of(live_gateway, transport)).split() == ["60", "True"]


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_what_is_under_way_at_a_fork_stays_with_the_parent(
    live_gateway: RunningGateway, transport: str
) -> None:
    program = """
client = indomain.Client(address)
inversion = client.invert(sys.argv[2], steps=0)
with client.session(inversion) as session:
    session.edit(smile=1)
    stream = client.interpolate(inversion, inversion, 3)
    next(stream)
    def child():
        return [said(lambda: session.edit(smile=2)), said(lambda: next(stream)), said(lambda: client.info().version),
                session.close()]
    print(in_child(child))
    print(session.edit(smile=2).sequence, len(list(stream)))
"""
    said = run(program, address_of(live_gateway, transport), PORTRAIT).splitlines()
    assert said == [f"['ForkedError', 'ForkedError', '{indomain.__version__}', None]", "2 2"]


def test_coroutines_in_a_child(live_gateway: RunningGateway) -> None:
    """Over HTTP they work. gRPC cannot serve them where the parent had an AsyncClient open, and would hang."""
    program = """
client = indomain.AsyncClient(address)
async def version():
    return (await client.info(timeout_s=5)).version
def child():
    return said(lambda: asyncio.run(version()))
asyncio.run(version())
print(in_child(child))
async def close():
    await client.info()
    await client.close()
asyncio.run(close())
"""
    assert run(program, live_gateway.url) == indomain.__version__
    assert run(program, live_gateway.target) == "ForkedError"


def test_an_embedded_gateway_belongs_to_its_process(tiny_repository: Any) -> None:
    program = """
client = indomain.Client(":embedded:", model_repository=repository)
def child():
    return said(lambda: client.info().version)
print(client.info().version, in_child(child), client.info().version)
client.close()
"""
    version = indomain.__version__
    assert run(program, "", tiny_repository) == f"{version} ForkedError {version}"


def test_a_new_embedded_gateway_in_a_child(tiny_repository: Any) -> None:
    """It would hang where the parent has used one, also where that is closed; the parent itself goes on."""
    program = """
def new():
    with indomain.Client(":embedded:", model_repository=repository) as client:
        return client.info().version
def child():
    return said(new)
client = indomain.Client(":embedded:", model_repository=repository)
client.info()
print(in_child(child))
client.close()
print(in_child(child), said(new))
"""
    version = indomain.__version__
    assert run(program, "", tiny_repository).split() == ["ForkedError", "ForkedError", version]


# --- threads and event loops ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_threads_get_their_own_answers(live_gateway: RunningGateway, transport: str) -> None:
    with indomain.Client(address_of(live_gateway, transport)) as client, ThreadPoolExecutor(8) as pool:
        codes = list(pool.map(lambda seed: client.sample(seed)[0].code, [*range(20), *range(20)]))
    for one, other in zip(codes[:20], codes[20:], strict=True):
        np.testing.assert_array_equal(one, other)
    assert len({code.tobytes() for code in codes}) == 20


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_one_client_in_several_event_loops(live_gateway: RunningGateway, transport: str) -> None:
    """A notebook's loop, one `asyncio.run` after another, loops in threads."""
    client = indomain.AsyncClient(address_of(live_gateway, transport))

    async def first(seed: int) -> float:
        return float((await client.sample(seed))[0].code[0, 0])

    one = asyncio.run(first(1))
    assert asyncio.run(first(1)) == one
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(lambda _: asyncio.run(first(1)), range(4))) == [one] * 4
    asyncio.run(client.close())


# --- copies -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickle.dumps])
def test_clients_and_sessions_are_not_copied(live_gateway: RunningGateway, duplicate: Any) -> None:
    client = indomain.Client(live_gateway.target)
    asynchronous = indomain.AsyncClient(live_gateway.target)
    code = client.sample(1)[0].code
    session: EditSession
    with client, client.session(code, bundle="tiny16") as session:
        for thing in (client, asynchronous, session, asynchronous.session(code, bundle="tiny16")):
            with pytest.raises(indomain.NotCopyableError, match="make a client where it is used"):
                duplicate(thing)


def test_an_inversion_travels_without_its_client(client: indomain.Client) -> None:
    inversion = client.invert(np.zeros((5, 5, 3), np.uint8))
    assert copy.copy(inversion).edit(smile=1).image
    travelled = pickle.loads(pickle.dumps(inversion))
    assert np.array_equal(travelled.code, inversion.code)
    with pytest.raises(RuntimeError, match=r"pass it to Client\.edit"):
        travelled.edit(smile=1)
    assert client.edit(travelled, smile=1).image


# --- answers of other requests ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", ["somebody-elses", ""])
def test_the_answer_to_another_request_is_refused(
    client: indomain.Client, gateway: ScriptedGateway, wrong: str
) -> None:
    gateway.wrong_id = wrong
    with pytest.raises(indomain.MismatchedAnswerError, match=wrong or "without a request id") as caught:
        client.invert(np.zeros((5, 5, 3), np.uint8))
    assert caught.value.request_id == gateway.request_ids[-1]
    gateway.wrong_id = None
    assert client.bundles()


def test_the_error_of_another_request_is_refused(client: indomain.Client, gateway: ScriptedGateway) -> None:
    gateway.wrong_id = "somebody-elses"
    gateway.failures.append(Failure(grpc.StatusCode.INVALID_ARGUMENT, "no_face"))
    with pytest.raises(indomain.MismatchedAnswerError):
        client.bundles()


class LateAnswers(BaseHTTPRequestHandler):
    """Answers each request with the id of the one before on its connection, as a mixed-up connection would."""

    protocol_version = "HTTP/1.1"
    before = "an-earlier-one"

    def log_message(self, *_: Any) -> None: ...

    def do_GET(self) -> None:
        asked = self.headers["x-request-id"]
        body = json.dumps({"serverVersion": "1", "requestId": self.before}).encode()
        self.before = asked
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        length = int(self.headers["content-length"])
        self.rfile.read(length)
        picture = json.dumps({"requestId": self.before, "index": 0})
        body = f"event: picture\ndata: {picture}\n\n".encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def late_answers() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), LateAnswers)
    server.daemon_threads = True
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()


def test_over_http_too_and_in_streams() -> None:
    code = np.zeros((4, 512), np.float32)
    with late_answers() as url, indomain.Client(url) as client:
        for _ in range(2):
            with pytest.raises(indomain.MismatchedAnswerError, match="an-earlier-one"):
                client.info()  # also the second time: the mixed-up connection is not used again
        with pytest.raises(indomain.MismatchedAnswerError):
            list(client.interpolate(code, code, 2))


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_proxy_may_have_request_ids_of_its_own(live_gateway: RunningGateway, transport: str) -> None:
    headers = {"x-request-id": "of-the-proxy", "indomain-request-id": "of-the-client"}
    if transport == "http":
        answered = httpx.get(f"{live_gateway.url}/v1/bundles", headers=headers).json()["request_id"]
    else:
        request = editing_pb2.ListBundlesRequest()
        answer = live_gateway.stub.ListBundles(request, metadata=tuple(headers.items()))
        answered = answer.request_id
    assert answered == "of-the-client"
