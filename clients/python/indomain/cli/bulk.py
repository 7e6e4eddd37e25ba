"""Many pictures, some at a time: what is done is kept in a journal, a gateway that goes away is waited for, Ctrl-C ends
it in order. What is done with a picture is in commands.py."""

from __future__ import annotations

import argparse
import hashlib
import queue
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Final

from indomain import (
    Bundle,
    Client,
    Edited,
    GatewayInfo,
    IndomainError,
    InvalidOptionError,
    Inversion,
    NotFoundError,
    PermissionDeniedError,
    UnauthenticatedError,
    UnknownBundleError,
)
from indomain.cli import photos, report
from indomain.cli.journal import Journal, fingerprint
from indomain.cli.tally import Tally
from indomain.clients.outages import OutageTooLongError, OutageWaiter, StoppedError

Outcome = Inversion | Edited
Work = Callable[[photos.Job], Outcome]

# Arguments that say how a run goes about it, not what becomes of a picture. All others stand in the journal, and a run
# that goes on must have the same.
_HOW: Final = frozenset(
    {
        *("command", "items", "from_list", "recursive", "root", "full_names", "output", "bundle"),
        *("server", "timeout", "tls", "root_certificates", "client_certificate"),
        *("json", "jobs", "wait", "retry_failed", "restart"),
    }
)

# What is wrong with one picture is so with all.
_OF_THE_RUN: Final = (NotFoundError, UnauthenticatedError, PermissionDeniedError, InvalidOptionError)


class _Ended:
    """A worker's last word."""


@dataclass(frozen=True)
class _Done:
    """A picture with what became of it, small enough to be kept: figures or the error, no pictures."""

    job: photos.Job
    seen: tuple[int, int] | None
    facts: dict[str, Any]
    failed: bool


def run(
    client: Client,
    plan: photos.Plan,
    work: Work,
    title: str,
    edits: dict[str, float],
    arguments: argparse.Namespace,
) -> bool:
    """Does all jobs of a plan that no run before has done; True where none has failed, now or before.

    Raises:
        UsageError: the folder's journal is of another kind of run, or in use.
        IndomainError: one that would come with every picture; GatewayUnreachableError and the like when the gateway
            has been away for longer than `arguments.wait`.
        KeyboardInterrupt: stopped, what was under way is finished.
    """
    if plan.folder is None:
        return _one(plan.jobs[0], work, title, arguments)
    bundle = _bundle(client.info(), arguments.bundle)
    options = _options(bundle, edits, arguments)
    tally = Tally(title, len(plan.jobs), plan.folder, as_json=arguments.json)
    with Journal.of(plan.folder, options, plan.jobs, restart=arguments.restart) as journal:
        left: list[photos.Job] = []
        for job in plan.jobs:
            entry = journal.entry(job)
            if entry is None or (entry.error is not None and arguments.retry_failed):
                left.append(job)
            else:
                tally.add_earlier(job, entry.error)
        stopped = threading.Event()

        def back(info: GatewayInfo) -> None:
            report.say("The gateway is back.")
            _check_same(bundle, _bundle(info, bundle.name).code_space)

        def checked(job: photos.Job) -> Outcome:
            outcome = work(job)
            _check_same(bundle, outcome.code_space)
            return outcome

        patience = OutageWaiter(
            [client],
            arguments.wait,
            stopped=stopped,
            on_pause=lambda error: report.say(f"{error.message}; waiting, for up to {arguments.wait:g} s"),
            on_return=back,
        )
        try:
            with _ending_in_order(client, stopped), tally.shown():
                for done in _each(left, checked, patience, arguments.jobs, stopped):
                    journal.add(done.job, done.seen, done.facts, failed=done.failed)
                    tally.add(done.job, done.facts, failed=done.failed)
        finally:
            tally.tell()
    if tally.unfinished:
        raise KeyboardInterrupt
    return not tally.failed


def _one(job: photos.Job, work: Work, title: str, arguments: argparse.Namespace) -> bool:
    """A single picture: no journal, and nothing is waited for."""
    tally = Tally(title, 1, None, as_json=arguments.json)
    done = _do(job, work, lambda call: call())
    tally.add(job, done.facts, failed=done.failed)
    tally.tell()
    return not done.failed


