"""Large generators through import, export and decoding, and what 16 bits cost and save; on the CPU.

`make scale` prints two tables. The first: StyleGAN2 in its configuration F, random weights in rosinality's layout, with
time and peak memory of each step, each in a process of its own. The second: a trained pipeline in each precision.
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from torch import Tensor, nn

from benchmarks.graphs import Array, markdown_table, shipped_checkpoint
from benchmarks.speed import interleaved
from export.bundles.bundle import stored_bytes
from export.bundles.checkpoint import load_pipeline
from export.graphs.encoder_folding import fold_encoder
from export.graphs.folding import fold_mapping, fold_synthesis, round_weights
from export.graphs.graphs import EncoderGraph, GeneratorGraph, Graph, to_onnx
from export.graphs.precision import Precision, lower
from export.graphs.storage import save
from export.graphs.tensor_spec import TensorSpec
from export.importing import ImportConfig, import_checkpoint
from export.parity.checks import precision_figures
from export.parity.sessions import open_session, run
from training.losses.perceptual import LPIPSSq
from training.networks.generator import Generator, GeneratorConfig, Mapping, ModulatedConv, Synthesis
from training.refinement.objective import Objective
from training.run_folders.checkpoint import load_meta, load_network
from training.run_folders.json_files import read_config

CONFIG_F = (512, 512, 512, 512, 512, 256, 128, 64, 32)  # feature maps at 4, 8, ... 1024 pixels


@dataclass
class ScaleConfig:
    """Measure large networks and 16 bits."""

    resolutions: tuple[int, ...] = (256, 512, 1024)
    """Pictures' sides of the generators with random weights; none for the second table only."""
    run: Path | None = field(default_factory=shipped_checkpoint)
    """Run folder of the pipeline to compare precisions with; None for the first table only."""
    codes: int = 1_000
    """Codes that PSNR is measured on."""
    rounds: int = 15
    """Times that each graph is run, in turn with the others; the median counts."""
    threads: int = 1
    """Threads of PyTorch and of ONNX Runtime."""


# --- large generators ------------------------------------------------------------------------------------------------


def rosinality_state(generator: Generator) -> dict[str, Tensor]:
    """A generator's tensors under the names and shapes of rosinality/stylegan2-pytorch."""
    assert isinstance(generator.synthesis, Synthesis)
    assert isinstance(generator.mapping, Mapping)
    state: dict[str, Tensor] = {"input.input": generator.synthesis.constant}
    for i, layer in enumerate(generator.mapping.layers):
        state |= {f"style.{i + 1}.weight": layer.weight, f"style.{i + 1}.bias": layer.bias}  # type: ignore[dict-item]

    def convolution(name: str, conv: ModulatedConv) -> dict[str, Tensor]:
        modulation = {
            f"{name}.conv.modulation.{part}": getattr(conv.style, part) for part in ("weight", "bias")
        }
        return {f"{name}.conv.weight": conv.weight[None], **modulation}

    for i, layer in enumerate(generator.synthesis.styled):
        name = f"convs.{i - 1}" if i else "conv1"
        state |= convolution(name, layer.conv)  # type: ignore[arg-type]
        state[f"{name}.noise.weight"] = layer.noise_strength.reshape(1)
        state[f"{name}.activate.bias"] = layer.bias  # type: ignore[assignment]
        state[f"noises.noise_{i}"] = layer.noise  # type: ignore[assignment]
    for i, layer in enumerate(generator.synthesis.to_rgb):
        name = f"to_rgbs.{i - 1}" if i else "to_rgb1"
        state |= convolution(name, layer.conv)  # type: ignore[arg-type]
        state[f"{name}.bias"] = layer.bias.reshape(1, 3, 1, 1)
    return {key: value.detach().clone() for key, value in state.items()}


def import_random(resolution: int, folder: Path) -> dict[str, Any]:
    """A checkpoint with random weights, through the importer into a run folder."""
    channels = CONFIG_F[: resolution.bit_length() - 2]
    generator = Generator(GeneratorConfig(resolution, channels, per_layer_code=False))
    torch.save({"g_ema": rosinality_state(generator)}, folder / "generator.pt")
    import_checkpoint(ImportConfig(folder / "generator.pt", folder / "gan"))
    return {"parameters": sum(p.numel() for p in generator.parameters())}


def load_generator(folder: Path) -> Generator:
    """The imported one."""
    generator = Generator(read_config(GeneratorConfig, load_meta(folder / "gan", "gan")["generator"]))
    load_network(folder / "gan", "generator", generator)
    return generator.eval()


def generator_graphs(
    shape: GeneratorConfig, synthesis: nn.Module, mapping: nn.Module, precision: Precision
) -> Iterator[Graph]:
    """Graphs of the mapping and the generator of this shape, both folded."""
    code = TensorSpec("code", "float32", (shape.layers, shape.code_size))
    image = TensorSpec("image", "uint8", (shape.resolution, shape.resolution, 3))
    yield Graph("mapping", mapping, (TensorSpec("z", "float32", (shape.z_size,)),), (code,))
    yield Graph("generator", GeneratorGraph(lower(synthesis, precision)), (code,), (image,), precision)


