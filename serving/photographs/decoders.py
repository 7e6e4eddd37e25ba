"""Where pictures are decoded: quick ones in threads of the gateway, all others in processes that can be ended.

Small pictures, which take some milliseconds at most, as their header says (formats/headers.py), stay here. A large one
stays in its process while faces are looked for on it: only small squares travel. In milliseconds on two cores,
decoding a photograph and cutting three squares out of it, at best: 256 x 256 pixels in a thread 4.6, as before; 2
megapixels 21.0 in a process, 17.3 in a thread; 12 megapixels 89 in a process, 155 before, when it also was copied. For
1 megapixel a process would add 4.6 to 9.4.

A process is ended when its request is over (its deadline has passed, the caller has gone) while it still works, and
after a time of its processor in one step. Another one is started in its place.
"""

from __future__ import annotations

import asyncio
import logging
import os
import pickle
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, nullcontext, suppress
from io import BufferedRWPair
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from serving.call import current_owner
from serving.errors import InvalidPicture, PictureTooLarge, ShuttingDown
from serving.jobs import EncodedPicture, OutputOptions
from serving.photographs.decoder import Answer, Step, read_answer, send
from serving.photographs.formats.encoding import answer_pixel_bytes
from serving.photographs.formats.headers import Header, read_header
from serving.photographs.pictures import PictureReader
from serving.settings import Settings

_log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

CountEnded = Callable[[str], None]
"""Is told why a decoder was ended: `request` (its request was over), `budget`, `crash`, `shutdown`."""

_MODULE = "serving.photographs.decoder"
# While the gateway shuts down, waiting for a decoder and each of its steps may take so long.
_SHUTDOWN_S = 3.0
# A process that has not forgotten its picture after this time is ended.
_SETTLE_S = 5.0
# Memory of a picture's size is given back as soon as it is free, not kept for the next one, and comes in huge pages
# where the kernel has them: half of the time of decoding twelve megapixels goes into pages of 4 KB.
_ENVIRONMENT = {
    "MALLOC_MMAP_THRESHOLD_": "1000000",
    "MALLOC_TRIM_THRESHOLD_": "1000000",
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}


class OpenPicture(Protocol):
    """A picture that is open. queued_s: seconds that it had to wait for a decoder."""

    queued_s: float

    async def run(
        self, work: Callable[Concatenate[PictureReader, P], T], *arguments: P.args, **keywords: P.kwargs
    ) -> T:
        """Runs a method of PictureReader on the picture. Raises what it raises."""


