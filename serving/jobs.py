"""What callers can ask of the pipeline: jobs, with their options, pictures and codes. The answers are in results.py.

Neither protobuf nor JSON: wire/ converts both into these types. The pipeline checks what the values mean. A field
that a request leaves out takes the default that stands here; what an operator can set is in settings.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from serving.errors import EditingError

Image = npt.NDArray[np.uint8]  # [H, W, 3], RGB
Code = npt.NDArray[np.float32]  # [L, 512], in W+
Coordinates = tuple[tuple[float, float], ...]  # x and y, in pixels of the upright picture

DEFAULT_QUALITY = 92  # of JPEG and WebP, 1 to 100
DEFAULT_PROGRESS_INTERVAL_S = 0.25
DEFAULT_MIX_STRENGTH = 1.0
DEFAULT_TRUNCATION = 0.7


class ImageFormat(StrEnum):
    """How a picture's pixels are stored. RAW: uint8 [H, W, 3], row by row, without a header."""

    PNG = "png"
    JPEG = "jpeg"
    WEBP = "webp"
    RAW = "raw"


class Alignment(StrEnum):
    """How the square for the encoder is cut out of a picture: around a face, or from the centre."""

    FACE = "face"
    CENTRE_CROP = "centre-crop"


class Pasting(StrEnum):
    """How a result is pasted into its photograph: its change is added to the pixels, or it replaces them."""

    CHANGE = "change"
    REPLACE = "replace"


class Path(StrEnum):
    """The way between two codes: the straight line in W+, or the way of least energy in pictures that is found."""

    LINEAR = "linear"
    GEODESIC = "geodesic"


# --- pictures, codes and faces ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class EncodedPicture:
    """A picture as bytes. With `format` None the format is read from the bytes. RAW needs width and height (pixels)."""

    data: bytes
    format: ImageFormat | None = None
    width: int = 0
    height: int = 0


@dataclass(frozen=True, slots=True)
class CodeHandle:
    """A short name that the gateway gave to a code that it keeps for a while (pipeline/handles.py)."""

    name: str


@dataclass(frozen=True, slots=True)
class NamedCode:
    """A code, its handle (empty: it has none), and its code space (`Bundle.code_space`; empty: the caller gave none).

    In a result `values` is None if the caller asked for the handle only.
    """

    values: Code | None
    handle: str = ""
    space: str = ""

    def by_handle(self) -> NamedCode:
        """The same without its values, if it has a handle."""
        return replace(self, values=None) if self.handle else self


CodeSource = npt.NDArray[np.float32] | CodeHandle | NamedCode
Source = EncodedPicture | CodeSource


@dataclass(frozen=True, slots=True)
class Face:
    """A face on a picture; lengths in pixels of the upright picture."""

    box: tuple[float, float, float, float]  # left, top, right, bottom
    score: float
    landmarks: Coordinates  # eyes, tip of the nose, corners of the mouth
    corners: Coordinates  # of the square to edit, clockwise from the face's own top left
    roll_degrees: float
    unusable: str  # empty, or why the face cannot be edited and what to do


@dataclass(frozen=True, slots=True)
class Placement:
    """Where on a picture the encoded square lies. If no face was looked for, `faces` is 0 and `found` is None."""

    alignment: Alignment  # the one that was applied
    face: int
    faces: int
    found: Face | None
    corners: Coordinates
    roll_degrees: float
    width: int  # of the upright picture
    height: int


@dataclass(slots=True, eq=False)
class Origin:
    """The photograph that a code was made from, where on it the encoded square lies, and the square itself.

    unedited: the code that was last decoded to be compared with an edit of it, the checksum of its generator's graph,
    and its picture. An edit session keeps its origin, and each of its edits is pasted as a change of that picture.
    """

    picture: EncodedPicture
    placement: Placement
    square: Image
    unedited: tuple[Code, str, Image] | None = None


@dataclass(frozen=True, slots=True)
class Region:
    """A rectangle, in parts of a picture's sides. The default is the middle of an aligned face."""

    left: float = 0.27
    top: float = 0.35
    right: float = 0.71
    bottom: float = 0.78


Area = Region | EncodedPicture
"""A part of a picture: a rectangle, or a mask that is white inside the area."""


# --- options ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AlignOptions:
    """alignment None: the bundle's own. face: the number of the face, as FoundFaces counts; None: the largest.

    faces, all_faces: several of them, each by itself; in an edit only.
    """

    alignment: Alignment | None = None
    face: int | None = None
    faces: tuple[int, ...] = ()
    all_faces: bool = False

    @property
    def several(self) -> bool:
        return bool(self.faces) or self.all_faces


@dataclass(frozen=True, slots=True)
class RefineOptions:
    """How to refine a code. What is None takes the bundle's default; steps = 0 leaves the code as encoded.

    quality: a name that the bundle gives to a number of steps. detail, noise: whether what the layers' vectors cannot
    say is found, too, as detail or as noise maps; False: the code has none of it. allow_fewer_steps: if the gateway is
    busy, rather do fewer steps than wait or be refused. grey, downsampling: what of the picture is known: its grey
    values alone; means over squares of so many pixels. What is not known comes from the generator.
    """

    steps: int | None = None
    quality: str | None = None
    learning_rate: float | None = None
    pixel_weight: float | None = None
    perceptual_weight: float | None = None
    domain_weight: float | None = None
    identity_weight: float | None = None
    grey: bool | None = None
    downsampling: int | None = None
    detail: bool | None = None
    noise: bool | None = None
    allow_fewer_steps: bool = False


