"""`make bench-gpu`: what a GPU does for encoding, decoding, refinement and whole inversions, in a few minutes of it.

ONNX Runtime's CUDA provider, as the embedded back end uses it, in float32 and float16, beside PyTorch eager and
compiled, with the same weights: those of the shipped bundle at 128 pixels, random ones of idinvert's shape at 256, of
StyleGAN2's configuration F at others. Arrays of the processor go in and come out, so copies to and from the GPU count.
Then requests a second through a gateway with the shipped bundle.

A JSON file and a table beside it are written anew after each cell, so that a run that is cut short leaves what it had.
What is not there, fails or has no time left is left out with a sentence. `--device cpu --resolutions 32 --batches 1 2`
stands in for a GPU.
"""

from __future__ import annotations

import asyncio
import json
import platform
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import grpc
import numpy as np
import onnxruntime
import torch
import tyro

from benchmarks.gateway import running_gateway
from benchmarks.gpu_ways import (
    PRECISIONS,
    OnnxRuntimeWay,
    Side,
    Step,
    TorchWay,
    exported,
    make_side,
    sessions_of,
)
from benchmarks.graphs import ROOT, Array, markdown_table
from benchmarks.load import waiting_callers
from benchmarks.targets import CHANNEL, KINDS, GatewayTarget, Work
from serving.backends.engines.gpu import CUDA, Device, has_provider
from serving.jobs import EditStep
from serving.repository.reader import read_bundles
from training.refinement.refinement import RefinementConfig

# A step is timed for so long, or so many times as the settings say.
MOST_S = 1.0


@dataclass
class GpuConfig:
    """Measure a GPU; every time is of one run."""

    device: Literal["cuda", "cpu", "none"] = "cuda"
    """cpu stands in for a GPU: it shows soon that everything runs, with few rounds, callers and steps. none: graphs are
    exported only, which takes minutes that a GPU need not wait for."""
    resolutions: tuple[int, ...] = (128, 256, 1024)
    """Pictures' sides, pixels."""
    batches: tuple[int, ...] = (1, 8, 32)
    """Pictures at once."""
    rounds: int = 5
    """Times that each step is timed, if it is short, after two that warm up; the median counts."""
    steps: int = 25
    """Refinement steps of an inversion."""
    compile: bool = True
    """Also PyTorch's compiler, which takes most of the time."""
    minutes: float = 9.0
    """What would begin later is left out."""
    seconds: float = 4.0
    """Of load on the gateway for each kind of request; 0: no gateway."""
    callers: int = 32
    """How many wait for the gateway's answers at once."""
    graphs: Path = Path("runs/gpu-graphs")
    """Folder for the exported graphs; those that are there are taken."""
    to: Path = Path("runs/gpu.json")
    """File for the figures. The table lies beside it, with the ending .md."""


