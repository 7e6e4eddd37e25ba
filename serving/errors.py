"""All errors that a request can end with, and one table with the status that each of them has on each transport.

No transport is imported here: gRPC codes are names, HTTP statuses are numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType


class EditingError(Exception):
    """A request that cannot be served.

    `message` says what was wrong and what to do about it; it never holds a path or a traceback. `stage` is the stage
    of the pipeline that failed (empty: none had begun); `Call.during` fills it in. `retry_after_s` overrides the
    value in the table.
    """

    def __init__(self, message: str, *, stage: str = "", retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.stage = stage
        self._retry_after_s = retry_after_s

    @property
    def row(self) -> ErrorRow:
        """The row of this error's class in the table, or of its nearest base class that has one."""
        for cls in type(self).__mro__:
            if issubclass(cls, EditingError) and cls in ERROR_TABLE:
                return ERROR_TABLE[cls]
        return ERROR_TABLE[InternalError]

    @property
    def retry_after_s(self) -> float:
        """Seconds to wait before a retry; 0 if a retry is of no use."""
        return self.row.retry_after_s if self._retry_after_s is None else self._retry_after_s


class MalformedRequest(EditingError):
    """The body cannot be parsed as the request of its route."""


class UnsupportedMediaType(EditingError):
    """The body is neither JSON nor multipart."""


class RequestTooLarge(EditingError):
    """The whole request is over the limit in bytes."""

    @classmethod
    def over(cls, max_bytes: int) -> RequestTooLarge:
        """The error for a request of more than `max_bytes`, the setting max_request_bytes."""
        return cls(
            f"The request has more than {max_bytes} bytes; send a smaller picture or fewer codes, or ask for a higher "
            "max_request_bytes (INDOMAIN_MAX_REQUEST_BYTES) of the gateway."
        )


class InvalidPicture(EditingError):
    """The bytes are not a picture that can be read."""


class PictureTooLarge(EditingError):
    """The picture is over the limit in bytes or in pixels."""


class NoFace(EditingError):
    """No face was found on the picture, and the bundle is aligned by faces."""


class NoSuchFace(EditingError):
    """The request names a face by a number that the picture does not have."""


class FaceNotUsable(EditingError):
    """The face is smaller, or turned away farther, than the faces that the bundle was trained on."""


class InvalidCode(EditingError):
    """A code with a wrong shape, or with values that are not finite."""


class OtherCodeSpace(InvalidCode):
    """A code of another bundle, or of another version of its generator."""


class InvalidOption(EditingError):
    """An option that is out of its range, or that does not go with the others."""


class UnknownBundle(EditingError):
    """No bundle of this name is served."""


class UnknownDirection(EditingError):
    """The bundle has no direction of this name."""


class UnknownCodeHandle(EditingError):
    """The gateway has no code under this handle, has dropped it, or keeps it for another caller."""


class Unauthenticated(EditingError):
    """The request has no API key, or an unknown one."""


class PermissionDenied(EditingError):
    """The key, or the web page that the request comes from, may not call this method."""


class KeyLimitReached(EditingError):
    """The key has used up its own limit of requests a second, or of requests at once."""


class NotFound(EditingError):
    """No such route."""


class MethodNotAllowed(EditingError):
    """The route exists, but not for this HTTP method."""


class QueueFull(EditingError):
    """The gateway holds as much work as it is allowed to."""


class DeadlineExceeded(EditingError):
    """The request's deadline has passed."""


class Cancelled(EditingError):
    """The caller hung up."""


class NotReady(EditingError):
    """The gateway still loads its graphs and warms them up."""


class ShuttingDown(EditingError):
    """The gateway finishes the requests it has and takes no new ones."""


class BackendUnavailable(EditingError):
    """The back end does not answer."""


class BackendFailed(EditingError):
    """The back end failed on this request."""


class BundleInvalid(EditingError):
    """A bundle in the model repository cannot be served. Raised at start-up and when bundles are reloaded."""


class KeysInvalid(EditingError):
    """The file of API keys cannot be used. Raised at start-up."""


class CertificateInvalid(EditingError):
    """The TLS files cannot be used. Raised at start-up."""


class InternalError(EditingError):
    """A fault of the gateway itself. The log has the traceback under the request id."""


# Errors of one picture or one code. All others (no time left, a full queue) are of the whole request.
_OF_A_SOURCE = (
    *(InvalidPicture, PictureTooLarge, NoFace, NoSuchFace, FaceNotUsable),
    *(InvalidCode, UnknownCodeHandle),
)


@contextmanager
def about(what: str) -> Iterator[None]:
    """Makes an error of a picture or a code say which one of the request it is: `mask: The bytes are not a ...`.

    Without it, callers take an error of the mask, or of the second of two pictures, for one of the first.
    """
    try:
        yield
    except _OF_A_SOURCE as error:
        error.message = f"{what}: {error.message}"
        raise


@dataclass(frozen=True, slots=True)
class ErrorRow:
    """How callers see one kind of error. `reason` is stable: programs and metrics go by it."""

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
        NoFace: ErrorRow("INVALID_ARGUMENT", 422, "no_face"),
        NoSuchFace: ErrorRow("INVALID_ARGUMENT", 422, "no_such_face"),
        FaceNotUsable: ErrorRow("INVALID_ARGUMENT", 422, "face_not_usable"),
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


def forget_frames(error: BaseException) -> None:
    """Lets go of the frames that an error, and what it came of, passed through.

    They hold messages and pictures, and often the error itself: only garbage collection would free them, much later.
    """
    passed: BaseException | None = error
    while passed is not None:
        passed.__traceback__ = None
        passed = passed.__cause__ or passed.__context__
