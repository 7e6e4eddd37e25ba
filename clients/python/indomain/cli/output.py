"""Results as files: a whole one or none, and what is said where one cannot be written."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

# With these, the name of one result is at fault. With all others (a full disk, a quota, a disk that is read only, a
# folder of somebody else), the next result could not be written either.
_OF_ONE_NAME: Final = frozenset(
    {errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL, errno.EISDIR, errno.ENOTDIR, errno.EEXIST}
)
_ELSEWHERE: Final = "name a folder that may be written to with -o"
_ADVICE: Final[Mapping[int, str]] = {
    errno.ENOSPC: "make room there; the same command again goes on",
    errno.EDQUOT: "make room there; the same command again goes on",
    errno.EROFS: _ELSEWHERE,
    errno.EACCES: _ELSEWHERE,
    errno.EPERM: _ELSEWHERE,
    errno.ENAMETOOLONG: "name a shorter one with -o",
    errno.ENOTDIR: "part of this path is a file, not a folder; name another one with -o",
    errno.EEXIST: "part of this path is a file, not a folder; name another one with -o",
    errno.EISDIR: "there is a folder of this name; name another one with -o",
}


class OutputError(Exception):
    """A result cannot be written. The text says to which file, why not, and what to do.

    `ends_run` is False where another result may still be written: the name of this one is at fault.
    """

    def __init__(self, path: Path, error: OSError) -> None:
        advice = _ADVICE.get(error.errno or 0)
        reason = f"{error.strerror or error}{f'; {advice}' if advice else ''}"
        super().__init__(f"results cannot be written to {path}: {reason}")
        self.ends_run = error.errno not in _OF_ONE_NAME


@contextmanager
def writing_to(path: Path) -> Iterator[None]:
    """Makes an OSError within the block an OutputError about `path`."""
    try:
        yield
    except OSError as error:
        raise OutputError(path, error) from error


def write_file(path: Path, content: bytes) -> None:
    """Writes a file that gets its name only once it is complete and on the disk: if the program is killed, no
    incomplete file has that name. Makes the folders above it. Raises OutputError."""
    # Of the same length whatever the name is: the longest names that may be given can also be written.
    part = path.with_name(f".{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]}.part")
    with writing_to(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with part.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        except BaseException:
            with suppress(OSError):
                part.unlink(missing_ok=True)
            raise
