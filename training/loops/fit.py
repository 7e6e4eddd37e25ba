"""The loop around every kind of training: steps, figures, checkpoints, sample grids, progress, resuming, the clock.

What a step does is the trainer's business; `gan.py` and `inversion.py` have one each.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from lightning.fabric import Fabric
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from torch import Tensor, nn

from training.run_folders.checkpoint import save_checkpoint, trained_state
from training.run_folders.compact import COMPACT_FILE, is_compact, save_compact
from training.run_folders.run_folder import RunFolder

# Steps between two lines of figures. On a GPU figures stay on the device until then: reading one waits for the step.
LOG_STEPS = 50


class Clock:
    """Says when a run must stop, so that what it still has to write is written in time.

    For machines that are lent for minutes, and for queues that kill what runs for too long.
    """

    FIRST_WRITING = 0.1
    """Share of the time that is kept for writing, until it is known how long writing takes."""
    SLACK = 1.5
    """Writing may take that many times what it took before."""

    def __init__(self, seconds: float | None, now: Callable[[], float] = time.monotonic) -> None:
        """Start the clock. A run without a limit has `seconds` of None."""
        self.seconds, self.now = seconds, now
        self.began = self.last = now()
        self.longest_step = self.longest_writing = 0.0

    def stepped(self) -> None:
        """Note that a step has ended."""
        self.longest_step = max(self.longest_step, self._lap())

    def wrote(self) -> None:
        """Note that a checkpoint and its samples have been written."""
        self.longest_writing = max(self.longest_writing, self._lap())

    def share(self) -> float:
        """The share of the time to train in that has passed, 0..1; 0 without a limit."""
        if self.seconds is None:
            return 0.0
        return min((self.now() - self.began) / max(self.seconds - self._writing(), 1e-9), 1.0)

    def _lap(self) -> float:
        before, self.last = self.last, self.now()
        return self.last - before

    def is_up(self) -> bool:
        """Whether another step and the writing after it would take too long."""
        if self.seconds is None:
            return False
        return self.now() - self.began + self.longest_step + self._writing() >= self.seconds

    def _writing(self) -> float:
        """The seconds that are kept for writing."""
        return self.SLACK * self.longest_writing or self.FIRST_WRITING * (self.seconds or 0.0)


class FitConfig(Protocol):
    """The settings that the loop itself depends on."""

    runs: Path
    resume: Path | None
    images: int
    finish: bool
    snapshot_steps: int
    compact: bool


@dataclass(frozen=True)
class Snapshot:
    """What a trainer shows beside a checkpoint."""

    images: Tensor
    """float [N, 3, H, W] in [-1, 1], for the sample grid"""
    figures: Mapping[str, float] = field(default_factory=dict)
    """Figures that are too dear to measure at every step."""


class Trainer(Protocol):
    """The state of a training run and its step.

    A trainer that resumes has loaded its checkpoint before `fit` begins: `step` and `seen` say how far it was.
    """

    kind: str
    """Kind of the run, as the run folder's name and checkpoint.json have it: "gan", "inversion"."""
    fabric: Fabric
    step: int
    """Steps done."""
    seen: int
    """Pictures shown so far, by all processes."""
    done: float
    """Share of the run that is over, 0..1, by which rates fall; `fit` sets it before each step."""

    @property
    def name(self) -> str:
        """Name of the pipeline that is trained."""
        ...

    def train_step(self) -> dict[str, Tensor]:
        """Do one step, move `step` and `seen` on, and return its figures: scalars on the device."""
        ...

    def progress(self, figures: Mapping[str, float]) -> str:
        """The figures that were read last, in a few words, for the progress bar."""
        ...

    def meta(self) -> dict[str, Any]:
        """What checkpoint.json says besides kind, name, step and pictures seen."""
        ...

    def networks(self) -> dict[str, nn.Module]:
        """Networks of a checkpoint, by their names there."""
        ...

    def optimisers(self) -> dict[str, torch.optim.Optimizer]:
        """Optimisers of a checkpoint, by their names there."""
        ...

    def snapshot(self) -> Snapshot:
        """Sample pictures, and figures on pictures that were not trained on."""
        ...


def fit(trainer: Trainer, config: FitConfig, about: str, clock: Clock) -> Path:
    """Train until `config.images` pictures were shown or the time is up; return the run folder, in every process.

    `about` says in a few words what is trained on. Only the first process writes. A run that goes on from a compact
    checkpoint gets a new folder.
    """
    fabric, run = trainer.fabric, None
    if fabric.is_global_zero:
        goes_on = config.resume and not is_compact(config.resume)
        run = (
            RunFolder.resume(config.resume, trainer.step)
            if config.resume and goes_on
            else RunFolder.create(config.runs, f"{trainer.kind}-{trainer.name}", config)
        )
        fabric.print(f"{about}; run folder {run.folder}")
    with progress_bar(fabric) as bar:
        task = bar.add_task(trainer.kind, total=config.images, completed=trainer.seen, figures="")
        over = trainer.seen >= config.images
        while not over:
            trainer.done = min(trainer.seen / config.images, 1.0)
            if config.finish:
                trainer.done = max(trainer.done, fabric.broadcast(clock.share()))
            figures = trainer.train_step()
            log = trainer.step % LOG_STEPS == 0
            if log or fabric.device.type == "cpu":
                bar.update(task, figures=trainer.progress(numbers(figures)))
            bar.update(task, completed=trainer.seen)
            clock.stepped()
            over = trainer.seen >= config.images or time_is_up(clock, fabric)
            if run and (log or over):
                run.log(trainer.step, {"images": trainer.seen, **numbers(figures)})
            if run and (trainer.step % config.snapshot_steps == 0 or over):
                save_snapshot(trainer, run)
                if config.compact:
                    states = {name: trained_state(network) for name, network in trainer.networks().items()}
                    save_compact(run.folder / COMPACT_FILE, checkpoint_meta(trainer), states)
                clock.wrote()
    fabric.barrier()
    return Path(fabric.broadcast(str(run.folder) if run else ""))


def numbers(figures: Mapping[str, Tensor]) -> dict[str, float]:
    """Read figures from the device. This waits until the step that made them is done."""
    return {name: figure.item() for name, figure in figures.items()}


def time_is_up(clock: Clock, fabric: Fabric) -> bool:
    """Whether the run must end now. The first process decides for all of them."""
    if clock.seconds is None or fabric.world_size == 1:
        return clock.is_up()
    return bool(fabric.broadcast(clock.is_up()))


def checkpoint_meta(trainer: Trainer) -> dict[str, Any]:
    """What checkpoint.json says."""
    begins = {"kind": trainer.kind, "name": trainer.name, "step": trainer.step, "images_seen": trainer.seen}
    return begins | trainer.meta()


def save_snapshot(trainer: Trainer, run: RunFolder) -> None:
    """Write the checkpoint, then a grid of samples and what was measured for it."""
    meta = checkpoint_meta(trainer)
    save_checkpoint(run.folder / "checkpoint", meta, trainer.networks(), trainer.optimisers())
    snapshot = trainer.snapshot()
    if snapshot.figures:
        run.log(trainer.step, snapshot.figures)
    run.save_grid(f"{trainer.step:07d}", snapshot.images)


def progress_bar(fabric: Fabric) -> Progress:
    """Progress in pictures, shown by the first process."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}"),
    )
    return Progress(*columns, disable=not fabric.is_global_zero, refresh_per_second=1)
