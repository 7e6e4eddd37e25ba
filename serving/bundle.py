"""A bundle: a trained pipeline as the gateway knows it, without its running graphs.

repository/ reads bundles from files and checks them; a back end (backends/) runs their graphs. The graphs of a bundle
`B`: `B_encoder` (picture -> code), `B_generator` (code -> picture), `B_mapping` (z -> code), `B_critic` (code -> domain
score), `B_refiner` (some steps of refinement), with alignment by faces `B_detector` (picture -> faces), and where codes
can be given other labels `B_relabeller` (code and labels -> code). With labels `B_mapping` takes them beside z. With an
identity score `B_identity` (picture -> descriptor of its face).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

from serving.jobs import EditStep

Role = Literal["encoder", "generator", "mapping", "critic", "refiner", "detector", "relabeller", "identity"]
# Every bundle has these graphs. Those aligned by faces have a detector, too, and some the last two.
ROLES: tuple[Role, ...] = ("encoder", "generator", "mapping", "critic", "refiner")
Precision = Literal["float32", "float16", "bfloat16"]
GraphKey = tuple[str, int, str]  # model, version, sha256
Place = tuple[int, int, int]  # layer, side in pixels, number of maps

# Inputs of every refiner, each [N, 1]: the learning rate and the weights of its objective.
REFINE_SETTINGS = ("learning_rate", "pixel_weight", "perceptual_weight", "domain_weight")
# Inputs of the refiners that can do that: those whose bundle has a default for it.
OPTIONAL_SETTINGS = ("grey", "downsampling", "identity_weight", "detail", "noise")


class ManifestPart(BaseModel):
    """A part of a manifest. Unknown fields are ignored: a later exporter may add some."""

    model_config = ConfigDict(extra="ignore", frozen=True, protected_namespaces=())


class TensorSpec(ManifestPart):
    """Name, dtype and shape of a graph's input or output; -1 is the batch axis."""

    name: str
    dtype: Literal["uint8", "float32"]
    shape: tuple[int, ...]


class FileEntry(ManifestPart):
    """A file of the model repository, with its checksum."""

    file: str
    sha256: str


class GraphSpec(ManifestPart):
    """One graph of a bundle, with all that a back end needs to run it.

    external_data: a file with weights, which the graph's own file refers to. precision: what the graph computes in;
    its inputs and outputs have the dtypes of their TensorSpecs all the same.
    """

    model: str
    version: int = 1
    file: str
    sha256: str
    external_data: FileEntry | None = None
    precision: Precision = "float32"
    max_batch_size: int = Field(ge=1)
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @property
    def key(self) -> GraphKey:
        """Identifies the graph among all graphs and all versions of it."""
        return self.model, self.version, self.sha256

    @property
    def state(self) -> tuple[TensorSpec, ...]:
        """The inputs that take an output `next_<name>` of the run before: the code, and an optimiser's state.

        All of them but the code are zero on the first run.
        """
        carried = {spec.name.removeprefix("next_") for spec in self.outputs if spec.name.startswith("next_")}
        return tuple(spec for spec in self.inputs if spec.name in carried)


class HeldOut(ManifestPart):
    """How well a direction does on data that it was not fitted to."""

    metric: str
    value: float


class Label(ManifestPart):
    """A binary attribute that the generator was trained with.

    frequency: the share of the training pictures that have it. held_out: how well a code's own label is read off
    sampled codes; None where only samples take labels.
    """

    name: str = Field(min_length=1)
    frequency: float = Field(ge=0, le=1)
    held_out: HeldOut | None = None


class IdentityLogistic(ManifestPart):
    """How likely faces whose descriptors are so far apart are one person's: 1 / (1 + exp(steepness (far - middle)))."""

    middle: float = Field(gt=0)
    steepness: float = Field(gt=0)


class RefineDefaults(ManifestPart):
    """The refinement settings of a request that names none, and the steps in one run of the refiner."""

    chunk_steps: int = Field(ge=1)
    steps: int = Field(ge=0)
    learning_rate: float = Field(gt=0)
    pixel_weight: float = Field(ge=0)
    perceptual_weight: float = Field(ge=0)
    domain_weight: float = Field(ge=0)
    quality_steps: dict[str, Annotated[int, Field(ge=0)]] = Field(default_factory=dict)
    # None: the refiner has no such input.
    grey: bool | None = None
    downsampling: Annotated[int, Field(ge=1)] | None = None
    identity_weight: Annotated[float, Field(ge=0)] | None = None
    detail: bool | None = None
    noise: bool | None = None

    @property
    def settings(self) -> tuple[str, ...]:
        """The refiner's inputs, beside its state, the target and the mask."""
        optional = (name for name in OPTIONAL_SETTINGS if getattr(self, name) is not None)
        return (*REFINE_SETTINGS, *optional)


