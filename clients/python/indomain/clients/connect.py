"""Which transport an address needs, and how it is opened."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any

from indomain.constants import EMBEDDED
from indomain.exceptions import NotInstalledError
from indomain.transports.credentials import Credentials
from indomain.transports.embedded import AsyncEmbeddedTransport, EmbeddedGateway, EmbeddedTransport
from indomain.transports.grpc import AsyncGrpcTransport, GrpcTransport
from indomain.transports.protocols import AsyncTransport, Transport


def connector(
    address: str, credentials: Credentials, model_repository: str | os.PathLike[str] | None
) -> Callable[[], Transport]:
    """Returns a function that opens a transport to `address`. The arguments are those of `Client`.

    This function, or the one returned, raises:
        OSError: a certificate's file cannot be read.
        ValueError: arguments that do not go together.
        NotInstalledError: the transport's packages are not installed.
        ServerError: an embedded gateway cannot start.
    """
    if address == EMBEDDED:
        return partial(EmbeddedTransport, EmbeddedGateway(model_repository))
    if (http := _http_module(address, model_repository)) is not None:
        return partial(http.HttpTransport, address, credentials)
    return partial(GrpcTransport, address, credentials)


def connector_async(
    address: str, credentials: Credentials, model_repository: str | os.PathLike[str] | None
) -> Callable[[], AsyncTransport]:
    """The same for coroutines. An embedded gateway starts at the first call, and raises its errors there."""
    if address == EMBEDDED:
        return partial(AsyncEmbeddedTransport, EmbeddedGateway(model_repository))
    if (http := _http_module(address, model_repository)) is not None:
        return partial(http.AsyncHttpTransport, address, credentials)
    return partial(AsyncGrpcTransport, address, credentials)


def _http_module(address: str, model_repository: object) -> Any:
    """The module of the HTTP transport, which is imported only when needed: its packages are an extra. None where the
    address is not one of HTTP."""
    if model_repository is not None:
        raise ValueError(f"model_repository is for {EMBEDDED!r}; a gateway elsewhere has its own")
    if not address.startswith(("http://", "https://")):
        return None
    try:
        from indomain.transports import http
    except ModuleNotFoundError as error:
        raise NotInstalledError(
            f"Calls over HTTP need the package {error.name!r}: pip install 'indomain-client[http]', or give the "
            "gateway's gRPC address (host:port)",
            reason="not_installed",
        ) from error
    return http
