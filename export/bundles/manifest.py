"""The manifest of a bundle: what its graphs are, what they were made of, and what they may be used for."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import onnx_ir as ir

from export.bundles.building import Built, BundleConfig
from export.bundles.checkpoint import Pipeline
from export.bundles.verification import checksum_complaint, sha256
from export.engines.triton import MAX_BATCH
from export.graphs.graphs import Graph
from export.graphs.storage import data_file, save
from export.graphs.tensor_spec import TensorSpec
from export.parity.differences import Figures
from export.parity.sessions import versions
from export.parity.tolerances import sample_count
from training.faces.identity import MIDDLE, STEEPNESS

FORMAT = 1
# Graphs that another bundle may use. Not the detector, which `python -m export align` takes from a bundle again.
SHAREABLE = ("encoder", "generator", "mapping", "critic", "refiner", "relabeller", "identity")
DETECTOR_LICENCE = " Face detector: YuNet (Apache-2.0)."
IDENTITY_LICENCE = " Face descriptor: dlib's, as face-api has it (MIT)."
Place = tuple[str, int]  # a graph's model folder and version


class SharedGraphError(ValueError):
    """Graphs cannot be shared as asked, or others share what would be replaced; the message says which."""


def describe(
    name: str,
    pipeline: Pipeline,
    built: Built,
    config: BundleConfig,
    work: Path,
    figures: Mapping[str, Figures],
    places: Mapping[str, Place],
) -> dict[str, Any]:
    """The manifest, B.json, of a bundle whose files lie in `work`. `figures`: those of the parity checks, by role."""
    meta, card, generator = pipeline.meta, pipeline.card, pipeline.generator.config
    refine = asdict(built.refine)
    training = {k: v for k, v in meta.items() if k not in ("kind", "data")} | card.get("training", {})
    return {
        "format": FORMAT,
        "bundle": name,
        "resolution": generator.resolution,
        "layers": generator.layers,
        "code_size": generator.code_size,
        **{name: group.config.described for name, group in pipeline.generator.synthesis.extra.groups.items()},
        "opset": max(graph.opset for graph in built.graphs.values()),
        "graphs": {role: describe_graph(graph, *places[role], work) for role, graph in built.graphs.items()},
        "parity": {
            **figures,
            "weights": config.weights,
            "precision": config.precision,
            **({"precision_codes": config.precision_codes} if config.precision != "float32" else {}),
            **versions(sample_count(generator.resolution)),
        },
        "tensors": {"file": f"{name}.safetensors", "sha256": sha256(work / f"{name}.safetensors")},
        "directions": pipeline.directions,
        **({"labels": built.labels} if built.labels else {}),
        **({"presets": pipeline.presets} if pipeline.presets else {}),
        "refine": refine,
        "statistics": built.statistics,
        **alignment(pipeline.face(config.alignment)),
        **({"identity": {"middle": MIDDLE, "steepness": STEEPNESS}} if "identity" in built.graphs else {}),
        "training": training,
        "data": card.get("data", str(meta.get("data", ""))),
        # The detector's last: `python -m export align` takes it off again.
        "licence": card.get("licence", "")
        + (IDENTITY_LICENCE if "identity" in built.graphs else "")
        + (DETECTOR_LICENCE if "detector" in built.graphs else ""),
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


# --- graphs that two bundles share -------------------------------------------------------------------------------


def offered_graphs(repository: Path, name: str, other: str | None) -> dict[str, dict[str, Any]]:
    """The graphs that the bundle `other` has of its own and `name` may share, by role. Raises SharedGraphError."""
    if other is None:
        return {}
    file = repository / f"{other}.json"
    if other == name or not file.is_file():
        raise SharedGraphError(f"{repository} holds no other bundle {other!r} to share graphs with")
    return {
        role: graph
        for role, graph in listed_graphs(file).items()
        if role in SHAREABLE
        and graph["model"] == f"{other}_{role}"
        and not checksum_complaint(repository / graph["file"], graph["sha256"])
    }


def listed_graphs(manifest: Path) -> dict[str, dict[str, Any]]:
    """The graphs of a manifest by role; none where the file is no manifest."""
    try:
        graphs: dict[str, dict[str, Any]] = json.loads(manifest.read_text())["graphs"]
    except (ValueError, KeyError, TypeError):
        return {}
    return graphs


def place_graph(
    graph: Graph, model: ir.Model, own: Place, offered: Mapping[str, Any] | None, work: Path
) -> Place:
    """Write a graph below `work`: in the place of the offered one if it is the same, otherwise in its own."""
    if offered is not None:
        place = (offered["model"], offered["version"])
        write_graph(model, place, work)
        if describe_graph(graph, *place, work) == offered:
            return place
        shutil.rmtree(work / place[0])
    write_graph(model, own, work)
    return own


def write_graph(model: ir.Model, place: Place, work: Path) -> None:
    """Write a graph, which is named as its folder is."""
    file = work / graph_file(*place)
    file.parent.mkdir(parents=True)
    model.graph.name = place[0]
    save(model, file)


def refuse_to_break_others(work: Path, repository: Path, name: str, version: int | None) -> None:
    """Raise SharedGraphError if moving `work` into the repository would take a graph from a bundle that shares it."""
    own = {f"{name}_{role}" for role in SHAREABLE}
    for file in sorted(repository.glob("*.json")):
        for graph in ({} if file.stem == name else listed_graphs(file)).values():
            replaced = graph["model"] in own and version in (None, graph["version"])
            if replaced and checksum_complaint(work / graph["file"], graph["sha256"]):
                raise SharedGraphError(
                    f"{file.stem} shares {graph['model']}, version {graph['version']}, which would be another graph; "
                    f"write this bundle beside it with --version, or export {file.stem} again without --share"
                )
