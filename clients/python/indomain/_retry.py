"""Whether a failed call is tried again, and after how long. Both client kinds ask here and nowhere else."""

from __future__ import annotations

import random

from indomain._constants import RETRY_FIRST_BACKOFF_S, RETRY_MAX_BACKOFF_S
from indomain._exceptions import IndomainError


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
