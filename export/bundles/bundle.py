"""`python -m export bundle`: a run folder to a bundle in a model repository.

Everything is written beside the repository and moved into it only when all checks have passed.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from safetensors.numpy import save as to_safetensors
from torch import Tensor, nn

from export.bundles.checkpoint import Pipeline, load_pipeline
from export.bundles.storage import data_file, save, widen
from export.bundles.verification import sample_tensors, sha256, verify_bundle
from export.engines.triton import MAX_BATCH, Border, config_pbtxt
from export.graphs.folding import (
    FoldedMapping,
    fold_encoder,
    fold_latent_discriminator,
    fold_synthesis,
    round_weights,
)
from export.graphs.graphs import (
    DomainScoreGraph,
    EncoderGraph,
    GeneratorGraph,
    Graph,
    bundle_graphs,
    detector_graph,
    for_detector,
    to_onnx,
)
from export.graphs.parity import (
    Array,
    Figures,
    ParityError,
    check_all,
    check_precision,
    open_session,
    precision_figures,
    refiner_inputs,
    run,
    sample_count,
    versions,
)
from export.graphs.precision import Precision, lower
from export.progress import progress_bar
from training.losses.perceptual import LPIPSSq
from training.measures.domain_score import calibration_count, invert_samples
from training.refinement.objective import Objective
from training.refinement.optimisers import OPTIMISERS
from training.refinement.refinement import RefinementConfig
from training.refinement.refiner import Refiner

FORMAT = 1
QUANTILES = 257
STEPS = 13  # of the progress bar: five graphs exported, five checked, and three more; others add theirs
WeightFormat = Literal["float16", "float32"]
Alignment = Literal["face", "centre-crop"]
DOMAIN_TERM = "mean((code - E(G(code)))^2) / code_variance"
DETECTOR_LICENCE = " Face detector: YuNet (Apache-2.0)."
SCORE = "percentile of the latent discriminator's mean logit among the inversions of sampled pictures, E(G(w)), 0..1"


@dataclass
class BundleConfig:
    """Write a run's graphs, their configuration and a manifest into a model repository."""

    run: tyro.conf.Positional[Path]
    """Run folder of `python -m training encoder`."""
    to: Path
    """Model repository; made if it is missing. A bundle of the same name is replaced."""
    name: str | None = None
    """Name of the bundle; the run's own if left out."""
    version: int | None = None
    """Puts this version beside those that the repository has, for a gateway to change over to while it serves."""
    weights: WeightFormat = "float16"
    """Numbers that weights are rounded to before they are stored, whatever is computed in."""
    precision: Precision = "float32"
    """What encoder and generator compute in: 16 bits, for GPUs, where PSNR against float32 reaches 40 dB. Norms,
    demodulation and the sum of RGB stay float32, and so do the mapping, the domain score, and the refiner with its
    gradients."""
    precision_codes: int = 1_000
    """Codes that 16 bits are compared with float32 on."""
    alignment: Alignment | None = None
    """How photographs are brought into place. face: by the faces on them, to where the run's alignment.json says; that
    takes a sixth graph, the detector. Left out: face where the run has that file, otherwise centre-crop."""
    refine: RefinementConfig = field(default_factory=RefinementConfig)
    """Chunk size of the refiner, and the defaults that the manifest carries."""
    sampled_codes: int = 2_000
    """Codes sampled to calibrate the domain score, up to 128 pixels; their pictures are inverted. Fewer above."""
    seed: int = 0
    """Seed of sampled codes."""


@dataclass(frozen=True)
class Built:
    """A pipeline's graphs, and what their checks compare with."""

    graphs: dict[str, Graph]
    originals: dict[str, nn.Module]
    """The training networks behind the graphs' borders."""
    objective: Objective
    statistics: dict[str, Any]


