"""What the calls answer, as plain Python values. How they are read from the wire is in _calls.py."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, BinaryIO, Self

import numpy as np
import numpy.typing as npt
from PIL import Image

from indomain import _files
from indomain._codes import CodeArray

if TYPE_CHECKING:
    from indomain._async_client import AsyncClient
    from indomain._client import Client


@dataclass(frozen=True)
class Edit:
    """One step along a direction.

    Attributes:
        direction: its name, e.g. `"smile"`, or a preset's.
        strength: in standard deviations of sampled codes along the direction; of a preset, how much of it.
        layers: only these layers move, where the direction has them; empty: all layers of the direction.
        keep: directions whose meaning must not change, e.g. `("age",)`.
    """

    direction: str
    strength: float
    layers: tuple[int, ...] = ()
    keep: tuple[str, ...] = ()


@dataclass(frozen=True)
class Refine:
    """How to refine an encoder's code; what is None takes the bundle's default.

    Attributes:
        steps: of the optimisation; 0 leaves the encoder's code as it is.
        quality: in place of steps, a name of `Bundle.quality_steps`: "fast", "balanced" or "best".
        learning_rate: how far the first step moves a code, in units of the code.
        pixel_weight, perceptual_weight, domain_weight: of the three terms of the objective.
        allow_fewer_steps: where the gateway is busy, do fewer steps rather than wait or be refused.
    """

    steps: int | None = None
    quality: str | None = None
    learning_rate: float | None = None
    pixel_weight: float | None = None
    perceptual_weight: float | None = None
    domain_weight: float | None = None
    allow_fewer_steps: bool | None = None


@dataclass(frozen=True)
class HeldOut:
    """How well a direction tells its attribute on pictures that it was not made from; `metric` says of what kind."""

    metric: str
    value: float


@dataclass(frozen=True)
class Direction:
    """A direction of a bundle; strengths within `range` are meaningful."""

    name: str
    label: str
    layers: tuple[int, ...]
    range: tuple[float, float]
    held_out: HeldOut | None
    conditioned_on: tuple[str, ...]


@dataclass(frozen=True)
class Preset:
    """Several edits under one name, which may stand where a direction's stands; at strength 1 they are as listed."""

    name: str
    label: str
    edits: tuple[Edit, ...]


@dataclass(frozen=True)
class Bundle:
    """One trained pipeline of the gateway. `resolution` is the pixels of both sides; codes are [layers, code_size], and
    `code_space` names what they mean: bundle and generator."""

    name: str
    resolution: int
    layers: int
    code_size: int
    directions: Mapping[str, Direction]
    refine: Refine
    chunk_steps: int
    quality_steps: Mapping[str, int]
    alignment: str
    licence: str
    summary: str
    data: str
    code_space: str = ""
    presets: Mapping[str, Preset] = field(default_factory=dict)


@dataclass(frozen=True)
class Limits:
    """What the gateway takes in one request, at most."""

    max_picture_bytes: int
    max_picture_pixels: int
    max_codes: int
    max_refine_steps: int
    max_edits: int
    max_request_bytes: int
    max_interpolated_pictures: int = 0


@dataclass(frozen=True)
class GatewayInfo:
    """What a gateway serves; the first bundle is the one that calls without a bundle's name take."""

    bundles: tuple[Bundle, ...]
    limits: Limits
    version: str


@dataclass(frozen=True)
class Losses:
    """How an inversion went.

    Attributes:
        pixel_mse_before, pixel_mse_after: mean squared error against the picture, on [-1, 1], of the encoder's code
            and of the code that was answered.
        refine_loss_before, refine_loss_after: the refinement's own objective; 0 where no step was done.
        steps_done: refinement steps.
        stop_reason: `"not_refined"`, `"steps_done"`, `"converged"`, `"deadline"`, `"diverged"`, or `"pressure"` where
            the gateway was busy and `allow_fewer_steps` was set.
    """

    pixel_mse_before: float
    pixel_mse_after: float
    refine_loss_before: float
    refine_loss_after: float
    steps_done: int
    stop_reason: str


@dataclass(frozen=True)
class AreaChange:
    """How an edit was held to its area: mean squared differences to the source's picture, on [-1, 1].

    Attributes:
        inside_mse_before, inside_mse_after: in the area; `before` of the edit everywhere, `after` of the answer.
        outside_mse_before, outside_mse_after: outside of it.
        losses: of the refinement, against the edit everywhere within the area and the source outside.
    """

    inside_mse_before: float
    inside_mse_after: float
    outside_mse_before: float
    outside_mse_after: float
    losses: Losses


