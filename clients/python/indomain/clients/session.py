"""An edit session: one source, then edits as somebody drags a slider."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Self

from indomain.calls import editing
from indomain.calls.options import Align, Alignment, Refine
from indomain.calls.sources import SAME_SOURCE, EditSource
from indomain.clients.connections import NotCopyable, check_process
from indomain.clients.retry import mismatched, request_id_of
from indomain.exceptions import RequestCancelledError
from indomain.results.answers import session_picture
from indomain.results.pictures import SessionPicture
from indomain.signatures import arguments_after_first, documented_as
from indomain.transports.errors import error_from_detail
from indomain.transports.protocols import AsyncConversation, Conversation
from indomain.v1 import editing_pb2

# Makes a method take the arguments of `Client.edit` that concern each edit: not the source, nor what goes with it.
_takes_edit_options = arguments_after_first(editing.edit, without=editing.OPENING_OPTIONS)  # type: ignore[arg-type]


class _Requests:
    """Makes the requests of one session and numbers them. The first has the source, and the first after each change."""

    def __init__(self, opening: editing_pb2.EditSessionRequest) -> None:
        self._output = opening.edit.output
        self._opening: editing_pb2.EditSessionRequest | None = opening
        self._sequence = 0

    def next(self, *args: Any, **options: Any) -> editing_pb2.EditSessionRequest:
        """The request of an edit; the arguments are those of `EditSession.send`.

        Raises TypeError for an option of the session's source, or of its answers.
        """
        if misplaced := sorted(options.keys() & editing.OPENING_OPTIONS):
            raise TypeError(f"a session takes {', '.join(misplaced)} when it is opened (Client.session)")
        edit: editing_pb2.EditRequest = editing.edit(SAME_SOURCE, *args, **options).request
        for field in ("refine", "output", "align"):
            edit.ClearField(field)
        request = editing_pb2.EditSessionRequest(edit=edit)
        if self._opening is not None:
            request.MergeFrom(self._opening)
            self._opening = None
        self._sequence += 1
        request.sequence = self._sequence
        return request

    def change(
        self,
        source: EditSource,
        *,
        bundle: str = "",
        refine: Refine | str | None = None,
        align: Align | Alignment | None = None,
    ) -> None:
        """Puts another source into the next request."""
        self._opening = editing.session(source, bundle=bundle, refine=refine, align=align).request
        self._opening.edit.output.CopyFrom(self._output)


def _read(answer: editing_pb2.EditSessionResponse | None, request_id: str, address: str) -> SessionPicture:
    """The picture of an answer. Raises the error that the answer describes; None: that the session has ended.

    Raises MismatchedAnswerError for an answer to another session.
    """
    if answer is None:
        message = "The session has ended; open another one"
        raise RequestCancelledError(message, reason="cancelled", code="CANCELLED")
    if (answered := request_id_of(answer)) != request_id:
        raise mismatched(answered, request_id, address)
    if answer.WhichOneof("outcome") == "error":
        raise error_from_detail(answer.error, address=address)
    return session_picture(answer)


class EditSession(NotCopyable):
    """Open it with `Client.session`; close it or use it in a `with`.

    The gateway works on one request at a time; of the requests that come meanwhile it takes only the newest. One thread
    may send while another iterates over the answers. `edit` does both, and is for a single thread.
    """

    def __init__(
        self,
        conversation: Conversation,
        opening: editing_pb2.EditSessionRequest,
        request_id: str,
        address: str,
    ) -> None:
        self._opened = conversation
        self._requests = _Requests(opening)
        self._request_id = request_id
        self._address = address
        self._process = os.getpid()

    @property
    def _conversation(self) -> Conversation:
        """Raises ForkedError in a child of the process that opened it."""
        check_process(self._process, self)
        return self._opened

    @_takes_edit_options
    def send(self, *args: Any, **options: Any) -> int:
        """Sends an edit of the source and does not wait for the answer. Returns the number of the request.

        The arguments are as in `Client.edit`. They replace those of the requests before: an edit or an area that is not
        named again is no longer in force.

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
        request = self._requests.next(*args, **options)
        self._conversation.send(request)
        return request.sequence

    @_takes_edit_options
    def edit(self, *args: Any, **options: Any) -> SessionPicture:
        """Sends an edit of the source, as `send`, and waits for its answer or a newer one.

        Raises:
            UnknownDirectionError, InvalidOptionError, InvalidPictureError, InvalidCodeError: the gateway refuses the
                request; the session goes on.
            IndomainError: the session has ended.
        """
        sequence = self.send(*args, **options)
        while True:
            answer = self._conversation.receive()
            if answer is None or answer.sequence >= sequence:
                return _read(answer, self._request_id, self._address)

    @arguments_after_first(_Requests.change)
    def change(self, *args: Any, **options: Any) -> None:
        """Goes on with another source from the next request on. When that is sent, work on the old source stops."""
        self._requests.change(*args, **options)

    def finish(self) -> None:
        """Says that no more requests follow: iterating ends after the answers to those that were sent."""
        self._conversation.finish()

    def close(self) -> None:
        """Ends the session and cancels the request that is under way. In the child of a fork it does nothing."""
        if self._process == os.getpid():
            self._opened.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> SessionPicture:
        """Waits for the next answer. Raises what `edit` raises, for the request that is answered."""
        answer = self._conversation.receive()
        if answer is None:
            raise StopIteration
        return _read(answer, self._request_id, self._address)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@documented_as(EditSession)
class AsyncEditSession(NotCopyable):
    """Open it with `AsyncClient.session`; close it or use it in an `async with`.

    As `EditSession`: one task may send while another iterates over the answers; `edit` does both, and is for one task.
    """

    def __init__(
        self,
        converse: Callable[[], Awaitable[AsyncConversation]],
        opening: editing_pb2.EditSessionRequest,
        request_id: str,
        address: str,
    ) -> None:
        self._converse = converse
        self._conversation: AsyncConversation | None = None
        self._opening = asyncio.Lock()
        self._requests = _Requests(opening)
        self._request_id = request_id
        self._address = address
        self._process = os.getpid()

    @_takes_edit_options
    async def send(self, *args: Any, **options: Any) -> int:
        request = self._requests.next(*args, **options)
        await (await self._opened()).send(request)
        return request.sequence

    @_takes_edit_options
    async def edit(self, *args: Any, **options: Any) -> SessionPicture:
        sequence = await self.send(*args, **options)
        conversation = await self._opened()
        while True:
            answer = await conversation.receive()
            if answer is None or answer.sequence >= sequence:
                return _read(answer, self._request_id, self._address)

    @arguments_after_first(_Requests.change)
    async def change(self, *args: Any, **options: Any) -> None:
        self._requests.change(*args, **options)

    async def finish(self) -> None:
        await (await self._opened()).finish()

    async def close(self) -> None:
        if self._conversation is not None and self._process == os.getpid():
            await self._conversation.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> SessionPicture:
        answer = await (await self._opened()).receive()
        if answer is None:
            raise StopAsyncIteration
        return _read(answer, self._request_id, self._address)

    async def __aenter__(self) -> Self:
        await self._opened()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _opened(self) -> AsyncConversation:
        check_process(self._process, self)
        async with self._opening:
            if self._conversation is None:
                self._conversation = await self._converse()
            return self._conversation
