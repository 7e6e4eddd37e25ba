"""The API key and the certificates of a client, for every transport."""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import grpc

from indomain.constants import API_KEY_VARIABLE, CALL_ID_KEY, REQUEST_ID_KEY


@dataclass(frozen=True, slots=True, repr=False)
class Credentials:
    """`metadata` is sent with every call. Files are PEM; without `tls` nothing is encrypted. The repr shows nothing."""

    metadata: tuple[tuple[str, str], ...]
    tls: bool
    root_certificates: str | os.PathLike[str] | None
    client_certificate: tuple[str | os.PathLike[str], str | os.PathLike[str]] | None

    @classmethod
    def of(
        cls,
        api_key: str | None = None,
        *,
        tls: bool = False,
        root_certificates: str | os.PathLike[str] | None = None,
        client_certificate: tuple[str | os.PathLike[str], str | os.PathLike[str]] | None = None,
    ) -> Self:
        """The arguments are those of `Client`; an empty key is none. Raises ValueError where the key cannot be one."""
        key = os.environ.get(API_KEY_VARIABLE) if api_key is None else api_key
        if key and not (key.isascii() and key.isprintable() and " " not in key):
            raise ValueError(
                "the API key has characters that no key has; copy it again, without spaces or line ends"
            )
        metadata = (("authorization", f"Bearer {key}"),) if key else ()
        encrypted = tls or root_certificates is not None or client_certificate is not None
        return cls(metadata, encrypted, root_certificates, client_certificate)

    def metadata_with(self, request_id: str) -> tuple[tuple[str, str], ...]:
        """The metadata (over HTTP: headers) of one call."""
        return ((REQUEST_ID_KEY, request_id), (CALL_ID_KEY, request_id), *self.metadata)

    def for_grpc(self) -> grpc.ChannelCredentials | None:
        """Credentials of a gRPC channel; None without `tls`.

        Raises OSError where a file cannot be read, ValueError where it is not PEM.
        """
        if not self.tls:
            return None
        certificate, private_key = self.client_certificate or (None, None)
        return grpc.ssl_channel_credentials(
            root_certificates=_pem(self.root_certificates),
            certificate_chain=_pem(certificate),
            private_key=_pem(private_key),
        )

    def for_https(self) -> ssl.SSLContext:
        """TLS settings of HTTPS and websockets. Raises OSError, ValueError as `for_grpc` does."""
        for file in (self.root_certificates, *(self.client_certificate or ())):
            _pem(file)
        context = ssl.create_default_context(cafile=self.root_certificates)
        if self.client_certificate is not None:
            context.load_cert_chain(*self.client_certificate)
        return context


def _pem(file: str | os.PathLike[str] | None) -> bytes | None:
    """The content of a file. gRPC and OpenSSL would say of one that is not PEM that the gateway cannot be reached."""
    if file is None:
        return None
    content = Path(file).read_bytes()
    if b"-----BEGIN " not in content:
        raise ValueError(f"{os.fspath(file)} holds no certificate or key in PEM (-----BEGIN ...)")
    return content
