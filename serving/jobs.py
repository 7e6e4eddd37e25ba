"""What can be asked of the pipeline and what it answers, in the field's own terms.

Neither protobuf nor JSON: wire/ turns those into these and back. Checks of meaning are the pipeline's.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from serving.errors import EditingError

Image = npt.NDArray[np.uint8]  # [H, W, 3], RGB
Code = npt.NDArray[np.float32]  # [L, 512]


class ImageFormat(StrEnum):
    PNG = "png"
    JPEG = "jpeg"
    WEBP = "webp"
    RAW = "raw"  # uint8 [H, W, 3], no header


class Alignment(StrEnum):
    """How a picture is brought into place."""

    FACE = "face"
    CENTRE_CROP = "centre-crop"


class Pasting(StrEnum):
    """How a result is put back into its photograph: added to it, or in its place."""

    CHANGE = "change"
    REPLACE = "replace"


class StopReason(StrEnum):
    """Why a refinement ended."""

    NOT_REFINED = "not_refined"
    STEPS_DONE = "steps_done"
    CONVERGED = "converged"
    DEADLINE = "deadline"
    DIVERGED = "diverged"
    PRESSURE = "pressure"


@dataclass(frozen=True, slots=True)
class EncodedPicture:
    """A picture as bytes. `format` None: to be read from the bytes. Width and height (pixels) are needed for RAW."""

    data: bytes
    format: ImageFormat | None = None
    width: int = 0
    height: int = 0


@dataclass(frozen=True, slots=True)
class CodeHandle:
    """A code by the name that the gateway gave it (handles.py)."""

    name: str


@dataclass(frozen=True, slots=True)
class NamedCode:
    """A code with its handle (empty: none) and whose code it is (`Bundle.code_space`; empty: nobody said). In an
    answer `values` is None where only the handle was asked for."""

    values: Code | None
    handle: str = ""
    space: str = ""

    def by_handle(self) -> NamedCode:
        """Without the values, where there is a handle."""
        return replace(self, values=None) if self.handle else self


CodeSource = npt.NDArray[np.float32] | CodeHandle | NamedCode
Source = EncodedPicture | CodeSource


@dataclass(frozen=True, slots=True)
class AlignOptions:
    """alignment None: the bundle's own. face: which of several, in the order of FoundFaces; None: the largest."""

    alignment: Alignment | None = None
    face: int | None = None


Coordinates = tuple[tuple[float, float], ...]  # x and y, in pixels of the upright picture


@dataclass(frozen=True, slots=True)
class Face:
    """A face on a picture. `corners`: of the square that would be edited, clockwise from the face's own top left."""

    box: tuple[float, float, float, float]  # left, top, right, bottom
    score: float
    landmarks: Coordinates  # eyes, tip of the nose, corners of the mouth
    corners: Coordinates
    roll_degrees: float
    unusable: str  # empty, or why it cannot be edited and what to do


@dataclass(frozen=True, slots=True)
class Placement:
    """Where on a picture the square is that was encoded. `faces` 0: nobody looked for any, and `found` is None."""

    alignment: Alignment  # what was done
    face: int
    faces: int
    found: Face | None
    corners: Coordinates
    roll_degrees: float
    width: int  # of the upright picture
    height: int


@dataclass(frozen=True, slots=True)
class RefineOptions:
    """How to refine; None takes the bundle's default. steps = 0: not at all. quality: a name for a number of steps.
    allow_fewer_steps: rather than wait or be refused where the gateway is busy."""

    steps: int | None = None
    quality: str | None = None
    learning_rate: float | None = None
    pixel_weight: float | None = None
    perceptual_weight: float | None = None
    domain_weight: float | None = None
    allow_fewer_steps: bool = False


@dataclass(frozen=True, slots=True)
class OutputOptions:
    """Which pictures to answer, and in which format; `codes` False: codes by their handles only; `pasted`: also the
    whole photograph with the result in its place."""

    format: ImageFormat = ImageFormat.PNG
    quality: int = 92
    image: bool = True
    aligned: bool = False
    start: bool = False
    codes: bool = True
    pasted: bool = False
    pasting: Pasting | None = None  # None: as fits the job


@dataclass(frozen=True, slots=True)
class EditStep:
    """Move by `strength` (standard deviations of sampled codes) along a direction or a preset, in `layers` (empty: all
    of its), but for what would change the meaning of the directions `keep`."""

    direction: str
    strength: float
    layers: tuple[int, ...] = ()
    keep: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Origin:
    """A photograph, and where on it a code's square is."""

    picture: EncodedPicture
    placement: Placement


@dataclass(frozen=True, slots=True)
class FindFacesJob:
    picture: EncodedPicture
    bundle: str = ""


@dataclass(frozen=True, slots=True)
class InvertJob:
    picture: EncodedPicture
    bundle: str = ""
    refine: RefineOptions = field(default_factory=RefineOptions)
    output: OutputOptions = field(default_factory=OutputOptions)
    align: AlignOptions = field(default_factory=AlignOptions)


@dataclass(frozen=True, slots=True)
class WatchInvertJob:
    invert: InvertJob
    interval_s: float = 0.25  # between two reports, at least
    previews: bool = True


@dataclass(frozen=True, slots=True)
class EditJob:
    """With an area (a mask is white there) the picture changes only there. `origin`: the photograph that a source code
    came of, and where on it, for its result to be pasted there."""

    source: Source
    edits: tuple[EditStep, ...]
    bundle: str = ""
    refine: RefineOptions = field(default_factory=RefineOptions)
    output: OutputOptions = field(default_factory=OutputOptions)
    align: AlignOptions = field(default_factory=AlignOptions)
    origin: Origin | None = None
    area: Region | EncodedPicture | None = None


