"""Sits out what passes: a gateway that is away for a while, or full. For long runs, where a person would try again."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from threading import Event, Lock
from typing import TypeVar

from indomain._client import Client
from indomain._exceptions import (
    DeadlineExceededError,
    GatewayUnreachableError,
    IndomainError,
    OverloadedError,
    RequestCancelledError,
    UnavailableError,
)
from indomain._results import GatewayInfo

_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 5.0
_PROBE_TIMEOUT_S = 5.0
# Of a picture's calls, with the gateway there again in between. More of them, and it may be the picture that does it.
_MAX_BREAKS = 4

_Result = TypeVar("_Result")


class StoppedError(Exception):
    """The run was stopped while a picture waited; nothing became of it."""


class OutOfPatienceError(GatewayUnreachableError):
    """The gateway has been away, or full, for longer than a run would wait."""


class Patience:
    """Shared by the threads of one run.

    Args:
        clients: asked whether their gateway is back; one that is suffices.
        wait_s: how long each picture may wait.
        stopped: ends all waiting.
        on_pause: told once, when the gateway goes away or is full.
        on_return: told what it serves when it is back; may raise, if that is not the same.
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
        self._lock = Lock()  # of _away
        self._away = False

    def call(self, work: Callable[[], _Result]) -> _Result:
        """What `work` answers, called again after each outage.

        Raises:
            IndomainError: what `work` raises for another reason; or for this one, when the connection breaks again
                and again at this very call.
            OutOfPatienceError: the time is up.
            StoppedError: the run was stopped meanwhile.
        """
        give_up_s: float | None = None
        breaks = 0
        while True:
            try:
                result = work()
            except IndomainError as error:
                if not self._passes(error):
                    raise
                breaks += not isinstance(error, OverloadedError)
                give_up_s = give_up_s or time.monotonic() + self._wait_s
                if breaks > _MAX_BREAKS:
                    raise
                self._wait(error, give_up_s)
            else:
                return result

    def _passes(self, error: IndomainError) -> bool:
        """Whether it is nothing about the call: the gateway is away, stopping, or full."""
        if isinstance(error, (UnavailableError, OverloadedError, RequestCancelledError)):
            return True
        # A host that is gone says nothing: the time runs out, as with a picture that takes too long.
        return isinstance(error, DeadlineExceededError) and self._probe() is None

    def _wait(self, error: IndomainError, give_up_s: float) -> None:
        """Returns when the gateway answers again."""
        pause_s = max(_FIRST_PAUSE_S, error.retry_after_s)
        while True:
            left_s = give_up_s - time.monotonic()
            if left_s <= 0:
                told = f"Waited for {self._wait_s:g} s, in vain: {error.message}"
                raise OutOfPatienceError(told, request_id=error.request_id) from error
            self._tell_pause(error)
            if self._stopped.wait(min(left_s, pause_s * random.uniform(1.0, 1.25))):
                raise StoppedError from error
            info = self._probe()
            if info is not None:
                self._tell_return(info)
                return
            pause_s = min(2.0 * pause_s, _LONGEST_PAUSE_S)

    def _probe(self) -> GatewayInfo | None:
        for client in self._clients:
            with suppress(UnavailableError, OverloadedError, DeadlineExceededError, RequestCancelledError):
                return client.info(timeout_s=_PROBE_TIMEOUT_S)
        return None

    def _tell_pause(self, error: IndomainError) -> None:
        with self._lock:
            first, self._away = not self._away, True
        if first and self._on_pause is not None:
            self._on_pause(error)

    def _tell_return(self, info: GatewayInfo) -> None:
        with self._lock:
            first, self._away = self._away, False
        if first and self._on_return is not None:
            self._on_return(info)
