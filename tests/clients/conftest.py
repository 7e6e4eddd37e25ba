"""Fixtures of the client's tests."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

import indomain
from tests.clients.scripted_gateway import ScriptedGateway, serving_on_a_free_port


@pytest.fixture
def gateway() -> Iterator[ScriptedGateway]:
    """A gateway that answers as the test tells it to."""
    with serving_on_a_free_port() as gateway:
        yield gateway


@pytest.fixture
def client(gateway: ScriptedGateway) -> Iterator[indomain.Client]:
    with indomain.Client(gateway.address, timeout_s=10.0) as client:
        yield client


@pytest.fixture
def dead_address() -> str:
    """An address at which nothing listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{sock.getsockname()[1]}"
