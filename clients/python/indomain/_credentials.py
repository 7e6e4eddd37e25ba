"""What a client shows a gateway and asks of it: an API key, certificates. For both kinds of client."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import grpc

from indomain._constants import API_KEY_VARIABLE, REQUEST_ID_KEY


@dataclass(frozen=True, slots=True, repr=False)
class Credentials:
    """`metadata` goes with every call; `channel` is None where nothing is encrypted. Never shown in a repr."""

    metadata: tuple[tuple[str, str], ...]
    channel: grpc.ChannelCredentials | None

    @classmethod
    def of(
        cls,
        api_key: str | None = None,
        *,
        tls: bool = False,
        root_certificates: str | os.PathLike[str] | None = None,
        client_certificate: tuple[str | os.PathLike[str], str | os.PathLike[str]] | None = None,
    ) -> Self:
        """The arguments are those of `Client`. Raises OSError where a file cannot be read, ValueError for no key."""
        key = os.environ.get(API_KEY_VARIABLE) if api_key is None else api_key
        if key and not (key.isascii() and key.isprintable() and " " not in key):
            raise ValueError(
                "the API key has characters that no key has; copy it again, without spaces or line ends"
            )
        metadata = (("authorization", f"Bearer {key}"),) if key else ()
        if not (tls or root_certificates or client_certificate):
            return cls(metadata, None)
        certificate, private_key = client_certificate or (None, None)
        channel = grpc.ssl_channel_credentials(
            root_certificates=_bytes(root_certificates),
            certificate_chain=_bytes(certificate),
            private_key=_bytes(private_key),
        )
        return cls(metadata, channel)

    def metadata_with(self, request_id: str) -> tuple[tuple[str, str], ...]:
        """What goes with one call."""
        return ((REQUEST_ID_KEY, request_id), *self.metadata)


def _bytes(file: str | os.PathLike[str] | None) -> bytes | None:
    return None if file is None else Path(file).read_bytes()
