"""Whether a failed call is tried again, and after how long. Every kind of client asks here and nowhere else."""

from __future__ import annotations

import random
import time
import uuid

from google.protobuf.message import Message

from indomain import _calls
from indomain._constants import RETRY_FIRST_BACKOFF_S, RETRY_MAX_BACKOFF_S
from indomain._exceptions import DeadlineExceededError, IndomainError, UnknownCodeHandleError


class Terms:
    """How long the calls of one client may take, and how often they are tried again."""

    def __init__(self, address: str, timeout_s: float, max_retries: int) -> None:
        self.address = address
        self.timeout_s = timeout_s
        self.max_retries = max_retries
        self._closed = False

    def tries(self, request: Message, timeout_s: float | None) -> Tries:
        """Raises ValueError once the client is closed."""
        return Tries(self, request, self.new_request_id(), self.timeout_s if timeout_s is None else timeout_s)

    def new_request_id(self) -> str:
        """Raises ValueError once the client is closed."""
        if self._closed:
            raise ValueError("this client is closed; open another one")
        return uuid.uuid4().hex

    def close(self) -> None:
        self._closed = True


class Tries:
    """The tries of one request, under one deadline and one request id."""

    def __init__(self, terms: Terms, request: Message, request_id: str, timeout_s: float) -> None:
        self._terms = terms
        self._request = request
        self._by_handle = self._has_handles = _calls.has_handles(request)
        self._request_id = request_id
        self._deadline_s = time.monotonic() + timeout_s
        self._retries_done = 0

    def next(self) -> tuple[Message, str, float]:
        """What the next try sends, its request id, and the seconds that it has. Raises DeadlineExceededError.

        Codes go by the gateway's handles for them, until it says that it has forgotten one.
        """
        remaining_s = self._deadline_s - time.monotonic()
        if remaining_s <= 0:
            raise DeadlineExceededError(
                f"No time was left to ask the gateway at {self._terms.address}",
                reason="deadline_exceeded",
                code="DEADLINE_EXCEEDED",
                request_id=self._request_id,
            )
        return self._named_request(), self._request_id, remaining_s

    def _named_request(self) -> Message:
        if not self._has_handles:
            return self._request
        request = type(self._request)()
        request.CopyFrom(self._request)
        _calls.name_codes(request, by_handle=self._by_handle)
        return request

    def wait_after_s(self, error: IndomainError, *, answered: bool = False) -> float:
        """Seconds to wait before the next try. Raises the error where there is none; `answered`: in part."""
        if self._by_handle and not answered and isinstance(error, UnknownCodeHandleError):
            self._by_handle = False  # the codes themselves, then
            return 0.0
        wait_s = _retry_wait_s(error, retries_done=self._retries_done)
        if answered or not _should_retry(
            error,
            retries_done=self._retries_done,
            max_retries=self._terms.max_retries,
            wait_s=wait_s,
            remaining_s=self._deadline_s - time.monotonic(),
        ):
            raise error
        self._retries_done += 1
        return wait_s


def _should_retry(
    error: IndomainError, *, retries_done: int, max_retries: int, wait_s: float, remaining_s: float
) -> bool:
    """Only what the gateway's error table calls retryable, and only if the call's time outlasts the wait.

    A broken connection is not in that table: trying it again blindly is how an outage becomes an overload.
    """
    return error.retryable and retries_done < max_retries and wait_s < remaining_s


def _retry_wait_s(error: IndomainError, *, retries_done: int) -> float:
    """Seconds to wait: exponential back-off, never less than the gateway asks for, spread by up to a quarter."""
    backoff_s = min(RETRY_FIRST_BACKOFF_S * 2.0**retries_done, RETRY_MAX_BACKOFF_S)
    return max(backoff_s, error.retry_after_s) * random.uniform(1.0, 1.25)
