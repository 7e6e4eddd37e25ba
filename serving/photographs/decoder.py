"""A process that decodes pictures for the gateway, so that decoding can be ended.

`python -m serving.photographs.decoder FD SECONDS`, with the number of its socket.

It takes steps from the socket and answers each: a step names a method of PictureReader. It holds one picture at a time.
A step that takes more than SECONDS of processor time ends the process, by a signal of the kernel's, wherever it is.

It imports as little as it can: it starts in a quarter of a second, and takes 33 MB.
"""

from __future__ import annotations

import pickle
import resource
import signal
import socket
import sys
import traceback
from dataclasses import dataclass, field
from io import BufferedRWPair
from pathlib import Path
from typing import Any

from serving.errors import EditingError
from serving.jobs import EncodedPicture
from serving.photographs.formats.headers import Header
from serving.photographs.pictures import PictureReader

# Sizes of this process in pages; the sixth is that of its data (Linux).
_OWN_MEMORY = Path("/proc/self/statm")
# For answers, libraries that are loaded late, and stacks of threads.
_SPARE_BYTES = 96 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Step:
    """What a decoder is asked for.

    opened: a new picture, in place of the one before. method: of PictureReader; empty: forget the picture.
    """

    opened: tuple[EncodedPicture, Header] | None
    method: str
    arguments: tuple[Any, ...] = ()
    keywords: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """What the method has returned, or its error, or the traceback of what it should not have raised."""

    value: Any = None
    error: EditingError | None = None
    fault: str = ""


class AnswerUnpickler(pickle.Unpickler):
    """Reads answers. It makes nothing but what answers consist of, as a decoder has touched a stranger's bytes."""

    _ALLOWED = frozenset(
        {
            ("serving.photographs.decoder", "Answer"),
            ("serving.errors", "InvalidPicture"),
            ("serving.errors", "PictureTooLarge"),
            ("serving.jobs", "EncodedPicture"),
            ("serving.jobs", "ImageFormat"),
            ("numpy", "dtype"),
            ("numpy", "ndarray"),
            ("numpy._core.numeric", "_frombuffer"),
            ("numpy._core.multiarray", "_reconstruct"),
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._ALLOWED:
            raise pickle.UnpicklingError(f"an answer may not hold {module}.{name}")
        return super().find_class(module, name)


def read_answer(stream: BufferedRWPair) -> Answer:
    """The next answer of a decoder. Raises EOFError and pickle.UnpicklingError."""
    answer = AnswerUnpickler(stream).load()
    if not isinstance(answer, Answer):
        raise pickle.UnpicklingError("not an answer")
    return answer


def send(message: Step | Answer, stream: BufferedRWPair) -> None:
    """Sends a step or an answer. Pictures go straight into the stream, without a copy."""
    pickle.dump(message, stream, pickle.HIGHEST_PROTOCOL)
    stream.flush()


def limit_memory(header: Header) -> None:
    """Bounds the memory of this process while it decodes a picture whose library allocates what other bytes than the
    header's say: libtiff its strips and tiles, dav1d (AVIF) its frames. Without a limit otherwise."""
    limit = resource.RLIM_INFINITY
    if header.format in ("TIFF", "AVIF") and _OWN_MEMORY.exists():
        pages = int(_OWN_MEMORY.read_text().split()[5])
        limit = pages * resource.getpagesize() + 2 * header.decoded_bytes + _SPARE_BYTES
    resource.setrlimit(resource.RLIMIT_DATA, (limit, resource.RLIM_INFINITY))


def main() -> None:
    # Run as a module this file is `__main__`; what is sent must be of the module's own name.
    from serving.photographs import decoder

    stream, processor_s = socket.socket(fileno=int(sys.argv[1])).makefile("rwb"), float(sys.argv[2])
    reader: PictureReader | None = None
    while True:
        try:
            step: Step = pickle.load(stream)
        except EOFError:
            return
        if step.opened is not None:
            limit_memory(step.opened[1])
            reader = PictureReader(*step.opened)
        answer = decoder.Answer()
        if step.method:
            # The kernel ends the process when the time is up: nothing else stops a decoder written in C.
            signal.setitimer(signal.ITIMER_PROF, processor_s)
            try:
                answer = decoder.Answer(getattr(reader, step.method)(*step.arguments, **step.keywords))
            except EditingError as error:
                answer = decoder.Answer(error=error.with_traceback(None))
            except Exception:
                answer = decoder.Answer(fault=traceback.format_exc())
            signal.setitimer(signal.ITIMER_PROF, 0.0)
        else:
            reader = None
        decoder.send(answer, stream)
        # Nothing is held while the process waits for the next step.
        del step, answer


if __name__ == "__main__":
    main()
