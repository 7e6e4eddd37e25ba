"""A gateway in a thread of another program: `indomain.Client(":embedded:")` starts one.

It is a whole gateway, with pipeline, limits and errors. It listens only on a Unix socket, in a folder that no other
user can open.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
import threading
from pathlib import Path
from typing import Any

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # otherwise onnxruntime uploads telemetry

import uvloop
from pydantic import ValidationError

from serving.errors import EditingError
from serving.gateway import Gateway
from serving.settings import Settings


class CannotStart(Exception):
    """The gateway cannot start; the message says why and what to do."""


class InProcessGateway:
    """A gateway for this process only."""

    def __init__(self, model_repository: Path | None = None) -> None:
        """Settings come from INDOMAIN_*, except those of access: nobody else can reach the gateway."""
        self._model_repository = model_repository
        self._stack = contextlib.ExitStack()

    def start(self) -> str:
        """Loads everything; returns the address for a gRPC channel. Raises CannotStart."""
        try:
            settings = self._settings()
            folder = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="indomain-"))
            loop = self._stack.enter_context(_running_loop())
            gateway = Gateway(settings, unix_socket=Path(folder) / "gateway")
            asyncio.run_coroutine_threadsafe(gateway.start(), loop).result()
            self._stack.callback(lambda: asyncio.run_coroutine_threadsafe(gateway.stop(), loop).result())
        except (EditingError, ValidationError, OSError) as error:
            self.stop()
            raise CannotStart(_reason(error)) from error
        except BaseException:
            self.stop()
            raise
        return f"unix:{folder}/gateway"

    def stop(self) -> None:
        """Finishes the accepted requests and ends the thread. It may be called twice."""
        self._stack.close()

    def _settings(self) -> Settings:
        given: dict[str, Any] = {
            "keys_file": None,
            "tls_certificate": None,
            "tls_key": None,
            "tls_client_authorities": None,
            "host": "127.0.0.1",
            "log_requests": False,
        }
        if self._model_repository is not None:
            given["model_repository"] = self._model_repository
        return Settings(**given)


@contextlib.contextmanager
def _running_loop() -> Any:
    """An event loop that runs in a thread of its own, as long as the block."""
    loop = uvloop.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="indomain-gateway", daemon=True)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def _reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        name = "".join(f"INDOMAIN_{part}".upper() for part in first["loc"][:1])
        return f"{name or 'the settings'}: {first['msg']}"
    return error.message if isinstance(error, EditingError) else str(error)
