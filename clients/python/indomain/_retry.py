"""Whether a failed call is tried again, and after how long. Every kind of call asks here and nowhere else."""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Sequence

import grpc

from indomain._constants import REQUEST_ID_KEY, RETRY_FIRST_BACKOFF_S, RETRY_MAX_BACKOFF_S
from indomain._exceptions import (
    DeadlineExceededError,
    IndomainError,
    UnknownCodeHandleError,
    error_from_rpc,
)


class Tries:
    """The tries of one call, under one deadline and one request id."""

    def __init__(
        self,
        address: str,
        timeout_s: float,
        max_retries: int,
        credentials: Sequence[tuple[str, str]] = (),
        *,
        by_handle: bool = False,
    ) -> None:
        self.by_handle = by_handle  # whether codes that have a handle go by it
        self._address = address
        self._max_retries = max_retries
        self._deadline_s = time.monotonic() + timeout_s
        self._request_id = uuid.uuid4().hex
        self.metadata = ((REQUEST_ID_KEY, self._request_id), *credentials)
        self._retries_done = 0

    def remaining_s(self) -> float:
        """Seconds for the next try. Raises DeadlineExceededError."""
        remaining_s = self._deadline_s - time.monotonic()
        if remaining_s <= 0:
            raise DeadlineExceededError(
                f"No time was left to ask the gateway at {self._address}",
                reason="deadline_exceeded",
                code="DEADLINE_EXCEEDED",
                request_id=self._request_id,
            )
        return remaining_s

    def wait_after_s(self, failure: grpc.RpcError, *, answered: bool = False) -> float:
        """Seconds to wait before the next try. Raises the typed error where there is none; `answered`: in part."""
        error = error_from_rpc(failure, request_id=self._request_id, address=self._address)
        if self.by_handle and not answered and isinstance(error, UnknownCodeHandleError):
            self.by_handle = False  # the codes themselves, then
            return 0.0
        wait_s = _retry_wait_s(error, retries_done=self._retries_done)
        if answered or not _should_retry(
            error,
            retries_done=self._retries_done,
            max_retries=self._max_retries,
            wait_s=wait_s,
            remaining_s=self._deadline_s - time.monotonic(),
        ):
            raise error from failure
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