@dataclass
class Report:
    """What was measured and what was not, and where it is written."""

    file: Path
    ends_s: float
    about: dict[str, Any]
    cells: list[dict[str, Any]] = field(default_factory=list)
    gateway: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def measure(self, where: dict[str, Any], step: Step, rounds: int, steps: int) -> Array | None:
        """Times a step and writes that down; gives its answer. steps: how many steps of a refinement are in it."""
        name = ", ".join(str(value) for value in where.values())
        if time.monotonic() > self.ends_s:
            self.leave_out(name, "no time was left (--minutes)")
            return None
        try:
            answer = step()
            step()
            times: list[float] = []
            while len(times) < rounds and sum(times) < MOST_S:
                begun_s = time.perf_counter()
                step()
                times.append(time.perf_counter() - begun_s)
        # A compiler, a full memory: the runtimes have no common class for what they cannot do.
        except Exception as error:
            self.leave_out(name, said(error))
            return None
        milliseconds = 1000 * statistics.median(times) / where["batch"] / steps
        self.cells.append({**where, "ms_a_picture": milliseconds})
        print(f"{name}: {milliseconds:.2f} ms", flush=True)
        return answer

    def leave_out(self, what: str, why: str) -> None:
        self.notes.append(f"{what}: left out, {why}.")
        print(self.notes[-1], flush=True)
        self.write()

    def write(self) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        figures = {**self.about, "cells": self.cells, "gateway": self.gateway, "notes": self.notes}
        self.file.write_text(json.dumps(figures, indent=1) + "\n")
        self.file.with_suffix(".md").write_text(self.table() + "\n")

    def table(self) -> str:
        """Milliseconds a picture, how far answers are from the first way's, requests a second, what is left out."""
        ways = list(dict.fromkeys(cell["way"] for cell in self.cells))
        rows: dict[tuple[Any, ...], dict[str, str]] = {}
        for cell in self.cells:
            off = f" ({cell['off']:.1e})" if "off" in cell else ""
            row = rows.setdefault((cell["pixels"], cell["stage"], cell["batch"]), {})
            row[cell["way"]] = f"{cell['ms_a_picture']:.2f}{off}"
        about = ", ".join(f"{key} {value}" for key, value in self.about.items())
        lines = [[*map(str, where), *(row.get(way, "") for way in ways)] for where, row in rows.items()]
        parts = [
            f"{about}. Milliseconds a picture; in brackets how far answers are from {ways[0] if ways else 'nothing'}.",
            markdown_table(["px", "what", "batch", *ways], lines),
        ]
        if company := [cell["company"] for cell in self.cells if "company" in cell]:
            parts.append(
                f"ONNX Runtime's answers in batches are off those alone by {max(company):.1e} at most."
            )
        if self.gateway:
            rates = [[f"{value:.1f}" if isinstance(value, float) else str(value) for value in row.values()]
                     for row in self.gateway]  # fmt: skip
            parts.append(markdown_table(list(self.gateway[0]), rates))
        return "\n\n".join([*parts, "\n".join(f"- {note}" for note in self.notes)]).rstrip()


def said(error: Exception) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {error}".partition("\n")[0][:200]


def apart(found: Array, wanted: Array) -> float:
    """Root mean square of the differences, relative to the values' own."""
    difference = found.astype(np.float64) - wanted
    return float(np.sqrt((difference**2).mean() / max((wanted.astype(np.float64) ** 2).mean(), 1e-12)))


def ways_of(config: GpuConfig, report: Report, side: Side) -> Iterator[tuple[str, OnnxRuntimeWay | TorchWay]]:
    """Every way to run the networks. The first is what the others are compared with."""
    sessions = {}
    device = CUDA if config.device == "cuda" else Device("CPUExecutionProvider", "cpu")
    # Before PyTorch's turn, which moves the modules to the GPU.
    try:
        sessions = sessions_of(side, device, config.graphs)
    except Exception as error:  # as for a step
        report.leave_out(f"{side.pixels}, ONNX Runtime", said(error))
    if config.device == "cuda" and not torch.cuda.is_available():
        report.leave_out(f"{side.pixels}, PyTorch", "it finds no GPU")
    else:
        for compiled in (False, True) if config.compile else (False,):
            for precision in PRECISIONS:
                name = f"PyTorch {'compiled' if compiled else 'eager'}, {precision}"
                yield name, TorchWay(side, config.device, precision, compiled=compiled)
    if sessions:
        for precision in PRECISIONS:
            yield f"ONNX Runtime, {precision}", OnnxRuntimeWay(side, sessions, precision)


def measure_side(config: GpuConfig, report: Report, side: Side) -> None:
    """All ways, stages and batches of one size of pictures."""
    chunk = side.refine.chunk_steps
    wanted: dict[tuple[str, int], Array] = {}
    for name, way in ways_of(config, report, side):
        alone: dict[str, Array] = {}
        for count in config.batches:
            stages = {"encode": (way.encode(count), 1), "decode": (way.decode(count), 1)}
            # A refinement is in float32 whatever the rest is.
            if name.endswith("float32"):
                stages["refine, a step"] = way.steps(count), chunk
            stages[f"inversion, {config.steps} steps"] = way.inversion(count, config.steps), 1
            for stage, (step, steps) in stages.items():
                where = {"pixels": side.pixels, "stage": stage, "batch": count, "way": name}
                answer = report.measure(where, step, config.rounds, steps)
                # Optimisers differ: codes after many steps cannot be compared.
                if answer is None or stage.startswith("inversion"):
                    continue
                cell = report.cells[-1]
                cell["off"] = apart(answer, wanted.setdefault((stage, count), answer))
                if isinstance(way, OnnxRuntimeWay):
                    cell["company"] = apart(answer[:1], alone.setdefault(stage, answer[:1]))
                report.write()


