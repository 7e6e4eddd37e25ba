"""The JSON bodies of the HTTP interface, as OpenAPI shows them. Shapes only: as_json.py maps them.

Field names are those of the protobuf messages; bytes are base64.
"""

from __future__ import annotations

from pydantic import Base64Bytes, BaseModel, ConfigDict, Field

from serving.jobs import ImageFormat, StopReason


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
    data: Base64Bytes
    """float32, little-endian, row by row, in base64."""
    shape: list[int]
    """[layers, 512]; for decode also [N, layers, 512]."""


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


class EditStepBody(Body):
    direction: str
    strength: float
    """Standard deviations of sampled codes, -100..100."""
    layers: list[int] = Field(default_factory=list)
    """Only these layers move. Empty: all layers of the direction."""


class InvertOptions(Body):
    """The JSON part `options` of a multipart request; a JSON request has the picture beside these."""

    bundle: str = ""
    refine: RefineBody = Field(default_factory=RefineBody)
    output: OutputBody = Field(default_factory=OutputBody)


class InvertBody(InvertOptions):
    picture: PictureBody


class EditOptions(InvertOptions):
    edits: list[EditStepBody] = Field(default_factory=list)


class EditBody(EditOptions):
    """Either a picture or a code."""

    picture: PictureBody | None = None
    code: CodeBody | None = None


class DecodeBody(Body):
    codes: list[CodeBody]
    bundle: str = ""
    output: OutputBody = Field(default_factory=OutputBody)


class SampleBody(Body):
    seeds: list[int]
    truncation: float = 0.7
    """0: the mean picture. 1: as varied as the training pictures. 0..2."""
    bundle: str = ""
    output: OutputBody = Field(default_factory=OutputBody)


class PictureAnswer(Body):
    data: str
    """base64"""
    format: ImageFormat
    width: int
    height: int


class CodeAnswer(Body):
    data: str
    """float32, little-endian, row by row, in base64."""
    shape: list[int]


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


class InvertAnswer(_Answer):
    code: CodeAnswer
    domain_score: float
    losses: LossesAnswer
    image: PictureAnswer | None = None
    aligned: PictureAnswer | None = None
    start: PictureAnswer | None = None


class EditAnswer(_Answer):
    code: CodeAnswer
    source_code: CodeAnswer
    domain_score: float
    losses: LossesAnswer | None = None
    image: PictureAnswer | None = None
    aligned: PictureAnswer | None = None
    start: PictureAnswer | None = None


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


class LimitsAnswer(Body):
    max_picture_bytes: int
    max_picture_pixels: int
    max_codes: int
    max_refine_steps: int
    max_edits: int
    max_request_bytes: int


class BundlesAnswer(Body):
    bundles: list[BundleAnswer]
    limits: LimitsAnswer
    server_version: str
    request_id: str


class ErrorAnswer(Body):
    """Every answer that is not a success. `reason` is stable, for programs; `message` is for people."""

    reason: str
    message: str
    stage: str
    retryable: bool
    retry_after_s: float
    request_id: str
