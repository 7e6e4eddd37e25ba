"""How a failed call becomes an error of this package, over any transport."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import grpc
from google.protobuf.message import DecodeError

from indomain.constants import ERROR_DETAIL_KEY
from indomain.exceptions import (
    DeadlineExceededError,
    FaceError,
    GatewayUnreachableError,
    IndomainError,
    InvalidCodeError,
    InvalidOptionError,
    InvalidPictureError,
    InvalidRequestError,
    KeyLimitError,
    NotFoundError,
    OtherCodeSpaceError,
    OverloadedError,
    PermissionDeniedError,
    RequestCancelledError,
    RequestTooLargeError,
    ServerError,
    UnauthenticatedError,
    UnavailableError,
    UnknownBundleError,
    UnknownCodeHandleError,
    UnknownDirectionError,
)
from indomain.v1 import editing_pb2

CLASS_OF_REASON: Mapping[str, type[IndomainError]] = MappingProxyType(
    {
        "invalid_picture": InvalidPictureError,
        "picture_too_large": InvalidPictureError,
        "no_face": FaceError,
        "no_such_face": FaceError,
        "face_not_usable": FaceError,
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
        "unsupported_media_type": InvalidRequestError,
        "unauthenticated": UnauthenticatedError,
        "permission_denied": PermissionDeniedError,
        "not_found": NotFoundError,
        "method_not_allowed": NotFoundError,
        "cancelled": RequestCancelledError,
        "not_ready": UnavailableError,
        "shutting_down": UnavailableError,
        "backend_unavailable": UnavailableError,
        "backend_failed": ServerError,
        "internal": ServerError,
        # The gateway does not start with these, so that no caller gets them unless a reload goes wrong.
        "bundle_invalid": ServerError,
        "keys_invalid": ServerError,
        "certificate_invalid": ServerError,
    }
)

# For reasons that only a newer gateway has, and for calls that never reached a gateway.
CLASS_OF_CODE: Mapping[str, type[IndomainError]] = MappingProxyType(
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
    """The error of this package for the gateway's own description of a failure.

    Args:
        detail: what the gateway sent.
        address: the gateway's address, for a message where the gateway gave none.
        status, text, request_id: used where `detail` has no code, message or request id.
    """
    code = detail.code or (status.name if status else "")
    kind = CLASS_OF_REASON.get(detail.reason) or CLASS_OF_CODE.get(code, ServerError)
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
    """The error of this package for a failed gRPC call; `request_id` is the one that was sent with it."""
    # Every error that a gRPC call raises is a grpc.Call too; the types of grpc do not say so.
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
    """The error of this package for a failure that the gateway did not describe: the connection could not be made or
    broke, the time ran out, or a message was over gRPC's own limit."""
    kind = CLASS_OF_CODE.get(status.name, ServerError)
    message = text or status.name
    if status is grpc.StatusCode.UNAVAILABLE:
        kind = GatewayUnreachableError
        message = f"No gateway answers at {address} ({text})"
    elif status is grpc.StatusCode.DEADLINE_EXCEEDED:
        message = f"The gateway at {address} did not answer in time"
    elif status is grpc.StatusCode.RESOURCE_EXHAUSTED and not text.startswith("CLIENT: "):
        # Without a word of the gateway, only the size of a message causes this status: gRPC refuses a request far over
        # the limit before the gateway sees it. (With CLIENT it refuses an answer here.)
        return RequestTooLargeError(
            f"The request is larger than the gateway at {address} takes ({text}); send a smaller picture or fewer "
            "codes, or ask for a higher max_request_bytes (INDOMAIN_MAX_REQUEST_BYTES) of the gateway.",
            reason="request_too_large",
            code=status.name,
            request_id=request_id,
        )
    elif status is grpc.StatusCode.CANCELLED:
        message = f"The call was cancelled ({text})"
    return kind(message, reason=status.name.lower(), code=status.name, request_id=request_id)


def _detail_of(call: grpc.Call) -> editing_pb2.ErrorDetail | None:
    for key, value in call.trailing_metadata() or ():
        if key == ERROR_DETAIL_KEY and isinstance(value, bytes):
            try:
                return editing_pb2.ErrorDetail.FromString(value)
            except DecodeError:
                # Metadata of a proxy or of another service under the same key.
                return None
    return None
