"""The journal of a folder of results, `.indomain/journal.jsonl`: which pictures are done, and which have failed.

Lines are only added. The first line has the options of the run, every other line the outcome of one picture, by the
name of its result. Of two lines with one name the later counts. A run that begins anew adds a line with its options and
does the pictures before that line again. If the program is killed, the last line may be incomplete; its picture counts
as not done.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from io import FileIO
from pathlib import Path
from typing import Any, Final

from filelock import FileLock, Timeout

from indomain.cli.arguments import UsageError
from indomain.cli.bulk.plan import Job
from indomain.cli.output import OutputError, writing_to

_FORMAT: Final = 1
# Pictures whose lines are not on the disk at a power failure are done again. That is seconds of work; syncing each line
# would cost a wait for every picture.
_SYNC_EVERY_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Entry:
    """The outcome of a picture: `error` is as in the output of `--json`, None where it was done. An entry is `stale`
    once a later run has begun anew."""

    source: str
    fingerprint: tuple[int, int] | None
    error: Mapping[str, Any] | None
    stale: bool = False


class Journal:
    """The journal of a folder. Open it with `Journal.of`; one process at a time has it.

    All methods that write raise OutputError.
    """

    def __init__(self, folder: Path, path: Path, file: FileIO, entries: dict[str, Entry]) -> None:
        self._folder = folder
        self._path = path
        # Unbuffered: each line is out at once, and what the disk refused is not tried again when it is closed.
        self._file = file
        self._entries = entries
        self._synced_s = time.monotonic()

    @staticmethod
    @contextmanager
    def of(
        folder: Path, options: Mapping[str, Any], jobs: Sequence[Job], *, restart: bool
    ) -> Iterator[Journal]:
        """Opens the journal, or begins one.

        Args:
            folder: of the results.
            options: everything that decides what the results are; it must be as in the journal.
            jobs: the jobs of the run.
            restart: forget what the journal has, and begin anew.

        Raises:
            UsageError: another process has the journal; the options differ; or the run would overwrite results that the
                journal does not know, or another picture's.
            OutputError: the journal cannot be written.
        """
        home = folder / ".indomain"
        with writing_to(home):
            home.mkdir(parents=True, exist_ok=True)
        lock = FileLock(home / "lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise UsageError(
                f"another run writes into {folder}; wait for it, or name another folder with -o"
            ) from None
        except OSError as error:
            raise OutputError(home, error) from error
        try:
            path = home / "journal.jsonl"
            contents = _read(path)
            # If the last run ended before its first picture (an unknown direction, say), its options do not matter.
            anew = restart or (not contents.entries and _differences(contents.begin, options) != [])
            if not anew:
                _check_options(contents.begin, folder, options)
            elif not restart:
                _check_untouched(folder, jobs)
            with writing_to(path):
                file = path.open("ab", buffering=0)
            with file:
                journal = Journal(folder, path, file, contents.entries)
                journal._cut_off(contents.whole_bytes)
                if anew:
                    journal._begin(options)
                journal._check_owners(jobs)
                try:
                    yield journal
                finally:
                    journal._sync()
        finally:
            lock.release()

    def entry(self, job: Job) -> Entry | None:
        """The outcome of a job; None where there is none, or where the picture or its result has changed since."""
        entry = self._entries.get(self._name(job))
        if entry is None or entry.stale or entry.fingerprint != fingerprint(job.source):
            return None
        done = entry.error is None
        return None if done and not all(map(os.path.exists, job.outputs)) else entry

    def add(
        self, job: Job, seen: tuple[int, int] | None, facts: Mapping[str, Any], *, failed: bool = False
    ) -> None:
        """Notes that a picture is done, or has failed with `facts["error"]`. `seen` is its fingerprint before the job.

        If a picture failed that an earlier run has a result of, that result is removed: it is of other options, or of
        another picture.
        """
        if failed and self._name(job) in self._entries:
            for output in job.outputs:
                with writing_to(output):
                    output.unlink(missing_ok=True)
        event = "failed" if failed else "done"
        source = os.path.abspath(job.source)
        self._add_line({"event": event, "result": self._name(job), "from": source, "seen": seen, **facts})
        if time.monotonic() - self._synced_s > _SYNC_EVERY_S:
            self._sync()

    def _begin(self, options: Mapping[str, Any]) -> None:
        begun = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        self._add_line({"event": "begin", "format": _FORMAT, "begun": begun, "options": options})
        self._entries = {name: replace(entry, stale=True) for name, entry in self._entries.items()}

    def _cut_off(self, whole_bytes: int) -> None:
        """Cuts off an incomplete line: what comes after the first `whole_bytes`."""
        with writing_to(self._path):
            self._file.truncate(whole_bytes)

    def _add_line(self, line: Mapping[str, Any]) -> None:
        rest = memoryview(json.dumps(line).encode() + b"\n")
        with writing_to(self._path):
            while rest:
                rest = rest[self._file.write(rest) :]

    def _sync(self) -> None:
        with writing_to(self._path):
            os.fsync(self._file.fileno())
        self._synced_s = time.monotonic()

    def _name(self, job: Job) -> str:
        return job.output.relative_to(self._folder).as_posix()

    def _check_owners(self, jobs: Sequence[Job]) -> None:
        """Raises UsageError where this run would overwrite the result of another picture that still exists."""
        for job in jobs:
            entry = self._entries.get(self._name(job))
            if entry is None or entry.stale or entry.error is not None:
                continue
            other = entry.source != os.path.abspath(job.source)
            if other and os.path.exists(job.output) and os.path.exists(entry.source):
                raise UsageError(
                    f"{job.output} is the result of {entry.source} by an earlier run, and would be that of "
                    f"{job.source}; name another folder with -o"
                )


def fingerprint(source: Path) -> tuple[int, int] | None:
    """Size in bytes and time of modification in ns of a file, to tell whether it changed; None: no such file."""
    try:
        found = source.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


# --- the file ----------------------------------------------------------------------------------------


def _check_untouched(folder: Path, jobs: Sequence[Job]) -> None:
    there = [job.output for job in jobs if os.path.exists(job.output)]
    if there:
        raise UsageError(
            f"{there[0]} is there already ({len(there)} such in all), and {folder} has no journal that knows it; name "
            "another folder with -o, or write over it with --restart"
        )


@dataclass
class _Contents:
    """What a journal holds: the line that the last run began with (None where none can be read), outcomes by the names
    of results, and the bytes up to the end of the last complete line."""

    begin: Mapping[str, Any] | None = None
    entries: dict[str, Entry] = field(default_factory=dict)
    whole_bytes: int = 0


def _read(path: Path) -> _Contents:
    contents = _Contents()
    if not path.exists():
        return contents
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                break
            contents.whole_bytes += len(line)
            try:
                _read_line(json.loads(line), contents)
            except (ValueError, KeyError, TypeError):
                # A damaged line; its picture is done again.
                continue
    return contents


def _read_line(line: Mapping[str, Any], contents: _Contents) -> None:
    if line["event"] == "begin":
        contents.begin = line
        contents.entries = {name: replace(entry, stale=True) for name, entry in contents.entries.items()}
        return
    seen = None if line["seen"] is None else (int(line["seen"][0]), int(line["seen"][1]))
    contents.entries[str(line["result"])] = Entry(str(line["from"]), seen, line.get("error"))


def _check_options(begin: Mapping[str, Any] | None, folder: Path, options: Mapping[str, Any]) -> None:
    differences = _differences(begin, options)
    if differences is None:
        raise UsageError(
            f"the journal of {folder} cannot be read; name another folder with -o, or begin anew with --restart"
        )
    if differences:
        raise UsageError(
            f"{folder} holds results of other options: {'; '.join(differences)}. Name another folder with -o, or begin "
            "anew with --restart"
        )


def _differences(begin: Mapping[str, Any] | None, options: Mapping[str, Any]) -> list[str] | None:
    """The options that differ from the journal's; None where those cannot be read."""
    if begin is None or begin.get("format") != _FORMAT:
        return None
    before = dict(begin["options"])
    now = json.loads(json.dumps(options))
    return [
        f"{name} was {_shown(before.get(name))} and is now {_shown(now.get(name))}"
        for name in sorted({*before, *now})
        if before.get(name) != now.get(name)
    ]


def _shown(value: object) -> str:
    if value is None:
        return "not given"
    if isinstance(value, dict):
        return " ".join(f"{name}={entry:g}" for name, entry in value.items()) or "none"
    return str(value)
