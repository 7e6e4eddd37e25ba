"""An edit session: a source once, then edits as somebody drags a slider. What the messages hold is in _calls.py."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from types import TracebackType
from typing import Self

from indomain import _answers, _calls
from indomain._exceptions import RequestCancelledError, error_from_detail
from indomain._pictures import PictureLike
from indomain._results import Align, Edit, Refine, SessionPicture
from indomain._transports import AsyncConversation, Conversation
from indomain._twins import documented_as
from indomain.v1 import editing_pb2


class _Requests:
    """The requests of one session, numbered; a source stands in the first one and in those that change it."""

    def __init__(self, opening: editing_pb2.EditSessionRequest) -> None:
        self._output = opening.edit.output
        self._opening: editing_pb2.EditSessionRequest | None = opening
        self._sequence = 0

    def next(
        self,
        steps: list[editing_pb2.EditStep],
        region: _calls.Area | None,
        mask: PictureLike | None,
    ) -> editing_pb2.EditSessionRequest:
        request = editing_pb2.EditSessionRequest()
        _calls.put_area(request.edit, region, mask)
        if self._opening is not None:
            request.MergeFrom(self._opening)
            self._opening = None
        self._sequence += 1
        request.sequence = self._sequence
        request.edit.edits.extend(steps)
        return request

    def change(
        self, source: _calls.EditSource, bundle: str, refine: Refine | None, align: Align | None
    ) -> None:
        self._opening = _calls.session_opening(
            source,
            bundle=bundle,
            refine=_calls.refine_options(None, None, refine),
            output=self._output,
            align=_calls.align_options(align),
        )


def _picture(answer: editing_pb2.EditSessionResponse, address: str) -> SessionPicture:
    if answer.WhichOneof("outcome") == "error":
        raise error_from_detail(answer.error, address=address)
    return _answers.session_picture(answer)


def _ended() -> RequestCancelledError:
    return RequestCancelledError(
        "The session has ended; open another one", reason="cancelled", code="CANCELLED"
    )


class EditSession:
    """Open it with `Client.session`; close it or use it in a `with`.

    The gateway works on one request at a time, and of those that come meanwhile on the newest only. One thread may send
    while another iterates over the answers; `edit` does both and is for a single thread.
    """

    def __init__(
        self, conversation: Conversation, opening: editing_pb2.EditSessionRequest, address: str
    ) -> None:
        self._conversation = conversation
        self._requests = _Requests(opening)
        self._address = address

    def send(
        self,
        *edits: Edit,
        keep: Iterable[str] = (),
        region: _calls.Area | None = None,
        mask: PictureLike | None = None,
        **strengths: float,
    ) -> int:
        """Asks for the source with these edits and does not wait. They are all that are in force, not what has changed;
        keep, region and mask, too, are as in `Client.edit`. Returns the request's number.

        Example:
            >>> with client.session("portrait.png") as session:
            ...     for strength in range(20):
            ...         number = session.send(smile=strength / 10)
            ...     session.finish()
            ...     for picture in session:  # not of all: the newest request wins
            ...         picture.image.save("slider.png")
            >>> picture.sequence == number
            True
        """
        request = self._requests.next(_calls.edit_steps(edits, strengths, keep), region, mask)
        self._conversation.send(request)
        return request.sequence

    def edit(
        self,
        *edits: Edit,
        keep: Iterable[str] = (),
        region: _calls.Area | None = None,
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
            answer = self._conversation.receive()
            if answer is None:
                raise _ended()
            if answer.sequence >= sequence:
                return _picture(answer, self._address)

    def change(
        self,
        source: _calls.EditSource,
        *,
        bundle: str = "",
        refine: Refine | None = None,
        align: Align | None = None,
    ) -> None:
        """Goes on with another source, from the next request on; work on the old one stops when that is sent."""
        self._requests.change(source, bundle, refine, align)

    def finish(self) -> None:
        """No more requests: iterating ends after the answers to those that were sent."""
        self._conversation.finish()

    def close(self) -> None:
        """Ends the session; what is under way is given up."""
        self._conversation.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> SessionPicture:
        """The next answer; waits for it. Raises what `edit` raises, for the request that it answers."""
        answer = self._conversation.receive()
        if answer is None:
            raise StopIteration
        return _picture(answer, self._address)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@documented_as(EditSession)
class AsyncEditSession:
    """Open it with `AsyncClient.session`; close it or use it in an `async with`.

    As `EditSession`: one task may send while another iterates over the answers; `edit` does both and is for one task.
    """

    def __init__(
        self,
        converse: Callable[[], Awaitable[AsyncConversation]],
        opening: editing_pb2.EditSessionRequest,
        address: str,
    ) -> None:
        self._converse = converse
        self._conversation: AsyncConversation | None = None
        self._opening = asyncio.Lock()
        self._requests = _Requests(opening)
        self._address = address

    async def send(
        self,
        *edits: Edit,
        keep: Iterable[str] = (),
        region: _calls.Area | None = None,
        mask: PictureLike | None = None,
        **strengths: float,
    ) -> int:
        request = self._requests.next(_calls.edit_steps(edits, strengths, keep), region, mask)
        await (await self._opened()).send(request)
        return request.sequence

    async def edit(
        self,
        *edits: Edit,
        keep: Iterable[str] = (),
        region: _calls.Area | None = None,
        mask: PictureLike | None = None,
        **strengths: float,
    ) -> SessionPicture:
        sequence = await self.send(*edits, keep=keep, region=region, mask=mask, **strengths)
        conversation = await self._opened()
        while True:
            answer = await conversation.receive()
            if answer is None:
                raise _ended()
            if answer.sequence >= sequence:
                return _picture(answer, self._address)

    async def change(
        self,
        source: _calls.EditSource,
        *,
        bundle: str = "",
        refine: Refine | None = None,
        align: Align | None = None,
    ) -> None:
        self._requests.change(source, bundle, refine, align)

    async def finish(self) -> None:
        await (await self._opened()).finish()

    async def close(self) -> None:
        if self._conversation is not None:
            await self._conversation.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> SessionPicture:
        answer = await (await self._opened()).receive()
        if answer is None:
            raise StopAsyncIteration
        return _picture(answer, self._address)

    async def __aenter__(self) -> Self:
        await self._opened()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _opened(self) -> AsyncConversation:
        async with self._opening:
            if self._conversation is None:
                self._conversation = await self._converse()
            return self._conversation
