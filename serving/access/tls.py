"""TLS: the certificate of both ports, the authorities of their clients, and the same for connections to Triton.

Renewed files for the ports take effect while the gateway runs, for new connections; those for Triton at the next start.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc

from serving.errors import CertificateInvalid
from serving.settings import Settings

_log = logging.getLogger(__name__)
_LOOK_EVERY_S = 1.0


class Certificates:
    """What the files hold now. Raises CertificateInvalid where they cannot be used to begin with."""

    def __init__(self, certificate: Path, key: Path, client_authorities: Path | None) -> None:
        self._certificate, self._key, self._client_authorities = certificate, key, client_authorities
        self._files = [file for file in (certificate, key, client_authorities) if file is not None]
        self._version = self._state()
        self.http = self._context()
        self._for_grpc = self._configuration()

    @classmethod
    def of(cls, settings: Settings) -> Certificates | None:
        """None where no certificate is set."""
        if settings.tls_certificate is None or settings.tls_key is None:
            return None
        return cls(settings.tls_certificate, settings.tls_key, settings.tls_client_authorities)

    def grpc_credentials(self) -> grpc.ServerCredentials:
        """For the gRPC server, which asks for the files' content at each handshake."""
        return grpc.dynamic_ssl_server_credentials(
            self._for_grpc,
            lambda: self._for_grpc,
            require_client_authentication=self._client_authorities is not None,
        )

    async def keep_renewing(self) -> None:
        """Looks for other files until it is cancelled. Those that cannot be used change nothing, but for a log line."""
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            version = self._state()
            if version == self._version:
                continue
            self._version = version
            try:
                self._context()  # as a whole and apart, before any of it is in force
                self._load_into(self.http)
                self._for_grpc = self._configuration()
            except (CertificateInvalid, OSError) as error:
                _log.error("%s The certificate from before stays in force.", error)
            else:
                _log.info("a renewed certificate is in force")

    def _context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._load_into(context)
        if self._client_authorities is not None:
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def _load_into(self, context: ssl.SSLContext) -> None:
        with _usable("tls_certificate, tls_key and tls_client_authorities"):
            context.load_cert_chain(self._certificate, self._key, password=_no_password)
            if self._client_authorities is not None:
                context.load_verify_locations(self._client_authorities)

    def _configuration(self) -> grpc.ServerCertificateConfiguration:
        authorities = None if self._client_authorities is None else self._client_authorities.read_bytes()
        pair = (self._key.read_bytes(), self._certificate.read_bytes())
        return grpc.ssl_server_certificate_configuration([pair], root_certificates=authorities)

    def _state(self) -> list[tuple[int, int, int] | None]:
        return [_state_of(file) for file in self._files]


def triton_credentials(settings: Settings) -> grpc.ChannelCredentials | None:
    """For the channels to Triton servers; None where they are not encrypted. Raises CertificateInvalid."""
    if not settings.triton_tls:
        return None
    authorities, certificate = settings.triton_tls_authorities, settings.triton_tls_certificate
    with _usable("triton_tls_authorities, triton_tls_certificate and triton_tls_key"):
        # gRPC would find out only when it connects, and say no more than that it cannot.
        context = ssl.create_default_context(cafile=authorities)
        if certificate is not None:
            context.load_cert_chain(certificate, settings.triton_tls_key, password=_no_password)
        trusted, key, chain = (
            None if file is None else file.read_bytes()
            for file in (authorities, settings.triton_tls_key, certificate)
        )
    return grpc.ssl_channel_credentials(trusted, key, chain)


@contextmanager
def _usable(names: str) -> Iterator[None]:
    """Raises CertificateInvalid where the files of these settings cannot be used."""
    try:
        yield
    except (OSError, ValueError) as error:  # an SSLError is an OSError
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or "not PEM"
        raise CertificateInvalid(f"The files of {names} cannot be used: {reason}.") from None


def _state_of(file: Path) -> tuple[int, int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _no_password() -> str:
    raise ValueError("the private key has a password")