class _Shown:
    """What has a picture, as arrays and notebooks want it."""

    image: Image.Image

    @property
    def pixels(self) -> npt.NDArray[np.uint8]:
        """`image` as uint8 [H, W, 3]."""
        return np.asarray(self.image)

    def _repr_png_(self) -> bytes:
        """How a notebook shows it."""
        buffer = io.BytesIO()
        self.image.save(buffer, "PNG")
        return buffer.getvalue()


class Result(_Shown):
    """What all results with a code have: a picture that notebooks show (`pixels` is its array, uint8 [H, W, 3]), and a
    file to be kept in.

    Example:
        >>> client.sample(7)[0].save("seven.npz")
        >>> seven = indomain.Sample.load("seven.npz")
        >>> client.edit(seven, smile=1.0).image.save("seven.png")
    """

    bundle: str
    code: CodeArray
    code_space: str

    def save(self, file: str | os.PathLike[str] | BinaryIO) -> None:
        """Writes all of it into one .npz: code, pictures, figures, and whose code it is. `numpy.load` reads it, too.

        Raises OSError where it cannot be written.
        """
        _files.save(self, file)

    @classmethod
    def load(cls, file: str | os.PathLike[str] | BinaryIO) -> Self:
        """What `save` wrote. Nothing in the file is executed.

        Raises:
            OSError: the file cannot be read.
            InvalidFileError: it is not a result of this kind that was saved.
        """
        return cls(**_files.load(cls, file))


@dataclass(frozen=True)
class Edited(Result):
    """An edited picture.

    Attributes:
        bundle: whose code it is.
        code: float32 [L, 512], after the edits.
        source_code: float32 [L, 512], before them.
        image: RGB picture of `code`.
        domain_score: 0..1, how native `code` is to the latent space.
        losses: of the inversion; None where the source was a code.
        stage_seconds: seconds in each stage of the pipeline.
        aligned, start: the picture as the encoder saw it, and that of the encoder's code; None unless asked for.
        request_id: the same id stands in the gateway's log.
        handle, source_handle: the gateway's names for the codes, for a while. Calls that take this result use them.
        code_space: names bundle and generator whose codes they are; another's refuses them (`OtherCodeSpaceError`).
        area: how the edit was held to its area; None where it had none.
    """

    bundle: str
    code: CodeArray = field(repr=False)
    source_code: CodeArray = field(repr=False)
    image: Image.Image = field(repr=False)
    domain_score: float
    losses: Losses | None
    stage_seconds: Mapping[str, float]
    request_id: str
    aligned: Image.Image | None = field(default=None, repr=False)
    start: Image.Image | None = field(default=None, repr=False)
    handle: str = field(default="", repr=False)
    code_space: str = field(default="", repr=False)
    source_handle: str = field(default="", repr=False)
    area: AreaChange | None = None


@dataclass(frozen=True)
class Inversion(Result):
    """A picture's latent code and what it decodes to.

    Attributes:
        bundle: whose code it is.
        code: float32 [L, 512].
        image: RGB picture of `code`: the reconstruction.
        losses: errors before and after refinement.
        domain_score: 0..1, how native `code` is to the latent space.
        stage_seconds: seconds in each stage of the pipeline.
        aligned, start: the picture as the encoder saw it, and that of the encoder's code; None unless asked for.
        request_id: the same id stands in the gateway's log.
        handle: the gateway's name for the code, for a while. Calls that take this result use it.
        code_space: names bundle and generator whose code it is; another's refuses it (`OtherCodeSpaceError`).
    """

    bundle: str
    code: CodeArray = field(repr=False)
    image: Image.Image = field(repr=False)
    losses: Losses
    domain_score: float
    stage_seconds: Mapping[str, float]
    request_id: str
    aligned: Image.Image | None = field(default=None, repr=False)
    start: Image.Image | None = field(default=None, repr=False)
    handle: str = field(default="", repr=False)
    code_space: str = field(default="", repr=False)
    _edit: Callable[..., Any] | None = field(default=None, repr=False, compare=False)

    @classmethod
    def load(
        cls, file: str | os.PathLike[str] | BinaryIO, client: Client | AsyncClient | None = None
    ) -> Self:
        """What `save` wrote; with a client, `edit` works as it did. Nothing in the file is executed.

        Raises:
            OSError: the file cannot be read.
            InvalidFileError: it is not an inversion that was saved.
        """
        inversion = super().load(file)
        return inversion if client is None else replace(inversion, _edit=client.edit)

    def edit(self, *edits: Edit, timeout_s: float | None = None, **options: Any) -> Edited:
        """Edits this code, without inverting again.

        Example:
            >>> client.invert("portrait.png").edit(smile=2.0, age=-1.0).image.save("edited.png")

        Takes what `Client.edit` takes and raises what it raises.
        """
        if self._edit is None:
            raise RuntimeError("this inversion has no client; pass it to Client.edit")
        result: Edited = self._edit(self, *edits, timeout_s=timeout_s, **options)
        return result


