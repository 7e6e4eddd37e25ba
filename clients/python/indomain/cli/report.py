"""How results and errors are printed: tables and progress for people, JSON for programs."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from indomain import (
    Bundle,
    Diffused,
    Direction,
    Edited,
    GatewayInfo,
    IndomainError,
    InterpolationFrame,
    Inversion,
    Label,
    Mean,
    Mixed,
    PermissionDeniedError,
    Sample,
    UnauthenticatedError,
)
from indomain.cli.output import OutputError

# Answers go to standard output, all else to standard error, so that a pipe gets nothing but the answer. Into a file or
# a pipe, long names are not folded.
_answers = Console(width=None if sys.stdout.isatty() else 200)
_notes = Console(stderr=True)

_CONTROL: Final = {number: f"\\x{number:02x}" for number in (*range(32), *range(127, 160))}

# Seconds between two lines of progress, where there is no terminal but a log.
_LINE_EVERY_S = 10.0


def plain(text: str) -> str:
    """A line of text without control characters: in a file's name they would move the cursor, or break the line."""
    return text.translate(_CONTROL)


def say(text: str) -> None:
    """Prints a line on standard error."""
    _notes.print(escape(plain(text)), highlight=False, soft_wrap=True)


def complain(text: str, hint: str = "") -> None:
    """Prints what went wrong, and on a second line what to do."""
    _notes.print(f"[bold red]error:[/] {escape(plain(text))}", highlight=False, soft_wrap=True)
    if hint:
        _notes.print(escape(hint), highlight=False, soft_wrap=True)


def complain_of(error: IndomainError) -> None:
    """Prints an error of the gateway, with the request id, under which the gateway's log has more."""
    which = f"request id: {error.request_id}" if error.request_id else ""
    key = isinstance(error, (UnauthenticatedError, PermissionDeniedError))
    advice = "The key is that of $INDOMAIN_API_KEY." if key else ""
    complain(_with_stage(error), hint="\n".join(filter(None, [advice, which])))


def print_json(value: object) -> None:
    """Prints one JSON document on standard output."""
    print(json.dumps(value, indent=2))


def print_json_line(value: object) -> None:
    """Prints one JSON object on a line, at once: a program that reads the pipe need not wait for the last."""
    print(json.dumps(value), flush=True)


def print_table(table: Table) -> None:
    _answers.print(table)


@contextmanager
def progress(title: str, total: int, done: int = 0) -> Iterator[Callable[[int], None]]:
    """Shows progress of `total` pictures: a bar on a terminal, otherwise a line now and then.

    Yields a function that is called with the number of pictures that were finished. `done` pictures were finished
    before; they count neither for the rate nor for the time left.
    """
    begun_s = printed_s = time.monotonic()
    count = 0

    def advance(advanced: int) -> None:
        nonlocal count, printed_s
        count += advanced
        now_s = time.monotonic()
        if now_s - printed_s >= _LINE_EVERY_S and done + count < total:
            printed_s = now_s
            rate = count / (now_s - begun_s)
            left = duration((total - done - count) / rate)
            say(f"{title}: {done + count:,} of {total:,}, {rate:.1f} a second, {left} left")

    if not _notes.is_terminal:
        yield advance
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _RateColumn(),
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=_notes, transient=True, disable=total <= 1) as bar:
        task = bar.add_task(title, total=total, completed=done)
        yield lambda count: bar.advance(task, count)


class _RateColumn(ProgressColumn):
    """The recent rate, in pictures a second."""

    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:.1f}/s", style="progress.data.speed")


# --- tables ------------------------------------------------------------------------------------------


def print_bundles(info: GatewayInfo) -> None:
    for bundle in info.bundles:
        _answers.print(
            f"[bold]{escape(bundle.name)}[/]  {bundle.resolution} x {bundle.resolution} pixels, "
            f"code {bundle.layers} x {bundle.code_size}{_rows_text(bundle)}, {bundle.refine.steps} refinement steps"
            + "".join(f", {name} {steps}" for name, steps in bundle.quality_steps.items()),
            highlight=False,
        )
        if bundle.summary:
            _answers.print(escape(bundle.summary), style="dim", highlight=False)
        _answers.print(_directions_table(bundle))
        for preset in bundle.presets.values():
            made_of = ", ".join(f"{edit.direction} {edit.strength:+g}" for edit in preset.edits)
            _answers.print(f"  preset [bold]{escape(preset.name)}[/]: {escape(made_of)}", highlight=False)
        for label in bundle.labels.values():
            read = "" if label.held_out is None else f", in edits too (read with {_held_out_text(label)})"
            _answers.print(
                f"  label [bold]{escape(label.name)}[/]: {label.frequency:.0%} of pictures{read}",
                highlight=False,
            )
    if not info.bundles:
        say("This gateway serves no bundle.")


