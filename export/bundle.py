"""`python -m export bundle`: a run folder to a bundle in a model repository.

Everything is written beside the repository and moved into it only when all checks have passed.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import torch
import tyro
from safetensors.numpy import save
from torch import Tensor, nn

from export.checkpoint import Pipeline, load_pipeline
from export.folding import FoldedMapping, fold_code_critic, fold_encoder, fold_synthesis, round_weights
from export.graphs import (
    OPSET,
    CriticGraph,
    EncoderGraph,
    GeneratorGraph,
    Graph,
    bundle_graphs,
    to_onnx,
)
from export.parity import BATCHES, Array, Figures, check_all, open_session, refiner_inputs, run, versions
from export.triton import MAX_BATCH, Border, config_pbtxt
from export.verification import sample_tensors
from training.perceptual import LPIPSSq
from training.refinement import Objective, RefinementConfig, Refiner

FORMAT = 1
QUANTILES = 257
DOMAIN_TERM = "mean((code - E(G(code)))^2) / code_variance"
SCORE = "percentile of the code critic's mean logit among sampled codes (no truncation), 0..1"


@dataclass
class BundleConfig:
    """Write a run's five graphs, their configuration and a manifest into a model repository."""

    run: tyro.conf.Positional[Path]
    """Run folder of `python -m training encoder`."""
    to: Path
    """Model repository; made if it is missing. A bundle of the same name is replaced."""
    name: str | None = None
    """Name of the bundle; the run's own if left out."""
    weights: Literal["float16", "float32"] = "float16"
    """Numbers that weights are rounded to before they are stored; computation is float32 either way."""
    refine: RefinementConfig = field(default_factory=RefinementConfig)
    """Chunk size of the refiner, and the defaults that the manifest carries."""
    sampled_codes: int = 20_000
    """Codes sampled to calibrate the domain score."""
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
    built = build(pipeline, config)
    config.to.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=config.to.parent))
    try:
        files: dict[str, Path] = {}
        for role, graph in built.graphs.items():
            files[role] = work / f"{name}_{role}" / "1" / "model.onnx"
            files[role].parent.mkdir(parents=True)
            onnx.save(to_onnx(graph, f"{name}_{role}"), files[role])
            text = config_pbtxt(f"{name}_{role}", MAX_BATCH[role], graph.inputs, graph.outputs)
            (work / f"{name}_{role}" / "config.pbtxt").write_text(text)
        z = torch.randn(max(BATCHES), pipeline.generator.config.z_size)
        figures = check_all(built.graphs, files, built.originals, built.objective, config.refine, z)
        critic = pipeline.code_critic
        tensors = {"mean_code": critic.mean.numpy(), "code_std": critic.deviation.numpy()}
        tensors |= {f"direction/{key}": vector for key, vector in pipeline.vectors.items()}
        for role, inputs in inputs_of(z, files, config.refine).items():
            tensors |= sample_tensors(role, inputs, run(open_session(files[role]), inputs))
        content = save({key: np.ascontiguousarray(value) for key, value in tensors.items()})
        (work / f"{name}.safetensors").write_bytes(content)  # save_file would let nobody else read it
        manifest = describe(name, pipeline, built, config, work, figures)
        (work / f"{name}.json").write_text(json.dumps(manifest, indent=1) + "\n")
        sizes = {role: file.stat().st_size for role, file in files.items()}
        move_into_place(work, config.to, name, tuple(files))
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return summary(name, config.to, sizes, figures)


def inputs_of(z: Tensor, files: Mapping[str, Path], refine: RefinementConfig) -> dict[str, dict[str, Array]]:
    """Inputs for each graph's stored sample, made by the graphs; the refiner goes from a code to another's picture."""
    latent = z.numpy()
    code = run(open_session(files["mapping"]), {"z": latent})["code"]
    image = run(open_session(files["generator"]), {"code": code})["image"]
    return {
        "mapping": {"z": latent},
        "generator": {"code": code},
        "encoder": {"image": image},
        "critic": {"code": code},
        "refiner": refiner_inputs(code, np.roll(image, 1, 0), refine),
    }


