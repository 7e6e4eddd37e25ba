"""The JSON bodies of the HTTP interface, as OpenAPI shows them. Shapes only: as_json.py maps them.

Field names are those of the protobuf messages; bytes are base64.
"""

from __future__ import annotations

from pydantic import Base64Bytes, BaseModel, ConfigDict, Field

from serving.jobs import (
    DEFAULT_MIX_STRENGTH,
    DEFAULT_PROGRESS_INTERVAL_S,
    DEFAULT_TRUNCATION,
    Alignment,
    ImageFormat,
    Pasting,
)
from serving.results import StopReason


class Body(BaseModel):
    """Unknown fields are refused: a misspelt option must not be ignored in silence."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class PictureBody(Body):
    data: Base64Bytes
    """PNG, JPEG or WebP bytes in base64 (or raw RGB, with format, width and height)."""
    format: ImageFormat | None = None
    """Read from the bytes when left out."""
    width: int = 0
    height: int = 0


class CodeBody(Body):
    """Data and shape; or the handle alone that an answer gave the code, as long as the gateway keeps it."""

    data: Base64Bytes = b""
    """float32, little-endian, row by row, in base64."""
    shape: list[int] = Field(default_factory=list)
    """[layers, 512]; for decode also [N, layers, 512]."""
    handle: str = ""
    space: str = ""
    """Whose code it is, as it was answered. Refused where the bundle's `code_space` is another; empty: not checked."""


class SourceBody(Body):
    """Either a picture, which is inverted first, or a code."""

    picture: PictureBody | None = None
    code: CodeBody | None = None


class RefineBody(Body):
    """What is left out takes the bundle's default."""

    steps: int | None = None
    """0: the encoder's code as it is. Rounded up to whole chunks."""
    quality: str | None = None
    """In place of steps: one of the bundle's `quality_steps`, as "fast", "balanced" or "best"."""
    learning_rate: float | None = None
    pixel_weight: float | None = None
    perceptual_weight: float | None = None
    domain_weight: float | None = None
    allow_fewer_steps: bool = False
    """Where the gateway is busy, do fewer steps rather than wait or be refused; `losses` say how many were done."""


class OutputBody(Body):
    format: ImageFormat | None = None
    """Default: what the Accept header names, otherwise PNG."""
    quality: int | None = None
    """1..100 for JPEG and WebP; default 92. WebP at 100 is lossless."""
    omit_image: bool = False
    include_aligned: bool = False
    """Also the picture as the encoder saw it."""
    include_start: bool = False
    """Also the picture of the encoder's code, before refinement."""
    omit_codes: bool = False
    """Codes by their handles only, where they have one."""
    include_pasted: bool = False
    """Also the whole photograph with the result in its place; where a picture alone is accepted, that one."""
    pasting: Pasting | None = None
    """change: what the edit changed is added to the photograph. replace: the face is the generator's. Left out: change
    where a picture is edited, replace where it is another one's."""


class AlignBody(Body):
    """How a picture is brought into place before it is encoded."""

    alignment: Alignment | None = None
    """Left out: the bundle's own, and a picture of exactly its size is taken as it is."""
    face: int | None = None
    """Which of several faces, 0 the largest, in the order of find-faces."""


class EditStepBody(Body):
    direction: str
    """Or a preset's name: all of its edits, each `strength` times."""
    strength: float
    """Standard deviations of sampled codes, -100..100."""
    layers: list[int] = Field(default_factory=list)
    """Only these layers move. Empty: all layers of the direction."""
    keep: list[str] = Field(default_factory=list)
    """Directions whose meaning must not change: what of this step would change it is taken out."""


class RegionBody(Body):
    """A rectangle, in parts of the picture's sides."""

    left: float
    top: float
    right: float
    bottom: float


class FindFacesOptions(Body):
    """The JSON part `options` of a multipart request; a JSON request has the picture beside these."""

    bundle: str = ""


class FindFacesBody(FindFacesOptions):
    picture: PictureBody


class InvertOptions(Body):
    """The JSON part `options` of a multipart request; a JSON request has the picture beside these."""

    bundle: str = ""
    refine: RefineBody = Field(default_factory=RefineBody)
    output: OutputBody = Field(default_factory=OutputBody)
    align: AlignBody = Field(default_factory=AlignBody)


class InvertBody(InvertOptions):
    picture: PictureBody


