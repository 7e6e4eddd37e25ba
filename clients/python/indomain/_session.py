"""An edit session: a source once, then edits as somebody drags a slider. What the messages hold is in _calls.py."""

from __future__ import annotations

import queue
import uuid
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any, Self

import grpc

from indomain import _calls
from indomain._constants import REQUEST_ID_KEY
from indomain._exceptions import error_from_detail, error_from_rpc
from indomain._pictures import PictureLike
from indomain._results import Edit, Refine, SessionPicture
from indomain.v1 import editing_pb2


class EditSession:
    """Open it with `Client.session`; close it or use it in a `with`.

    The gateway works on one request at a time, and of those that come meanwhile on the newest only. One thread may send
    while another iterates over the answers; `edit` does both and is for a single thread.
    """

    def __init__(
        self,
        method: Any,
        opening: editing_pb2.EditSessionRequest,
        address: str,
        timeout_s: float | None,
        credentials: Sequence[tuple[str, str]] = (),
    ) -> None:
        self._address = address
        self._output = opening.output
        self._opening: editing_pb2.EditSessionRequest | None = opening
        self._sequence = 0
        self._requests: queue.SimpleQueue[editing_pb2.EditSessionRequest | None] = queue.SimpleQueue()
        self._request_id = uuid.uuid4().hex
        metadata = ((REQUEST_ID_KEY, self._request_id), *credentials)
        self._answers = method(iter(self._requests.get, None), timeout=timeout_s, metadata=metadata)

    def send(
        self,
        *edits: Edit,
        keep: Iterable[str] = (),
        region: _calls.Region | None = None,
        mask: PictureLike | None = None,
        **strengths: float,
    ) -> int:
        """Asks for the source with these edits and does not wait: `session.send(smile=1.5)`. They are all that are in
        force, not what has changed; so are keep, region and mask, as in `Client.edit`. Returns the request's number."""
        request = editing_pb2.EditSessionRequest()
        if self._opening is not None:
            request.CopyFrom(self._opening)
            self._opening = None
        self._sequence += 1
        request.sequence = self._sequence
        request.edits.extend(_calls.edit_steps(edits, strengths, keep))
        _calls.put_area(request, region, mask)
        self._requests.put(request)
        return self._sequence

    def edit(
        self,
        *edits: Edit,
        keep: Iterable[str] = (),
        region: _calls.Region | None = None,
        mask: PictureLike | None = None,
        **strengths: float,
    ) -> SessionPicture:
        """The same, and waits for its answer, or a newer one.

        Raises:
            UnknownDirectionError, InvalidOptionError, InvalidPictureError, InvalidCodeError: the gateway refuses the
                request; the session goes on.
            IndomainError: the session has ended.
        """
        sequence = self.send(*edits, keep=keep, region=region, mask=mask, **strengths)
        while True:
            answer = self._next()
            if answer.sequence >= sequence:
                return self._picture(answer)

    def change(self, source: _calls.EditSource, *, bundle: str = "", refine: Refine | None = None) -> None:
        """Goes on with another source, from the next request on; work on the old one stops when that is sent."""
        self._opening = _calls.session_opening(
            source, bundle=bundle, refine=_calls.refine_options(None, None, refine), output=self._output
        )

    def finish(self) -> None:
        """No more requests: iterating ends after the answers to those that were sent."""
        self._requests.put(None)

    def close(self) -> None:
        """Ends the session; what is under way is given up."""
        self._requests.put(None)
        self._answers.cancel()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> SessionPicture:
        """The next answer; waits for it. Raises what `edit` raises, for the request that it answers."""
        return self._picture(self._next())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _next(self) -> editing_pb2.EditSessionResponse:
        try:
            answer: editing_pb2.EditSessionResponse = next(self._answers)
        except grpc.RpcError as failure:
            raise error_from_rpc(failure, request_id=self._request_id, address=self._address) from failure
        return answer

    def _picture(self, answer: editing_pb2.EditSessionResponse) -> SessionPicture:
        if answer.WhichOneof("outcome") == "error":
            raise error_from_detail(answer.error, address=self._address)
        return _calls.session_picture(answer)