class Decoders:
    """All places where pictures are decoded. Make it, `start()`, and at the end `await close()`.

    threads: for other short work on pictures, too.
    """

    def __init__(self, settings: Settings, count_ended: CountEnded) -> None:
        self.threads = ThreadPoolExecutor(settings.picture_threads, thread_name_prefix="pictures")
        self._settings = settings
        self._count_ended = count_ended
        self._photographs = asyncio.Semaphore(settings.max_open_photographs)
        self._processes = [
            DecoderProcess(settings.max_picture_processor_s) for _ in range(settings.picture_processes)
        ]
        self._turns = _Turns(self._processes, settings.max_decoded_bytes)
        self._limits: set[asyncio.Timeout] = set()
        self._draining = False

    def start(self) -> None:
        """Starts the processes, in the background."""
        for process in self._processes:
            process.thread.submit(process.settle)

    @asynccontextmanager
    async def open(
        self, picture: EncodedPicture, *, whole: bool, answer: OutputOptions | None = None
    ) -> AsyncIterator[OpenPicture]:
        """A picture to run work on. Waits until there is a decoder for it, and memory.

        whole: it is decoded whole, and stays so until it is closed. answer: how it is answered, if a result is pasted
        into it. Raises InvalidPicture, PictureTooLarge and ShuttingDown.
        """
        settings = self._settings
        header = read_header(picture, settings.max_picture_bytes, settings.max_picture_pixels)
        if header.quick:
            async with self._photographs if whole else nullcontext():
                yield _InThread(PictureReader(picture, header), self.threads)
            return
        pixel_bytes = answer_pixel_bytes(header, answer) if answer is not None else 0
        needed_bytes = max(header.decoded_bytes, header.width * header.height * pixel_bytes)
        if needed_bytes > settings.max_decoded_bytes:
            raise PictureTooLarge(
                f"The picture takes {needed_bytes // 1_000_000} MB of memory, the limit is "
                f"{settings.max_decoded_bytes // 1_000_000} MB (INDOMAIN_MAX_DECODED_BYTES); send a smaller one, or "
                "use PNG or plain (not progressive) JPEG, to send and to get."
            )
        loop = asyncio.get_running_loop()
        begun_s = loop.time()
        async with self._limited():
            process = await self._turns.take(current_owner(), needed_bytes)
        try:
            yield _InProcess(self, process, picture, header, loop.time() - begun_s)
        finally:
            settled = loop.run_in_executor(process.thread, process.settle)
            limit = loop.call_later(_SETTLE_S, process.kill)

            def give_back(_: asyncio.Future[None]) -> None:
                limit.cancel()
                self._turns.give_back(process, needed_bytes)

            settled.add_done_callback(give_back)

    async def ask(self, process: DecoderProcess, step: Step) -> Any:
        """What a step returns; it ends the process if nobody waits for that any longer.

        Raises InvalidPicture, PictureTooLarge and ShuttingDown.
        """
        try:
            async with self._limited():
                answer = await asyncio.get_running_loop().run_in_executor(process.thread, process.ask, step)
        except (asyncio.CancelledError, ShuttingDown) as reason:
            process.kill()
            self._count_ended("shutdown" if isinstance(reason, ShuttingDown) else "request")
            raise
        except DecoderEnded as ended:
            self._count_ended("budget" if ended.over_budget else "crash")
            if ended.over_budget:
                raise PictureTooLarge(
                    f"The picture takes more than {self._settings.max_picture_processor_s:g} s of a processor "
                    "(INDOMAIN_MAX_PICTURE_PROCESSOR_S); send a smaller one, or save it again as a plain JPEG."
                ) from None
            raise InvalidPicture("The picture breaks its decoder; open it and save it again.") from None
        if answer.error is not None:
            raise answer.error
        if answer.fault:
            raise RuntimeError(f"a decoder failed: {answer.fault}")
        return answer.value

    def drain(self) -> None:
        """From now on nothing holds a decoder for long, as the gateway shuts down."""
        if self._draining:
            return
        self._draining = True
        for limit in self._limits:
            limit.reschedule(asyncio.get_running_loop().time() + _SHUTDOWN_S)

    async def close(self) -> None:
        """Ends threads and processes. No picture may be open."""
        for process in self._processes:
            process.close()
        # All of it is idle, or ended already. Not in threads: while a program ends, none can be started.
        for process in self._processes:
            process.join()
        self.threads.shutdown()

    @asynccontextmanager
    async def _limited(self) -> AsyncIterator[None]:
        """Raises ShuttingDown if the block takes long while the gateway shuts down."""
        limit = asyncio.timeout(_SHUTDOWN_S if self._draining else None)
        try:
            async with limit:
                self._limits.add(limit)
                try:
                    yield
                finally:
                    self._limits.discard(limit)
        except TimeoutError:
            if not limit.expired():
                raise
            raise ShuttingDown("The gateway is shutting down; send the picture again in a while.") from None


class _InThread:
    """A picture that is decoded in a thread of the gateway."""

    def __init__(self, reader: PictureReader, threads: ThreadPoolExecutor) -> None:
        self.queued_s = 0.0
        self._reader = reader
        self._threads = threads

    async def run(
        self, work: Callable[Concatenate[PictureReader, P], T], *arguments: P.args, **keywords: P.kwargs
    ) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, lambda: work(self._reader, *arguments, **keywords))


class _InProcess:
    """A picture that is decoded in a process."""

    def __init__(
        self,
        decoders: Decoders,
        process: DecoderProcess,
        picture: EncodedPicture,
        header: Header,
        queued_s: float,
    ) -> None:
        self.queued_s = queued_s
        self._decoders = decoders
        self._process = process
        self._unsent: tuple[EncodedPicture, Header] | None = (picture, header)

    async def run(
        self, work: Callable[Concatenate[PictureReader, P], T], *arguments: P.args, **keywords: P.kwargs
    ) -> T:
        step = Step(self._unsent, work.__name__, arguments, keywords)
        self._unsent = None
        result: T = await self._decoders.ask(self._process, step)
        return result