@dataclass(frozen=True, slots=True)
class SessionRequest:
    """One message of an edit session. A source (with bundle, refine, align) or output that is None stays as it was."""

    sequence: int
    edits: tuple[EditStep, ...]
    source: Source | None = None
    bundle: str = ""
    refine: RefineOptions = field(default_factory=RefineOptions)
    output: OutputOptions | None = None
    align: AlignOptions = field(default_factory=AlignOptions)
    fault: EditingError | None = None  # why the message could not be read
    area: Region | EncodedPicture | None = None


@dataclass(frozen=True, slots=True)
class InterpolateJob:
    start: Source
    end: Source
    count: int  # pictures, with both ends
    bundle: str = ""
    refine: RefineOptions = field(default_factory=RefineOptions)
    output: OutputOptions = field(default_factory=OutputOptions)
    align: AlignOptions = field(default_factory=AlignOptions)


@dataclass(frozen=True, slots=True)
class MixJob:
    base: Source
    style: Source
    layers: tuple[int, ...]
    strength: float = 1.0
    bundle: str = ""
    refine: RefineOptions = field(default_factory=RefineOptions)
    output: OutputOptions = field(default_factory=OutputOptions)
    align: AlignOptions = field(default_factory=AlignOptions)


@dataclass(frozen=True, slots=True)
class Region:
    """A rectangle, in parts of a picture's sides. The default is the middle of an aligned face."""

    left: float = 0.27
    top: float = 0.35
    right: float = 0.71
    bottom: float = 0.78


@dataclass(frozen=True, slots=True)
class DiffuseJob:
    target: EncodedPicture
    context: EncodedPicture
    area: Region | EncodedPicture = field(default_factory=Region)  # or a mask: white is the target
    bundle: str = ""
    refine: RefineOptions = field(default_factory=RefineOptions)
    output: OutputOptions = field(default_factory=OutputOptions)
    align: AlignOptions = field(default_factory=AlignOptions)


@dataclass(frozen=True, slots=True)
class DecodeJob:
    codes: tuple[CodeSource, ...]  # each [L, 512] or [N, L, 512]
    bundle: str = ""
    output: OutputOptions = field(default_factory=OutputOptions)


@dataclass(frozen=True, slots=True)
class SampleJob:
    seeds: tuple[int, ...]
    truncation: float = 0.7
    bundle: str = ""
    output: OutputOptions = field(default_factory=OutputOptions)


@dataclass(frozen=True, slots=True)
class Losses:
    """Mean squared errors on [-1, 1] against the aligned picture, and the refinement's own objective."""

    pixel_mse_before: float
    pixel_mse_after: float
    refine_loss_before: float
    refine_loss_after: float
    steps_done: int
    stop_reason: StopReason


@dataclass(frozen=True, slots=True)
class AreaChange:
    """How an edit was held to its area: mean squared differences to the source's picture on [-1, 1], `before` of the
    edit everywhere, `after` of the answer; and the refinement's losses against what was wanted."""

    inside_mse_before: float
    inside_mse_after: float
    outside_mse_before: float
    outside_mse_after: float
    losses: Losses


@dataclass(frozen=True, slots=True)
class InvertProgress:
    """A refinement under way: `loss` is the best so far, None before the first step."""

    step: int
    steps: int
    loss: float | None
    preview: EncodedPicture | None = None
    domain_score: float | None = None


@dataclass(frozen=True, slots=True)
class FoundFaces:
    """The largest first."""

    bundle: str
    faces: tuple[Face, ...]
    width: int  # of the upright picture
    height: int


@dataclass(frozen=True, slots=True)
class Inversion:
    bundle: str
    code: NamedCode
    domain_score: float
    losses: Losses
    image: EncodedPicture | None = None
    aligned: EncodedPicture | None = None
    start: EncodedPicture | None = None
    pasted: EncodedPicture | None = None
    placement: Placement | None = None


@dataclass(frozen=True, slots=True)
class Edited:
    bundle: str
    code: NamedCode
    source_code: NamedCode
    domain_score: float
    losses: Losses | None = None  # None when the source was a code
    image: EncodedPicture | None = None
    aligned: EncodedPicture | None = None
    start: EncodedPicture | None = None
    pasted: EncodedPicture | None = None
    placement: Placement | None = None
    area: AreaChange | None = None  # None where none was asked for


@dataclass(frozen=True, slots=True)
class Between:
    """One picture of an interpolation: `position` goes from 0 at the start to 1 at the end."""

    bundle: str
    index: int
    position: float
    code: NamedCode
    domain_score: float
    image: EncodedPicture | None = None
    pasted: EncodedPicture | None = None
    placement: Placement | None = None


@dataclass(frozen=True, slots=True)
class Mixed:
    bundle: str
    code: NamedCode
    domain_score: float
    image: EncodedPicture | None = None
    pasted: EncodedPicture | None = None
    placement: Placement | None = None


@dataclass(frozen=True, slots=True)
class Diffused:
    """`aligned` is the region pasted into the context; the losses count within the area."""

    bundle: str
    code: NamedCode
    domain_score: float
    losses: Losses
    image: EncodedPicture | None = None
    aligned: EncodedPicture | None = None
    start: EncodedPicture | None = None
    pasted: EncodedPicture | None = None
    placement: Placement | None = None


@dataclass(frozen=True, slots=True)
class Decoded:
    bundle: str
    images: tuple[EncodedPicture, ...]


@dataclass(frozen=True, slots=True)
class Sampled:
    bundle: str
    codes: tuple[NamedCode, ...]
    images: tuple[EncodedPicture, ...]
