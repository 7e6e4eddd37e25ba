"""The errors a caller may catch, and how a failed gRPC call becomes one of them.

Whether to try again is in _retry.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import grpc
from google.protobuf.message import DecodeError

from indomain._constants import ERROR_DETAIL_KEY
from indomain.v1 import editing_pb2


class IndomainError(Exception):
    """A call that failed. Base of all errors of this package.

    Attributes:
        message: what was wrong with what, and what to do.
        reason: stable name for programs, e.g. `"invalid_picture"`, `"queue_full"`; a gRPC code in lower case where
            the gateway gave none.
        code: name of the gRPC status, e.g. `"INVALID_ARGUMENT"`.
        stage: step of the pipeline in which it happened, e.g. `"refine"`; empty: before the pipeline.
        request_id: the same id stands in the gateway's log.
        retryable: the gateway says that the same call may succeed later.
        retry_after_s: seconds to wait before that.
    """

    def __init__(
        self,
        message: str,
        *,
        reason: str = "",
        code: str = "",
        stage: str = "",
        request_id: str = "",
        retryable: bool = False,
        retry_after_s: float = 0.0,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason
        self.code = code
        self.stage = stage
        self.request_id = request_id
        self.retryable = retryable
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        where = f" (in {self.stage})" if self.stage else ""
        which = f" [request {self.request_id}]" if self.request_id else ""
        return f"{self.message}{where}{which}"


class InvalidRequestError(IndomainError):
    """The request can never be served as it is."""


class InvalidPictureError(InvalidRequestError):
    """Not a picture that the gateway reads, or one over its limits."""


class InvalidCodeError(InvalidRequestError):
    """A latent code of a wrong shape, or with values that are not finite."""


class OtherCodeSpaceError(InvalidCodeError):
    """A latent code of another bundle, or of another generator under the same name; the message names both."""


class InvalidOptionError(InvalidRequestError):
    """An option out of its range."""


class RequestTooLargeError(InvalidRequestError):
    """The whole request is over the gateway's limit in bytes."""


class UnauthenticatedError(IndomainError):
    """The gateway wants an API key, and none was sent or it does not know it."""


class PermissionDeniedError(IndomainError):
    """The API key is not for this."""


class NotFoundError(IndomainError):
    """Something that was named does not exist."""


class UnknownBundleError(NotFoundError):
    """The gateway serves no bundle of this name."""


class UnknownDirectionError(NotFoundError):
    """The bundle has no direction of this name."""


class UnknownCodeHandleError(NotFoundError):
    """The gateway does not know, or no longer, the code by this handle; calls of this package then send the code."""


class OverloadedError(IndomainError):
    """More work is waiting than the gateway will hold."""


class KeyLimitError(OverloadedError):
    """More at once, or more often, than the API key is for."""


class DeadlineExceededError(IndomainError):
    """The call's time ran out."""


class RequestCancelledError(IndomainError):
    """The call was cancelled."""


class UnavailableError(IndomainError):
    """The gateway is there, but does not serve now: starting, stopping, or without its back end."""


class GatewayUnreachableError(UnavailableError):
    """Nothing answers at the address, or the connection broke."""


class ServerError(IndomainError):
    """Something failed inside the gateway; its log has more under the request id."""


class InvalidFileError(IndomainError, ValueError):
    """A file that is not what `save` of a result wrote."""


class NotInstalledError(IndomainError, ImportError):
    """What was asked for needs a package that is not installed; the message names it."""


_CLASS_OF_REASON: Mapping[str, type[IndomainError]] = MappingProxyType(
    {
        "invalid_picture": InvalidPictureError,
        "picture_too_large": InvalidPictureError,
        "invalid_code": InvalidCodeError,
        "other_code_space": OtherCodeSpaceError,
        "invalid_option": InvalidOptionError,
        "request_too_large": RequestTooLargeError,
        "unknown_bundle": UnknownBundleError,
        "unknown_direction": UnknownDirectionError,
        "unknown_code_handle": UnknownCodeHandleError,
        "queue_full": OverloadedError,
        "deadline_exceeded": DeadlineExceededError,
        "malformed_request": InvalidRequestError,
        "key_limit": KeyLimitError,
    }
)

# For reasons that a newer gateway may have, and for failures on the way that never reached one.
_CLASS_OF_CODE: Mapping[str, type[IndomainError]] = MappingProxyType(
    {
        "INVALID_ARGUMENT": InvalidRequestError,
        "OUT_OF_RANGE": InvalidRequestError,
        "UNAUTHENTICATED": UnauthenticatedError,
        "PERMISSION_DENIED": PermissionDeniedError,
        "UNIMPLEMENTED": NotFoundError,
        "NOT_FOUND": NotFoundError,
        "RESOURCE_EXHAUSTED": OverloadedError,
        "DEADLINE_EXCEEDED": DeadlineExceededError,
        "CANCELLED": RequestCancelledError,
        "UNAVAILABLE": UnavailableError,
    }
)


def error_from_detail(
    detail: editing_pb2.ErrorDetail,
    *,
    address: str,
    status: grpc.StatusCode | None = None,
    text: str = "",
    request_id: str = "",
) -> IndomainError:
    """The typed error of what the gateway says; the other arguments stand in for what its detail leaves out."""
    code = detail.code or (status.name if status else "")
    kind = _CLASS_OF_REASON.get(detail.reason) or _CLASS_OF_CODE.get(code, ServerError)
    return kind(
        detail.message or text or f"The gateway at {address} refused it",
        reason=detail.reason,
        code=code,
        stage=detail.stage,
        request_id=detail.request_id or request_id,
        retryable=detail.retryable,
        retry_after_s=detail.retry_after_s,
    )


def error_from_rpc(error: grpc.RpcError, *, request_id: str, address: str) -> IndomainError:
    """The typed error of a failed call; `request_id` is the one that was sent with it."""
    # Every error that a call of grpc raises is a grpc.Call too; its types do not say so.
    call: grpc.Call = error  # type: ignore[assignment]
    status, text = call.code(), call.details() or ""
    detail = _detail_of(call)
    if detail is None:
        return error_without_detail(status, text, request_id=request_id, address=address)
    return error_from_detail(
        detail, address=address, status=status, text=text or status.name, request_id=request_id
    )


def error_without_detail(
    status: grpc.StatusCode, text: str, *, request_id: str, address: str
) -> IndomainError:
    """An error that gRPC itself made: nobody there, a broken connection, a deadline, a message over a limit."""
    kind = _CLASS_OF_CODE.get(status.name, ServerError)
    message = text or status.name
    if status is grpc.StatusCode.UNAVAILABLE:
        kind = GatewayUnreachableError
        message = f"No gateway answers at {address} ({text})"
    elif status is grpc.StatusCode.DEADLINE_EXCEEDED:
        message = f"The gateway at {address} did not answer in time"
    elif status is grpc.StatusCode.RESOURCE_EXHAUSTED:
        kind = RequestTooLargeError  # only a message's size does this without the gateway having a say
    return kind(message, reason=status.name.lower(), code=status.name, request_id=request_id)


def _detail_of(call: grpc.Call) -> editing_pb2.ErrorDetail | None:
    for key, value in call.trailing_metadata() or ():
        if key == ERROR_DETAIL_KEY and isinstance(value, bytes):
            try:
                return editing_pb2.ErrorDetail.FromString(value)
            except DecodeError:  # a proxy's or another service's; the status still says enough
                return None
    return None
