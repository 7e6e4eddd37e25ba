"""What `Client` and `AsyncClient` share: how they are made, and what they fill into a call before it is sent."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from typing import Any, Generic, TypeVar

from indomain.calls.call import Call
from indomain.clients.connections import Connection, LoopConnections, NotCopyable
from indomain.clients.retry import Attempts, RetryPolicy
from indomain.constants import DEFAULT_ADDRESS, DEFAULT_MAX_RETRIES, DEFAULT_TIMEOUT_S
from indomain.transports.credentials import Credentials
from indomain.wire.pictures import WIRE_FORMATS, PictureFormat

_Connection = TypeVar("_Connection", Connection, LoopConnections)


class BaseClient(NotCopyable, ABC, Generic[_Connection]):
    """A connection, and how its calls are tried again. The arguments are described in `Client`."""

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        max_retries: int = DEFAULT_MAX_RETRIES,
        picture_format: PictureFormat = "png",
        api_key: str | None = None,
        tls: bool = False,
        root_certificates: str | os.PathLike[str] | None = None,
        client_certificate: tuple[str | os.PathLike[str], str | os.PathLike[str]] | None = None,
        model_repository: str | os.PathLike[str] | None = None,
    ) -> None:
        credentials = Credentials.of(
            api_key, tls=tls, root_certificates=root_certificates, client_certificate=client_certificate
        )
        self._connection: _Connection = self._connect(address, credentials, model_repository)
        self._policy = RetryPolicy(address.rstrip("/"), timeout_s, max_retries)
        self._format = WIRE_FORMATS[picture_format]

    @staticmethod
    @abstractmethod
    def _connect(
        address: str, credentials: Credentials, model_repository: str | os.PathLike[str] | None
    ) -> _Connection:
        """The connection to the address."""

    def _attempts(self, call: Call[Any]) -> Attempts:
        """Starts a call. Raises ValueError once the client is closed."""
        self._fill_in_format(call.request)
        return self._policy.attempts(call, on_mismatch=self._connection.renew)

    def _fill_in_format(self, request: Any) -> None:
        """Where a request names no format for pictures, it gets the client's."""
        # A request of a session holds an EditRequest.
        request = getattr(request, "edit", request)
        if "output" in request.DESCRIPTOR.fields_by_name and not request.output.format:
            request.output.format = self._format
