"""A gateway in this process, for `Client(":embedded:")`: starts the application's gateway in a thread of its own."""

from __future__ import annotations

import asyncio
import importlib
import os
import threading
import weakref
from pathlib import Path
from typing import Any

from indomain.constants import EMBEDDED
from indomain.exceptions import ForkedError, NotInstalledError, ServerError
from indomain.transports.credentials import Credentials
from indomain.transports.grpc import (
    AsyncGrpcTransport,
    GrpcTransport,
    use_asyncio,
)


class EmbeddedGateway:
    """A gateway that runs until its client is closed, at the latest until the program ends."""

    def __init__(self, model_repository: str | os.PathLike[str] | None) -> None:
        self._repository = None if model_repository is None else Path(model_repository)
        self._starting = threading.Lock()
        self._address = ""
        self._process = 0
        self._stop: Any = None

    def start(self) -> str:
        """Starts the gateway unless it runs, waits until its graphs are loaded, and returns its gRPC address.

        Raises:
            NotInstalledError: the application is not installed.
            ServerError: the gateway cannot start; the message says why.
            ForkedError: it was started by the process that this one is a child of, and ended with the fork; or that
                process had used another one, or an AsyncClient over gRPC, before the fork.
        """
        if self._process not in (0, os.getpid()):
            raise ForkedError(
                "The embedded gateway runs in the process that opened it, and this is a child of it; make a client "
                "here before the parent makes one, or give the address of a gateway that runs by itself",
                reason="forked",
            )
        with self._starting:
            if not self._address:
                use_asyncio()
                application = _application()
                gateway = application.InProcessGateway(self._repository)
                try:
                    self._address = gateway.start()
                except application.CannotStart as error:
                    raise ServerError(
                        f"The embedded gateway cannot start: {error}", reason="cannot_start"
                    ) from error
                self._process = os.getpid()
                # Also stops it when this object is collected, and when the program ends.
                self._stop = weakref.finalize(self, gateway.stop)
            return self._address

    def stop(self) -> None:
        if self._stop is not None and self._process == os.getpid():
            self._stop()


class EmbeddedTransport(GrpcTransport):
    """Calls to an embedded gateway. Making it starts the gateway, which takes seconds."""

    def __init__(self, gateway: EmbeddedGateway) -> None:
        super().__init__(gateway.start(), Credentials.of(api_key=""))
        self.address = EMBEDDED
        self._gateway = gateway

    def close(self) -> None:
        super().close()
        self._gateway.stop()


class AsyncEmbeddedTransport(AsyncGrpcTransport):
    """The same for coroutines. The first call starts the gateway, in a thread so that the event loop goes on."""

    def __init__(self, gateway: EmbeddedGateway) -> None:
        super().__init__(EMBEDDED, Credentials.of(api_key=""))
        self._gateway = gateway

    async def open(self) -> None:
        if self._channel is None:
            self._target = await asyncio.to_thread(self._gateway.start)
        await super().open()

    async def close(self) -> None:
        await super().close()
        await asyncio.to_thread(self._gateway.stop)


def _application() -> Any:
    # Imported by name: the SDK does not depend on the application.
    try:
        return importlib.import_module("serving.in_process")
    except ModuleNotFoundError as error:
        raise NotInstalledError(
            f"':embedded:' runs the gateway's own pipeline in this process and needs the application, which is not "
            f"installed here (no module {error.name!r}): pip install indomain-gateway, or give a gateway's address",
            reason="not_installed",
        ) from error
