"""Codes that the gateway keeps for a while under a name, so that a session's code need not travel with every request.

A convenience only: whoever is told that a handle is unknown sends the code. Nothing else depends on one being there.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from dataclasses import dataclass

from serving.deadline import Clock, MonotonicClock
from serving.errors import UnknownCodeHandle
from serving.jobs import Code


@dataclass(slots=True)
class _Kept:
    owner: str
    code_space: str
    code: Code
    expires_s: float


class CodeHandles:
    """At most `max_codes`, `max_per_owner` of them an owner's; what was used longest ago goes first."""

    def __init__(
        self, max_codes: int, max_per_owner: int, expiry_s: float, clock: Clock | None = None
    ) -> None:
        self._max_codes = max_codes
        self._max_per_owner = max_per_owner
        self._expiry_s = expiry_s
        self._clock: Clock = clock or MonotonicClock()
        self._kept: OrderedDict[str, _Kept] = (
            OrderedDict()
        )  # used longest ago first, which expires first, too
        self._of_owner: dict[str, OrderedDict[str, None]] = {}

    def __len__(self) -> int:
        self._forget_expired()
        return len(self._kept)

    def keep(self, owner: str, code_space: str, code: Code) -> str:
        """A new handle for a code float32 [L, 512]; empty where none are given."""
        if self._max_codes == 0:
            return ""
        self._forget_expired()
        handle = secrets.token_urlsafe(16)
        self._kept[handle] = _Kept(owner, code_space, code, self._clock.now() + self._expiry_s)
        own = self._of_owner.setdefault(owner, OrderedDict())
        own[handle] = None
        if len(own) > self._max_per_owner:
            self._forget(next(iter(own)))
        if len(self._kept) > self._max_codes:
            self._forget(next(iter(self._kept)))
        return handle

    def find(self, owner: str, code_space: str, handle: str) -> Code:
        """The code, which is kept anew from now. Raises UnknownCodeHandle; another owner's handle is unknown, too."""
        self._forget_expired()
        kept = self._kept.get(handle)
        if kept is None or (kept.owner, kept.code_space) != (owner, code_space):
            raise UnknownCodeHandle(
                f"There is no code of {code_space} under the handle {handle[:40]!r}, or no longer; send the code."
            )
        kept.expires_s = self._clock.now() + self._expiry_s
        self._kept.move_to_end(handle)
        self._of_owner[owner].move_to_end(handle)
        return kept.code

    def _forget_expired(self) -> None:
        now_s = self._clock.now()
        while self._kept:
            handle, oldest = next(iter(self._kept.items()))
            if oldest.expires_s > now_s:
                break
            self._forget(handle)

    def _forget(self, handle: str) -> None:
        owner = self._kept.pop(handle).owner
        own = self._of_owner[owner]
        del own[handle]
        if not own:
            del self._of_owner[owner]