def write_bundle(config: BundleConfig) -> str:
    """Export, check, move into place; gives a summary. Raises CheckpointError or ParityError."""
    pipeline = load_pipeline(config.run)
    name = config.name or str(pipeline.meta["name"])
    torch.manual_seed(config.seed)
    config.to.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=config.to.parent))
    try:
        steps = STEPS + (config.precision != "float32") + 2 * (pipeline.face(config.alignment) is not None)
        with progress_bar(steps) as announce:
            sizes, figures = write_checked(pipeline, name, config, work, announce)
        move_into_place(work, config.to, name, tuple(sizes), config.version)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return summary(name, config.to, sizes, figures)


def write_checked(
    pipeline: Pipeline, name: str, config: BundleConfig, work: Path, announce: Callable[[str], None]
) -> tuple[dict[str, int], dict[str, Figures]]:
    """The whole bundle in a folder of its own: bytes and figures of each graph. Raises ParityError."""
    announce("folding networks, calibrating the score")
    built = build(pipeline, config)
    shape = pipeline.generator.config
    z = torch.randn(sample_count(shape.resolution), shape.z_size)
    rounding: dict[str, Figures] = {}
    if config.precision != "float32":
        announce(f"comparing {config.precision} with float32")
        rounding = measure_precision(built, config, z)
    files, widened = {}, {}
    for role, graph in built.graphs.items():
        announce(f"exporting the {role}")
        folder = work / f"{name}_{role}"
        files[role] = widened[role] = work / graph_file(f"{name}_{role}", config.version or 1)
        files[role].parent.mkdir(parents=True)
        save(to_onnx(graph, f"{name}_{role}"), files[role])
        if graph.precision != "float32":
            widened[role] = work / "widened" / f"{role}.onnx"
            widened[role].parent.mkdir(exist_ok=True)
            widen(files[role], widened[role])
        text = config_pbtxt(f"{name}_{role}", MAX_BATCH[role], graph.inputs, graph.outputs)
        (folder / "config.pbtxt").write_text(text)
    figures = check_all(
        built.graphs, files, widened, built.originals, built.objective, config.refine, z, announce
    )
    figures |= {role: figures[role] | reached for role, reached in rounding.items()}
    announce("storing a sample of each graph")
    discriminator = pipeline.latent_discriminator
    tensors = {"mean_code": discriminator.mean.numpy(), "code_std": discriminator.deviation.numpy()}
    tensors |= {f"direction/{key}": vector for key, vector in pipeline.vectors.items()} | pipeline.boundaries
    for role, inputs in inputs_of(z, widened, config.refine).items():
        tensors |= sample_tensors(role, inputs, run(open_session(widened[role]), inputs))
    content = to_safetensors({key: np.ascontiguousarray(value) for key, value in tensors.items()})
    (work / f"{name}.safetensors").write_bytes(content)  # save_file would let nobody else read it
    manifest = describe(name, pipeline, built, config, work, figures)
    (work / f"{name}.json").write_text(json.dumps(manifest, indent=1) + "\n")
    announce("verifying the bundle")
    for _, complaint in verify_bundle(work / f"{name}.json"):
        if complaint:
            raise ParityError(f"the written bundle does not verify: {complaint}; nothing was kept")
    return {role: stored_bytes(file) for role, file in files.items()}, figures


def measure_precision(built: Built, config: BundleConfig, z: Tensor) -> dict[str, Figures]:
    """PSNR of the graphs that compute in 16 bits, over sampled codes. Raises ParityError."""
    mapping = built.graphs["mapping"].module
    parts = torch.arange(config.precision_codes).split(len(z))
    with torch.no_grad():
        codes = [mapping(torch.randn(len(part), z.shape[1])) for part in parts]
    figures = precision_figures(built.graphs, built.objective, codes)
    check_precision(figures, config.precision)
    return figures


def stored_bytes(file: Path) -> int:
    """Size of a graph with the weights beside it."""
    return sum(part.stat().st_size for part in (file, data_file(file)) if part.is_file())


