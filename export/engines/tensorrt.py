"""`python -m export tensorrt`: sets a bundle in a repository to TensorRT. Needs no PyTorch.

By default the graphs stay ONNX, and Triton's ONNX Runtime back end builds TensorRT engines when it loads them. With
`--plans` the engines are built here, once, by the `tensorrt` package. Where that or a GPU is missing, a script of
`trtexec` lines is written for a machine that has them. For TensorRT 10, as release 11 has no fp16 flag.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import tyro

from export.engines.triton import (
    Precision,
    TensorRT,
    TritonError,
    batches,
    config_pbtxt,
    read_graphs,
    shapes,
    tensor_specs,
)
from export.graphs.tensor_spec import TensorSpec

# Graphs that stay at float32: gradients and moments need more than 16 bits, and so do landmarks to a pixel,
# couplings that are run backwards, and distances that were calibrated.
PRECISE = ("refiner", "detector", "relabeller", "identity")
# Precision of a graph that was exported in 16 bits -> TensorRT's name.
OWN: dict[str, Precision] = {"float16": "fp16", "bfloat16": "bf16"}
SCRIPT = "build-plans.sh"
WORKSPACE = 1 << 30


@dataclass
class TensorRTConfig:
    """Set a bundle's config.pbtxt to TensorRT, or build plans of its graphs."""

    repository: tyro.conf.Positional[Path]
    """Model repository."""
    bundle: str = ""
    """Its bundle; the only one by default."""
    precision: Precision = "fp16"
    """Precision of the networks; the refiner stays at fp32, and a graph that was exported in 16 bits keeps its own."""
    cache: str = "/var/cache/tensorrt"
    """Folder for engines on the serving machine. It must be there, and outlive the container, or each start builds
    anew."""
    release: str = ""
    """Triton release that will serve, as 26.04: engines of one TensorRT and ONNX Runtime do not fit another."""
    gpu: str = ""
    """GPU that will serve, as h200; by default that of this machine."""
    plans: Path | None = None
    """Folder to build plans in, a model repository of its own; config.pbtxt of the bundle is left as it is."""


def accelerate(config: TensorRTConfig) -> str:
    """Write the configurations, or plans; return a summary. Raises FileNotFoundError, TritonError."""
    graphs = read_graphs(config.repository, config.bundle)
    if config.plans:
        return build_plans(config, graphs, config.plans)
    if not config.release:
        raise TritonError("name the Triton release that will serve (--release 26.04): engines depend on it")
    gpu = config.gpu or this_gpu()
    if not gpu:
        raise TritonError("this machine shows no GPU; name the one that will serve, as --gpu h200")
    for role, graph in graphs.items():
        # A single level, as the provider makes the last folder of the path only.
        cache = f"{config.cache}/{config.release}-{gpu}-{graph['model']}-{graph['sha256'][:16]}"
        settings = TensorRT(precision_of(role, graph, config), cache)
        text = config_pbtxt(graph["model"], graph["max_batch_size"], *tensor_specs(graph), settings)
        (config.repository / graph["model"] / "config.pbtxt").write_text(text)
    return f"{len(graphs)} graphs set to TensorRT, {config.precision}, engines in {config.cache}"


def precision_of(role: str, graph: dict[str, Any], config: TensorRTConfig) -> Precision:
    """The precision for a graph; that of one exported in 16 bits was chosen and checked at its export."""
    return "fp32" if role in PRECISE else OWN.get(graph.get("precision", ""), config.precision)


def this_gpu() -> str:
    """Name of this machine's first GPU as a folder's name, or ""."""
    if not shutil.which("nvidia-smi"):
        return ""
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    found = subprocess.run(query, capture_output=True, text=True, check=False)
    name = found.stdout.splitlines()[0] if found.returncode == 0 and found.stdout else ""
    return name.strip().lower().replace(" ", "-")


