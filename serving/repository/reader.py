"""Reads bundles from the model repository: `B.json`, `B.safetensors`, and the checksums of the graphs' files.

It runs no graph: back ends do. Every message names the bundle and the faulty part, so that it can be repaired.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors

from serving.bundle import (
    ROLES,
    Bundle,
    Direction,
    FileEntry,
    GraphSpec,
    Preset,
    ReferenceRun,
    Role,
    RowGroup,
    TensorSpec,
    row_groups,
    with_rows,
)
from serving.errors import BundleInvalid
from serving.jobs import EditStep
from serving.repository.manifest import DirectionEntry, Manifest, PresetEntry, read_manifest

# The inputs and outputs of each graph that the pipeline uses. A later exporter may add outputs.
_REQUIRED_TENSORS: dict[Role, tuple[frozenset[str], frozenset[str]]] = {
    "encoder": (frozenset({"image"}), frozenset({"code"})),
    "generator": (frozenset({"code"}), frozenset({"image"})),
    "mapping": (frozenset({"z"}), frozenset({"code"})),
    "critic": (frozenset({"code"}), frozenset({"score"})),
    # A refiner also takes and gives the state of its optimiser: see GraphSpec.state.
    "refiner": (
        frozenset({"code", "target", "mask"}),
        frozenset({"next_code", "loss", "best_code", "best_loss"}),
    ),
    "detector": (frozenset({"image"}), frozenset({"faces"})),
    "relabeller": (frozenset({"code", "label"}), frozenset({"edited_code"})),
    "identity": (frozenset({"image"}), frozenset({"descriptor"})),
}
_FACE_VALUES = 15  # score, box (4), five landmarks (10)


def read_bundles(repository: Path, names: tuple[str, ...] = (), *, verify: bool = True) -> dict[str, Bundle]:
    """Reads all bundles of a model repository, or the named ones in that order. Raises BundleInvalid.

    verify: compare every file with the sha256 in its manifest.
    """
    if not repository.is_dir():
        raise BundleInvalid(
            "The model repository does not exist; set INDOMAIN_MODEL_REPOSITORY to its folder."
        )
    found = names or tuple(sorted(path.stem for path in repository.glob("*.json")))
    if not found:
        raise BundleInvalid("The model repository has no bundle; write one with `python -m export bundle`.")
    return {name: read_bundle(repository, name, verify=verify) for name in found}


def read_bundle(repository: Path, name: str, *, verify: bool = True) -> Bundle:
    """Reads one bundle and checks all that can be checked without running it. Raises BundleInvalid."""
    manifest = read_manifest(repository, name)
    optional: dict[Role, bool] = {
        "detector": manifest.alignment == "face",
        "relabeller": any(label.held_out for label in manifest.labels),
        "identity": manifest.identity is not None,
    }
    needed = (*ROLES, *(role for role, has in optional.items() if has))
    if manifest.alignment == "face" and manifest.face is None:
        raise BundleInvalid(
            f"Bundle {name}: alignment is by faces, and `face` does not say where they are wanted; `python -m export "
            "align` does."
        )
    for role in needed:
        if role not in manifest.graphs:
            raise BundleInvalid(f"Bundle {name}: the manifest has no graph {role!r}; export it again.")
        _check_graph(name, role, manifest)
        graph = manifest.graphs[role]
        for file in (FileEntry(file=graph.file, sha256=graph.sha256), graph.external_data):
            if file is not None:
                _check_file(repository, name, file, verify)
    tensors = _read_tensors(name, _check_file(repository, name, manifest.tensors, verify))
    code_shape, rows = (manifest.layers, manifest.code_size), _code_rows(manifest)
    directions = {e.name: _direction(name, e, tensors, code_shape, rows) for e in manifest.directions}
    return Bundle(
        name=name,
        resolution=manifest.resolution,
        layers=manifest.layers,
        code_size=manifest.code_size,
        detail=manifest.detail,
        noise=manifest.noise,
        groups=_groups(manifest),
        graphs={role: manifest.graphs[role] for role in needed},
        references=_references(name, manifest.graphs, tensors),
        folder=repository,
        mean_code=with_rows(_tensor(name, tensors, "mean_code", code_shape), rows),
        code_std=with_rows(_tensor(name, tensors, "code_std", code_shape), rows),
        directions=directions,
        presets={entry.name: _preset(name, entry, directions) for entry in manifest.presets},
        refine=manifest.refine,
        alignment=manifest.alignment,
        face=manifest.face,
        data=manifest.data,
        licence=manifest.licence,
        limits=manifest.limits,
        labels=manifest.labels,
        identity=manifest.identity,
    )


def _code_rows(manifest: Manifest) -> int:
    """Rows of a code, the additional ones among them."""
    groups = _groups(manifest)
    return groups[-1].rows.stop if groups else manifest.layers


def _groups(manifest: Manifest) -> tuple[RowGroup, ...]:
    return row_groups(manifest.layers, manifest.code_size, manifest.detail, manifest.noise)


def _check_graph(bundle: str, role: Role, manifest: Manifest) -> None:
    graph = manifest.graphs[role]
    inputs, outputs = _REQUIRED_TENSORS[role]
    # More outputs do no harm; an input that the pipeline does not know would stay empty.
    known = inputs | {spec.name for spec in graph.state}
    if role == "refiner":
        known |= set(manifest.refine.settings)
    if role == "mapping" and manifest.labels:
        known |= {"label"}
    if {spec.name for spec in graph.inputs} != known:
        raise BundleInvalid(f"Bundle {bundle}: graph {role!r} must take exactly {', '.join(sorted(known))}.")
    if not outputs <= {spec.name for spec in graph.outputs}:
        raise BundleInvalid(f"Bundle {bundle}: graph {role!r} must give {', '.join(sorted(outputs))}.")
    picture = (-1, manifest.resolution, manifest.resolution, 3)
    code = (-1, _code_rows(manifest), manifest.code_size)
    if role == "mapping" and (graph.inputs[0].name != "z" or len(graph.inputs[0].shape) != 2):
        raise BundleInvalid(f"Bundle {bundle}: the first input of {role} must be z, [N, size].")
    if role == "detector":
        side = graph.inputs[0].shape[1]
        places = graph.outputs[0].shape[1]
        expected = {"image": (-1, side, side, 3), "faces": (-1, places, _FACE_VALUES)}
        _check_shapes(bundle, role, graph, expected)
        return
    expected = {"image": picture, "target": picture, "code": code, "best_code": code, "next_code": code}
    expected |= {"edited_code": code, "label": (-1, len(manifest.labels))}
    _check_shapes(bundle, role, graph, expected)


def _check_shapes(bundle: str, role: Role, graph: GraphSpec, expected: dict[str, tuple[int, ...]]) -> None:
    for spec in (*graph.inputs, *graph.outputs):
        if spec.shape != expected.get(spec.name, spec.shape) or spec.shape[:1] != (-1,):
            raise BundleInvalid(f"Bundle {bundle}: {role}.{spec.name} has shape {list(spec.shape)}.")


def _check_file(repository: Path, bundle: str, file: FileEntry, verify: bool) -> Path:
    path = (repository / file.file).resolve()
    if not path.is_relative_to(repository.resolve()):
        raise BundleInvalid(f"Bundle {bundle}: {file.file} lies outside the model repository.")
    try:
        with path.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest() if verify else ""
    except OSError:
        raise BundleInvalid(
            f"Bundle {bundle}: {file.file} cannot be read; export the bundle again."
        ) from None
    if verify and digest != file.sha256.lower():
        raise BundleInvalid(
            f"Bundle {bundle}: {file.file} is not the file that its manifest describes (sha256 differs); "
            "fetch or export the bundle again."
        )
    return path


def _read_tensors(bundle: str, file: Path) -> dict[str, npt.NDArray[np.float32]]:
    try:
        return load_safetensors(file.read_bytes())
    except (SafetensorError, ValueError):
        raise BundleInvalid(f"Bundle {bundle}: its tensors are not a safetensors file.") from None


def _tensor(
    bundle: str, tensors: dict[str, npt.NDArray[np.float32]], key: str, shape: tuple[int, ...]
) -> npt.NDArray[np.float32]:
    value = tensors.get(key)
    if value is None:
        raise BundleInvalid(f"Bundle {bundle}: tensor {key!r} is missing.")
    if value.shape != shape or value.dtype != np.float32 or not np.isfinite(value).all():
        raise BundleInvalid(f"Bundle {bundle}: tensor {key!r} must be finite float32 {list(shape)}.")
    return value


def _references(
    bundle: str, graphs: dict[Role, GraphSpec], tensors: dict[str, npt.NDArray[Any]]
) -> dict[Role, ReferenceRun]:
    """The reference runs, from tensors `sample/<role>/<inputs or outputs>/<name>`; inputs without one are zero."""
    found = {}
    for role, graph in graphs.items():
        inputs = _stored(bundle, role, "inputs", graph.inputs, tensors)
        outputs = _stored(bundle, role, "outputs", graph.outputs, tensors)
        if inputs:
            zeros = {spec.name: np.zeros((1, *spec.shape[1:]), spec.dtype) for spec in graph.inputs}
            found[role] = ReferenceRun(zeros | inputs, outputs)
    return found


def _stored(
    bundle: str, role: Role, side: str, specs: tuple[TensorSpec, ...], tensors: dict[str, npt.NDArray[Any]]
) -> dict[str, npt.NDArray[Any]]:
    """The stored tensors of one side of a reference run, by name. Raises BundleInvalid if one does not fit."""
    found = {}
    for spec in specs:
        value = tensors.get(f"sample/{role}/{side}/{spec.name}")
        if value is None:
            continue
        if value.shape != (1, *spec.shape[1:]) or value.dtype.name != spec.dtype:
            raise BundleInvalid(
                f"Bundle {bundle}: its sample of {role!r} does not fit the graph; export it again."
            )
        found[spec.name] = value
    return found


def _direction(
    bundle: str,
    entry: DirectionEntry,
    tensors: dict[str, npt.NDArray[np.float32]],
    code_shape: tuple[int, int],
    rows: int,
) -> Direction:
    vector = _tensor(bundle, tensors, f"direction/{entry.name}", code_shape)
    outside = [layer for layer in range(code_shape[0]) if layer not in entry.layers]
    if any(not 0 <= layer < code_shape[0] for layer in entry.layers) or np.any(vector[outside]):
        raise BundleInvalid(f"Bundle {bundle}: direction {entry.name!r} has values outside its layers.")
    if abs(float(np.linalg.norm(vector)) - 1.0) > 1e-3 or entry.range[0] >= entry.range[1]:
        raise BundleInvalid(
            f"Bundle {bundle}: direction {entry.name!r} needs unit length and a range that rises."
        )
    if f"boundary/{entry.name}" in tensors:
        boundary = _tensor(bundle, tensors, f"boundary/{entry.name}", code_shape)
        across = _tensor(bundle, tensors, f"across/{entry.name}", code_shape)
    else:
        # Without labels: what is orthogonal to the vector once codes are scaled to unit deviation.
        deviation = _tensor(bundle, tensors, "code_std", code_shape)
        boundary, across = vector / np.maximum(deviation, 1e-6) ** 2, vector
    return Direction(
        name=entry.name,
        label=entry.label or entry.name,
        layers=entry.layers,
        range=entry.range,
        scale=entry.scale,
        vector=with_rows(vector, rows),
        held_out=entry.held_out,
        conditioned_on=entry.conditioned_on,
        boundary=with_rows(boundary, rows),
        across=with_rows(across, rows),
    )


def _preset(bundle: str, entry: PresetEntry, directions: dict[str, Direction]) -> Preset:
    for edit in entry.edits:
        unknown = sorted({edit.direction, *edit.keep} - directions.keys())
        if unknown:
            raise BundleInvalid(
                f"Bundle {bundle}: preset {entry.name!r} is made of {', '.join(map(repr, unknown))}, which it has "
                "no direction for; correct it with `python -m export presets`."
            )
        if edit.layers and not set(edit.layers) & set(directions[edit.direction].layers):
            raise BundleInvalid(
                f"Bundle {bundle}: preset {entry.name!r} moves {edit.direction!r} in none of its layers."
            )
    edits = tuple(EditStep(**edit.model_dump()) for edit in entry.edits)
    return Preset(entry.name, entry.label or entry.name, edits)
