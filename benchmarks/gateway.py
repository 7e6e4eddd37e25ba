"""A gateway as a process of its own, for the benchmarks that ask it over the network."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_READY = re.compile(r"gRPC on (\S+?:\d+), HTTP on (\S+?:\d+)")


@contextmanager
def running_gateway(repository: Path, *flags: str) -> Iterator[tuple[str, str]]:
    """`python -m serving` on free ports: its gRPC and HTTP addresses. Raises RuntimeError where it does not start."""
    ports = ["--grpc-port", "0", "--http-port", "0"]
    command = [sys.executable, "-m", "serving", "--model-repository", str(repository), *ports, *flags]
    # Its log goes to a file: a pipe that nobody reads would fill, and hold it up.
    with tempfile.NamedTemporaryFile("w+") as log:
        environment = os.environ | {"ORT_DISABLE_TELEMETRY": "1", "INDOMAIN_LOG_REQUESTS": "false"}
        gateway = subprocess.Popen(command, env=environment, stderr=log)
        try:
            yield _ready_addresses(gateway, Path(log.name))
        finally:
            gateway.terminate()
            gateway.wait(timeout=60)


def _ready_addresses(gateway: subprocess.Popen[bytes], log: Path) -> tuple[str, str]:
    while True:
        text = log.read_text()
        found = _READY.search(text)
        if found:
            return found[1], f"http://{found[2]}"
        if gateway.poll() is not None:
            raise RuntimeError(f"the gateway ended with status {gateway.returncode}: {text[-2000:]}")
        time.sleep(0.05)