def build_plans(config: TensorRTConfig, graphs: dict[str, dict[str, Any]], to: Path) -> str:
    """Build plans into the folder `to`, or write a script that does; return a summary. Raises TritonError."""
    if to.resolve() == config.repository.resolve():
        raise TritonError(f"{to} is the repository itself; name another folder for the plans")
    to.mkdir(parents=True, exist_ok=True)
    commands = []
    can_build = this_gpu() != "" and find_spec("tensorrt") is not None
    for role, graph in graphs.items():
        inputs, outputs = tensor_specs(graph)
        folder = to / graph["model"] / str(graph["version"])
        folder.mkdir(parents=True, exist_ok=True)
        text = config_pbtxt(graph["model"], graph["max_batch_size"], inputs, outputs, runtime="plan")
        (folder.parent / "config.pbtxt").write_text(text)
        model, plan, precision = (
            config.repository / graph["file"],
            folder / "model.plan",
            precision_of(role, graph, config),
        )
        typed = graph.get("precision") in OWN
        if can_build:
            build_plan(model, plan, inputs, graph["max_batch_size"], precision, typed=typed)
        near = Path(os.path.relpath(model, to))
        batch = graph["max_batch_size"]
        commands.append(trtexec(near, plan.relative_to(to), inputs, batch, precision, typed=typed))
    if can_build:
        return f"{len(graphs)} plans built in {to}"
    script = to / SCRIPT
    about = "# On the machine and in the Triton release that will serve, with both folders where they are."
    lines = ["#!/bin/sh", about, "set -e", 'cd "$(dirname "$0")"']
    script.write_text("\n".join([*lines, *commands]) + "\n")
    script.chmod(0o755)
    return f"no GPU, or no tensorrt package, here: {script} builds the plans where there are"


def trtexec(
    model: Path,
    plan: Path,
    inputs: list[TensorSpec],
    max_batch_size: int,
    precision: Precision,
    *,
    typed: bool,
) -> str:
    """The command that builds a plan. `typed`: every operator computes in the type that the graph gives it."""
    least, usual, largest = (shapes(inputs, batch) for batch in batches(max_batch_size))
    options = [
        f"--onnx={model}", f"--minShapes={least}", f"--optShapes={usual}", f"--maxShapes={largest}",
        "--stronglyTyped" if typed else f"--{precision}" if precision != "fp32" else "--noTF32",
        f"--memPoolSize=workspace:{WORKSPACE >> 20}M", f"--saveEngine={plan}", "--skipInference",
    ]  # fmt: skip
    return shlex.join(["trtexec", *options])


def build_plan(
    model: Path,
    plan: Path,
    inputs: list[TensorSpec],
    max_batch_size: int,
    precision: Precision,
    *,
    typed: bool,
) -> None:
    """Build a plan by the `tensorrt` package, release 10. Raises TritonError with its complaints."""
    import tensorrt as trt  # type: ignore[import-not-found]

    builder = trt.Builder(trt.Logger(trt.Logger.WARNING))
    flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED) if typed else 0
    network = builder.create_network(flags)
    parser = trt.OnnxParser(network, builder.logger)
    if not parser.parse_from_file(str(model)):
        complaints = "; ".join(str(parser.get_error(i)) for i in range(parser.num_errors))
        raise TritonError(f"TensorRT cannot read {model}: {complaints}")
    settings = builder.create_builder_config()
    settings.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, WORKSPACE)
    if typed:
        # No flag: demodulation, which the graph has in float32, could be computed in 16 bits.
        pass
    elif precision == "fp32":
        # TF32's 10 bits are too few for a refinement's gradients.
        settings.clear_flag(trt.BuilderFlag.TF32)
    elif hasattr(trt.BuilderFlag, precision.upper()):
        settings.set_flag(getattr(trt.BuilderFlag, precision.upper()))
    else:
        raise TritonError(
            f"TensorRT {trt.__version__} has no {precision} flag; use release 10, or --precision fp32"
        )
    profile = builder.create_optimization_profile()
    for spec in inputs:
        profile.set_shape(spec.name, *((batch, *spec.shape) for batch in batches(max_batch_size)))
    settings.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, settings)
    if engine is None:
        raise TritonError(f"TensorRT could not build {model}; its log says why")
    plan.write_bytes(engine)
