"""What became of each picture of a folder of results: `.indomain/journal.jsonl`, lines that are only added to.

The first line says what the run does, every other one what became of one picture, by the name of its result. Of two
lines about one name the later counts. A run that begins anew adds a first line, and what stands before it is done
again. A kill may cut the last line short; its picture counts as not done.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, Final

from filelock import FileLock, Timeout

from indomain.cli.parser import UsageError
from indomain.cli.photos import Job

_FORMAT: Final = 1
# What the disk has not got yet after a power failure is done again: seconds of work, against a wait for each line.
_SYNC_EVERY_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Entry:
    """What became of a picture: `error` is as in the output of `--json`, None where it was done."""

    source: str
    fingerprint: tuple[int, int] | None
    error: Mapping[str, Any] | None
    stale: bool = False  # of a run before this one was begun anew


class Journal:
    """A folder's journal, held by one process at a time (`Journal.of`)."""

    def __init__(self, folder: Path, file: IO[bytes], entries: dict[str, Entry]) -> None:
        self._folder = folder
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
            options: what the run does to its pictures; those of the journal must be the same.
            jobs: what is about to be written.
            restart: forget what the journal has and begin anew.

        Raises:
            UsageError: another process has it; other options; results that no journal knows would be written over; or
                one result would be written over another picture's.
        """
        home = folder / ".indomain"
        home.mkdir(parents=True, exist_ok=True)
        lock = FileLock(home / "lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise UsageError(
                f"another run writes into {folder}; wait for it, or name another folder with -o"
            ) from None
        try:
            path = home / "journal.jsonl"
            noted = _read(path)
            # A run that ended before its first picture, at a direction that is not there, say, binds nobody.
            anew = restart or (not noted.entries and _differing(noted.begin, options) != [])
            if not anew:
                _check_options(noted.begin, folder, options)
            elif not restart:
                _check_untouched(folder, jobs)
            with path.open("ab") as file:
                file.truncate(noted.whole_bytes)  # so that the next line is one of its own
                journal = Journal(folder, file, noted.entries)
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
        """What became of the picture, as it is now; None: nothing yet, or it or its result has changed since."""
        entry = self._entries.get(self._name(job))
        if entry is None or entry.stale or entry.fingerprint != fingerprint(job.source):
            return None
        done = entry.error is None
        return None if done and not all(output.exists() for output in job.outputs) else entry

    def add(
        self, job: Job, seen: tuple[int, int] | None, facts: Mapping[str, Any], *, failed: bool = False
    ) -> None:
        """Notes that a picture is done, or has failed with `facts["error"]`; `seen` is its fingerprint before. Where
        an earlier run had a result for one that has failed, that goes: it is of other options, or of another picture.
        """
        if failed and self._name(job) in self._entries:
            for output in job.outputs:
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

    def _add_line(self, line: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(line).encode() + b"\n")
        self._file.flush()  # a kill of this process loses no line

    def _sync(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._synced_s = time.monotonic()

    def _name(self, job: Job) -> str:
        return job.output.relative_to(self._folder).as_posix()

    def _check_owners(self, jobs: Sequence[Job]) -> None:
        """Raises UsageError where a result is another picture's, which is still there: this run would replace it."""
        for job in jobs:
            entry = self._entries.get(self._name(job))
            if (
                entry is None
                or entry.stale
                or entry.error is not None
                or entry.source == os.path.abspath(job.source)
            ):
                continue
            if job.output.exists() and os.path.exists(entry.source):
                raise UsageError(
                    f"{job.output} is the result of {entry.source} by an earlier run, and would be that of "
                    f"{job.source}; name another folder with -o"
                )


def fingerprint(source: Path) -> tuple[int, int] | None:
    """Size in bytes and time of change in ns of a file, by which it is the same one; None: there is no such file."""
    try:
        found = source.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


# --- the file ----------------------------------------------------------------------------------------


def _check_untouched(folder: Path, jobs: Sequence[Job]) -> None:
    there = [job.output for job in jobs if job.output.exists()]
    if there:
        raise UsageError(
            f"{there[0]} is there already ({len(there)} such in all), and {folder} has no journal that knows it; name "
            "another folder with -o, or write over it with --restart"
        )


@dataclass
class _Noted:
    """A journal as it was found; `begin` is the line that the last run began with, None: there is none to read."""

    begin: Mapping[str, Any] | None = None
    entries: dict[str, Entry] = field(default_factory=dict)
    whole_bytes: int = 0  # up to the end of the last whole line


def _read(path: Path) -> _Noted:
    noted = _Noted()
    if not path.exists():
        return noted
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                break
            noted.whole_bytes += len(line)
            try:
                _read_line(json.loads(line), noted)
            except (ValueError, KeyError, TypeError):
                continue  # damaged by more than a kill; its picture is done again
    return noted


def _read_line(line: Mapping[str, Any], noted: _Noted) -> None:
    if line["event"] == "begin":
        noted.begin = line
        noted.entries = {name: replace(entry, stale=True) for name, entry in noted.entries.items()}
        return
    seen = None if line["seen"] is None else (int(line["seen"][0]), int(line["seen"][1]))
    noted.entries[str(line["result"])] = Entry(str(line["from"]), seen, line.get("error"))


def _check_options(begin: Mapping[str, Any] | None, folder: Path, options: Mapping[str, Any]) -> None:
    differing = _differing(begin, options)
    if differing is None:
        raise UsageError(
            f"the journal of {folder} cannot be read; name another folder with -o, or begin anew with --restart"
        )
    if differing:
        raise UsageError(
            f"{folder} holds results of other options: {'; '.join(differing)}. Name another folder with -o, or begin "
            "anew with --restart"
        )


def _differing(begin: Mapping[str, Any] | None, options: Mapping[str, Any]) -> list[str] | None:
    """What is not as it was; None: it cannot be read how it was."""
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
