"""Which transport an address needs, and how it is opened."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from functools import partial
from typing import Any, Final
from urllib.parse import urlsplit

from indomain.constants import EMBEDDED
from indomain.exceptions import NotInstalledError
from indomain.transports.credentials import Credentials
from indomain.transports.embedded import AsyncEmbeddedTransport, EmbeddedGateway, EmbeddedTransport
from indomain.transports.grpc import AsyncGrpcTransport, GrpcTransport
from indomain.transports.protocols import AsyncTransport, Transport

# Names that gRPC reads by itself.
_GRPC_SCHEME: Final = re.compile(r"(unix|unix-abstract|dns|ipv4|ipv6|xds|vsock):[^\d]|(ipv4|ipv6|vsock):")
_HOST_AND_PORT: Final = re.compile(r"(\[[^\]]+\]|[^/:?#\[\]]+)(:\d+)?")


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


def _check(address: str) -> None:
    """Raises ValueError for what is no address. gRPC would ask another port, or say that nobody answers."""
    if _GRPC_SCHEME.match(address):
        return
    http = address.startswith(("http://", "https://"))
    try:
        parts = urlsplit(address if http else f"//{address}")
        # Reading the port raises ValueError where it is none.
        whole = bool(parts.hostname) and parts.port != 0 and not address.endswith(":")
    except ValueError:
        whole = False
    # Of ::1:8500 nobody can say where the port begins.
    if not whole or not (http or _HOST_AND_PORT.fullmatch(address)):
        raise ValueError(
            f"{address!r} is no address of a gateway; give HOST:PORT of its gRPC, http://HOST:PORT, or {EMBEDDED}"
        )


def _http_module(address: str, model_repository: object) -> Any:
    """The module of the HTTP transport, which is imported only when needed: its packages are an extra. None where the
    address is not one of HTTP."""
    if model_repository is not None:
        raise ValueError(f"model_repository is for {EMBEDDED!r}; a gateway elsewhere has its own")
    _check(address)
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
