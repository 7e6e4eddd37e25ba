"""A real gateway for the tests of this room: loopback, free ports, a tiny bundle, the embedded back end."""

from __future__ import annotations

import asyncio
import io
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import grpc
import httpx
import numpy as np
import pytest
import uvloop
from PIL import Image

from indomain.v1 import editing_pb2_grpc
from serving.backends.embedded import EmbeddedBackend
from serving.gateway import Gateway
from serving.repository.reader import read_bundles
from serving.settings import Settings
from serving.telemetry.metrics import Metrics
from tests.serving import triton_server
from tests.serving.interposed import Interposed
from tests.serving.tiny_bundle import write_tiny_bundle


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """`pytest -m fault`: what each fault did, as the tests recorded it."""
    if "fault" not in config.option.markexpr:
        return
    rows = [row for report in terminalreporter.stats.get("passed", ()) for row in report.user_properties]
    terminalreporter.section("faults")
    for fault, outcome in sorted(set(rows)):
        terminalreporter.line(f"| {fault} | {outcome} |")


class RunningGateway:
    """A gateway in a thread with its own loop, and clients of both transports."""

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

    def run(self, work: Any, timeout_s: float = 60.0) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout_s)

    def metric(self, name: str, **labels: str) -> float:
        return self.gateway.metrics.registry.get_sample_value(name, labels) or 0.0

    def close(self) -> None:
        self.channel.close()
        self.http.close()
        self.run(self.gateway.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@pytest.fixture(scope="session")
def tiny_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp("model_repository"))


def settings_for(repository: Path, **overrides: Any) -> Settings:
    base = {"model_repository": repository, "grpc_port": 0, "http_port": 0, "intra_op_threads": 1}
    return Settings(**(base | overrides))


@pytest.fixture(scope="session")
def gateway(tiny_repository: Path) -> Iterator[RunningGateway]:
    """One gateway for all tests that leave it as it was."""
    running = RunningGateway(settings_for(tiny_repository))
    yield running
    running.close()


@pytest.fixture
def start_gateway(tiny_repository: Path) -> Iterator[Callable[..., RunningGateway]]:
    """Starts a gateway with other settings; `interpose=True` puts a hook in front of its back end."""
    started: list[RunningGateway] = []

    def start(*, interpose: bool = False, **overrides: Any) -> RunningGateway:
        running = RunningGateway(settings_for(tiny_repository, **overrides), interpose)
        started.append(running)
        return running

    yield start
    for running in started:
        running.close()


@pytest.fixture(scope="session")
def triton_installed() -> None:
    """Skips where no tritonserver can be installed, which continuous integration takes for a failure."""
    try:
        triton_server.install()
    except triton_server.CannotInstall as error:
        if os.environ.get("CI", "").lower() in ("1", "true"):
            pytest.fail(f"no tritonserver to test with: {error}")
        pytest.skip(f"no tritonserver to test with: {error}")


@pytest.fixture(scope="session")
def triton(
    triton_installed: None, tiny_repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[triton_server.TritonServer]:
    """One real server with the tiny bundle, for all tests that leave it as it was. Its critic is slow, its mapping
    fails on a first value of 666."""
    folder = tmp_path_factory.mktemp("triton")
    changes = {
        "critic": {"delay_ms": "40", "max_queue_size": "4"},
        "mapping": {"poison": "666", "delay_ms": "5"},
    }
    repository = triton_server.derive_repository(tiny_repository, folder / "repository", **changes)
    server = triton_server.TritonServer(repository, folder / "log").start()
    yield server
    server.kill()


def photograph(seed: int = 0, width: int = 40, height: int = 30) -> np.ndarray:
    """A smooth picture of its own for each seed, uint8 [height, width, 3]."""
    random = np.random.Generator(np.random.PCG64(seed))
    small = random.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def encoded(image: np.ndarray, format: str = "PNG", **options: Any) -> bytes:
    target = io.BytesIO()
    Image.fromarray(image).save(target, format, **options)
    return target.getvalue()


@pytest.fixture
def photo_png() -> bytes:
    return encoded(photograph())