def inputs_of(z: Tensor, files: Mapping[str, Path], refine: RefinementConfig) -> dict[str, dict[str, Array]]:
    """Inputs for each graph's stored sample, made by the graphs; the refiner goes from a code to another's picture."""
    latent = z.numpy()
    code = run(open_session(files["mapping"]), {"z": latent})["code"]
    image = run(open_session(files["generator"]), {"code": code})["image"]
    return {
        "mapping": {"z": latent},
        "generator": {"code": code},
        "encoder": {"image": image},
        "critic": run(open_session(files["encoder"]), {"image": image}),
        **(
            {"detector": {"image": for_detector(torch.from_numpy(image)).numpy()}}
            if "detector" in files
            else {}
        ),
        "refiner": refiner_inputs(code, np.roll(image, 1, 0), refine),
    }


@dataclass(frozen=True)
class Folded:
    """A pipeline's networks as the graphs have them: nothing left to compute that is the same for every input."""

    synthesis: nn.Module
    mapping: nn.Module
    encoder: nn.Module
    latent_discriminator: nn.Module
    objective: Objective


def fold(
    pipeline: Pipeline, weights: WeightFormat = "float16", perceptual: nn.Module | None = None
) -> Folded:
    """Fold the networks and round their weights. `perceptual`: LPIPS-sq, or another distance for the refiner."""
    rounded = round_weights if weights == "float16" else nn.Module.eval
    synthesis = rounded(fold_synthesis(pipeline.generator.synthesis))
    mapping = rounded(FoldedMapping(pipeline.generator.mapping))
    encoder = rounded(fold_encoder(pipeline.encoder))
    latent_discriminator = rounded(fold_latent_discriminator(pipeline.latent_discriminator))
    code_variance = float(pipeline.latent_discriminator.deviation.square().mean())
    objective = Objective(synthesis, encoder, rounded(perceptual or LPIPSSq()), code_variance)
    return Folded(synthesis, mapping, encoder, latent_discriminator, objective)


