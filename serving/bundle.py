"""A bundle as it lies in the model repository: reads and checks `B.json`, `B.safetensors` and the graphs' checksums.

It runs nothing: back ends do. Every complaint names the bundle and the part, so that it can be repaired.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors

from serving.errors import BundleInvalid
from serving.jobs import EditStep

Role = Literal["encoder", "generator", "mapping", "critic", "refiner"]
ROLES: tuple[Role, ...] = ("encoder", "generator", "mapping", "critic", "refiner")
MANIFEST_FORMAT = 1
GraphKey = tuple[str, int, str]  # model, version, sha256

# What the pipeline feeds and reads, beside what a later exporter may add.
REFINE_SETTINGS = ("learning_rate", "pixel_weight", "perceptual_weight", "domain_weight")
_NEEDED: dict[Role, tuple[frozenset[str], frozenset[str]]] = {
    "encoder": (frozenset({"image"}), frozenset({"code"})),
    "generator": (frozenset({"code"}), frozenset({"image"})),
    "mapping": (frozenset({"z"}), frozenset({"code"})),
    "critic": (frozenset({"code"}), frozenset({"score"})),
    # and what else its optimiser carries from chunk to chunk: see GraphSpec.state
    "refiner": (
        frozenset({"code", "target", "mask", *REFINE_SETTINGS}),
        frozenset({"next_code", "loss", "best_code", "best_loss"}),
    ),
}


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, protected_namespaces=())


class TensorSpec(_Part):
    """Name, dtype and shape of a graph's input or output; -1 is the batch."""

    name: str
    dtype: Literal["uint8", "float32"]
    shape: tuple[int, ...]


class _File(_Part):
    file: str
    sha256: str


class GraphSpec(_Part):
    """One graph of a bundle, as a back end needs it."""

    model: str
    version: int = 1
    file: str
    sha256: str
    external_data: _File | None = None  # weights beside the graph, which names them itself
    precision: Literal["float32", "float16", "bfloat16"] = (
        "float32"  # what it computes in; its borders do not show
    )
    max_batch_size: int = Field(ge=1)
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @property
    def key(self) -> GraphKey:
        """What tells it from every other graph, and from other versions of itself."""
        return self.model, self.version, self.sha256

    @property
    def state(self) -> tuple[TensorSpec, ...]:
        """The inputs that an output next_<name> of the run before it goes into; all but the code start at zero."""
        carried = {spec.name.removeprefix("next_") for spec in self.outputs if spec.name.startswith("next_")}
        return tuple(spec for spec in self.inputs if spec.name in carried)


class HeldOut(_Part):
    metric: str
    value: float


class RefineDefaults(_Part):
    """The refiner's chunk size K and the settings used where a request names none."""

    chunk_steps: int = Field(ge=1)
    steps: int = Field(ge=0)
    learning_rate: float = Field(gt=0)
    pixel_weight: float = Field(ge=0)
    perceptual_weight: float = Field(ge=0)
    domain_weight: float = Field(ge=0)
    quality_steps: dict[str, Annotated[int, Field(ge=0)]] = Field(default_factory=dict)


class _DirectionEntry(_Part):
    name: str = Field(min_length=1)
    label: str = ""
    layers: tuple[int, ...]
    range: tuple[float, float]
    scale: float = Field(gt=0)
    held_out: HeldOut | None = None
    conditioned_on: tuple[str, ...] = ()


class _PresetEdit(_Part):
    direction: str
    strength: float = Field(allow_inf_nan=False)
    layers: tuple[int, ...] = ()
    keep: tuple[str, ...] = ()


class _PresetEntry(_Part):
    name: str = Field(min_length=1)
    label: str = ""
    edits: tuple[_PresetEdit, ...] = Field(min_length=1)


class _Manifest(_Part):
    format: int
    bundle: str
    resolution: int = Field(ge=4)
    layers: int = Field(ge=1)
    code_size: int = Field(ge=1)
    graphs: dict[Role, GraphSpec]
    tensors: _File
    directions: tuple[_DirectionEntry, ...] = ()
    presets: tuple[_PresetEntry, ...] = ()
    refine: RefineDefaults
    alignment: str = "centre-crop"
    data: str = ""
    licence: str = ""
    limits: str = ""


