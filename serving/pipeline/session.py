"""An edit session: one source, then edits as somebody drags a slider. The newest wins, and one is worked on at a time.

Free of any transport: `receive` gives the next request (None: no more will come), `tell` takes the answers. The edits
themselves are the pipeline's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from serving.access.intake import Take
from serving.call import Call
from serving.deadline import Deadline
from serving.errors import (
    DeadlineExceeded,
    EditingError,
    MalformedRequest,
    ShuttingDown,
)
from serving.jobs import (
    AlignOptions,
    EditJob,
    EncodedPicture,
    Origin,
    OutputOptions,
    RefineOptions,
    SessionRequest,
    Source,
)
from serving.results import Edited


@dataclass(frozen=True, slots=True)
class SessionAnswer:
    """What became of one request; `skipped` were passed over since the answer before. `call` has its times."""

    sequence: int
    outcome: Edited | EditingError
    skipped: int
    call: Call


Edit = Callable[[EditJob, Call], Awaitable[Edited]]
Receive = Callable[[], Awaitable[SessionRequest | None]]
Tell = Callable[[SessionAnswer], Awaitable[None]]


class EditSession:
    """`request_s` is the time that each request has, from when its turn comes; `take` is told how many bytes of a
    photograph are kept to paste into, and raises QueueFull."""

    def __init__(
        self,
        edit: Edit,
        receive: Receive,
        tell: Tell,
        take: Take,
        call: Call,
        *,
        request_s: float,
        idle_s: float,
    ) -> None:
        self._edit = edit
        self._receive = receive
        self._tell = tell
        self._take = take
        self._call = call
        self._request_s = request_s
        self._idle_s = idle_s
        self._source: Source | None = None
        self._bundle = ""
        self._refine = RefineOptions()
        self._align = AlignOptions()
        self._origin: Origin | None = None
        self._output = OutputOptions()
        self._pending: SessionRequest | None = None
        self._skipped = 0
        self._under_way: asyncio.Task[Edited] | None = None
        self._superseded = False
        self._all_received = False
        self._ending = False
        self._news = asyncio.Event()
        self._ended = asyncio.Event()

    async def run(self) -> None:
        """Until the caller's last request is answered. Raises ShuttingDown after `end`, DeadlineExceeded after too long
        a silence; what is wrong with single requests is told in their answers."""
        reading = asyncio.create_task(self._read(), name="session-read")
        working = asyncio.create_task(self._work(), name="session-work")
        try:
            await asyncio.wait({reading, working}, return_when=asyncio.FIRST_EXCEPTION)
            for task in (reading, working):
                if task.done():
                    task.result()
        finally:
            reading.cancel()
            working.cancel()
            await asyncio.gather(reading, working, return_exceptions=True)
            self._ended.set()

    async def end(self) -> None:
        """Answers what has come in, and ends: the gateway is shutting down."""
        self._ending = True
        self._news.set()
        await self._ended.wait()

    async def _read(self) -> None:
        while (request := await self._receive()) is not None:
            self._take_in(request)
        self._all_received = True
        self._news.set()

    def _take_in(self, request: SessionRequest) -> None:
        if self._ending:
            return
        options = request.options
        if request.output_given:
            self._output = options.output
        if request.source is not None:
            self._source, self._bundle = request.source, request.bundle
            self._refine, self._align = options.refine, options.align
            self._forget_photograph()
            if self._under_way is not None:  # of a source that nobody looks at any more
                self._superseded = True
                self._under_way.cancel()
        if self._pending is not None:
            self._skipped += 1
        self._pending = request
        self._news.set()

    def _forget_photograph(self) -> None:
        if self._origin is not None:
            self._take(-len(self._origin.picture.data))
            self._origin = None

    async def _work(self) -> None:
        while True:
            request, self._pending = self._pending, None
            if request is not None:
                await self._serve(request)
            elif self._ending:
                raise ShuttingDown("The gateway is shutting down; open the session again in a while.")
            elif self._all_received:
                return
            else:
                await self._wait_for_news()

    async def _wait_for_news(self) -> None:
        self._news.clear()
        try:
            async with asyncio.timeout(self._idle_s):
                await self._news.wait()
        except TimeoutError:
            raise DeadlineExceeded(
                f"Nothing was asked for {self._idle_s:g} seconds; open the session again."
            ) from None

    async def _serve(self, request: SessionRequest) -> None:
        skipped, self._skipped = self._skipped, 0
        deadline = Deadline.after(self._request_s, self._call.deadline.clock)
        call = replace(self._call.aside(), deadline=deadline)
        outcome: Edited | EditingError
        self._under_way = asyncio.create_task(self._edited(request, call), name="session-edit")
        try:
            outcome = await self._under_way
        except EditingError as error:
            outcome = error
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not self._superseded or (task is not None and task.cancelling()):
                raise
            self._skipped += skipped + 1
            return
        finally:
            self._under_way, self._superseded = None, False
        await self._tell(SessionAnswer(request.sequence, outcome, skipped, call))

    async def _edited(self, request: SessionRequest, call: Call) -> Edited:
        if request.fault is not None:
            raise request.fault
        if self._source is None:
            raise MalformedRequest("A session begins with a picture or a code; send one with the edits.")
        source, output = self._source, self._output
        options = replace(
            request.options, refine=self._refine, align=self._align, output=replace(output, codes=True)
        )
        edited = await self._edit(EditJob(source, options, self._bundle, self._origin), call)
        if self._source is source:  # from here on its code stands for it: nothing is inverted twice
            self._source, self._bundle = edited.source_code, edited.bundle
            placement = edited.rendering.placement
            if isinstance(source, EncodedPicture) and placement is not None:
                self._take(len(source.data))
                self._origin = Origin(source, placement)
        if output.codes:
            return edited
        return replace(edited, code=edited.code.by_handle(), source_code=edited.source_code.by_handle())
