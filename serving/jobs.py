"""What can be asked of the pipeline and what it answers, in the field's own terms.

Neither protobuf nor JSON: wire/ turns those into these and back. Checks of meaning are the pipeline's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]  # [H, W, 3], RGB
Code = npt.NDArray[np.float32]  # [L, 512]


class ImageFormat(StrEnum):
    PNG = "png"
    JPEG = "jpeg"
    WEBP = "webp"
    RAW = "raw"  # uint8 [H, W, 3], no header


class StopReason(StrEnum):
    """Why a refinement ended."""

    NOT_REFINED = "not_refined"
    STEPS_DONE = "steps_done"
    CONVERGED = "converged"
    DEADLINE = "deadline"
    DIVERGED = "diverged"


@dataclass(frozen=True, slots=True)
class EncodedPicture:
    """A picture as bytes. `format` None: to be read from the bytes. Width and height (pixels) are needed for RAW."""

    data: bytes
    format: ImageFormat | None = None
    width: int = 0
    height: int = 0


@dataclass(frozen=True, slots=True)
class RefineOptions:
    """How to refine; None takes the bundle's default. steps = 0: not at all. quality: a name for a number of steps."""

    steps: int | None = None
    quality: str | None = None
    learning_rate: float | None = None
    pixel_weight: float | None = None
    perceptual_weight: float | None = None
    domain_weight: float | None = None


@dataclass(frozen=True, slots=True)
class OutputOptions:
    """Which pictures to answer, and in which format."""

    format: ImageFormat = ImageFormat.PNG
    quality: int = 92
    image: bool = True
    aligned: bool = False
    start: bool = False


@dataclass(frozen=True, slots=True)
class EditStep:
    """Move by `strength` (standard deviations of sampled codes) along a direction, in `layers` (empty: all of its)."""

    direction: str
    strength: float
    layers: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class InvertJob:
    picture: EncodedPicture
    bundle: str = ""
    refine: RefineOptions = field(default_factory=RefineOptions)
    output: OutputOptions = field(default_factory=OutputOptions)


@dataclass(frozen=True, slots=True)
class EditJob:
    source: EncodedPicture | npt.NDArray[np.float32]
    edits: tuple[EditStep, ...]
    bundle: str = ""
    refine: RefineOptions = field(default_factory=RefineOptions)
    output: OutputOptions = field(default_factory=OutputOptions)


@dataclass(frozen=True, slots=True)
class DecodeJob:
    codes: tuple[npt.NDArray[np.float32], ...]  # each [L, 512] or [N, L, 512]
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
class Inversion:
    bundle: str
    code: Code
    domain_score: float
    losses: Losses
    image: EncodedPicture | None = None
    aligned: EncodedPicture | None = None
    start: EncodedPicture | None = None


@dataclass(frozen=True, slots=True)
class Edited:
    bundle: str
    code: Code
    source_code: Code
    domain_score: float
    losses: Losses | None = None  # None when the source was a code
    image: EncodedPicture | None = None
    aligned: EncodedPicture | None = None
    start: EncodedPicture | None = None


@dataclass(frozen=True, slots=True)
class Decoded:
    bundle: str
    images: tuple[EncodedPicture, ...]


@dataclass(frozen=True, slots=True)
class Sampled:
    bundle: str
    codes: tuple[Code, ...]
    images: tuple[EncodedPicture, ...]
