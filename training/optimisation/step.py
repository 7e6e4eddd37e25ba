"""What training steps of all kinds share: processes and precision, seeds, the batch, one step of an optimiser."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, TypeVar

import torch
from lightning.fabric import Fabric
from torch import Tensor, nn

from training.data.pictures import PictureSource, on_device
from training.optimisation.precision import faster_in_bfloat16

Placed = TypeVar("Placed", bound=nn.Module)
Precision = Literal["bf16-mixed", "32-true"]


@dataclass
class Compute:
    """Where and how to compute (Lightning Fabric)."""

    accelerator: str = "auto"
    """cpu, cuda or auto."""
    devices: int = 1
    """Processes on this host, one a device; `torchrun` sets its own number."""
    precision: Literal["auto"] | Precision = "auto"
    """bf16-mixed or 32-true. auto: the first on a GPU, and on a processor that is faster in it, which is tried."""
    seed: int = 0
    """Seed of weights, order of pictures, noise and augmentation."""
    graphs: bool = True
    """On one GPU: capture the generator's step as a CUDA graph."""

    @property
    def chosen_precision(self) -> Precision:
        """The precision, chosen where it is auto."""
        if self.precision != "auto":
            return self.precision
        if self.accelerator != "cpu" and torch.cuda.is_available():
            return "bf16-mixed"
        return "bf16-mixed" if faster_in_bfloat16() else "32-true"

    def fabric(self) -> Fabric:
        """Start the processes and return Fabric."""
        strategy = "ddp" if self.devices > 1 else "auto"
        fabric = Fabric(
            accelerator=self.accelerator,
            devices=self.devices,
            precision=self.chosen_precision,
            strategy=strategy,
        )
        fabric.launch()
        if fabric.device.type == "cuda":
            # cuDNN chooses by its rules: trying its kernels took a minute at the start, and no step was faster for it.
            torch.set_float32_matmul_precision("high")  # what bfloat16 leaves to float32, as R1, in TF32
        return fabric

    def captures(self, fabric: Fabric) -> bool:
        """Whether steps are captured as CUDA graphs."""
        return self.graphs and fabric.device.type == "cuda" and fabric.world_size == 1


def place(network: Placed, fabric: Fabric) -> Placed:
    """Bring a network to the run's device, channels last; return it.

    On a GPU in mixed precision its frozen pretrained parts become bfloat16, instead of being cast at every call.
    """
    network.to(fabric.device, memory_format=torch.channels_last)
    with fabric.autocast():
        mixed = torch.is_autocast_enabled(fabric.device.type)
    for module in network.modules():
        if mixed and fabric.device.type == "cuda" and getattr(module, "pretrained", False):
            module.to(torch.bfloat16)
    return network


def seed_step(seed: int, step: int, fabric: Fabric) -> torch.Generator:
    """Seed all randomness of a step from (seed, step, process), so that a resumed run equals an undisturbed one.

    The random generator that is returned is the same in every process. Pictures and z are drawn from it for all
    processes together, and each takes its `share`, so that N processes see the batch that one would see. Noise and
    augmentation come from each process's own seed.
    """
    base = (seed * 1_000_003 + step) * 1_009
    torch.manual_seed(base + fabric.global_rank)
    return torch.Generator().manual_seed(base + 1_008)


def share(fabric: Fabric, drawn: Tensor) -> Tensor:
    """This process's part of what was drawn for all: [processes * N, ...] -> [N, ...]."""
    return drawn.chunk(fabric.world_size)[fabric.global_rank]


class BatchConfig(Protocol):
    """The settings that a step's batch depends on."""

    batch: int
    mirror: bool
    compute: Compute


class Batch(NamedTuple):
    """This process's part of a step's batch."""

    pictures: Tensor
    """float32 [N, 3, H, W]"""
    z: Tensor
    """float32 [N, z_size]"""
    chosen: Tensor
    """int64 [N], which pictures they are; on the host"""


def draw_batch(config: BatchConfig, pictures: PictureSource, z_size: int, step: int, fabric: Fabric) -> Batch:
    """Seed the step and draw its batch."""
    common = seed_step(config.compute.seed, step, fabric)
    total = config.batch * fabric.world_size
    index = share(fabric, torch.randint(len(pictures), (total,), generator=common))
    flip = share(fabric, torch.rand(total, generator=common) < (0.5 if config.mirror else 0.0))
    z = share(fabric, torch.randn(total, z_size, generator=common))
    return Batch(pictures.batch(index, mirror=flip).to(fabric.device), on_device(z, fabric.device), index)


def update(fabric: Fabric, loss: Tensor, *optimisers: torch.optim.Optimizer) -> None:
    """One step of each optimiser down `loss`, gradients averaged over the processes."""
    for optimiser in optimisers:
        optimiser.zero_grad(set_to_none=True)
    fabric.backward(loss)
    groups = [group for optimiser in optimisers for group in optimiser.param_groups]
    parameters = [p for group in groups for p in group["params"] if p.grad is not None]
    average_gradients(fabric, parameters)
    mend_gradients([p.grad for p in parameters if p.grad is not None])
    for optimiser in optimisers:
        optimiser.step()


def mend_gradients(gradients: list[Tensor]) -> None:
    """Replace what is not finite: a single overflow in bfloat16 must not end a run of hours."""
    if gradients and gradients[0].is_cuda:
        # Laid end to end they are a few kernels, where one by one they are hundreds. Gradients are dense, so each is
        # taken as it lies in memory, whatever its layout is.
        lying = [gradient.as_strided((gradient.numel(),), (1,)) for gradient in gradients]
        flat = torch.cat(lying)
        torch.nan_to_num(flat, nan=0.0, posinf=1e5, neginf=-1e5, out=flat)
        torch._foreach_copy_(lying, flat.split([gradient.numel() for gradient in gradients]))
        return
    for gradient in gradients:
        torch.nan_to_num(gradient, nan=0.0, posinf=1e5, neginf=-1e5, out=gradient)


def average_gradients(fabric: Fabric, parameters: Iterable[nn.Parameter]) -> None:
    """Average gradients over the processes: one all-reduce of all of them, laid end to end."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    if fabric.world_size == 1 or not gradients:
        return
    flat = fabric.all_reduce(torch.cat([g.flatten() for g in gradients]), reduce_op="mean")
    for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))
