"""The codes of requests and results, and the handles under which the gateway keeps codes for a while.

A handle saves sending a code with every request. It is a convenience only: after an error UnknownCodeHandle
a caller sends the code itself.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from serving.bundle import Bundle
from serving.call import Call
from serving.deadline import Clock, MonotonicClock
from serving.errors import InvalidCode, OtherCodeSpace, UnknownCodeHandle
from serving.jobs import Code, CodeHandle, CodeSource, NamedCode, OutputOptions
from serving.pipeline.edits import check_codes


@dataclass(slots=True)
class _KeptCode:
    owner: str
    code_space: str
    code: Code
    expires_s: float


class CodeHandles:
    """Keeps at most `max_codes` codes, and `max_per_owner` of one owner. The code used longest ago goes first."""

    def __init__(
        self, max_codes: int, max_per_owner: int, expiry_s: float, clock: Clock | None = None
    ) -> None:
        self._max_codes = max_codes
        self._max_per_owner = max_per_owner
        self._expiry_s = expiry_s
        self._clock: Clock = clock or MonotonicClock()
        # In order of last use, which is also the order in which codes expire.
        self._kept: OrderedDict[str, _KeptCode] = OrderedDict()
        self._of_owner: dict[str, OrderedDict[str, None]] = {}

    def __len__(self) -> int:
        self._drop_expired()
        return len(self._kept)

    def keep(self, owner: str, code_space: str, code: Code) -> str:
        """Keeps a code float32 [L, 512] and returns its handle; empty if handles are switched off."""
        if self._max_codes == 0:
            return ""
        self._drop_expired()
        handle = secrets.token_urlsafe(16)
        self._kept[handle] = _KeptCode(owner, code_space, code, self._clock.now() + self._expiry_s)
        own = self._of_owner.setdefault(owner, OrderedDict())
        own[handle] = None
        if len(own) > self._max_per_owner:
            self._drop(next(iter(own)))
        if len(self._kept) > self._max_codes:
            self._drop(next(iter(self._kept)))
        return handle

    def find(self, owner: str, code_space: str, handle: str) -> Code:
        """The code of a handle; its time starts anew. Raises UnknownCodeHandle, also for a handle of another owner."""
        self._drop_expired()
        kept = self._kept.get(handle)
        if kept is None or (kept.owner, kept.code_space) != (owner, code_space):
            raise UnknownCodeHandle(
                f"There is no code of {code_space} under the handle {handle[:40]!r}, or no longer; send the code."
            )
        kept.expires_s = self._clock.now() + self._expiry_s
        self._kept.move_to_end(handle)
        self._of_owner[owner].move_to_end(handle)
        return kept.code

    def _drop_expired(self) -> None:
        now_s = self._clock.now()
        while self._kept:
            handle, oldest = next(iter(self._kept.items()))
            if oldest.expires_s > now_s:
                break
            self._drop(handle)

    def _drop(self, handle: str) -> None:
        owner = self._kept.pop(handle).owner
        own = self._of_owner[owner]
        del own[handle]
        if not own:
            del self._of_owner[owner]


class Codes:
    """Reads the codes that callers send, and gives handles to the codes that they get."""

    def __init__(self, handles: CodeHandles) -> None:
        self._handles = handles

    def values(self, source: CodeSource, bundle: Bundle, call: Call) -> npt.NDArray[np.float32]:
        """The values of a code source, with unchecked shape. Raises OtherCodeSpace, UnknownCodeHandle."""
        if isinstance(source, CodeHandle):
            return self._handles.find(call.owner, bundle.code_space, source.name)
        if isinstance(source, NamedCode):
            assert source.values is not None, "a caller with a handle alone sends a CodeHandle"
            if source.space not in ("", bundle.code_space):
                raise OtherCodeSpace(
                    f"The code is one of {source.space[:80]} and means nothing to {bundle.code_space}; ask the bundle "
                    "that it came from, or invert the picture again with this one."
                )
            return source.values
        return source

    def read_one(self, source: CodeSource, bundle: Bundle, call: Call) -> Code:
        """A source that must be a single code, float32 [L, 512].

        Raises InvalidCode, OtherCodeSpace, UnknownCodeHandle.
        """
        codes = check_codes(self.values(source, bundle, call), bundle)
        if len(codes) != 1:
            raise InvalidCode(f"One code is taken here, not {len(codes)}; send one request for each.")
        code: Code = codes[0]
        return code

    def name(self, code: Code, bundle: Bundle, output: OutputOptions, call: Call) -> NamedCode:
        """A code for a result: kept under a new handle, and with its values unless the handle is enough."""
        named = NamedCode(code, self._handles.keep(call.owner, bundle.code_space, code), bundle.code_space)
        return named if output.codes else named.by_handle()

    def name_source(
        self, code: Code, source: CodeSource, bundle: Bundle, output: OutputOptions, call: Call
    ) -> NamedCode:
        """The source's code for a result: under the handle that the caller has for it already, if there is one."""
        if isinstance(source, CodeHandle):
            named = NamedCode(code, source.name, bundle.code_space)
        elif isinstance(source, NamedCode) and source.handle:
            named = source
        else:
            return self.name(code, bundle, output, call)
        return named if output.codes else named.by_handle()