def build(pipeline: Pipeline, config: BundleConfig) -> Built:
    """Fold and round the networks, calibrate the score, put borders around them."""
    generator = pipeline.generator
    folded = fold(pipeline, config.weights)
    code_shape = (generator.config.layers, generator.config.code_size)
    side = generator.config.resolution
    with torch.no_grad():
        z = torch.randn(calibration_count(config.sampled_codes, side), generator.config.z_size)
        inversions = invert_samples(folded.mapping(z), folded.synthesis, folded.encoder)
        logits = folded.latent_discriminator(inversions).mean(1)
    quantiles = torch.quantile(logits, torch.linspace(0, 1, QUANTILES))
    graphs = bundle_graphs(
        encoder=lower(folded.encoder, config.precision),
        synthesis=lower(folded.synthesis, config.precision),
        mapping=folded.mapping,
        critic=DomainScoreGraph(folded.latent_discriminator, quantiles),
        refiner=Refiner(
            folded.objective, OPTIMISERS[config.refine.optimiser], code_shape, config.refine.chunk_steps
        ),
        resolution=side,
        code_shape=code_shape,
        z_size=generator.config.z_size,
        precision=config.precision,
    )
    if pipeline.face(config.alignment) is not None:
        graphs["detector"] = detector_graph()
    originals = {
        **{role: graph.module for role, graph in graphs.items() if role == "detector"},
        "encoder": EncoderGraph(pipeline.encoder),
        "generator": GeneratorGraph(generator.synthesis),
        "mapping": generator.mapping,
        "critic": DomainScoreGraph(pipeline.latent_discriminator, quantiles),
    }
    statistics = {
        "sampled_codes": len(logits),
        "code_variance": folded.objective.code_variance,
        "domain_term": DOMAIN_TERM,
        "score": SCORE,
        "critic_logit_median": float(quantiles[QUANTILES // 2]),
    }
    return Built(graphs, originals, folded.objective, statistics)


def describe(
    name: str,
    pipeline: Pipeline,
    built: Built,
    config: BundleConfig,
    work: Path,
    figures: Mapping[str, Figures],
) -> dict[str, Any]:
    """The manifest, B.json."""
    meta, card, generator = pipeline.meta, pipeline.card, pipeline.generator.config
    refine = asdict(config.refine)
    training = {k: v for k, v in meta.items() if k not in ("kind", "data")} | card.get("training", {})
    return {
        "format": FORMAT,
        "bundle": name,
        "resolution": generator.resolution,
        "layers": generator.layers,
        "code_size": generator.code_size,
        "opset": max(graph.opset for graph in built.graphs.values()),
        "graphs": {
            role: describe_graph(graph, f"{name}_{role}", config.version or 1, work)
            for role, graph in built.graphs.items()
        },
        "parity": {
            **figures,
            "weights": config.weights,
            "precision": config.precision,
            **({"precision_codes": config.precision_codes} if config.precision != "float32" else {}),
            **versions(sample_count(generator.resolution)),
        },
        "tensors": {"file": f"{name}.safetensors", "sha256": sha256(work / f"{name}.safetensors")},
        "directions": pipeline.directions,
        **({"presets": pipeline.presets} if pipeline.presets else {}),
        "refine": refine,
        "statistics": built.statistics,
        **alignment(pipeline.face(config.alignment)),
        "training": training,
        "data": card.get("data", str(meta.get("data", ""))),
        "licence": card.get("licence", "") + (DETECTOR_LICENCE if "detector" in built.graphs else ""),
        "limits": card.get("limits", ""),
        **({"card": card} if card else {}),
    }


def alignment(face: dict[str, Any] | None) -> dict[str, Any]:
    """The manifest's entries on how photographs are brought into place."""
    return {"alignment": "centre-crop"} if face is None else {"alignment": "face", "face": face}


def graph_file(model: str, version: int) -> str:
    """Where a graph lies in the repository."""
    return f"{model}/{version}/model.onnx"


def describe_graph(graph: Graph, model: str, version: int, work: Path) -> dict[str, Any]:
    """A graph's entry in the manifest."""
    file = graph_file(model, version)
    data = data_file(work / file)

    def borders(entries: tuple[Border, ...]) -> list[dict[str, Any]]:
        return [{"name": b.name, "dtype": b.dtype, "shape": [-1, *b.shape]} for b in entries]

    return {
        "model": model,
        "version": version,
        "file": file,
        "sha256": sha256(work / file),
        **({"external_data": {"file": f"{file}.data", "sha256": sha256(data)}} if data.is_file() else {}),
        "precision": graph.precision,
        "max_batch_size": MAX_BATCH[graph.role],
        "inputs": borders(graph.inputs),
        "outputs": borders(graph.outputs),
    }


def move_into_place(
    work: Path, repository: Path, name: str, roles: tuple[str, ...], version: int | None = None
) -> None:
    """Replace the bundle in the repository, or only one version of it; the manifest goes last, since it vouches for
    the rest."""
    repository.mkdir(exist_ok=True)
    for role in roles:
        made, place = work / f"{name}_{role}", repository / f"{name}_{role}"
        if version is not None and place.exists():
            put(made / str(version), place / str(version), work / f"{name}_{role}.old")
            (made / "config.pbtxt").replace(place / "config.pbtxt")
        else:
            put(made, place, work / f"{name}_{role}.old")
    for file in (f"{name}.safetensors", f"{name}.json"):
        (work / file).replace(repository / file)


def put(made: Path, place: Path, old: Path) -> None:
    """A folder in another one's place, if there is one."""
    if place.exists():
        place.rename(old)
    made.rename(place)


def summary(name: str, repository: Path, sizes: Mapping[str, int], figures: Mapping[str, Figures]) -> str:
    """What was written, for the terminal."""
    lines = [f"{name} written to {repository}"]
    for role, size in sizes.items():
        reached = ", ".join(f"{key} {value:.3g}" for key, value in figures[role].items())
        lines.append(f"  {role:<9} {size / 1e6:6.2f} MB  {reached}")
    return "\n".join(lines)
