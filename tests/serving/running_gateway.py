"""A gateway to ask: in a thread of the test, or in a process of its own."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import grpc
import httpx
import uvloop
from websockets.sync.client import ClientConnection, connect

from indomain.v1 import editing_pb2 as pb
from indomain.v1 import editing_pb2_grpc
from serving.backends.embedded import EmbeddedBackend
from serving.gateway import Gateway
from serving.repository.reader import read_bundles
from serving.settings import Settings
from serving.telemetry.metrics import Metrics
from tests.serving.interposed import Interposed

ROOT = Path(__file__).resolve().parents[2]


class RunningGateway:
    """A gateway in a thread with its own loop, and clients of both transports.

    `interpose=True` puts a hook in front of its back end: `backend.before`.
    """

    def __init__(self, settings: Settings, interpose: bool = False) -> None:
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="gateway", daemon=True)
        self._thread.start()
        backend = None
        if interpose:
            bundles = read_bundles(settings.model_repository)
            backend = Interposed(EmbeddedBackend(bundles.values(), settings, Metrics()))
        self.backend = backend
        self.gateway = Gateway(settings, backend)
        self.run(self.gateway.start())
        self.target = f"127.0.0.1:{self.gateway.grpc_port}"
        self.url = f"http://127.0.0.1:{self.gateway.http_port}"
        self.channel = grpc.insecure_channel(self.target, [("grpc.max_receive_message_length", -1)])
        self.stub = editing_pb2_grpc.EditingStub(self.channel)
        self.http = httpx.Client(base_url=self.url, timeout=60.0)

    def run(self, work: Any, timeout_s: float = 180.0) -> Any:
        """Runs a coroutine in the gateway's loop and gives its result."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout_s)

    def metric(self, name: str, **labels: str) -> float:
        """The value of one time series, 0 where there is none."""
        return self.gateway.metrics.registry.get_sample_value(name, labels) or 0.0

    def settle(self) -> None:
        """Some round trips. What the gateway does at once with what it was sent before, it has done after them."""
        for _ in range(30):
            self.stub.ListBundles(pb.ListBundlesRequest(), timeout=20)

    def close(self) -> None:
        self.channel.close()
        self.http.close()
        self.run(self.gateway.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def settings_for(repository: Path, **overrides: Any) -> Settings:
    """Settings of a small gateway on free ports."""
    base = {"model_repository": repository, "grpc_port": 0, "http_port": 0, "intra_op_threads": 1}
    return Settings(**(base | overrides))


def start_process(repository: Path, *flags: str, **options: Any) -> subprocess.Popen[str]:
    """Starts `python -m serving` over the repository. Its log comes through `stderr`. options: of Popen."""
    environment = os.environ | {
        "INDOMAIN_MODEL_REPOSITORY": str(repository),
        "INDOMAIN_INTRA_OP_THREADS": "1",
        "ORT_DISABLE_TELEMETRY": "1",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    command = [sys.executable, "-m", "serving", *flags]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True, **options)


def run_command(*flags: str) -> subprocess.CompletedProcess[str]:
    """Runs `python -m serving` to its end."""
    return subprocess.run(
        [sys.executable, "-m", "serving", *flags],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "COLUMNS": "200"},
    )


def websocket(gateway: RunningGateway, **options: Any) -> ClientConnection:
    return connect(f"{gateway.url.replace('http', 'ws')}/v1/edit-session", compression=None, **options)


def answered(connection: ClientConnection) -> dict:
    return json.loads(connection.recv(timeout=20))