class DetailCodes(ManifestPart):
    """Rows of a code beyond its layers: `maps` of side x side pixels, flattened. The generator adds them to its
    features after `layer`; in native codes they are zero.

    fade: how far an edit goes, in standard deviations of sampled codes, until e^-1 of the detail is left.
    """

    layer: int = Field(ge=0)
    side: int = Field(ge=4)
    maps: int = Field(ge=1)
    fade: float = Field(gt=0)

    @property
    def places(self) -> tuple[Place, ...]:
        """The maps by where they are added."""
        return ((self.layer, self.side, self.maps),)


class NoiseMaps(ManifestPart):
    """Rows of a code beyond its layers: one map for each of `layers`, of side x side pixels, flattened. The generator
    adds them to the layers' noise; in native codes they are zero. fade: as of `DetailCodes`.
    """

    layers: tuple[Annotated[int, Field(ge=0)], ...] = Field(min_length=1)
    sides: tuple[Annotated[int, Field(ge=4)], ...]
    fade: float = Field(gt=0)

    @model_validator(mode="after")
    def _one_side_each(self) -> Self:
        if len(self.sides) != len(self.layers):
            raise ValueError("noise has as many sides as layers")
        return self

    @property
    def places(self) -> tuple[Place, ...]:
        """The maps by where they are added."""
        return tuple((layer, side, 1) for layer, side in zip(self.layers, self.sides, strict=True))


@dataclass(frozen=True, slots=True)
class RowPart:
    """Rows of a code that hold maps of side x side pixels, which the generator adds at one layer."""

    layer: int
    side: int
    rows: slice


@dataclass(frozen=True, slots=True)
class RowGroup:
    """Rows of a code beyond its layers that belong together; the setting of their name says whether they are found.

    fade: how far an edit goes, in standard deviations of sampled codes, until e^-1 of them is left.
    """

    name: str
    fade: float
    parts: tuple[RowPart, ...]

    @property
    def rows(self) -> slice:
        return slice(self.parts[0].rows.start, self.parts[-1].rows.stop)