def build(pipeline: Pipeline, config: BundleConfig) -> Built:
    """Fold and round the networks, calibrate the score, put borders around them."""
    generator = pipeline.generator
    rounded = round_weights if config.weights == "float16" else nn.Module.eval
    synthesis = rounded(fold_synthesis(generator.synthesis))
    mapping = rounded(FoldedMapping(generator.mapping))
    encoder = rounded(fold_encoder(pipeline.encoder))
    code_critic = rounded(fold_code_critic(pipeline.code_critic))
    perceptual = rounded(LPIPSSq())
    code_variance = float(pipeline.code_critic.deviation.square().mean())
    objective = Objective(synthesis, encoder, perceptual, code_variance)
    quantiles = logit_quantiles(mapping, code_critic, generator.config.z_size, config.sampled_codes)
    graphs = bundle_graphs(
        encoder=encoder,
        synthesis=synthesis,
        mapping=mapping,
        critic=CriticGraph(code_critic, quantiles),
        refiner=Refiner(objective, config.refine.chunk_steps),
        resolution=generator.config.resolution,
        code_shape=(generator.config.layers, generator.config.code_size),
        z_size=generator.config.z_size,
    )
    originals = {
        "encoder": EncoderGraph(pipeline.encoder),
        "generator": GeneratorGraph(generator.synthesis),
        "mapping": generator.mapping,
        "critic": CriticGraph(pipeline.code_critic, quantiles),
    }
    statistics = {
        "sampled_codes": config.sampled_codes,
        "code_variance": code_variance,
        "domain_term": DOMAIN_TERM,
        "score": SCORE,
        "critic_logit_median": float(quantiles[QUANTILES // 2]),
    }
    return Built(graphs, originals, objective, statistics)


@torch.no_grad()
def logit_quantiles(mapping: nn.Module, critic: nn.Module, z_size: int, samples: int) -> Tensor:
    """Evenly spaced quantiles of the critic's mean logit over sampled codes: float32 [QUANTILES], rising."""
    batches = (torch.randn(len(part), z_size) for part in torch.arange(samples).split(1000))
    logits = torch.cat([critic(mapping(z)).mean(1) for z in batches])
    return torch.quantile(logits, torch.linspace(0, 1, QUANTILES))


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
        "opset": OPSET,
        "graphs": {
            role: describe_graph(graph, f"{name}_{role}", work) for role, graph in built.graphs.items()
        },
        "parity": {**figures, "weights": config.weights, **versions()},
        "tensors": {"file": f"{name}.safetensors", "sha256": sha256(work / f"{name}.safetensors")},
        "directions": pipeline.directions,
        "refine": refine,
        "statistics": built.statistics,
        "alignment": card.get("alignment", "centre-crop"),
        "training": training,
        "data": card.get("data", str(meta.get("data", ""))),
        "licence": card.get("licence", ""),
        "limits": card.get("limits", ""),
        **({"card": card} if card else {}),
    }


def describe_graph(graph: Graph, model: str, work: Path) -> dict[str, Any]:
    """A graph's entry in the manifest."""
    file = f"{model}/1/model.onnx"

    def borders(entries: tuple[Border, ...]) -> list[dict[str, Any]]:
        return [{"name": b.name, "dtype": b.dtype, "shape": [-1, *b.shape]} for b in entries]

    return {
        "model": model,
        "version": 1,
        "file": file,
        "sha256": sha256(work / file),
        "max_batch_size": MAX_BATCH[graph.role],
        "inputs": borders(graph.inputs),
        "outputs": borders(graph.outputs),
    }


def sha256(file: Path) -> str:
    """Hexadecimal digest of a file."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def move_into_place(work: Path, repository: Path, name: str, roles: tuple[str, ...]) -> None:
    """Replace the bundle in the repository; the manifest goes last, since it vouches for the rest."""
    repository.mkdir(exist_ok=True)
    for role in roles:
        place = repository / f"{name}_{role}"
        if place.exists():
            place.rename(work / f"{name}_{role}.old")
        (work / f"{name}_{role}").rename(place)
    for file in (f"{name}.safetensors", f"{name}.json"):
        (work / file).replace(repository / file)


def summary(name: str, repository: Path, sizes: Mapping[str, int], figures: Mapping[str, Figures]) -> str:
    """What was written, for the terminal."""
    lines = [f"{name} written to {repository}"]
    for role, size in sizes.items():
        reached = ", ".join(f"{key} {value:.3g}" for key, value in figures[role].items())
        lines.append(f"  {role:<9} {size / 1e6:6.2f} MB  {reached}")
    return "\n".join(lines)