def export_generator(folder: Path) -> dict[str, Any]:
    """Mapping and generator as files."""
    generator = load_generator(folder)
    synthesis = fold_synthesis(generator.synthesis)
    round_weights(synthesis)
    for graph in generator_graphs(generator.config, synthesis, fold_mapping(generator.mapping), "float32"):
        save(to_onnx(graph, graph.role), folder / f"{graph.role}.onnx")
    return {"bytes": stored_bytes(folder / "generator.onnx")}


def decode(folder: Path) -> dict[str, Any]:
    """One picture with ONNX Runtime."""
    z = np.random.default_rng(0).standard_normal((1, 512)).astype(np.float32)
    code = run(open_session(folder / "mapping.onnx"), {"z": z})["code"]
    session = open_session(folder / "generator.onnx")
    found = interleaved({"decode": lambda: run(session, {"code": code})}, 3)
    assert run(session, {"code": code})["image"].std() > 1, "a picture of nothing"
    return {"decode_s": found["decode"]}


def measured(step: Callable[..., dict[str, Any]], threads: int, *arguments: Any) -> dict[str, Any]:
    """Run a step in a process of its own: what it gives, its seconds, and its peak of resident memory in bytes."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(in_child, (step, threads, *arguments))


def in_child(step: Callable[..., dict[str, Any]], threads: int, *arguments: Any) -> dict[str, Any]:
    """The child's side of `measured`."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    start = time.perf_counter()
    found = step(*arguments)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB
    return found | {"seconds": time.perf_counter() - start, "peak": peak}


def scale_row(config: ScaleConfig, resolution: int) -> list[str]:
    """One generator through all steps."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        steps: list[tuple[Callable[..., dict[str, Any]], tuple[Any, ...]]] = [
            (import_random, (resolution, folder)), (export_generator, (folder,)), (decode, (folder,)),
        ]  # fmt: skip
        found = []
        for step, arguments in steps:
            found.append(measured(step, config.threads, *arguments))
            print(f"{resolution} px, {step.__name__}: {found[-1]}", file=sys.stderr, flush=True)
    costs = [f"{f['seconds']:.0f} s, {f['peak'] / 1e9:.1f} GB" for f in found]
    size, seconds = found[1]["bytes"] / 1e6, found[2]["decode_s"]
    return [
        f"{resolution} px, {found[0]['parameters'] / 1e6:.1f} M",
        *costs[:2],
        f"{size:.1f} MB",
        f"{seconds:.2f} s, {found[2]['peak'] / 1e9:.1f} GB",
    ]


# --- precisions ------------------------------------------------------------------------------------------------------


def precision_rows(config: ScaleConfig, folder: Path) -> list[list[str]]:
    """Size, PSNR and speed of encoder and generator in each precision."""
    assert config.run is not None
    pipeline = load_pipeline(config.run)
    shape = pipeline.generator.config
    synthesis, encoder = fold_synthesis(pipeline.generator.synthesis), fold_encoder(pipeline.encoder)
    mapping = fold_mapping(pipeline.generator.mapping)
    files: dict[str, dict[str, Path]] = {}
    psnr: dict[str, dict[str, dict[str, float]]] = {}
    torch.manual_seed(0)
    with torch.no_grad():
        codes = [
            mapping(*pipeline.generator.mapping.draw(len(part)))
            for part in torch.arange(config.codes).split(8)
        ]
        image = GeneratorGraph(synthesis)(codes[0][:1]).numpy()
    exact = Objective(synthesis, encoder, LPIPSSq(), 1.0)
    precisions: tuple[Precision, ...] = ("float32", "float16", "bfloat16")
    for precision in precisions:
        graphs = {graph.role: graph for graph in generator_graphs(shape, synthesis, mapping, precision)}
        del graphs["mapping"]
        specs = graphs["generator"].outputs, graphs["generator"].inputs
        graphs["encoder"] = Graph("encoder", EncoderGraph(lower(encoder, precision)), *specs, precision)
        psnr[precision] = precision_figures(graphs, exact, codes) if precision != "float32" else {}
        files[precision] = {role: folder / f"{role}-{precision}.onnx" for role in graphs}
        for role, graph in graphs.items():
            save(to_onnx(graph, role), files[precision][role])
    inputs = {"generator": codes[0][:1].numpy(), "encoder": image}
    runtimes = {"ONNX Runtime": onnx_runtime} | ({"OpenVINO": openvino} if find_spec("openvino") else {})
    times = {
        (runtime, role): speeds(open_file, files, role, inputs[role], config)
        for runtime, open_file in runtimes.items()
        for role in inputs
    }
    rows = [
        [
            role,
            precision,
            f"{stored_bytes(files[precision][role]) / 1e6:.2f} MB",
            *dB(psnr[precision].get(role)),
        ]
        + [times[runtime, role][precision] for runtime in runtimes]
        for role in inputs
        for precision in precisions
    ]
    return [*rows, int8_row(config, files, codes, len(runtimes))]


def int8_row(
    config: ScaleConfig, files: dict[str, dict[str, Path]], codes: list[Tensor], runtimes: int
) -> list[str]:
    """The encoder in 8 bits, calibrated on pictures, in ONNX Runtime; PSNR of the pictures of its codes."""
    generator, encoder = (open_session(files["float32"][role]) for role in ("generator", "encoder"))
    pictures = [run(generator, {"code": part.numpy()})["image"] for part in codes]
    to = files["float32"]["encoder"].with_name("encoder-int8.onnx")
    quantise(files["float32"]["encoder"], to, pictures[:16])
    small = open_session(to)
    errors = []
    for image in pictures:
        made, exact = (
            run(generator, run(session, {"image": image}))["image"].astype(np.float32)
            for session in (small, encoder)
        )
        errors.append(np.square(made - exact).mean((1, 2, 3)))
    psnr = 10 * np.log10(255**2 / np.maximum(np.concatenate(errors), 1e-6))
    one = {"image": pictures[0][:1]}
    found = interleaved(
        {"int8": lambda: run(small, one), "float32": lambda: run(encoder, one)}, config.rounds
    )
    time = f"{1000 * found['int8']:.1f} ms ({found['int8'] / found['float32']:.2f})"
    overall = 10 * np.log10(255**2 / np.concatenate(errors).mean())
    figures = [f"{overall:.1f}", f"{psnr.min():.1f}"]
    return ["encoder", "int8", f"{stored_bytes(to) / 1e6:.2f} MB", *figures, time, *[""] * (runtimes - 1)]


def quantise(file: Path, to: Path, pictures: list[Array]) -> None:
    """Convolutions and products of matrices in int8, ranges taken from pictures uint8 [N, H, W, 3]."""
    import onnxruntime
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Pictures(CalibrationDataReader):  # type: ignore[misc]
        batches = iter(pictures)

        def get_next(self) -> dict[str, Array] | None:
            return next(({"image": batch} for batch in self.batches), None)

    options = onnxruntime.SessionOptions()  # weights are stored as float16 and a cast: folded here
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(to.with_suffix(".folded"))
    onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    quantize_static(
        options.optimized_model_filepath, to, Pictures(), quant_format=QuantFormat.QDQ, per_channel=True,
        op_types_to_quantize=["Conv", "Gemm", "MatMul"], weight_type=QuantType.QInt8,
    )  # fmt: skip


def dB(figures: dict[str, float] | None) -> list[str]:  # noqa: N802
    """PSNR over all and the worst picture's."""
    return [f"{value:.1f}" for value in figures.values()] if figures else ["", ""]


