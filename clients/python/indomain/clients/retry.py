"""Whether a failed call is tried again, and after how long. Both clients decide here and nowhere else."""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Callable
from typing import Any

from google.protobuf.message import Message

from indomain.calls.call import Call
from indomain.calls.sources import has_handles, name_codes
from indomain.constants import CALL_ID_KEY, RETRY_FIRST_BACKOFF_S, RETRY_MAX_BACKOFF_S
from indomain.exceptions import (
    DeadlineExceededError,
    IndomainError,
    MismatchedAnswerError,
    UnknownCodeHandleError,
)


class RetryPolicy:
    """How long the calls of one client may take, and how often they are tried again."""

    def __init__(self, address: str, timeout_s: float, max_retries: int) -> None:
        self.address = address
        self.timeout_s = timeout_s
        self.max_retries = max_retries
        self._closed = False

    def attempts(self, call: Call[Any], on_mismatch: Callable[[], None]) -> Attempts:
        """Starts a call: its time begins to run. Raises ValueError once the client is closed.

        `on_mismatch` is called where the answer to another request comes.
        """
        timeout_s = self.timeout_s if call.timeout_s is None else call.timeout_s
        return Attempts(self, call.request, self.new_request_id(), timeout_s, on_mismatch)

    def new_request_id(self) -> str:
        """Raises ValueError once the client is closed."""
        if self._closed:
            raise ValueError("this client is closed; open another one")
        return uuid.uuid4().hex

    def close(self) -> None:
        self._closed = True


class Attempts:
    """The attempts at one call, under one deadline and one request id."""

    def __init__(
        self,
        policy: RetryPolicy,
        request: Message,
        request_id: str,
        timeout_s: float,
        on_mismatch: Callable[[], None],
    ) -> None:
        self._policy = policy
        self._request = request
        self._by_handle = self._has_handles = has_handles(request)
        self._request_id = request_id
        self._on_mismatch = on_mismatch
        self._deadline_s = time.monotonic() + timeout_s
        self._retries_done = 0

    def next(self) -> tuple[Message, str, float]:
        """The request of the next attempt, its request id, and the seconds that it has.

        Codes are sent by the gateway's handles for them, until the gateway says that it has forgotten one.

        Raises DeadlineExceededError where no time is left.
        """
        remaining_s = self._deadline_s - time.monotonic()
        if remaining_s <= 0:
            raise DeadlineExceededError(
                f"No time was left to ask the gateway at {self._policy.address}",
                reason="deadline_exceeded",
                code="DEADLINE_EXCEEDED",
                request_id=self._request_id,
            )
        return self._request_to_send(), self._request_id, remaining_s

    def check(self, answer: Message) -> None:
        """Raises MismatchedAnswerError where the answer is not to this request."""
        self._check_id(request_id_of(answer))

    def _check_id(self, answered: str) -> None:
        if answered != self._request_id:
            self._on_mismatch()
            raise mismatched(answered, self._request_id, self._policy.address)

    def _request_to_send(self) -> Message:
        if not self._has_handles:
            return self._request
        request = type(self._request)()
        request.CopyFrom(self._request)
        name_codes(request, by_handle=self._by_handle)
        return request

    def wait_after_s(self, error: IndomainError, *, answered: bool = False) -> float:
        """Seconds to wait after a failed attempt, before the next one.

        Args:
            error: how the attempt failed. It is raised where there is no next attempt.
            answered: some answers of a stream have come already; then there is no next attempt.
        """
        # An error without an id has not come from the gateway.
        if error.request_id:
            self._check_id(error.request_id)
        if self._by_handle and not answered and isinstance(error, UnknownCodeHandleError):
            self._by_handle = False
            return 0.0
        wait_s = _retry_wait_s(error, retries_done=self._retries_done)
        if answered or not _should_retry(
            error,
            retries_done=self._retries_done,
            max_retries=self._policy.max_retries,
            wait_s=wait_s,
            remaining_s=self._deadline_s - time.monotonic(),
        ):
            raise error
        self._retries_done += 1
        return wait_s


def mismatched(answered: str, asked: str, address: str) -> MismatchedAnswerError:
    """The error of an answer whose request id is not the one that was asked with."""
    whose = f"the answer to request {answered}" if answered else "an answer without a request id"
    return MismatchedAnswerError(
        f"What came from {address} is {whose}, not to this one, and was dropped. Something in between mixes answers "
        f"up, or does not pass on the header {CALL_ID_KEY}",
        reason="mismatched_answer",
        request_id=asked,
    )


def request_id_of(answer: Any) -> str:
    """The request id that an answer carries. That of a message with a oneof is in the field that is set."""
    if answer.DESCRIPTOR.oneofs and "request_id" not in answer.DESCRIPTOR.fields_by_name:
        kind = answer.WhichOneof(answer.DESCRIPTOR.oneofs[0].name)
        answer = getattr(answer, kind) if kind else answer
    return getattr(answer, "request_id", "")


def _should_retry(
    error: IndomainError, *, retries_done: int, max_retries: int, wait_s: float, remaining_s: float
) -> bool:
    """Only what the gateway calls retryable is tried again, and only if the call has time left after the wait.

    A broken connection is not retryable: if every client tried again at once, an outage would become an overload.
    """
    return error.retryable and retries_done < max_retries and wait_s < remaining_s


def _retry_wait_s(error: IndomainError, *, retries_done: int) -> float:
    """Exponential back-off, at least what the gateway asks for, plus up to a quarter at random."""
    backoff_s = min(RETRY_FIRST_BACKOFF_S * 2.0**retries_done, RETRY_MAX_BACKOFF_S)
    return max(backoff_s, error.retry_after_s) * random.uniform(1.0, 1.25)
