"""What can go wrong with a request, and the one table that says how each transport tells the caller.

No transport is imported here: gRPC codes are names, HTTP statuses are numbers; wire/ has what becomes of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


class EditingError(Exception):
    """A request that cannot be served.

    `message` says what was wrong with what, and what to do; it never holds a path or a trace. `stage` is the step of
    the pipeline in which it happened (empty: before the pipeline), filled in by the call that was running.
    """

    def __init__(self, message: str, *, stage: str = "", retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.stage = stage
        self._retry_after_s = retry_after_s

    @property
    def row(self) -> ErrorRow:
        """This error's row of the table: that of its class, or of the nearest base that has one."""
        for cls in type(self).__mro__:
            if issubclass(cls, EditingError) and cls in ERROR_TABLE:
                return ERROR_TABLE[cls]
        return ERROR_TABLE[InternalError]

    @property
    def retry_after_s(self) -> float:
        """Seconds to wait before another try; 0 where another try is of no use."""
        return self.row.retry_after_s if self._retry_after_s is None else self._retry_after_s


class MalformedRequest(EditingError):
    """The body cannot be read as the request it should be."""


class UnsupportedMediaType(EditingError):
    """The body is neither JSON nor multipart, or the answer is wanted in a type that does not fit."""


class RequestTooLarge(EditingError):
    """The whole request is over the limit in bytes."""


class InvalidPicture(EditingError):
    """The bytes are not a picture that can be read."""


class PictureTooLarge(EditingError):
    """The picture is over the limit in bytes or in pixels."""


class InvalidCode(EditingError):
    """A latent code with a wrong shape or with values that are not finite."""


class OtherCodeSpace(InvalidCode):
    """A latent code of another bundle, or of another generator."""


class InvalidOption(EditingError):
    """An option out of its range."""


class UnknownBundle(EditingError):
    """No bundle of this name is served."""


class UnknownDirection(EditingError):
    """The bundle has no direction of this name."""


class UnknownCodeHandle(EditingError):
    """The gateway does not know a code by this handle, or no longer, or it is another caller's."""


class Unauthenticated(EditingError):
    """No key came with the request, or none that is known."""


class PermissionDenied(EditingError):
    """The key, or the page that the request comes from, is not for this."""


class KeyLimitReached(EditingError):
    """The key's own limit of requests a second, or of requests at once."""


class NotFound(EditingError):
    """No such route."""


class MethodNotAllowed(EditingError):
    """The route exists, but not for this HTTP method."""


class QueueFull(EditingError):
    """More work is waiting than the gateway will hold."""


class DeadlineExceeded(EditingError):
    """The caller's time ran out."""


class Cancelled(EditingError):
    """The caller went away."""


class NotReady(EditingError):
    """The graphs are still being loaded and warmed up."""


class ShuttingDown(EditingError):
    """The gateway finishes what it has and takes no more."""


class BackendUnavailable(EditingError):
    """The back end does not answer."""


class BackendFailed(EditingError):
    """The back end answered with a failure."""


class BundleInvalid(EditingError):
    """A bundle in the model repository that cannot be served; found at start-up."""


class KeysInvalid(EditingError):
    """The file of keys cannot be used; found at start-up."""


class CertificateInvalid(EditingError):
    """The files of TLS cannot be used; found at start-up."""


class InternalError(EditingError):
    """Anything that was not foreseen. The log has the trace under the request id."""


@dataclass(frozen=True, slots=True)
class ErrorRow:
    """How one kind of error is told: on gRPC, on HTTP, to programs (`reason`) and in metrics (`reason`)."""

    grpc_code: str
    http_status: int
    reason: str
    retryable: bool = False
    retry_after_s: float = 0.0


# 499 has no standard name: "client closed request", as nginx logs it.
ERROR_TABLE: Mapping[type[EditingError], ErrorRow] = MappingProxyType(
    {
        MalformedRequest: ErrorRow("INVALID_ARGUMENT", 400, "malformed_request"),
        UnsupportedMediaType: ErrorRow("INVALID_ARGUMENT", 415, "unsupported_media_type"),
        RequestTooLarge: ErrorRow("RESOURCE_EXHAUSTED", 413, "request_too_large"),
        InvalidPicture: ErrorRow("INVALID_ARGUMENT", 400, "invalid_picture"),
        PictureTooLarge: ErrorRow("INVALID_ARGUMENT", 413, "picture_too_large"),
        InvalidCode: ErrorRow("INVALID_ARGUMENT", 400, "invalid_code"),
        OtherCodeSpace: ErrorRow("INVALID_ARGUMENT", 400, "other_code_space"),
        InvalidOption: ErrorRow("INVALID_ARGUMENT", 400, "invalid_option"),
        UnknownBundle: ErrorRow("NOT_FOUND", 404, "unknown_bundle"),
        UnknownDirection: ErrorRow("NOT_FOUND", 404, "unknown_direction"),
        UnknownCodeHandle: ErrorRow("NOT_FOUND", 404, "unknown_code_handle"),
        Unauthenticated: ErrorRow("UNAUTHENTICATED", 401, "unauthenticated"),
        PermissionDenied: ErrorRow("PERMISSION_DENIED", 403, "permission_denied"),
        KeyLimitReached: ErrorRow("RESOURCE_EXHAUSTED", 429, "key_limit", retryable=True, retry_after_s=1.0),
        NotFound: ErrorRow("UNIMPLEMENTED", 404, "not_found"),
        MethodNotAllowed: ErrorRow("UNIMPLEMENTED", 405, "method_not_allowed"),
        QueueFull: ErrorRow("RESOURCE_EXHAUSTED", 429, "queue_full", retryable=True, retry_after_s=1.0),
        DeadlineExceeded: ErrorRow("DEADLINE_EXCEEDED", 504, "deadline_exceeded"),
        Cancelled: ErrorRow("CANCELLED", 499, "cancelled"),
        NotReady: ErrorRow("UNAVAILABLE", 503, "not_ready", retryable=True, retry_after_s=2.0),
        ShuttingDown: ErrorRow("UNAVAILABLE", 503, "shutting_down", retryable=True, retry_after_s=5.0),
        BackendUnavailable: ErrorRow(
            "UNAVAILABLE", 503, "backend_unavailable", retryable=True, retry_after_s=2.0
        ),
        BackendFailed: ErrorRow("INTERNAL", 500, "backend_failed"),
        BundleInvalid: ErrorRow("FAILED_PRECONDITION", 500, "bundle_invalid"),
        KeysInvalid: ErrorRow("FAILED_PRECONDITION", 500, "keys_invalid"),
        CertificateInvalid: ErrorRow("FAILED_PRECONDITION", 500, "certificate_invalid"),
        InternalError: ErrorRow("INTERNAL", 500, "internal"),
    }
)