class DecoderEnded(Exception):
    """A decoder's process has ended within a step: it has used up its time, or something else has ended it."""

    def __init__(self, over_budget: bool) -> None:
        super().__init__()
        self.over_budget = over_budget


class DecoderProcess:
    """A process that decodes, and the one that takes its place when it is ended.

    thread: runs `ask` and `settle`, which wait for the process. The other methods are called from any thread.
    """

    def __init__(self, processor_s: float) -> None:
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="decoder")
        self._processor_s = processor_s
        self._running: tuple[subprocess.Popen[bytes], BufferedRWPair] | None = None
        self._closed = False

    def ask(self, step: Step) -> Answer:
        """Lets the process take a step. Raises DecoderEnded, and OSError if none can be started."""
        process, stream = self._running or self._start()
        try:
            send(step, stream)
            return read_answer(stream)
        except (EOFError, OSError, pickle.UnpicklingError):
            # It has ended, or is of no use.
            process.kill()
            self._running = None
            with suppress(OSError):
                stream.close()
            raise DecoderEnded(process.wait() == -signal.SIGPROF) from None

    def settle(self) -> None:
        """Makes it forget its picture, and gives it a new process if it has none."""
        with suppress(DecoderEnded):
            if self._running is not None:
                self.ask(Step(None, ""))
        try:
            if self._running is None and not self._closed:
                self._start()
        except OSError as error:
            _log.warning("a decoder cannot be started: %s", error)

    def kill(self) -> None:
        """Ends the process at once; `ask` raises."""
        if self._running is not None:
            self._running[0].kill()

    def close(self) -> None:
        """Ends the process for good; a step under way raises."""
        self._closed = True
        self.kill()

    def join(self) -> None:
        """Waits for the end of what is closed."""
        self.thread.shutdown()
        if self._running is not None:
            process, stream = self._running
            with suppress(OSError):
                stream.close()
            process.wait()

    def _start(self) -> tuple[subprocess.Popen[bytes], BufferedRWPair]:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            command = [sys.executable, "-m", _MODULE, str(theirs.fileno()), str(self._processor_s)]
            process = subprocess.Popen(
                command,
                env=os.environ | _ENVIRONMENT | {"PYTHONPATH": os.pathsep.join(sys.path)},
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                # An interrupt from the keyboard is for the gateway, which ends its decoders itself.
                start_new_session=True,
            )
            # The stream keeps its end of the pair open.
            running = self._running = process, ours.makefile("rwb")
        if self._closed:
            self.kill()
        return running


class _Turns:
    """Which picture is decoded next: one for each process, and so many that their memory stays within a total.

    Owners who wait take turns; each owner's pictures come in order.
    """

    def __init__(self, processes: list[DecoderProcess], max_bytes: int) -> None:
        self._free = list(processes)
        self._free_bytes = max_bytes
        self._waiting: dict[str, deque[tuple[int, asyncio.Future[DecoderProcess]]]] = {}

    async def take(self, owner: str, size: int) -> DecoderProcess:
        """Waits for a process and `size` bytes of memory."""
        future: asyncio.Future[DecoderProcess] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(owner, deque()).append((size, future))
        self._grant()
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self.give_back(future.result(), size)
            else:
                self._grant()
            raise

    def give_back(self, process: DecoderProcess, size: int) -> None:
        self._free.append(process)
        self._free_bytes += size
        self._grant()

    def _grant(self) -> None:
        while self._free and self._waiting:
            owner, line = next(iter(self._waiting.items()))
            size, future = line[0]
            # A large picture is waited for: otherwise small ones could keep it out for good.
            if not future.done() and size > self._free_bytes:
                return
            line.popleft()
            del self._waiting[owner]
            if line:
                self._waiting[owner] = line
            if not future.done():
                self._free_bytes -= size
                future.set_result(self._free.pop())
