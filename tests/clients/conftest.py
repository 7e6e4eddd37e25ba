"""Fixtures of the client's tests."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

import indomain
from tests.clients.scripted_gateway import ScriptedGateway, serving_on
from tests.serving.running_gateway import RunningGateway, settings_for
from tests.serving.tiny_bundle import write_tiny_bundle


@pytest.fixture(scope="session")
def tiny_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model repository with a bundle in miniature."""
    return write_tiny_bundle(tmp_path_factory.mktemp("model_repository"))


@pytest.fixture(scope="session")
def live_gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """The gateway itself, over both transports, with two bundles: codes of one shape that mean different things."""
    repository = tmp_path_factory.mktemp("two_bundles")
    write_tiny_bundle(repository, "tiny16", faces=True)
    write_tiny_bundle(repository, "twin16", seed=8)
    running = RunningGateway(settings_for(repository))
    yield running
    running.close()


@pytest.fixture
def gateway() -> Iterator[ScriptedGateway]:
    """A gateway that answers as the test tells it to."""
    with serving_on() as gateway:
        yield gateway


@pytest.fixture
def client(gateway: ScriptedGateway) -> Iterator[indomain.Client]:
    with indomain.Client(gateway.address, timeout_s=60.0) as client:
        yield client


@pytest.fixture
def dead_address() -> str:
    """An address at which nothing listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{sock.getsockname()[1]}"
