"""What calls over HTTP and sessions over a websocket share: paths, headers, and errors. Needs httpx and websockets."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager

import grpc
import httpx
import websockets

from indomain.exceptions import IndomainError
from indomain.transports.credentials import Credentials
from indomain.transports.errors import error_from_detail, error_without_detail
from indomain.v1 import editing_pb2
from indomain.wire.json import message_from_json

_TIMEOUT_HEADER = "x-timeout-s"

# How gRPC itself reads statuses of proxies: https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md
_CODE_OF_STATUS = {
    400: grpc.StatusCode.INTERNAL,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.UNIMPLEMENTED,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    429: grpc.StatusCode.UNAVAILABLE,
    502: grpc.StatusCode.UNAVAILABLE,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.UNAVAILABLE,
}


def path_of(method: str) -> str:
    """The path of a method of the contract: `WatchInvert` is at `/v1/watch-invert`."""
    return "/v1/" + re.sub(r"(?<=[a-z])(?=[A-Z])", "-", method).lower()


def headers_of(credentials: Credentials, request_id: str, timeout_s: float | None) -> dict[str, str]:
    """The headers of one call; the gateway keeps the time limit among them."""
    headers = dict(credentials.metadata_with(request_id))
    return headers if timeout_s is None else headers | {_TIMEOUT_HEADER: f"{timeout_s:.3f}"}


def error_of_status(status: int, content: bytes, request_id: str, address: str) -> IndomainError:
    """The error of an HTTP answer that is not 200. Its body is the gateway's ErrorDetail, or a proxy's page."""
    try:
        values = json.loads(content)
        detail = message_from_json(values, editing_pb2.ErrorDetail) if "reason" in values else None
    except (ValueError, TypeError):
        detail = None
    code = _CODE_OF_STATUS.get(status, grpc.StatusCode.UNKNOWN)
    if detail is None:
        return error_without_detail(code, f"HTTP status {status}", request_id=request_id, address=address)
    return error_from_detail(detail, address=address, status=code, request_id=request_id)


@contextmanager
def connection_errors(request_id: str, address: str) -> Iterator[None]:
    """Raises errors of httpx and websockets as errors of this package."""
    try:
        yield
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        raise connection_broken(str(error) or "no connection", request_id, address) from error
    except (httpx.TimeoutException, TimeoutError) as error:
        raise time_ran_out(request_id, address) from error
    except websockets.InvalidStatus as error:
        response = error.response
        raise error_of_status(response.status_code, bytes(response.body), request_id, address) from error
    except (httpx.TransportError, websockets.WebSocketException, OSError) as error:
        raise connection_broken(f"the connection broke: {error}", request_id, address) from error


@contextmanager
def unreadable_answers(request_id: str, address: str) -> Iterator[None]:
    """Raises GatewayUnreachableError where an answer is not one of a gateway, e.g. a web server's page."""
    try:
        yield
    except ValueError as error:
        raise connection_broken(f"what answers there is no gateway: {error}", request_id, address) from error


def connection_broken(text: str, request_id: str, address: str) -> IndomainError:
    """GatewayUnreachableError."""
    return error_without_detail(grpc.StatusCode.UNAVAILABLE, text, request_id=request_id, address=address)


def time_ran_out(request_id: str, address: str) -> IndomainError:
    """DeadlineExceededError."""
    return error_without_detail(grpc.StatusCode.DEADLINE_EXCEEDED, "", request_id=request_id, address=address)
