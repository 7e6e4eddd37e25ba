"""Long runs wait while the gateway is away or full, and go on when it is back, as a person would."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from threading import Event, Lock
from typing import TypeVar

from indomain.clients.client import Client
from indomain.exceptions import (
    DeadlineExceededError,
    GatewayUnreachableError,
    IndomainError,
    OverloadedError,
    RequestCancelledError,
    UnavailableError,
)
from indomain.results.bundles import GatewayInfo

_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 5.0
_PROBE_TIMEOUT_S = 5.0
# How often the connection may break at one picture, with the gateway back in between. If it breaks more often, the
# picture itself may be the cause.
_MAX_BREAKS = 4

_Result = TypeVar("_Result")


class StoppedError(Exception):
    """The run was stopped while a picture waited for the gateway."""


class OutageTooLongError(GatewayUnreachableError):
    """The gateway has been away or full for longer than the run waits."""


class OutageWaiter:
    """Makes calls again that failed because the gateway was away or full. Shared by the threads of one run.

    Args:
        clients: asked whether their gateways are back; it is enough if one is.
        wait_s: how long each picture may wait.
        stopped: when set, nobody waits any more.
        on_pause: called once when the gateway goes away or is full, with the error that showed it.
        on_return: called when the gateway is back, with what it serves now. It may raise, to end the run.
    """

    def __init__(
        self,
        clients: Sequence[Client],
        wait_s: float,
        *,
        stopped: Event | None = None,
        on_pause: Callable[[IndomainError], None] | None = None,
        on_return: Callable[[GatewayInfo], None] | None = None,
    ) -> None:
        self._clients = clients
        self._wait_s = wait_s
        self._stopped = stopped or Event()
        self._on_pause = on_pause
        self._on_return = on_return
        # Guards _away.
        self._lock = Lock()
        self._away = False

    def call(self, work: Callable[[], _Result]) -> _Result:
        """Calls `work`, again after each outage, and returns its result.

        Raises:
            IndomainError: `work` failed for another reason, or the connection broke at it again and again.
            OutageTooLongError: the gateway did not come back in time.
            StoppedError: the run was stopped while this waited.
        """
        give_up_s: float | None = None
        breaks = 0
        while True:
            try:
                result = work()
            except IndomainError as error:
                if not self._is_outage(error):
                    raise
                breaks += not isinstance(error, OverloadedError)
                give_up_s = give_up_s or time.monotonic() + self._wait_s
                if breaks > _MAX_BREAKS:
                    raise
                self._wait(error, give_up_s)
            else:
                return result

    def _is_outage(self, error: IndomainError) -> bool:
        """Whether the call failed because the gateway is away, stopping or full, whatever the call was."""
        if isinstance(error, (UnavailableError, OverloadedError, RequestCancelledError)):
            return True
        # When the host is gone, the time of a call runs out, as with a picture that takes too long: ask the gateway.
        return isinstance(error, DeadlineExceededError) and self._probe() is None

    def _wait(self, error: IndomainError, give_up_s: float) -> None:
        """Waits until the gateway answers again."""
        pause_s = max(_FIRST_PAUSE_S, error.retry_after_s)
        while True:
            left_s = give_up_s - time.monotonic()
            if left_s <= 0:
                message = f"Waited for {self._wait_s:g} s, in vain: {error.message}"
                raise OutageTooLongError(message, request_id=error.request_id) from error
            if self._now_away(True) and self._on_pause is not None:
                self._on_pause(error)
            if self._stopped.wait(min(left_s, pause_s * random.uniform(1.0, 1.25))):
                raise StoppedError from error
            info = self._probe()
            if info is not None:
                if self._now_away(False) and self._on_return is not None:
                    self._on_return(info)
                return
            pause_s = min(2.0 * pause_s, _LONGEST_PAUSE_S)

    def _probe(self) -> GatewayInfo | None:
        """What a gateway serves that answers; None if none does."""
        for client in self._clients:
            with suppress(UnavailableError, OverloadedError, DeadlineExceededError, RequestCancelledError):
                return client.info(timeout_s=_PROBE_TIMEOUT_S)
        return None

    def _now_away(self, away: bool) -> bool:
        """Notes whether the gateway is away. True where that has changed."""
        with self._lock:
            before, self._away = self._away, away
        return before is not away