def onnx_runtime(file: Path, precision: Precision, threads: int) -> Callable[[Array], object]:
    """A file in ONNX Runtime. Raises where it has no kernels."""
    session = open_session(file)
    name = session.get_inputs()[0].name
    return lambda value: session.run(None, {name: value})


def openvino(file: Path, precision: Precision, threads: int) -> Callable[[Array], object]:
    """A file in OpenVINO, which really computes in 16 bits where the processor can."""
    # Through the engines, which see to it that it tells nobody.
    from serving.backends.engines.sessions import openvino as ov

    hint = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}[precision]
    options = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": threads}
    return ov.Core().compile_model(str(file), "CPU", options)


def speeds(
    open_file: Callable[[Path, Precision, int], Callable[[Array], object]],
    files: dict[str, dict[str, Path]],
    role: str,
    value: Array,
    config: ScaleConfig,
) -> dict[str, str]:
    """Time of each precision, batch 1, and its ratio to float32's; a dash where the runtime has no such kernels."""
    opened: dict[str, Callable[[Array], object]] = {}
    for precision in files:
        try:
            opened[precision] = open_file(files[precision][role], precision, config.threads)  # type: ignore[arg-type]
        except Exception as error:  # a runtime has no common class for what it cannot run
            if precision == "float32":
                raise
            print(f"{role}, {precision}: {str(error)[:120]}")
    steps = {name: (lambda call=call: call(value)) for name, call in opened.items()}
    found = interleaved(steps, config.rounds)
    return {
        name: f"{1000 * found[name]:.1f} ms ({found[name] / found['float32']:.2f})" if name in found else "-"
        for name in files
    }


def main(config: ScaleConfig) -> None:
    """Print the tables."""
    torch.set_num_threads(config.threads)
    if config.resolutions:
        header = ["generator", "import", "export", "file", "decode"]
        print(markdown_table(header, [scale_row(config, side) for side in config.resolutions]))
    if config.run:
        with tempfile.TemporaryDirectory() as name:
            rows = precision_rows(config, Path(name))
        runtimes = ["ONNX Runtime", "OpenVINO"][: len(rows[0]) - 5]
        print(f"\n{config.run.name}, {config.codes} codes, {config.threads} threads, batch 1")
        print(markdown_table(["graph", "precision", "file", "PSNR dB", "worst", *runtimes], rows))


if __name__ == "__main__":
    main(tyro.cli(ScaleConfig))