@dataclass(frozen=True, slots=True)
class OutputOptions:
    """Which pictures a result holds, and in which format.

    codes False: codes are answered by their handles only. pasted: also the whole photograph with the result pasted
    in. pasting None: CHANGE if a picture was edited, else REPLACE. strip_metadata: `pasted` is in sRGB, and has neither
    the photograph's metadata nor its colour profile. identity_score: the result also has that.
    """

    format: ImageFormat = ImageFormat.PNG
    quality: int = DEFAULT_QUALITY
    image: bool = True
    aligned: bool = False
    start: bool = False
    codes: bool = True
    pasted: bool = False
    pasting: Pasting | None = None
    strip_metadata: bool = False
    identity_score: bool = False


@dataclass(frozen=True, slots=True)
class EditStep:
    """Moves a code by `strength` (standard deviations of sampled codes) along a direction or a preset.

    layers: the layers to move; empty: all layers of the direction. keep: directions whose attribute must not change.
    """

    direction: str
    strength: float
    layers: tuple[int, ...] = ()
    keep: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class EditOptions:
    """What an edit does to its source, for a single request and for a session alike.

    area: the picture changes only inside it; None: everywhere. within_range: cut strengths to their direction's range.
    strokes: a picture with transparency, painted onto the edited one, which a code then follows. label: what labels the
    picture is to have, 0..1 by name; one that is not named stays.
    """

    edits: tuple[EditStep, ...] = ()
    refine: RefineOptions = RefineOptions()
    output: OutputOptions = OutputOptions()
    align: AlignOptions = AlignOptions()
    area: Area | None = None
    within_range: bool = False
    strokes: EncodedPicture | None = None
    label: Mapping[str, float] = field(default_factory=dict)


# --- jobs ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FindFacesJob:
    """Find the faces on a picture."""

    picture: EncodedPicture
    bundle: str = ""


@dataclass(frozen=True, slots=True)
class InvertJob:
    """Find the code of a picture. A mask is white where the picture is known; the rest is found."""

    picture: EncodedPicture
    bundle: str = ""
    refine: RefineOptions = RefineOptions()
    output: OutputOptions = OutputOptions()
    align: AlignOptions = AlignOptions()
    mask: EncodedPicture | None = None


@dataclass(frozen=True, slots=True)
class WatchInvertJob:
    """Find the code of a picture and report progress, at most every `interval_s` seconds (0: after every chunk).

    previews: reports hold a picture and a domain score.
    """

    invert: InvertJob
    interval_s: float = DEFAULT_PROGRESS_INTERVAL_S
    previews: bool = True


@dataclass(frozen=True, slots=True)
class EditJob:
    """Edit a picture or a code. `origin`: the photograph of a source that is a code, to paste the result into."""

    source: Source
    options: EditOptions
    bundle: str = ""
    origin: Origin | None = None


@dataclass(frozen=True, slots=True)
class SessionRequest:
    """One message of an edit session.

    With source None the session's source stays, with the bundle, refinement and alignment that came with it. With
    `output_given` False the output options in force stay. `fault`: why the message could not be read.
    """

    sequence: int
    options: EditOptions = EditOptions()
    source: Source | None = None
    bundle: str = ""
    output_given: bool = False
    fault: EditingError | None = None


@dataclass(frozen=True, slots=True)
class InterpolateJob:
    """Show `count` pictures on the way from one code to another, both ends included."""

    start: Source
    end: Source
    count: int
    bundle: str = ""
    refine: RefineOptions = RefineOptions()
    output: OutputOptions = OutputOptions()
    align: AlignOptions = AlignOptions()
    path: Path = Path.LINEAR


@dataclass(frozen=True, slots=True)
class MixJob:
    """Move some layers of `base` towards those of `style`, all the way at strength 1.

    area: of the base's picture, which changes only inside it; None: everywhere.
    """

    base: Source
    style: Source
    layers: tuple[int, ...]
    strength: float = DEFAULT_MIX_STRENGTH
    bundle: str = ""
    refine: RefineOptions = RefineOptions()
    output: OutputOptions = OutputOptions()
    align: AlignOptions = AlignOptions()
    area: Area | None = None


@dataclass(frozen=True, slots=True)
class MeanJob:
    """Find the mean of several codes: of their numbers, or by the lengths of ways in pictures."""

    sources: tuple[Source, ...]
    bundle: str = ""
    refine: RefineOptions = RefineOptions()
    output: OutputOptions = OutputOptions()
    align: AlignOptions = AlignOptions()
    path: Path = Path.LINEAR


@dataclass(frozen=True, slots=True)
class DiffuseJob:
    """Paste an area of `target` into `context` and find a code for both together. A mask is white on the target."""

    target: EncodedPicture
    context: EncodedPicture
    area: Area = Region()
    bundle: str = ""
    refine: RefineOptions = RefineOptions()
    output: OutputOptions = OutputOptions()
    align: AlignOptions = AlignOptions()


@dataclass(frozen=True, slots=True)
class DecodeJob:
    """Show the pictures of codes, each [L, 512] or [N, L, 512]."""

    codes: tuple[CodeSource, ...]
    bundle: str = ""
    output: OutputOptions = OutputOptions()


@dataclass(frozen=True, slots=True)
class SampleJob:
    """Make codes and pictures from seeds. Truncation 0 gives the mean code, 1 the codes as mapped.

    label: of all pictures, 0..1 by name; one that is not named is drawn for each seed.
    """

    seeds: tuple[int, ...]
    truncation: float = DEFAULT_TRUNCATION
    bundle: str = ""
    output: OutputOptions = OutputOptions()
    label: Mapping[str, float] = field(default_factory=dict)
