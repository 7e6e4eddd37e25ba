"""The loop around every kind of training: steps, figures, checkpoints, sample grids, progress, resuming.

What a step does is the trainer's business; `gan.py` and `inversion.py` have one each.
"""

from __future__ import annotations

from collections.abc import Mapping
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

from training.run_folders.checkpoint import save_checkpoint
from training.run_folders.run_folder import RunFolder

LOG_STEPS = 50  # between two lines of figures


class FitConfig(Protocol):
    """The settings that the loop itself depends on."""

    runs: Path
    resume: Path | None
    images: int
    snapshot_steps: int


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

    @property
    def name(self) -> str:
        """Name of the pipeline that is trained."""
        ...

    def train_step(self) -> dict[str, float]:
        """Do one step, move `step` and `seen` on, and return its figures."""
        ...

    def progress(self, figures: Mapping[str, float]) -> str:
        """The figures of a step in a few words, for the progress bar."""
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


def fit(trainer: Trainer, config: FitConfig, about: str) -> Path:
    """Train until `config.images` pictures were shown; return the run folder, in every process.

    `about` says in a few words what is trained on. Only the first process writes.
    """
    fabric, run = trainer.fabric, None
    if fabric.is_global_zero:
        run = (
            RunFolder.resume(config.resume, trainer.step)
            if config.resume
            else RunFolder.create(config.runs, f"{trainer.kind}-{trainer.name}", config)
        )
        fabric.print(f"{about}; run folder {run.folder}")
    with progress_bar(fabric) as bar:
        task = bar.add_task(trainer.kind, total=config.images, completed=trainer.seen, figures="")
        while trainer.seen < config.images:
            figures = trainer.train_step()
            bar.update(task, completed=trainer.seen, figures=trainer.progress(figures))
            done = trainer.seen >= config.images
            if run and (trainer.step % LOG_STEPS == 0 or done):
                run.log(trainer.step, {"images": trainer.seen, **figures})
            if run and (trainer.step % config.snapshot_steps == 0 or done):
                save_snapshot(trainer, run)
    fabric.barrier()
    return Path(fabric.broadcast(str(run.folder) if run else ""))


def save_snapshot(trainer: Trainer, run: RunFolder) -> None:
    """Write the checkpoint, then a grid of samples and what was measured for it."""
    meta = {
        "kind": trainer.kind, "name": trainer.name, "step": trainer.step, "images_seen": trainer.seen
    } | trainer.meta()  # fmt: skip
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