class WatchOptions(InvertOptions):
    interval_s: float = DEFAULT_PROGRESS_INTERVAL_S
    """Seconds between two reports, at least. 0: as often as there is news."""
    omit_previews: bool = False
    """Reports without picture and domain score, which cost a decoding each."""


class WatchInvertBody(WatchOptions):
    picture: PictureBody


class EditOptions(InvertOptions):
    edits: list[EditStepBody] = Field(default_factory=list)
    region: RegionBody | None = None
    """Only there the picture changes; the code is refined for that. In place of it, a mask."""


class EditBody(EditOptions):
    """Either a picture or a code."""

    picture: PictureBody | None = None
    code: CodeBody | None = None
    mask: PictureBody | None = None
    """In place of a region. White: changes, black: stays, once it is brought into place as the picture is."""


class SessionBody(Body):
    """One message of an edit session. The first needs a picture or a code; a binary message is a picture, too."""

    sequence: int = 0
    """The caller's own number, which comes back with the answer."""
    edit: EditBody = Field(default_factory=EditBody)
    """As for an edit. `output` stays in force until a message has another; `edits` and the area are all in force."""


class InterpolateBody(Body):
    start: SourceBody
    end: SourceBody
    count: int
    """Pictures, with both ends."""
    bundle: str = ""
    refine: RefineBody = Field(default_factory=RefineBody)
    output: OutputBody = Field(default_factory=OutputBody)
    align: AlignBody = Field(default_factory=AlignBody)


class MixBody(Body):
    base: SourceBody
    style: SourceBody
    layers: list[int]
    """Taken from the style; low ones hold pose and shape, high ones colours and texture."""
    strength: float = DEFAULT_MIX_STRENGTH
    """0 leaves the base as it is, 1 replaces its layers."""
    bundle: str = ""
    refine: RefineBody = Field(default_factory=RefineBody)
    output: OutputBody = Field(default_factory=OutputBody)
    align: AlignBody = Field(default_factory=AlignBody)


class DiffuseOptions(InvertOptions):
    region: RegionBody | None = None
    """Of the target, once both are brought into place. Left out, with no mask either: the middle of a face."""


class DiffuseBody(DiffuseOptions):
    target: PictureBody
    """Whose region is kept."""
    context: PictureBody
    """What it is put into."""
    mask: PictureBody | None = None
    """White: target, black: context."""


class DecodeBody(Body):
    codes: list[CodeBody]
    bundle: str = ""
    output: OutputBody = Field(default_factory=OutputBody)


class SampleBody(Body):
    seeds: list[int]
    truncation: float = DEFAULT_TRUNCATION
    """0: the mean picture. 1: as varied as the training pictures. 0..2."""
    bundle: str = ""
    output: OutputBody = Field(default_factory=OutputBody)


class PictureAnswer(Body):
    data: str
    """base64"""
    format: ImageFormat
    width: int
    height: int


class PointAnswer(Body):
    x: float
    y: float


class BoxAnswer(Body):
    """In pixels of the upright picture: EXIF orientation is taken into account."""

    left: float
    top: float
    right: float
    bottom: float


class FaceAnswer(Body):
    box: BoxAnswer
    score: float
    landmarks: list[PointAnswer]
    """Eyes, tip of the nose, corners of the mouth; left before right, as on the picture."""
    corners: list[PointAnswer]
    """What would be edited: the square's corners, clockwise from the face's own top left."""
    roll_degrees: float
    unusable: str
    """Empty, or why it cannot be edited and what to do."""


class PlacementAnswer(Body):
    """Where on the picture the code's square is."""

    alignment: Alignment
    """What was done."""
    face: int
    faces: int
    """How many there are; 0: nobody looked for faces."""
    box: BoxAnswer | None = None
    landmarks: list[PointAnswer]
    corners: list[PointAnswer]
    roll_degrees: float
    width: int
    """Of the upright picture, pixels."""
    height: int


class CodeAnswer(Body):
    data: str | None = None
    """float32, little-endian, row by row, in base64."""
    shape: list[int] | None = None
    handle: str | None = None
    """This gateway's name for the code, which stands for it in later requests of the same caller, for a while."""
    space: str
    """Whose code it is: the bundle's `code_space`."""


class LossesAnswer(Body):
    """Mean squared errors on [-1, 1], and the refinement's own objective."""

    pixel_mse_before: float
    pixel_mse_after: float
    refine_loss_before: float
    refine_loss_after: float
    steps_done: int
    stop_reason: StopReason


class StageTimingAnswer(Body):
    stage: str
    seconds: float


