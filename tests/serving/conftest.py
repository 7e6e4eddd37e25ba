"""A real gateway for the tests of this room: loopback, free ports, a tiny bundle, the embedded back end."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import pytest

from tests.serving import triton_server
from tests.serving.pictures import encoded, photograph
from tests.serving.running_gateway import RunningGateway, settings_for
from tests.serving.tiny_bundle import write_tiny_bundle


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """`pytest -m fault`: what each fault did, as the tests recorded it."""
    if "fault" not in config.option.markexpr:
        return
    rows = [row for report in terminalreporter.stats.get("passed", ()) for row in report.user_properties]
    terminalreporter.section("faults")
    for fault, outcome in sorted(set(rows)):
        terminalreporter.line(f"| {fault} | {outcome} |")


@pytest.fixture(scope="session")
def tiny_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp("model_repository"))


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


@pytest.fixture
def photo_png() -> bytes:
    return encoded(photograph())
