"""What both training loops share: processes and precision, seeding, one optimiser step, the progress bar."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

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


@dataclass
class Compute:
    """Where and how to compute (Lightning Fabric)."""

    accelerator: str = "auto"
    """cpu, cuda or auto."""
    devices: int = 1
    """Processes on this host, one a device; `torchrun` sets its own number."""
    precision: Literal["bf16-mixed", "32-true"] = "bf16-mixed"
    """bf16-mixed or 32-true."""
    seed: int = 0
    """Seed of weights, order of pictures, noise and augmentation."""

    def fabric(self) -> Fabric:
        """Start the processes and return Fabric."""
        strategy = "ddp" if self.devices > 1 else "auto"
        fabric = Fabric(
            accelerator=self.accelerator, devices=self.devices, precision=self.precision, strategy=strategy
        )
        fabric.launch()
        return fabric


def seed_step(seed: int, step: int, rank: int) -> None:
    """All randomness of a step follows from (seed, step, process), so a resumed run equals an undisturbed one."""
    torch.manual_seed((seed * 1_000_003 + step) * 1_009 + rank)


def update(fabric: Fabric, loss: Tensor, *optimisers: torch.optim.Optimizer) -> None:
    """One step of each optimiser down `loss`, gradients averaged over the processes."""
    for optimiser in optimisers:
        optimiser.zero_grad(set_to_none=True)
    fabric.backward(loss)
    groups = [group for optimiser in optimisers for group in optimiser.param_groups]
    parameters = [p for group in groups for p in group["params"] if p.grad is not None]
    average_gradients(fabric, parameters)
    for p in parameters:
        if p.grad is not None:  # a single overflow in bfloat16 must not end a run of hours
            torch.nan_to_num(p.grad, nan=0.0, posinf=1e5, neginf=-1e5, out=p.grad)
    for optimiser in optimisers:
        optimiser.step()


def average_gradients(fabric: Fabric, parameters: Iterable[nn.Parameter]) -> None:
    """Average gradients over the processes: one all-reduce of all of them, laid end to end."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    if fabric.world_size == 1 or not gradients:
        return
    flat = fabric.all_reduce(torch.cat([g.flatten() for g in gradients]), reduce_op="mean")
    for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


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
