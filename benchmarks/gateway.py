"""Servers as processes of their own, for the benchmarks that ask them over the network."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import grpc
import uvloop

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


@contextmanager
def running(target: Callable[..., None], *arguments: Any) -> Iterator[int]:
    """The port of a server in a process of its own: `target` is given a connection, sends the port there, and ends when
    it is sent something."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=target, args=(there, *arguments))
    process.start()
    there.close()  # so that one that does not start is found out
    try:
        yield here.recv()
    finally:
        with suppress(BrokenPipeError):  # it has ended by itself
            here.send("end")
        process.join()


BARE_CALL = "/bare/Call"


def answer_with_bytes(told: Connection) -> None:
    """The least that a gRPC server on Python's event loop does: a request begins with how many bytes it wants."""

    async def answer(request: bytes, context: object) -> bytes:
        return bytes(int.from_bytes(request[:4], "little"))

    async def serve() -> None:
        server = grpc.aio.server()
        service, _, method = BARE_CALL[1:].partition("/")
        handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            method: grpc.unary_unary_rpc_method_handler(answer)
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
        told.send(server.add_insecure_port("127.0.0.1:0"))
        await server.start()
        await asyncio.to_thread(told.recv)
        await server.stop(None)

    uvloop.run(serve())
