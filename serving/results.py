"""What the pipeline answers to the jobs of jobs.py. wire/ converts these types into protobuf messages and JSON."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from serving.jobs import EncodedPicture, Face, NamedCode, Origin, Placement


class StopReason(StrEnum):
    """Why a refinement ended."""

    NOT_REFINED = "not_refined"
    STEPS_DONE = "steps_done"
    CONVERGED = "converged"
    DEADLINE = "deadline"
    DIVERGED = "diverged"
    PRESSURE = "pressure"


@dataclass(frozen=True, slots=True)
class Losses:
    """How a refinement went: mean squared errors on [-1, 1] against the aligned picture, and its own objective."""

    pixel_mse_before: float
    pixel_mse_after: float
    refine_loss_before: float
    refine_loss_after: float
    steps_done: int
    stop_reason: StopReason


@dataclass(frozen=True, slots=True)
class AreaChange:
    """How well an edit kept to its area: mean squared differences from the source's picture on [-1, 1].

    before: of the edit without an area. after: of the answered picture. losses: of the refinement towards the edit
    inside the area and the source outside.
    """

    inside_mse_before: float
    inside_mse_after: float
    outside_mse_before: float
    outside_mse_after: float
    losses: Losses


@dataclass(frozen=True, slots=True)
class Rendering:
    """The pictures of a result, those that were asked for, and where on the photograph they belong.

    image: the result. aligned: what the encoder saw. start: the picture of the code before refinement. pasted: the
    whole photograph with the result pasted in. origin: the photograph; None: the source was a code, and `placement` is
    None, too. identity_score: how likely the result and the photograph, or what was edited, show one person.
    """

    image: EncodedPicture | None = None
    aligned: EncodedPicture | None = None
    start: EncodedPicture | None = None
    pasted: EncodedPicture | None = None
    placement: Placement | None = None
    identity_score: float | None = None
    origin: Origin | None = None


@dataclass(frozen=True, slots=True)
class FoundFaces:
    """The faces on a picture, the largest first."""

    bundle: str
    faces: tuple[Face, ...]
    width: int  # of the upright picture
    height: int


@dataclass(frozen=True, slots=True)
class InvertProgress:
    """A refinement under way. `loss` is the best so far, None before the first step."""

    step: int
    steps: int
    loss: float | None
    preview: EncodedPicture | None = None
    domain_score: float | None = None


@dataclass(frozen=True, slots=True)
class Inversion:
    """The code of a picture."""

    bundle: str
    code: NamedCode
    domain_score: float
    losses: Losses
    rendering: Rendering = Rendering()


@dataclass(frozen=True, slots=True)
class Edited:
    """An edited code. `losses` is None if the source was a code, `area` is None if the edit had no area, and `strokes`
    (the losses of the refinement towards them, counted where they are) if it had none.

    faces: each face of an edit of several; the other fields are those of the first one, but for the pasted photograph.
    """

    bundle: str
    code: NamedCode
    source_code: NamedCode
    domain_score: float
    losses: Losses | None = None
    rendering: Rendering = Rendering()
    area: AreaChange | None = None
    strokes: Losses | None = None
    faces: tuple[Edited, ...] = ()


@dataclass(frozen=True, slots=True)
class InterpolationFrame:
    """One picture of an interpolation. `position` goes from 0 at the start to 1 at the end.

    energy, length: of the way up to here, in pictures (pipeline/paths/geodesic.py).
    """

    bundle: str
    index: int
    position: float
    code: NamedCode
    domain_score: float
    rendering: Rendering = Rendering()
    energy: float = 0.0
    length: float = 0.0


@dataclass(frozen=True, slots=True)
class Mixed:
    """A code with layers of another one. `area` is None if it has them everywhere."""

    bundle: str
    code: NamedCode
    domain_score: float
    rendering: Rendering = Rendering()
    area: AreaChange | None = None


@dataclass(frozen=True, slots=True)
class Mean:
    """The mean of several codes. distances: the lengths, in pictures, of the ways from it to each of them."""

    bundle: str
    code: NamedCode
    domain_score: float
    rendering: Rendering
    distances: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Diffused:
    """A code for an area pasted into a context. `rendering.aligned` is the pasted picture; losses count in the area."""

    bundle: str
    code: NamedCode
    domain_score: float
    losses: Losses
    rendering: Rendering = Rendering()


@dataclass(frozen=True, slots=True)
class Decoded:
    """The pictures of codes, in their order."""

    bundle: str
    images: tuple[EncodedPicture, ...]


@dataclass(frozen=True, slots=True)
class Sampled:
    """Codes and pictures of seeds, in their order."""

    bundle: str
    codes: tuple[NamedCode, ...]
    images: tuple[EncodedPicture, ...]