@dataclass(frozen=True, slots=True)
class Direction:
    """A direction of meaning. edited code = code + strength * scale * vector; rows outside `layers` are zero.

    A change of code leaves the meaning alone if it is orthogonal to `boundary`; `across` is the step that changes the
    meaning most natively. Without labels both follow from the vector.
    """

    name: str
    label: str
    layers: tuple[int, ...]
    range: tuple[float, float]  # strengths, in standard deviations of sampled codes
    scale: float
    vector: npt.NDArray[np.float32]  # [L, 512], unit length over all rows
    held_out: HeldOut | None
    conditioned_on: tuple[str, ...]
    boundary: npt.NDArray[np.float32]  # [L, 512]
    across: npt.NDArray[np.float32]  # [L, 512]


@dataclass(frozen=True, slots=True)
class Preset:
    """Several edits under a name of their own, which are made together; none of them names a preset."""

    name: str
    label: str
    edits: tuple[EditStep, ...]


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample's inputs and outputs of a graph, each [1, ...], as its export found them."""

    inputs: dict[str, npt.NDArray[Any]]
    outputs: dict[str, npt.NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Bundle:
    """Everything of a trained pipeline but its running graphs."""

    name: str
    resolution: int  # pixels, both sides
    layers: int
    code_size: int
    graphs: dict[Role, GraphSpec]
    samples: dict[Role, Sample]  # empty in bundles of older exports
    folder: Path
    mean_code: npt.NDArray[np.float32]  # [L, 512]
    code_std: npt.NDArray[np.float32]  # [L, 512]
    directions: dict[str, Direction]
    presets: dict[str, Preset]
    refine: RefineDefaults
    alignment: str
    data: str
    licence: str
    limits: str

    @property
    def z_size(self) -> int:
        """Size of the mapping's Gaussian input, which need not be that of a code vector."""
        return self.graphs["mapping"].inputs[0].shape[1]

    @property
    def code_space(self) -> str:
        """Names what codes mean: a code of one generator is none of another's, though the bundle's name is the same."""
        return f"{self.name}-{self.graphs['generator'].sha256[:12]}"

    def graph_file(self, role: Role) -> Path:
        return self.folder / self.graphs[role].file


def read_bundles(repository: Path, names: tuple[str, ...] = (), *, verify: bool = True) -> dict[str, Bundle]:
    """All bundles of a model repository (or the named ones, in that order). Raises BundleInvalid."""
    if not repository.is_dir():
        raise BundleInvalid(
            "The model repository does not exist; set INDOMAIN_MODEL_REPOSITORY to its folder."
        )
    found = names or tuple(sorted(path.stem for path in repository.glob("*.json")))
    if not found:
        raise BundleInvalid("The model repository has no bundle; write one with `python -m export bundle`.")
    return {name: read_bundle(repository, name, verify=verify) for name in found}


def read_bundle(repository: Path, name: str, *, verify: bool = True) -> Bundle:
    """One bundle, checked as far as it can be without running it. Raises BundleInvalid."""
    manifest = _read_manifest(repository, name)
    for role in ROLES:
        if role not in manifest.graphs:
            raise BundleInvalid(f"Bundle {name}: the manifest has no graph {role!r}; export it again.")
        _check_graph(name, role, manifest)
        graph = manifest.graphs[role]
        for file in (_File(file=graph.file, sha256=graph.sha256), graph.external_data):
            if file is not None:
                _check_file(repository, name, file, verify)
    tensors = _read_tensors(name, _check_file(repository, name, manifest.tensors, verify))
    code_shape = (manifest.layers, manifest.code_size)
    directions = {e.name: _direction(name, e, tensors, code_shape) for e in manifest.directions}
    _check_names(manifest)
    return Bundle(
        name=name,
        resolution=manifest.resolution,
        layers=manifest.layers,
        code_size=manifest.code_size,
        graphs=dict(manifest.graphs),
        samples=_samples(name, manifest.graphs, tensors),
        folder=repository,
        mean_code=_tensor(name, tensors, "mean_code", code_shape),
        code_std=_tensor(name, tensors, "code_std", code_shape),
        directions=directions,
        presets={entry.name: _preset(name, entry, directions) for entry in manifest.presets},
        refine=manifest.refine,
        alignment=manifest.alignment,
        data=manifest.data,
        licence=manifest.licence,
        limits=manifest.limits,
    )


def _read_manifest(repository: Path, name: str) -> _Manifest:
    try:
        raw = json.loads((repository / f"{name}.json").read_bytes())
    except OSError:
        raise BundleInvalid(f"Bundle {name}: {name}.json cannot be read from the model repository.") from None
    except ValueError as error:
        raise BundleInvalid(f"Bundle {name}: {name}.json is not JSON ({error}); export it again.") from None
    found = raw.get("format") if isinstance(raw, dict) else None
    if found != MANIFEST_FORMAT:
        raise BundleInvalid(
            f"Bundle {name}: manifest format {found!r}, this gateway reads {MANIFEST_FORMAT}; export it again."
        )
    try:
        manifest = _Manifest.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BundleInvalid(f"Bundle {name}: {where}: {first['msg']} ({name}.json).") from None
    if manifest.bundle != name:
        raise BundleInvalid(
            f"Bundle {name}: its manifest says it is {manifest.bundle!r}; rename one of the two."
        )
    return manifest


def _check_names(manifest: _Manifest) -> None:
    """Each direction and each preset has a name of its own."""
    names = [direction.name for direction in manifest.directions]
    names += [preset.name for preset in manifest.presets]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise BundleInvalid(
            f"Bundle {manifest.bundle}: {', '.join(map(repr, twice))} names more than one direction or preset; "
            "rename all but one."
        )


def _check_graph(bundle: str, role: Role, manifest: _Manifest) -> None:
    graph = manifest.graphs[role]
    inputs, outputs = _NEEDED[role]
    # More outputs do no harm; an input that the pipeline does not know could not be fed.
    known = inputs | {spec.name for spec in graph.state}
    if {spec.name for spec in graph.inputs} != known:
        raise BundleInvalid(f"Bundle {bundle}: graph {role!r} must take exactly {', '.join(sorted(known))}.")
    if not outputs <= {spec.name for spec in graph.outputs}:
        raise BundleInvalid(f"Bundle {bundle}: graph {role!r} must give {', '.join(sorted(outputs))}.")
    picture = (-1, manifest.resolution, manifest.resolution, 3)
    code = (-1, manifest.layers, manifest.code_size)
    if role == "mapping" and len(graph.inputs[0].shape) != 2:
        raise BundleInvalid(f"Bundle {bundle}: {role}.z has shape {list(graph.inputs[0].shape)}.")
    expected = {"image": picture, "target": picture, "code": code, "best_code": code, "next_code": code}
    for spec in (*graph.inputs, *graph.outputs):
        if spec.shape != expected.get(spec.name, spec.shape) or spec.shape[:1] != (-1,):
            raise BundleInvalid(f"Bundle {bundle}: {role}.{spec.name} has shape {list(spec.shape)}.")


def _check_file(repository: Path, bundle: str, file: _File, verify: bool) -> Path:
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


def _samples(
    bundle: str, graphs: dict[Role, GraphSpec], tensors: dict[str, npt.NDArray[Any]]
) -> dict[Role, Sample]:
    found = {}
    for role, graph in graphs.items():
        sides: list[dict[str, npt.NDArray[Any]]] = []
        for side, specs in (("inputs", graph.inputs), ("outputs", graph.outputs)):
            named = {spec: tensors.get(f"sample/{role}/{side}/{spec.name}") for spec in specs}
            stored = {spec: value for spec, value in named.items() if value is not None}
            if any((1, *s.shape[1:]) != v.shape or s.dtype != v.dtype.name for s, v in stored.items()):
                raise BundleInvalid(
                    f"Bundle {bundle}: its sample of {role!r} does not fit the graph; export it again."
                )
            sides.append({spec.name: value for spec, value in stored.items()})
        if len(sides[0]) == len(graph.inputs):
            found[role] = Sample(*sides)
    return found


def _direction(
    bundle: str,
    entry: _DirectionEntry,
    tensors: dict[str, npt.NDArray[np.float32]],
    code_shape: tuple[int, int],
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
    else:  # the nearest that there is: orthogonal among codes of unit deviation
        deviation = _tensor(bundle, tensors, "code_std", code_shape)
        boundary, across = vector / np.maximum(deviation, 1e-6) ** 2, vector
    return Direction(
        name=entry.name,
        label=entry.label or entry.name,
        layers=entry.layers,
        range=entry.range,
        scale=entry.scale,
        vector=vector,
        held_out=entry.held_out,
        conditioned_on=entry.conditioned_on,
        boundary=boundary,
        across=across,
    )


def _preset(bundle: str, entry: _PresetEntry, directions: dict[str, Direction]) -> Preset:
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
