"""The manifest of a bundle: what its graphs are, what they were made of, and what they may be used for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from export.bundles.building import Built, BundleConfig
from export.bundles.checkpoint import Pipeline
from export.bundles.verification import sha256
from export.engines.triton import MAX_BATCH
from export.graphs.graphs import Graph
from export.graphs.storage import data_file
from export.graphs.tensor_spec import TensorSpec
from export.parity.differences import Figures
from export.parity.sessions import versions
from export.parity.tolerances import sample_count

FORMAT = 1
DETECTOR_LICENCE = " Face detector: YuNet (Apache-2.0)."


def describe(
    name: str,
    pipeline: Pipeline,
    built: Built,
    config: BundleConfig,
    work: Path,
    figures: Mapping[str, Figures],
) -> dict[str, Any]:
    """The manifest, B.json, of a bundle whose files lie in `work`. `figures`: those of the parity checks, by role."""
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
    """The manifest's entries on how photographs are brought into place: by faces, or cropped if `face` is None."""
    return {"alignment": "centre-crop"} if face is None else {"alignment": "face", "face": face}


def graph_file(model: str, version: int) -> str:
    """Path of a graph in the repository."""
    return f"{model}/{version}/model.onnx"


def describe_graph(graph: Graph, model: str, version: int, work: Path) -> dict[str, Any]:
    """A graph's entry in the manifest."""
    file = graph_file(model, version)
    data = data_file(work / file)

    def listed(specs: tuple[TensorSpec, ...]) -> list[dict[str, Any]]:
        return [{"name": s.name, "dtype": s.dtype, "shape": [-1, *s.shape]} for s in specs]

    return {
        "model": model,
        "version": version,
        "file": file,
        "sha256": sha256(work / file),
        **({"external_data": {"file": f"{file}.data", "sha256": sha256(data)}} if data.is_file() else {}),
        "precision": graph.precision,
        "max_batch_size": MAX_BATCH[graph.role],
        "inputs": listed(graph.inputs),
        "outputs": listed(graph.outputs),
    }