class AsyncInversion(Inversion):
    """An inversion of an `AsyncClient`: `edit` is awaited."""

    async def edit(  # type: ignore[override]
        self, *edits: Edit, timeout_s: float | None = None, **options: Any
    ) -> Edited:
        """Edits this code, without inverting again: `await inversion.edit(smile=2.0, age=-1.0)`."""
        if self._edit is None:
            raise RuntimeError("this inversion has no client; pass it to AsyncClient.edit")
        result: Edited = await self._edit(self, *edits, timeout_s=timeout_s, **options)
        return result


@dataclass(frozen=True)
class InvertProgress:
    """An inversion under way.

    Attributes:
        step, steps: refinement steps done, and asked for; the first report, at 0, is of the encoder's code.
        loss: the refinement's objective, the best so far; None before the first step.
        preview: picture of the best code so far; None where previews are not asked for.
        domain_score: of that code; None likewise.
    """

    step: int
    steps: int
    loss: float | None
    preview: Image.Image | None = field(repr=False)
    domain_score: float | None


@dataclass(frozen=True)
class SessionPicture(_Shown):
    """An answer of an edit session.

    Attributes:
        sequence: number of the request that it answers.
        skipped: requests passed over since the answer before, as newer ones had come.
        image: RGB picture of the edited code.
        domain_score: 0..1, how native the edited code is to the latent space.
        losses: of the inversion; None unless the request began with a picture.
        stage_seconds: seconds in each stage of the pipeline.
        request_id: the same id stands in the gateway's log.
        area: how the edit was held to its area; None where it had none.
    """

    sequence: int
    skipped: int
    image: Image.Image = field(repr=False)
    domain_score: float
    losses: Losses | None
    stage_seconds: Mapping[str, float]
    request_id: str
    area: AreaChange | None = None


@dataclass(frozen=True)
class Between(Result):
    """A picture of an interpolation: `position` is 0 at the start and 1 at the end; `code` is float32 [L, 512]."""

    index: int
    position: float
    bundle: str
    code: CodeArray = field(repr=False)
    image: Image.Image = field(repr=False)
    domain_score: float
    code_space: str = field(default="", repr=False)


@dataclass(frozen=True)
class Mixed(Result):
    """A code [L, 512] with layers of another, its picture, and how native it is to the latent space (0..1)."""

    bundle: str
    code: CodeArray = field(repr=False)
    image: Image.Image = field(repr=False)
    domain_score: float
    stage_seconds: Mapping[str, float]
    request_id: str
    handle: str = field(default="", repr=False)
    code_space: str = field(default="", repr=False)


@dataclass(frozen=True)
class Diffused(Result):
    """A region of a target in a context: as `Inversion`, with losses within the region; `aligned` is the one pasted
    into the other, as the encoder saw it."""

    bundle: str
    code: CodeArray = field(repr=False)
    image: Image.Image = field(repr=False)
    losses: Losses
    domain_score: float
    stage_seconds: Mapping[str, float]
    request_id: str
    aligned: Image.Image | None = field(default=None, repr=False)
    start: Image.Image | None = field(default=None, repr=False)
    handle: str = field(default="", repr=False)
    code_space: str = field(default="", repr=False)


@dataclass(frozen=True)
class Sample(Result):
    """A picture made from a seed: `code` is float32 [L, 512]."""

    seed: int
    bundle: str
    code: CodeArray = field(repr=False)
    image: Image.Image = field(repr=False)
    code_space: str = field(default="", repr=False)
