"""Runs the jobs of a command, several at once. It keeps a journal of what is done, waits while the gateway is away, and
stops in order at Ctrl-C. What is done with a picture is the command's."""

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
    GatewayUnreachableError,
    InvalidOptionError,
    Inversion,
    NotFoundError,
    PermissionDeniedError,
    UnauthenticatedError,
    UnknownBundleError,
)
from indomain.cli import report
from indomain.cli.bulk.journal import Journal, fingerprint
from indomain.cli.bulk.plan import Job, Plan
from indomain.cli.bulk.tally import Tally
from indomain.cli.output import OutputError
from indomain.clients.outages import OutageTooLongError, OutageWaiter, StoppedError

Outcome = Inversion | Edited
Work = Callable[[Job], Outcome]

# Arguments that do not change the results. All others are noted in the journal, and a run that goes on with it must
# have the same.
_NOT_NOTED: Final = frozenset(
    {
        *("command", "items", "from_list", "recursive", "root", "full_names", "output", "bundle"),
        *("server", "timeout", "tls", "root_certificates", "client_certificate"),
        *("json", "jobs", "wait", "retry_failed", "restart"),
    }
)

# Errors that every picture would have, or that end the run.
_FATAL_ERRORS: Final = (
    *(NotFoundError, UnauthenticatedError, PermissionDeniedError, InvalidOptionError),
    *(OutageTooLongError, StoppedError),
)


class _WorkerEnded:
    """The last thing that a worker puts into the queue."""


@dataclass(frozen=True)
class _Done:
    """A job that has ended: its figures or its error, no pictures. `seen` is the fingerprint of its source before."""

    job: Job
    seen: tuple[int, int] | None
    facts: dict[str, Any]
    failed: bool


def run_jobs(
    client: Client, plan: Plan, work: Work, title: str, edits: dict[str, float], arguments: argparse.Namespace
) -> bool:
    """Does the jobs of a plan that no earlier run has done. True where none has failed, now or before.

    Args:
        work: does one job.
        title: for the progress bar.
        edits: strengths by direction, for the journal.
        arguments: of a command with those of `many_pictures`.

    Raises:
        UsageError: the folder's journal is of a run with other options, or in use.
        IndomainError: an error that every picture would have; OutageTooLongError where the gateway has been away for
            longer than `arguments.wait`.
        OutputError: results, or the journal, cannot be written. What is not done is not noted as failed: a later run
            does it.
        KeyboardInterrupt: the run was stopped; the jobs that had begun are done.
    """
    if plan.folder is None:
        return _one(plan.jobs[0], work, title, arguments)
    bundle = _bundle(client.info(), arguments.bundle)
    options = _options(bundle, edits, arguments)
    tally = Tally(title, len(plan.jobs), plan.folder, as_json=arguments.json)
    tally.add_left_out(plan.left_out)
    with Journal.of(plan.folder, options, plan.jobs, restart=arguments.restart) as journal:
        left: list[Job] = []
        for job in plan.jobs:
            entry = journal.entry(job)
            if entry is None or (entry.error is not None and arguments.retry_failed):
                left.append(job)
            else:
                tally.add_earlier(job, entry.error)
        stopped = threading.Event()

        def on_return(info: GatewayInfo) -> None:
            report.say("The gateway is back.")
            _check_same(bundle, _bundle(info, bundle.name).code_space)

        def checked(job: Job) -> Outcome:
            outcome = work(job)
            _check_same(bundle, outcome.code_space)
            return outcome

        waiter = OutageWaiter(
            [client],
            arguments.wait,
            stopped=stopped,
            on_pause=lambda error: report.say(
                f"{error.message.rstrip('.')}; waiting, for up to {arguments.wait:g} s"
            ),
            on_return=on_return,
        )
        try:
            with _graceful_interrupts(client, stopped), tally.progress():
                for done in _run_concurrently(left, checked, waiter, arguments.jobs, stopped):
                    journal.add(done.job, done.seen, done.facts, failed=done.failed)
                    tally.add(done.job, done.facts, failed=done.failed)
        finally:
            tally.print_summary()
    if tally.unfinished:
        raise KeyboardInterrupt
    return not tally.failed