# --- a gateway -------------------------------------------------------------------------------------------------------


async def measure_gateway(config: GpuConfig, report: Report) -> None:
    """Requests a second through a gateway with the shipped bundle, callers waiting for their answers."""
    bundle = next(iter(read_bundles(ROOT / "model_repository").values()))
    picture = (ROOT / "clients/python/examples/portrait.png").read_bytes()
    edits = (EditStep(next(iter(bundle.directions)), 1.0),)
    work = Work(bundle, bundle.mean_code, picture, edits, config.steps)
    engine = "onnxruntime-cuda" if config.device == "cuda" else "onnxruntime"
    flags = [
        "--engine",
        engine,
        "--intra-op-threads",
        "1",
        "--refine-min-improvement-ratio",
        "0",
        "--max-refine-steps",
        "500",
    ]
    with running_gateway(ROOT / "model_repository", *flags) as (address, url):
        async with grpc.aio.insecure_channel(address, CHANNEL) as channel:
            target = GatewayTarget(work, channel, url)
            for kind in KINDS:
                ask = partial(target.ask, kind)
                await waiting_callers(ask, config.callers, config.seconds / 4)  # warms up
                found = await waiting_callers(ask, config.callers, config.seconds)
                report.gateway.append(
                    {"request": kind, "callers": config.callers, "requests a second": found.a_second,
                     "p50 ms": found.milliseconds(50), "p99 ms": found.milliseconds(99)}
                )  # fmt: skip
                report.write()


def main(config: GpuConfig) -> None:
    """Measure, write, print the table. Exits with a sentence where there is no GPU at all."""
    if config.device == "none":
        for pixels in config.resolutions:
            for _, file, _ in exported(make_side(pixels, 1, RefinementConfig())[1], config.graphs):
                print(file, flush=True)
        return
    if config.device == "cuda" and not (torch.cuda.is_available() or has_provider(CUDA)):
        raise SystemExit(
            "Neither PyTorch nor ONNX Runtime finds a GPU here; --device cpu tries the benchmark without."
        )
    refine = RefinementConfig()
    if config.device == "cpu":
        # L-BFGS takes a minute to export.
        refine = replace(refine, optimiser="adam", chunk_steps=1)
        config = replace(config, rounds=1, steps=2, seconds=min(config.seconds, 1.0), callers=2)
    # As the engine: TF32's 10 bits are no float32.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    name = (
        torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else platform.processor() or platform.machine()
    )
    versions = f"PyTorch {torch.__version__}, ONNX Runtime {onnxruntime.__version__}"
    report = Report(config.to, time.monotonic() + 60 * config.minutes, {"on": name, "with": versions})
    # First, as it is short and the GPU's memory is free.
    if config.seconds:
        try:
            asyncio.run(measure_gateway(config, report))
        except Exception as error:  # of a start, or of a request
            report.leave_out("gateway", said(error))
    for pixels in config.resolutions:
        if time.monotonic() > report.ends_s:
            report.leave_out(f"{pixels} pixels", "no time was left (--minutes)")
            continue
        what, side = make_side(pixels, max(config.batches), refine)
        report.about[f"{pixels} px"] = what
        measure_side(config, report, side)
        del side
        torch.cuda.empty_cache()
    report.write()
    print(report.table())


if __name__ == "__main__":
    main(tyro.cli(GpuConfig, prog="python -m benchmarks.gpu"))