def _rows_text(bundle: Bundle) -> str:
    groups = {"detail": bundle.detail, "noise": bundle.noise}
    return "".join(f" and {group.rows} rows of {name}" for name, group in groups.items() if group)


def _directions_table(bundle: Bundle) -> Table:
    table = Table("direction", "label", box=None, padding=(0, 2), header_style="bold")
    table.add_column("range", justify="right")
    table.add_column("layers")
    table.add_column("held out", justify="right")
    table.add_column("conditioned on")
    for direction in bundle.directions.values():
        low, high = direction.range
        table.add_row(
            escape(direction.name),
            escape(direction.label),
            f"{low:+.1f} .. {high:+.1f}",
            _layers_text(direction.layers),
            _held_out_text(direction),
            escape(", ".join(direction.conditioned_on)) or "-",
        )
    return table


# --- JSON --------------------------------------------------------------------------------------------


def outcome_as_json(result: Inversion | Edited) -> dict[str, Any]:
    """The figures of a result, without picture and code."""
    return {
        "bundle": result.bundle,
        "domain_score": result.domain_score,
        "identity_score": result.identity_score,
        "losses": None if result.losses is None else asdict(result.losses),
        "area": asdict(result.area) if isinstance(result, Edited) and result.area else None,
        "strokes": asdict(result.strokes) if isinstance(result, Edited) and result.strokes else None,
        "stage_seconds": dict(result.stage_seconds),
        "request_id": result.request_id,
    }


def frames_as_json(frames: Sequence[InterpolationFrame], outputs: Sequence[Path]) -> list[dict[str, Any]]:
    return [
        {
            "index": frame.index,
            "position": frame.position,
            "output": str(path),
            "bundle": frame.bundle,
            "domain_score": frame.domain_score,
            "energy": frame.energy,
            "length": frame.length,
        }
        for frame, path in zip(frames, outputs, strict=True)
    ]


def print_result(result: Mixed | Diffused, output: Path, *, as_json: bool) -> None:
    """Prints the figures of a result that was written to `output`."""
    if not as_json:
        far = [f"{distance:.3f}" for distance in result.distances] if isinstance(result, Mean) else []
        told = f", from its sources {', '.join(far)}" if far else ""
        if result.identity_score is not None:
            told += f", identity score {result.identity_score:.2f}"
        say(f"{output} (domain score {result.domain_score:.2f}{told}), its code beside it")
        return
    figures = {
        "output": str(output),
        "bundle": result.bundle,
        "domain_score": result.domain_score,
        "identity_score": result.identity_score,
        "losses": asdict(result.losses) if isinstance(result, Diffused) else None,
        "area": asdict(result.area) if isinstance(result, Mixed) and result.area else None,
        **({"distances": result.distances} if isinstance(result, Mean) else {}),
        "stage_seconds": dict(result.stage_seconds),
        "request_id": result.request_id,
    }
    print_json(figures)


def samples_as_json(samples: Sequence[Sample], outputs: Sequence[Path]) -> list[dict[str, Any]]:
    return [
        {"seed": sample.seed, "output": str(path), "bundle": sample.bundle}
        for sample, path in zip(samples, outputs, strict=True)
    ]


def error_as_json(error: Exception) -> dict[str, Any]:
    if isinstance(error, OutputError):
        return {"message": str(error), "reason": "unwritable_result"}
    if isinstance(error, (OSError, ValueError, TypeError)) and not isinstance(error, IndomainError):
        text = error.strerror or str(error) if isinstance(error, OSError) else str(error)
        return {"message": text, "reason": "unreadable_file"}
    if not isinstance(error, IndomainError):
        return {"message": f"{type(error).__name__}: {error}", "reason": "unforeseen"}
    return {
        "message": error.message,
        "reason": error.reason,
        "stage": error.stage,
        "retryable": error.retryable,
        "request_id": error.request_id,
    }


# --- texts -------------------------------------------------------------------------------------------


def _with_stage(error: IndomainError) -> str:
    return f"{error.message} (in {error.stage})" if error.stage else error.message


def duration(seconds: float) -> str:
    """`1 h 02 min`, `3 min 20 s`, `4 s`."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 60} min {whole % 60:02d} s" if whole >= 60 else f"{whole} s"


def _layers_text(layers: Sequence[int]) -> str:
    """`0-3, 6`: consecutive layers are joined."""
    runs: list[list[int]] = []
    for layer in sorted(layers):
        if runs and layer == runs[-1][1] + 1:
            runs[-1][1] = layer
        else:
            runs.append([layer, layer])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs) or "all"


def _held_out_text(direction: Direction | Label) -> str:
    if direction.held_out is None:
        return "-"
    return f"{direction.held_out.metric} {direction.held_out.value:.2f}"