def _one(job: Job, work: Work, title: str, arguments: argparse.Namespace) -> bool:
    """Does a single job: without a journal, and without waiting for the gateway.

    Raises GatewayUnreachableError, and what `_do` raises.
    """
    tally = Tally(title, 1, None, as_json=arguments.json)
    done = _do(job, work, lambda call: call(), (*_FATAL_ERRORS, GatewayUnreachableError))
    tally.add(job, done.facts, failed=done.failed)
    tally.print_summary()
    return not done.failed


def _options(bundle: Bundle, edits: dict[str, float], arguments: argparse.Namespace) -> dict[str, Any]:
    """Everything that decides what the results are, for the journal."""
    given = {
        name: _as_noted(value)
        for name, value in vars(arguments).items()
        if name not in _NOT_NOTED and not (value is None or value is False or value == [])
    }
    return {"command": arguments.command, "edits": edits, "bundle": bundle.code_space or bundle.name, **given}


def _as_noted(value: object) -> object:
    # A file, e.g. a mask, is noted by its content.
    if isinstance(value, Path):
        return f"{value.name} ({hashlib.sha256(value.read_bytes()).hexdigest()[:12]})"
    return list(value) if isinstance(value, tuple) else value


def _bundle(info: GatewayInfo, name: str) -> Bundle:
    """The bundle of this name; empty: the default. Raises UnknownBundleError."""
    for bundle in info.bundles:
        if name in ("", bundle.name):
            return bundle
    served = ", ".join(bundle.name for bundle in info.bundles) or "none"
    raise UnknownBundleError(f"The gateway serves no bundle {name or 'at all'}; it has: {served}")


def _check_same(bundle: Bundle, code_space: str) -> None:
    """Raises UnknownBundleError where the gateway has replaced the bundle since the run began."""
    if code_space != bundle.code_space:
        raise UnknownBundleError(
            f"The gateway now serves {code_space}, and the run began with {bundle.code_space}; begin anew with "
            "--restart, or go on once it serves that again"
        )


# --- several at once ----------------------------------------------------------------------------------


def _run_concurrently(
    jobs: Iterable[Job], work: Work, waiter: OutageWaiter, workers: int, stopped: threading.Event
) -> Iterator[_Done]:
    """Yields the jobs as they end; `workers` of them run at a time, and only those are in memory.

    Raises an error that every picture would have, once the jobs that have begun have ended.
    """
    waiting = iter(jobs)
    lock = threading.Lock()
    ended: queue.SimpleQueue[_Done | _WorkerEnded | BaseException] = queue.SimpleQueue()

    def next_job() -> Job | None:
        with lock:
            return None if stopped.is_set() else next(waiting, None)

    def worker() -> None:
        try:
            while (job := next_job()) is not None:
                ended.put(_do(job, work, waiter.call))
        except StoppedError:
            pass
        except BaseException as error:
            stopped.set()
            ended.put(error)
        finally:
            ended.put(_WorkerEnded())

    threads = [threading.Thread(target=worker, name=f"picture-{n}", daemon=True) for n in range(workers)]
    for thread in threads:
        thread.start()
    working, failure = workers, None
    try:
        while working:
            item = ended.get()
            if isinstance(item, _WorkerEnded):
                working -= 1
            elif isinstance(item, BaseException):
                failure = failure or item
            else:
                yield item
    finally:
        stopped.set()
    if failure is not None:
        raise failure


def _do(
    job: Job,
    work: Work,
    call: Callable[[Callable[[], Outcome]], Outcome],
    fatal: tuple[type[Exception], ...] = _FATAL_ERRORS,
) -> _Done:
    """Does one job. A picture that cannot be read, in whatever way, fails alone.

    Raises IndomainError or OutputError where every picture would have the error, StoppedError.
    """
    seen = fingerprint(job.source)
    try:
        facts = report.outcome_as_json(call(lambda: work(job)))
    except fatal:
        raise
    except OutputError as error:
        if error.ends_run:
            raise
        return _Done(job, seen, {"error": report.error_as_json(error)}, failed=True)
    except Exception as error:
        return _Done(job, seen, {"error": report.error_as_json(error)}, failed=True)
    return _Done(job, seen, facts, failed=False)


@contextmanager
def _graceful_interrupts(client: Client, stopped: threading.Event) -> Iterator[None]:
    """After the first Ctrl-C (or SIGTERM) no further job begins; the second does not wait for those that have."""

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
