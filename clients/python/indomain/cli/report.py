"""How results and errors look: tables and progress for people on standard error and output, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from indomain import (
    Between,
    Bundle,
    Diffused,
    Direction,
    Edited,
    GatewayInfo,
    IndomainError,
    Inversion,
    Mixed,
    Sample,
)
from indomain.cli.photos import Job

# Answers go to standard output, all else to standard error, so that a pipe gets nothing but the answer.
_answers = Console()
_notes = Console(stderr=True)


def say(text: str) -> None:
    """A line beside the answer."""
    _notes.print(escape(text), highlight=False, soft_wrap=True)


def complain(text: str, hint: str = "") -> None:
    """What went wrong, and on a second line what to do."""
    _notes.print(f"[bold red]error:[/] {escape(text)}", highlight=False, soft_wrap=True)
    if hint:
        _notes.print(escape(hint), highlight=False, soft_wrap=True)


def complain_of(error: IndomainError) -> None:
    """An error of the gateway, with the id under which its log has it."""
    complain(_with_stage(error), hint=f"request id: {error.request_id}")


def print_json(value: object) -> None:
    """One JSON document, undecorated."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


@contextmanager
def progress(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar for `total` pictures, shown on a terminal only; what it yields moves it on."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    shown = _notes.is_terminal and total > 1
    with Progress(*columns, console=_notes, transient=True, disable=not shown) as bar:
        task = bar.add_task(title, total=total)
        yield lambda count: bar.advance(task, count)


# --- tables ------------------------------------------------------------------------------------------


def print_bundles(info: GatewayInfo) -> None:
    for bundle in info.bundles:
        _answers.print(
            f"[bold]{escape(bundle.name)}[/]  {bundle.resolution} x {bundle.resolution} pixels, "
            f"code {bundle.layers} x {bundle.code_size}, {bundle.refine.steps} refinement steps"
            + "".join(f", {name} {steps}" for name, steps in bundle.quality_steps.items()),
            highlight=False,
        )
        if bundle.summary:
            _answers.print(escape(bundle.summary), style="dim", highlight=False)
        _answers.print(_directions_table(bundle))
        for preset in bundle.presets.values():
            made_of = ", ".join(f"{edit.direction} {edit.strength:+g}" for edit in preset.edits)
            _answers.print(f"  preset [bold]{escape(preset.name)}[/]: {escape(made_of)}", highlight=False)
    if not info.bundles:
        say("This gateway serves no bundle.")


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


def print_outcomes(
    done: Sequence[tuple[Job, Inversion | Edited]], failed: Sequence[tuple[Job, Exception]]
) -> None:
    if done:
        table = Table(box=None, padding=(0, 2), header_style="bold")
        for title in ("picture", "written to"):
            table.add_column(title, overflow="fold")  # a name that is cut short is of no use
        for title in ("domain score", "mse before", "after", "steps", "seconds"):
            table.add_column(title, justify="right")
        for job, result in done:
            losses = result.losses
            table.add_row(
                escape(str(job.source)),
                escape(str(job.output)),
                f"{result.domain_score:.2f}",
                "-" if losses is None else f"{losses.pixel_mse_before:.4f}",
                "-" if losses is None else f"{losses.pixel_mse_after:.4f}",
                "-" if losses is None else str(losses.steps_done),
                f"{sum(result.stage_seconds.values()):.2f}",
            )
        _answers.print(table)
    for job, error in failed:
        hint = f"request id: {error.request_id}" if isinstance(error, IndomainError) else ""
        complain(f"{job.source}: {_error_text(error)}", hint=hint)


# --- JSON --------------------------------------------------------------------------------------------


def info_as_json(info: GatewayInfo) -> dict[str, Any]:
    return asdict(info)


def outcomes_as_json(
    done: Sequence[tuple[Job, Inversion | Edited]], failed: Sequence[tuple[Job, Exception]]
) -> list[dict[str, Any]]:
    return [
        {
            "source": str(job.source),
            "output": str(job.output),
            "bundle": result.bundle,
            "domain_score": result.domain_score,
            "losses": None if result.losses is None else asdict(result.losses),
            "area": asdict(result.area) if isinstance(result, Edited) and result.area else None,
            "stage_seconds": dict(result.stage_seconds),
            "request_id": result.request_id,
        }
        for job, result in done
    ] + [{"source": str(job.source), "error": _error_as_json(error)} for job, error in failed]


def between_as_json(found: Sequence[Between], outputs: Sequence[Path]) -> list[dict[str, Any]]:
    return [
        {
            "index": picture.index,
            "position": picture.position,
            "output": str(path),
            "bundle": picture.bundle,
            "domain_score": picture.domain_score,
        }
        for picture, path in zip(found, outputs, strict=True)
    ]


def result_as_json(result: Mixed | Diffused, output: Path) -> dict[str, Any]:
    return {
        "output": str(output),
        "bundle": result.bundle,
        "domain_score": result.domain_score,
        "losses": asdict(result.losses) if isinstance(result, Diffused) else None,
        "stage_seconds": dict(result.stage_seconds),
        "request_id": result.request_id,
    }


def samples_as_json(samples: Sequence[Sample], outputs: Sequence[Path]) -> list[dict[str, Any]]:
    return [
        {"seed": sample.seed, "output": str(path), "bundle": sample.bundle}
        for sample, path in zip(samples, outputs, strict=True)
    ]


def _error_as_json(error: Exception) -> dict[str, Any]:
    if not isinstance(error, IndomainError):
        return {"message": str(error), "reason": "unreadable_file"}
    return {
        "message": error.message,
        "reason": error.reason,
        "stage": error.stage,
        "retryable": error.retryable,
        "request_id": error.request_id,
    }


# --- texts -------------------------------------------------------------------------------------------


def _error_text(error: Exception) -> str:
    if isinstance(error, IndomainError):
        return _with_stage(error)
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)


def _with_stage(error: IndomainError) -> str:
    return f"{error.message} (in {error.stage})" if error.stage else error.message


def _layers_text(layers: Sequence[int]) -> str:
    """`0-3, 6`: runs of neighbours are joined."""
    runs: list[list[int]] = []
    for layer in sorted(layers):
        if runs and layer == runs[-1][1] + 1:
            runs[-1][1] = layer
        else:
            runs.append([layer, layer])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs) or "all"


def _held_out_text(direction: Direction) -> str:
    if direction.held_out is None:
        return "-"
    return f"{direction.held_out.metric} {direction.held_out.value:.2f}"
