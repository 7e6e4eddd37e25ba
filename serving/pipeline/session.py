"""Edit sessions: one source, then edits as somebody drags a slider. Only the newest waiting request is worked on.

Free of any transport: `receive` returns the next request, or None once no more will come; `send` sends an answer. The
edits themselves are the pipeline's.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from serving.access.admission import fair_share
from serving.access.memory import HoldBytes, MemoryBudget
from serving.call import Call
from serving.deadline import Deadline
from serving.errors import (
    DeadlineExceeded,
    EditingError,
    FaceNotUsable,
    InvalidPicture,
    MalformedRequest,
    NoFace,
    NoSuchFace,
    PictureTooLarge,
    QueueFull,
    ShuttingDown,
    forget_frames,
)
from serving.jobs import (
    AlignOptions,
    Area,
    EditJob,
    EncodedPicture,
    Origin,
    OutputOptions,
    RefineOptions,
    SessionRequest,
    Source,
)
from serving.results import Edited
from serving.settings import Settings

# What is wrong with a picture for good.
_OF_NO_USE = (InvalidPicture, PictureTooLarge, NoFace, NoSuchFace, FaceNotUsable)


@dataclass(frozen=True, slots=True)
class SessionAnswer:
    """The answer to one request. `skipped`: requests before it that were never answered. `call` holds the timings."""

    sequence: int
    outcome: Edited | EditingError
    skipped: int
    call: Call


Edit = Callable[[EditJob, Call], Awaitable[Edited]]
Receive = Callable[[], Awaitable[SessionRequest | None]]
SendAnswer = Callable[[SessionAnswer], Awaitable[None]]


class EditSessions:
    """All open sessions: bounds their number and the memory for their photographs, and ends them."""

    def __init__(self, edit: Edit, settings: Settings) -> None:
        self._edit = edit
        self._settings = settings
        self._open: set[EditSession] = set()
        self._of_owner: Counter[str] = Counter()
        self._photographs = MemoryBudget(settings.max_session_photograph_bytes)

    def __len__(self) -> int:
        return len(self._open)

    async def run(self, receive: Receive, send: SendAnswer, call: Call) -> None:
        """Runs one session until its last request is answered. Raises QueueFull, and what EditSession.run raises."""
        self._check_room(call.owner)
        with self._photographs.request(call.owner) as hold:
            session = EditSession(
                self._edit,
                receive,
                send,
                hold,
                call,
                request_s=self._settings.default_deadline_s,
                idle_s=self._settings.session_idle_s,
            )
            self._open.add(session)
            self._of_owner[call.owner] += 1
            try:
                await session.run()
            finally:
                self._open.discard(session)
                self._of_owner[call.owner] -= 1
                if not self._of_owner[call.owner]:
                    del self._of_owner[call.owner]

    def _check_room(self, owner: str) -> None:
        most = self._settings.max_sessions
        if len(self._open) >= most:
            raise QueueFull(f"{len(self._open)} edit sessions are open already; try again a little later.")
        owners = len(self._of_owner) + (owner not in self._of_owner)
        crowded = 2 * len(self._open) >= most
        if crowded and self._of_owner[owner] >= fair_share(most, owner, owners):
            raise QueueFull(
                f"{self._of_owner[owner]} of your edit sessions are open already, your share; close one."
            )

    async def end(self) -> None:
        """Lets all sessions answer the requests they have received, and ends them."""
        await asyncio.gather(*(session.end() for session in self._open))


@dataclass(slots=True, eq=False)
class _Subject:
    """What a session edits: its source, with the options that came with it.

    After the first edit `source` is the source's code, and `origin` the photograph that it was made from. `fault`: why
    the source, which has been let go of, cannot be edited.
    """

    source: Source | None
    bundle: str
    refine: RefineOptions
    align: AlignOptions
    origin: Origin | None = None
    fault: EditingError | None = None


class EditSession:
    """One session.

    request_s: the time for each request, from when it is begun. idle_s: the session ends after such a time without a
    request. hold: counts the bytes of the pictures that it has: the source, which is kept to paste into, and what was
    drawn for requests that are not answered yet. They count from when they have come: whoever sends them has given them
    up then.
    """

    def __init__(
        self,
        edit: Edit,
        receive: Receive,
        send: SendAnswer,
        hold: HoldBytes,
        call: Call,
        *,
        request_s: float,
        idle_s: float,
    ) -> None:
        self._edit = edit
        self._receive = receive
        self._send = send
        self._hold = hold
        self._call = call
        self._request_s = request_s
        self._idle_s = idle_s
        self._subject: _Subject | None = None
        self._source_bytes = 0
        self._output = OutputOptions()
        self._waiting: SessionRequest | None = None
        self._skipped = 0
        self._editing: asyncio.Task[Edited] | None = None
        self._superseded = False
        self._all_received = False
        self._ending = False
        self._wake = asyncio.Event()
        self._ended = asyncio.Event()

    async def run(self) -> None:
        """Runs until the caller's last request is answered.

        Raises ShuttingDown after `end`, and DeadlineExceeded after too long a silence. An error of a single request
        goes into its answer.
        """
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
        """Answers what has been received, and ends the session: the gateway is shutting down."""
        self._ending = True
        self._wake.set()
        await self._ended.wait()

    async def _read(self) -> None:
        while (request := await self._receive()) is not None:
            self._accept(request)
        self._all_received = True
        self._wake.set()

    def _accept(self, request: SessionRequest) -> None:
        """Takes a request as the newest one; a request that still waits is skipped."""
        if self._ending:
            return
        try:
            self._hold_pictures(request)
        except QueueFull as error:
            request = SessionRequest(request.sequence, fault=error)
        options = request.options
        if request.output_given:
            self._output = options.output
        if request.source is not None:
            self._subject = _Subject(request.source, request.bundle, options.refine, options.align)
            if self._editing is not None:
                # Nobody waits for a picture of the old source.
                self._superseded = True
                self._editing.cancel()
        if self._waiting is not None:
            self._skipped += 1
            self._release_drawings(self._waiting)
        self._waiting = request
        self._wake.set()

    def _hold_pictures(self, request: SessionRequest) -> None:
        """Counts a request's drawings, and its source in place of the one before. Raises QueueFull."""
        source_bytes = self._source_bytes if request.source is None else _size(request.source)
        self._hold(source_bytes - self._source_bytes + _drawn_size(request))
        self._source_bytes = source_bytes

    def _let_go(self, subject: _Subject, fault: EditingError) -> None:
        """Keeps no source that cannot be edited, however large it is."""
        subject.source, subject.fault = None, fault
        if self._subject is subject:
            self._hold(-self._source_bytes)
            self._source_bytes = 0

    def _release_drawings(self, request: SessionRequest) -> None:
        self._hold(-_drawn_size(request))

    async def _work(self) -> None:
        while True:
            request, self._waiting = self._waiting, None
            if request is not None:
                await self._answer(request)
                self._release_drawings(request)
            elif self._ending:
                raise ShuttingDown("The gateway is shutting down; open the session again in a while.")
            elif self._all_received:
                return
            else:
                await self._sleep()

    async def _sleep(self) -> None:
        """Waits for a request or the end. Raises DeadlineExceeded after too long a silence."""
        self._wake.clear()
        try:
            async with asyncio.timeout(self._idle_s):
                await self._wake.wait()
        except TimeoutError:
            raise DeadlineExceeded(
                f"Nothing was asked for {self._idle_s:g} seconds; open the session again."
            ) from None

    async def _answer(self, request: SessionRequest) -> None:
        """Edits and sends the answer, unless a new source comes meanwhile: then the request is skipped."""
        skipped, self._skipped = self._skipped, 0
        deadline = Deadline.after(self._request_s, self._call.deadline.clock)
        call = replace(self._call.aside(), deadline=deadline)
        outcome: Edited | EditingError
        self._editing = asyncio.create_task(self._edit_subject(request, call), name="session-edit")
        try:
            outcome = await self._editing
        except EditingError as error:
            forget_frames(error)
            outcome = error
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not self._superseded or (task is not None and task.cancelling()):
                raise
            self._skipped += skipped + 1
            return
        finally:
            self._editing, self._superseded = None, False
        await self._send(SessionAnswer(request.sequence, outcome, skipped, call))

    async def _edit_subject(self, request: SessionRequest, call: Call) -> Edited:
        if request.fault is not None:
            raise request.fault
        if self._subject is None:
            raise MalformedRequest("A session begins with a picture or a code; send one with the edits.")
        subject, output = self._subject, self._output
        source = subject.source
        if source is None:
            assert subject.fault is not None
            raise subject.fault
        # The session needs the source's code, also if the caller wants handles only.
        options = replace(
            request.options, refine=subject.refine, align=subject.align, output=replace(output, codes=True)
        )
        try:
            edited = await self._edit(EditJob(source, options, subject.bundle, subject.origin), call)
        except _OF_NO_USE as error:
            # where there is a mask, or strokes, they may be meant
            if request.options.area is None and request.options.strokes is None:
                self._let_go(subject, error)
            raise
        if self._subject is subject:
            # From now on the code stands for the source: a picture is inverted once.
            subject.source, subject.bundle = edited.source_code, edited.bundle
            subject.origin = edited.rendering.origin
        if output.codes:
            return edited
        return replace(edited, code=edited.code.by_handle(), source_code=edited.source_code.by_handle())


def _drawn_size(request: SessionRequest) -> int:
    """The bytes of a request's mask and strokes."""
    return _size(request.options.area) + _size(request.options.strokes)


def _size(part: Source | Area | None) -> int:
    """The bytes of a picture; other parts of a request are small."""
    return len(part.data) if isinstance(part, EncodedPicture) else 0