class _Answer(Body):
    bundle: str
    timings: list[StageTimingAnswer]
    request_id: str


class FindFacesAnswer(_Answer):
    faces: list[FaceAnswer]
    """The largest first; empty: none was found."""
    width: int
    """Of the upright picture, pixels."""
    height: int


class _PlacedAnswer(_Answer):
    pasted: PictureAnswer | None = None
    """The whole photograph with the result in its place."""
    placement: PlacementAnswer | None = None


class InvertAnswer(_PlacedAnswer):
    code: CodeAnswer
    domain_score: float
    losses: LossesAnswer
    image: PictureAnswer | None = None
    aligned: PictureAnswer | None = None
    start: PictureAnswer | None = None


class AreaChangeAnswer(Body):
    """How an edit was held to its area: mean squared differences to the source's picture on [-1, 1], `before` of the
    edit everywhere, `after` of the answer."""

    inside_mse_before: float
    inside_mse_after: float
    outside_mse_before: float
    outside_mse_after: float
    losses: LossesAnswer
    """Against what was wanted: the edit everywhere within the area, the source outside."""


class EditAnswer(_PlacedAnswer):
    code: CodeAnswer
    source_code: CodeAnswer
    domain_score: float
    losses: LossesAnswer | None = None
    image: PictureAnswer | None = None
    aligned: PictureAnswer | None = None
    start: PictureAnswer | None = None
    area: AreaChangeAnswer | None = None


class ProgressAnswer(Body):
    """A refinement under way."""

    step: int
    steps: int
    loss: float | None = None
    """The refinement's objective, the best so far; not before the first step."""
    preview: PictureAnswer | None = None
    domain_score: float | None = None
    request_id: str


class BetweenAnswer(_PlacedAnswer):
    """One picture of an interpolation."""

    index: int
    position: float
    """0 at the start, 1 at the end."""
    code: CodeAnswer
    domain_score: float
    image: PictureAnswer | None = None


class MixAnswer(_PlacedAnswer):
    code: CodeAnswer
    domain_score: float
    image: PictureAnswer | None = None


class DiffuseAnswer(InvertAnswer):
    """Losses count within the area; `aligned` is the region pasted into the context."""


class DecodeAnswer(_Answer):
    images: list[PictureAnswer]


class SampleAnswer(_Answer):
    codes: list[CodeAnswer]
    images: list[PictureAnswer]


class HeldOutAnswer(Body):
    metric: str
    value: float


class DirectionAnswer(Body):
    name: str
    label: str
    layers: list[int]
    range_min: float
    range_max: float
    held_out: HeldOutAnswer | None = None
    conditioned_on: list[str]


class PresetAnswer(Body):
    """Several directions under one name, which may stand where a direction's stands."""

    name: str
    label: str
    edits: list[EditStepBody]


class RefineDefaultsAnswer(Body):
    steps: int
    learning_rate: float
    pixel_weight: float
    perceptual_weight: float
    domain_weight: float
    chunk_steps: int
    quality_steps: dict[str, int]


class BundleAnswer(Body):
    name: str
    resolution: int
    layers: int
    code_size: int
    directions: list[DirectionAnswer]
    refine: RefineDefaultsAnswer
    alignment: str
    licence: str
    summary: str
    data: str
    code_space: str
    """Names what codes mean: bundle and generator. Codes of one space are none of another's."""
    presets: list[PresetAnswer] = Field(default_factory=list)


class LimitsAnswer(Body):
    max_picture_bytes: int
    max_picture_pixels: int
    max_codes: int
    max_refine_steps: int
    max_edits: int
    max_request_bytes: int
    max_interpolated_pictures: int


class BundlesAnswer(Body):
    bundles: list[BundleAnswer]
    limits: LimitsAnswer
    server_version: str
    request_id: str


class ErrorAnswer(Body):
    """Every answer that is not a success. `reason` is stable, for programs; `message` is for people."""

    reason: str
    code: str
    """Name of the status that gRPC has for it."""
    message: str
    stage: str
    retryable: bool
    retry_after_s: float
    request_id: str


class SessionAnswerBody(Body):
    """One answer of an edit session. Its pictures, `image` and `pasted`, follow as binary messages, if there."""

    sequence: int
    skipped: int
    """Requests before this one that were passed over since the last answer."""
    edited: EditAnswer | None = None
    """Without the picture's data."""
    error: ErrorAnswer | None = None
    """Of this request; the session goes on."""
