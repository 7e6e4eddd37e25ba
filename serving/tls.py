"""The certificate that both ports show, and the authorities whose clients they let in, as each transport takes them."""

from __future__ import annotations

import ssl
from pathlib import Path

import grpc

from serving.errors import CertificateInvalid
from serving.settings import Settings


def http_context(settings: Settings) -> ssl.SSLContext | None:
    """For the HTTP server: TLS 1.2 and later. None where no certificate is set. Raises CertificateInvalid."""
    if settings.tls_certificate is None or settings.tls_key is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(settings.tls_certificate, settings.tls_key, password=_no_password)
        if settings.tls_client_authorities is not None:
            context.load_verify_locations(settings.tls_client_authorities)
            context.verify_mode = ssl.CERT_REQUIRED
    except (OSError, ValueError) as error:  # an SSLError is an OSError
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or "not PEM"
        raise CertificateInvalid(
            f"The files of tls_certificate, tls_key and tls_client_authorities cannot be used: {reason}."
        ) from None
    return context


def grpc_credentials(settings: Settings) -> grpc.ServerCredentials | None:
    """For the gRPC server. None where no certificate is set. Call `http_context` first: it finds what is wrong, while
    gRPC would only fail every handshake."""
    if settings.tls_certificate is None or settings.tls_key is None:
        return None
    authorities = _bytes(settings.tls_client_authorities)
    return grpc.ssl_server_credentials(
        [(settings.tls_key.read_bytes(), settings.tls_certificate.read_bytes())],
        root_certificates=authorities,
        require_client_auth=authorities is not None,
    )


def _bytes(file: Path | None) -> bytes | None:
    return None if file is None else file.read_bytes()


def _no_password() -> str:
    raise ValueError("the private key has a password")
