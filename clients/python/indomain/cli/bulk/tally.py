"""Counts the results of a run, and prints them: lines of JSON, a table if they are few, failures, totals."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from rich.markup import escape
from rich.table import Table

from indomain.cli import report
from indomain.cli.bulk.plan import Job, LeftOut

# A table of more pictures is not printed: nobody would read it.
_TABLE_UP_TO: Final = 24
_FAILURES_SHOWN: Final = 40

# What to do about a failure, where its message does not say so, or where a flag helps.
_ADVICE: Final[Mapping[str, str]] = {
    "unreadable_file": "Is the file there, and may it be read?",
    "unwritable_result": "Another name or folder for the result: --full-names, --root or -o.",
    "invalid_picture": "The gateway reads PNG, JPEG, WebP, TIFF, BMP, GIF and AVIF; convert the picture, or leave it "
    "out.",
    "not_installed": "A package for these files is missing; the message names it.",
    "unforeseen": "A fault of this program, at this file only; please report it.",
    "deadline_exceeded": "More time for each picture: --timeout SECONDS; fewer at once: --jobs N.",
    "unavailable": "The connection broke at this picture again and again; look into the gateway's log.",
    "internal": "The gateway's log has more under the request id.",
}


class Tally:
    """The results of a run. `folder` is where they go; None for a single picture."""

    def __init__(self, title: str, total: int, folder: Path | None, *, as_json: bool) -> None:
        self._title = title
        self._total = total
        self._folder = folder
        self._as_json = as_json
        self._done = self._done_earlier = 0
        # Of those that are done, how many had their refinement cut short.
        self._cut_short = 0
        # By reason.
        self._failed: Counter[str] = Counter()
        self._shown_failures: list[tuple[Job, Mapping[str, Any]]] = []
        self._rows: list[tuple[Job, Mapping[str, Any]]] = []
        self._left_out: Sequence[LeftOut] = ()
        self._begun_s = time.monotonic()
        self._advance: Callable[[int], None] = lambda count: None

    @property
    def failed(self) -> int:
        return self._failed.total()

    @property
    def unfinished(self) -> int:
        return self._total - self._done - self._done_earlier - self.failed

    def add_left_out(self, left_out: Sequence[LeftOut]) -> None:
        """Takes the files that no job is made of."""
        self._left_out = left_out
        if self._as_json:
            for file in left_out:
                report.print_json_line({"event": "left_out", "source": str(file.path), "why": file.why})

    def add_earlier(self, job: Job, error: Mapping[str, Any] | None) -> None:
        """Counts a picture of an earlier run: done, or failed with `error`."""
        if error is None:
            self._done_earlier += 1
        else:
            self._add_failure(job, error, earlier=True)

    def add(self, job: Job, facts: Mapping[str, Any], *, failed: bool) -> None:
        """Counts a picture of this run: done, or failed with `facts["error"]`."""
        if failed:
            self._add_failure(job, facts["error"], earlier=False)
        else:
            self._done += 1
            losses = facts["losses"]
            self._cut_short += losses is not None and losses["stop_reason"] == "deadline"
            if self._as_json:
                paths = {"source": str(job.source), "output": str(job.output)}
                report.print_json_line({"event": "done", **paths, **facts})
            elif self._total <= _TABLE_UP_TO:
                self._rows.append((job, facts))
        self._advance(1)

    def _add_failure(self, job: Job, error: Mapping[str, Any], *, earlier: bool) -> None:
        self._failed[error["reason"]] += 1
        if len(self._shown_failures) < _FAILURES_SHOWN:
            self._shown_failures.append((job, error))
        if self._as_json:
            line = {"event": "failed", "source": str(job.source), "error": error}
            report.print_json_line(line | ({"earlier": True} if earlier else {}))

    @contextmanager
    def progress(self) -> Iterator[None]:
        """Shows progress while the run goes on."""
        self._begun_s = time.monotonic()
        with report.progress(self._title, self._total, self._total - self.unfinished) as self._advance:
            yield
        self._advance = lambda count: None

    def print_summary(self) -> None:
        """Prints the report at the end of the run."""
        if self._rows:
            report.print_table(self._table())
        for job, error in self._shown_failures:
            which = f"request id: {error['request_id']}" if error.get("request_id") else ""
            where = f" (in {error['stage']})" if error.get("stage") else ""
            # Errors of codes name their file.
            named = error["message"].startswith(str(job.source))
            report.complain(f"{'' if named else f'{job.source}: '}{error['message']}{where}", hint=which)
        for file in self._left_out[:_FAILURES_SHOWN]:
            report.say(f"left out: {file.path}: {file.why}")
        for reason in self._failed:
            if reason in _ADVICE:
                report.say(f"{reason}: {_ADVICE[reason]}")
        if self._cut_short:
            report.say(
                f"Refinement was cut short by --timeout: {self._cut_short:,}. Allow more, or fewer at once (--jobs)."
            )
        if self._folder is not None:
            self._print_counts(self._folder)

    def _print_counts(self, folder: Path) -> None:
        seconds = time.monotonic() - self._begun_s
        if self._as_json:
            counts = {"done": self._done, "done_earlier": self._done_earlier, "failed": self.failed}
            counts |= {"unfinished": self.unfinished, "left_out": len(self._left_out)}
            report.print_json_line({"event": "summary", **counts, "seconds": seconds, "output": str(folder)})
        parts = [f"{self._done:,} of {self._total:,} pictures done in {report.duration(seconds)}"]
        if self._done:
            parts[0] += f", {self._done / seconds:.1f} a second"
        if self._done_earlier:
            parts.append(f"{self._done_earlier:,} by earlier runs")
        if self.failed:
            parts.append(f"{self.failed:,} failed")
        if self._left_out:
            parts.append(f"{len(self._left_out):,} other files left out")
        report.say(f"{'; '.join(parts)}: {folder}")
        if self.failed > len(self._shown_failures):
            report.say(f"All failures stand in {folder / '.indomain' / 'journal.jsonl'}.")
        if len(self._left_out) > _FAILURES_SHOWN:
            report.say("--json tells all files that were left out.")
        if self.unfinished:
            report.say(f"{self.unfinished:,} are left; the same command again goes on.")
        elif self.failed:
            report.say("To try those again that failed: the same command with --retry-failed.")

    def _table(self) -> Table:
        table = Table(box=None, padding=(0, 2), header_style="bold")
        for title in ("picture", "written to"):
            # Long names are folded: a name that is cut short is of no use.
            table.add_column(title, overflow="fold")
        # Runs that did not ask for it, and journals of older versions, have none.
        compared = any(facts.get("identity_score") is not None for _, facts in self._rows)
        identity = ("identity score",) if compared else ()
        for title in ("domain score", *identity, "mse before", "after", "steps", "seconds"):
            table.add_column(title, justify="right")
        for job, facts in self._rows:
            losses = facts["losses"]
            table.add_row(
                escape(report.plain(str(job.source))),
                escape(report.plain(str(job.output))),
                f"{facts['domain_score']:.2f}",
                *([f"{facts['identity_score']:.2f}"] if compared else []),
                "-" if losses is None else f"{losses['pixel_mse_before']:.4f}",
                "-" if losses is None else f"{losses['pixel_mse_after']:.4f}",
                "-" if losses is None else str(losses["steps_done"]),
                f"{sum(facts['stage_seconds'].values()):.2f}",
            )
        return table
