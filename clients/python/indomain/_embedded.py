"""The pipeline in this process, for `Client(":embedded:")`: starts the application's gateway in a thread of its own."""

from __future__ import annotations

import asyncio
import importlib
import os
import threading
import weakref
from pathlib import Path
from typing import Any

from indomain._constants import EMBEDDED
from indomain._credentials import Credentials
from indomain._exceptions import NotInstalledError, ServerError
from indomain._grpc import AsyncGrpcTransport, GrpcTransport


class EmbeddedGateway:
    """A gateway that lives as long as its client."""

    def __init__(self, model_repository: str | os.PathLike[str] | None) -> None:
        self._repository = None if model_repository is None else Path(model_repository)
        self._starting = threading.Lock()
        self._address = ""
        self._stop: Any = None

    def start(self) -> str:
        """The address of its gRPC, once its graphs are loaded and warm.

        Raises:
            NotInstalledError: the application is not there.
            ServerError: it cannot start; the message says why.
        """
        with self._starting:
            if not self._address:
                application = _application()
                gateway = application.InProcessGateway(self._repository)
                try:
                    self._address = gateway.start()
                except application.CannotStart as error:
                    raise ServerError(
                        f"The embedded gateway cannot start: {error}", reason="cannot_start"
                    ) from error
                self._stop = weakref.finalize(self, gateway.stop)  # at the latest when the program ends
            return self._address

    def stop(self) -> None:
        if self._stop is not None:
            self._stop()


class EmbeddedTransport(GrpcTransport):
    """To a gateway of its own, which is there once this is made."""

    def __init__(self, gateway: EmbeddedGateway) -> None:
        super().__init__(gateway.start(), Credentials.none())
        self.address = EMBEDDED
        self._gateway = gateway

    def close(self) -> None:
        super().close()
        self._gateway.stop()


class AsyncEmbeddedTransport(AsyncGrpcTransport):
    """The same, which starts when it is first used: that takes seconds, and a loop must not wait for it."""

    def __init__(self, gateway: EmbeddedGateway) -> None:
        super().__init__(EMBEDDED, Credentials.none())
        self._gateway = gateway

    async def open(self) -> None:
        if self._channel is None:
            self._target = await asyncio.to_thread(self._gateway.start)
        await super().open()

    async def close(self) -> None:
        await super().close()
        await asyncio.to_thread(self._gateway.stop)


def _application() -> Any:
    # By its name: the SDK knows of the application only that it may be there.
    try:
        return importlib.import_module("serving.in_process")
    except ModuleNotFoundError as error:
        raise NotInstalledError(
            f"':embedded:' runs the gateway's own pipeline in this process and needs the application, which is not "
            f"installed here (no module {error.name!r}): pip install indomain-gateway, or give a gateway's address",
            reason="not_installed",
        ) from error
