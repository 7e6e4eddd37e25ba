"""How fast the generator is trained here: pictures a second of each way, and the share of what the device could do.

`python -m benchmarks.training` trains on random pictures for some steps in each way and prints one table. The
arithmetic of a step without R1 is counted (products and sums of its convolutions and matrix products, forward and
backward). The limit is a large matrix product, timed on the same device in the same precision. `--profile` prints the
dearest kernels of a step.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
import tyro
from lightning.fabric import Fabric
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.graphs import markdown_table
from training.data.pictures import Pictures
from training.loops.gan import GanTrainer
from training.loops.gan_config import GanConfig
from training.networks import layers
from training.networks.generator import GeneratorConfig
from training.optimisation.step import Compute


@dataclass
class TrainingSpeedConfig:
    """Measure pictures a second of the generator's training."""

    generator: GeneratorConfig = field(
        default_factory=lambda: GeneratorConfig(128, (256, 256, 256, 192, 96, 48), mapping_depth=4)
    )
    discriminators: tuple[str, ...] = ("projected", "stylegan2", "both")
    """Image discriminators to train with."""
    batch: int = 0
    """Pictures a step; by default 32 on a GPU and 8 on a CPU."""
    steps: int = 0
    """Steps to time; by default 64 on a GPU and 4 on a CPU. They include lazy R1 in its share of steps."""
    coverage: bool = False
    """Train the encoder beside the generator too."""
    encoder_channels: tuple[int, ...] = (48, 96, 160, 192, 224, 256)
    """Feature maps of that encoder."""
    encoder_bottleneck: int = 32
    """Its feature maps before the fully connected layer."""
    profile: bool = False
    """Also print the dearest kernels of each way."""
    compute: Compute = field(default_factory=Compute)


@dataclass(frozen=True)
class Way:
    """A way to compute the same step."""

    name: str
    phases: bool
    """Convolutions that change the side are computed on phases."""
    graphs: bool
    """The step is captured as a CUDA graph."""


CPU_WAYS = (Way("plain", phases=False, graphs=False), Way("on phases", phases=True, graphs=False))
GPU_WAYS = (
    Way("plain, eager", phases=False, graphs=False),
    Way("on phases, eager", phases=True, graphs=False),
    Way("on phases, captured", phases=True, graphs=True),
)


def main(config: TrainingSpeedConfig) -> None:
    """Measure every way with every discriminator; print the table."""
    fabric = config.compute.fabric()
    on_gpu = fabric.device.type == "cuda"
    batch, steps = config.batch or (32 if on_gpu else 8), config.steps or (64 if on_gpu else 4)
    limit = matrix_product_rate(fabric)
    rows = []
    for discriminator in config.discriminators:
        for way in GPU_WAYS if on_gpu else CPU_WAYS:
            with convolutions(on_phases=way.phases):
                trainer = start(config, fabric, discriminator, batch, way)
                work = step_arithmetic(trainer) / batch
                rate = pictures_per_second(trainer, steps)
                if config.profile:
                    print(f"{discriminator}, {way.name}:\n{dearest_kernels(trainer)}")
            share = f"{rate * work / limit:.1%}"
            rows.append([discriminator, way.name, f"{rate:.4g}", f"{work / 1e9:.3g}", share])
    device = torch.cuda.get_device_name() if on_gpu else f"CPU, {torch.get_num_threads()} threads"
    print(f"{device}; {config.compute.chosen_precision}; {config.generator.resolution} px; batch {batch}")
    print(f"limit: {limit / 1e12:.3f} TFLOP/s in a large matrix product")
    header = ["discriminator", "way", "pictures/s", "GFLOP a picture", "share of the limit"]
    print(markdown_table(header, rows))


@contextmanager
def convolutions(*, on_phases: bool) -> Iterator[None]:
    """Within it convolutions that change the side have that form, whatever the device is."""
    usual = layers.on_phases
    layers.on_phases = lambda x: on_phases
    try:
        yield
    finally:
        layers.on_phases = usual


def start(
    config: TrainingSpeedConfig, fabric: Fabric, discriminator: str, batch: int, way: Way
) -> GanTrainer:
    """A run on random pictures that has its moments, its graphs and the library's choices of kernels."""
    side = config.generator.resolution
    images = torch.randint(0, 256, (256, 3, side, side), dtype=torch.uint8, device=fabric.device)
    gan = GanConfig(
        Path(), generator=config.generator, discriminator=discriminator, batch=batch, augmentation=0.2,
        images=10**9, coverage_weight=10.0 if config.coverage else 0.0, encoder_channels=config.encoder_channels,
        encoder_bottleneck=config.encoder_bottleneck,
        compute=replace(config.compute, graphs=way.graphs),
    )  # fmt: skip
    trainer = GanTrainer(gan, fabric, Pictures(images, [""] * len(images), {}))
    trainer.start_coverage()
    return trainer


def step_arithmetic(trainer: GanTrainer) -> float:
    """Floating-point operations of a step without R1, forward and backward."""
    trainer.step += 1  # steps of a multiple of the interval take R1
    captures, trainer.optimise.capture = trainer.optimise.capture, False
    with FlopCounterMode(display=False) as counter:
        trainer.train_step()
    trainer.optimise.capture = captures
    return float(counter.get_total_flops())


def pictures_per_second(trainer: GanTrainer, steps: int) -> float:
    """Time steps after as many as a graph needs to be captured."""
    if trainer.optimise.capture:
        while len(trainer.optimise.graphs) < (2 if trainer.image.regularisation else 1):
            trainer.train_step()
    trainer.train_step()
    wait(trainer)
    began = time.perf_counter()
    for _ in range(steps):
        trainer.train_step()
    wait(trainer)
    return steps * trainer.config.batch / (time.perf_counter() - began)


def wait(trainer: GanTrainer) -> None:
    """Wait until the device has done all that it was given."""
    if trainer.fabric.device.type == "cuda":
        torch.cuda.synchronize()


def matrix_product_rate(fabric: Fabric) -> float:
    """Floating-point operations a second in a large matrix product, in the run's precision."""
    on_gpu = fabric.device.type == "cuda"
    size, repeats = (8192, 20) if on_gpu else (1024, 3)
    a = torch.randn(size, size, device=fabric.device)
    b = torch.randn(size, size, device=fabric.device)
    with fabric.autocast():
        dtype = (a[:1] @ b[:, :1]).dtype
    a, b = a.to(dtype), b.to(dtype)

    def timed(run: Callable[[], object]) -> float:
        began = time.perf_counter()
        for _ in range(repeats):
            run()
        if on_gpu:
            torch.cuda.synchronize()
        return time.perf_counter() - began

    timed(lambda: a @ b)
    return 2 * size**3 * repeats / min(timed(lambda: a @ b) for _ in range(3))


def dearest_kernels(trainer: GanTrainer, rows: int = 15) -> str:
    """A table of the kernels that take most of a step."""
    on_gpu = trainer.fabric.device.type == "cuda"
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if on_gpu else [])
    with profile(activities=activities) as measured:
        trainer.train_step()
        wait(trainer)
    order = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    return measured.key_averages().table(sort_by=order, row_limit=rows)


if __name__ == "__main__":
    main(tyro.cli(TrainingSpeedConfig, prog="python -m benchmarks.training"))