def row_groups(
    layers: int, code_size: int, detail: DetailCodes | None, noise: NoiseMaps | None
) -> tuple[RowGroup, ...]:
    """The groups of a code's additional rows, in their order; none of most bundles."""
    groups, first = [], layers
    for name, group in (("detail", detail), ("noise", noise)):
        if group is None:
            continue
        parts = []
        for layer, side, maps in group.places:
            rows = slice(first, first + maps * side**2 // code_size)
            parts.append(RowPart(layer, side, rows))
            first = rows.stop
        groups.append(RowGroup(name, group.fade, tuple(parts)))
    return tuple(groups)


Point = tuple[Annotated[float, Field(gt=-1.0, lt=2.0)], Annotated[float, Field(gt=-1.0, lt=2.0)]]


class Landmarks(ManifestPart):
    """Five points of a face, in parts of a picture's side."""

    left_eye: Point
    right_eye: Point
    nose: Point
    mouth_left: Point
    mouth_right: Point


class FaceTemplate(ManifestPart):
    """Where faces lie on the training pictures; lengths in parts of a picture's side.

    tolerance: a picture is aligned already if no corner is farther than this from the corner of its face's square.
    max_turn: how far the tip of the nose may be from the middle of the eyes, in distances between the eyes.
    """

    template: Landmarks
    tolerance: float = Field(ge=0.0, le=0.5)
    max_turn: float = Field(gt=0.0)

    @property
    def points(self) -> npt.NDArray[np.float64]:
        """[5, 2]: eyes, nose, corners of the mouth."""
        return np.array(list(self.template.model_dump().values()))


@dataclass(frozen=True, slots=True)
class Direction:
    """A direction in W+ that changes one attribute: edited code = code + strength * scale * vector.

    A change of code keeps the attribute if it is orthogonal to `boundary` (the normal of a classifier's boundary).
    `across` is the step across that boundary which is shortest in units of how codes vary. A bundle without labels
    has neither; both are then derived from the vector.
    """

    name: str
    label: str
    layers: tuple[int, ...]
    range: tuple[float, float]  # useful strengths, in steps of `scale`
    scale: float
    vector: npt.NDArray[np.float32]  # as a code, unit length over all layers, zero outside `layers`
    held_out: HeldOut | None
    conditioned_on: tuple[str, ...]
    boundary: npt.NDArray[np.float32]  # as a code
    across: npt.NDArray[np.float32]  # as a code


@dataclass(frozen=True, slots=True)
class Preset:
    """Several edits under one name. None of them names another preset."""

    name: str
    label: str
    edits: tuple[EditStep, ...]


@dataclass(frozen=True, slots=True)
class ReferenceRun:
    """Inputs of one run of a graph, and the outputs that it gave when it was exported, each [1, ...]."""

    inputs: dict[str, npt.NDArray[Any]]
    outputs: dict[str, npt.NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Bundle:
    """A trained pipeline: graphs, tensors, directions, presets, defaults.

    Its codes are float32 [L, 512], and with groups of additional rows [L + R, 512].
    """

    name: str
    resolution: int  # pixels, both sides
    layers: int
    code_size: int
    detail: DetailCodes | None
    noise: NoiseMaps | None
    groups: tuple[RowGroup, ...]  # those of detail and noise, in the order of their rows
    graphs: dict[Role, GraphSpec]
    references: dict[Role, ReferenceRun]  # empty for older exports
    folder: Path
    mean_code: npt.NDArray[np.float32]
    code_std: npt.NDArray[np.float32]
    directions: dict[str, Direction]
    presets: dict[str, Preset]
    refine: RefineDefaults
    alignment: Literal["face", "centre-crop"]
    face: FaceTemplate | None  # with alignment "face"
    data: str
    licence: str
    limits: str
    labels: tuple[Label, ...] = ()  # in the order of the graphs' input `label`
    identity: IdentityLogistic | None = None  # with a graph of that role

    @property
    def z_size(self) -> int:
        """Size of the mapping's Gaussian input z, which may differ from `code_size`."""
        return self.graphs["mapping"].inputs[0].shape[1]

    @property
    def code_shape(self) -> tuple[int, int]:
        """Rows of a code, with the additional ones, and their size."""
        rows, size = self.mean_code.shape
        return rows, size

    @property
    def code_space(self) -> str:
        """Names the space that codes live in: the bundle and its generator. A code means nothing in another space."""
        return f"{self.name}-{self.graphs['generator'].sha256[:12]}"

    def graph_file(self, role: Role) -> Path:
        """The ONNX file of a graph."""
        return self.folder / self.graphs[role].file


class ObjectiveSettings(Protocol):
    """The values of REFINE_SETTINGS and OPTIONAL_SETTINGS, by name."""

    @property
    def learning_rate(self) -> float: ...

    @property
    def pixel_weight(self) -> float: ...

    @property
    def perceptual_weight(self) -> float: ...

    @property
    def domain_weight(self) -> float: ...

    @property
    def grey(self) -> bool | None: ...

    @property
    def downsampling(self) -> int | None: ...

    @property
    def identity_weight(self) -> float | None: ...

    @property
    def detail(self) -> bool | None: ...

    @property
    def noise(self) -> bool | None: ...


def with_rows(code: npt.NDArray[np.float32], rows: int) -> npt.NDArray[np.float32]:
    """A code float32 [..., L, 512] as one of `rows` rows: zeros are added."""
    missing = rows - code.shape[-2]
    return np.pad(code, [(0, 0)] * (code.ndim - 2) + [(0, missing), (0, 0)]) if missing else code


def cleared(code: npt.NDArray[np.float32], groups: Iterable[RowGroup]) -> npt.NDArray[np.float32]:
    """The code float32 [L + R, 512] with zeros in the rows of the groups."""
    code = code.copy()
    for group in groups:
        code[group.rows] = 0
    return code


def first_inputs(
    bundle: Bundle,
    codes: npt.NDArray[np.float32],
    targets: npt.NDArray[np.uint8],
    settings: ObjectiveSettings,
) -> dict[str, npt.NDArray[Any]]:
    """Inputs for a refiner's first run: codes float32 [N, L, 512], targets uint8 [N, H, W, 3], every pixel counting."""
    inputs: dict[str, npt.NDArray[Any]] = {
        part.name: np.zeros((len(codes), *part.shape[1:]), dtype=np.float32)
        for part in bundle.graphs["refiner"].state
    }
    inputs |= {"code": codes, "target": targets}
    inputs["mask"] = np.ones((*targets.shape[:3], 1), dtype=np.float32)
    for name in bundle.refine.settings:
        inputs[name] = np.full((len(codes), 1), getattr(settings, name), dtype=np.float32)
    return inputs