def _options(bundle: Bundle, edits: dict[str, float], arguments: argparse.Namespace) -> dict[str, Any]:
    """All that decides what becomes of a picture."""
    given = {
        name: _as_noted(value)
        for name, value in vars(arguments).items()
        if name not in _HOW and not (value is None or value is False or value == [])
    }
    return {"command": arguments.command, "edits": edits, "bundle": bundle.code_space or bundle.name, **given}


def _as_noted(value: object) -> object:
    if isinstance(value, Path):  # a mask, say: what counts is what it holds
        return f"{value.name} ({hashlib.sha256(value.read_bytes()).hexdigest()[:12]})"
    return list(value) if isinstance(value, tuple) else value


def _bundle(info: GatewayInfo, name: str) -> Bundle:
    """Raises UnknownBundleError."""
    for bundle in info.bundles:
        if name in ("", bundle.name):
            return bundle
    served = ", ".join(bundle.name for bundle in info.bundles) or "none"
    raise UnknownBundleError(f"The gateway serves no bundle {name or 'at all'}; it has: {served}")


def _check_same(bundle: Bundle, code_space: str) -> None:
    """Raises UnknownBundleError where the gateway has taken up another bundle by that name in mid-run."""
    if code_space != bundle.code_space:
        raise UnknownBundleError(
            f"The gateway now serves {code_space}, and the run began with {bundle.code_space}; begin anew with "
            "--restart, or go on once it serves that again"
        )


# --- some at a time ----------------------------------------------------------------------------------


def _each(
    jobs: Iterable[photos.Job], work: Work, patience: OutageWaiter, workers: int, stopped: threading.Event
) -> Iterator[_Done]:
    """The jobs as they end; `workers` of them are under way at a time, and only those hold pictures.

    Raises what concerns all jobs, once what is under way has ended.
    """
    waiting = iter(jobs)
    taking = threading.Lock()
    ended: queue.SimpleQueue[_Done | _Ended | BaseException] = queue.SimpleQueue()

    def take() -> photos.Job | None:
        with taking:
            return None if stopped.is_set() else next(waiting, None)

    def worker() -> None:
        try:
            while (job := take()) is not None:
                ended.put(_do(job, work, patience.call))
        except StoppedError:
            pass
        except BaseException as error:
            stopped.set()
            ended.put(error)
        finally:
            ended.put(_Ended())

    threads = [threading.Thread(target=worker, name=f"picture-{n}", daemon=True) for n in range(workers)]
    for thread in threads:
        thread.start()
    working, failure = workers, None
    try:
        while working:
            item = ended.get()
            if isinstance(item, _Ended):
                working -= 1
            elif isinstance(item, BaseException):
                failure = failure or item
            else:
                yield item
    finally:
        stopped.set()
    if failure is not None:
        raise failure


def _do(job: photos.Job, work: Work, call: Callable[[Callable[[], Outcome]], Outcome]) -> _Done:
    """Raises IndomainError where it concerns all pictures, StoppedError."""
    seen = fingerprint(job.source)
    try:
        facts = report.outcome_as_json(call(lambda: work(job)))
    except (OutageTooLongError, *_OF_THE_RUN):
        raise
    except (IndomainError, OSError, ValueError, TypeError) as error:
        return _Done(job, seen, {"error": report.error_as_json(error)}, failed=True)
    return _Done(job, seen, facts, failed=False)


@contextmanager
def _ending_in_order(client: Client, stopped: threading.Event) -> Iterator[None]:
    """The first Ctrl-C (or SIGTERM) takes no further picture, the second waits for nothing."""

    def stop(_signal: int, _frame: FrameType | None) -> None:
        if stopped.is_set():
            client.close()
            raise KeyboardInterrupt
        stopped.set()
        report.say("Finishing what is under way; once more to leave at once.")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    signals = [
        number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) is not signal.SIG_IGN
    ]
    before = {number: signal.signal(number, stop) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
