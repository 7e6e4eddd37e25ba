"""Results that have a picture."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import BinaryIO, Self

import numpy as np
import numpy.typing as npt
from PIL import Image

from indomain.results import files
from indomain.results.measures import AreaChange, Losses, Placement
from indomain.wire.codes import CodeArray


class _WithPicture:
    """A result with a picture: its array, and how notebooks show it."""

    image: Image.Image

    @property
    def pixels(self) -> npt.NDArray[np.uint8]:
        """`image` as uint8 [H, W, 3]."""
        return np.asarray(self.image)

    def _repr_png_(self) -> bytes:
        """The PNG that a notebook shows."""
        buffer = io.BytesIO()
        self.image.save(buffer, "PNG")
        return buffer.getvalue()


class Result(_WithPicture):
    """What all results with a code have: a picture, which notebooks show (`pixels` is its array, uint8 [H, W, 3]), and
    methods to save and load them.

    Example:
        >>> client.sample(7)[0].save("seven.npz")
        >>> seven = indomain.Sample.load("seven.npz")
        >>> client.edit(seven, smile=1.0).image.save("seven.png")
    """

    bundle: str
    code: CodeArray
    code_space: str

    def save(self, file: str | os.PathLike[str] | BinaryIO) -> None:
        """Writes code, pictures, figures and the code space into one .npz file, which `numpy.load`, `load_code` and
        `indomain edit` read too. Into a file named .npy it writes the code alone.

        Raises OSError where the file cannot be written.
        """
        files.save(self, file)

    @classmethod
    def load(cls, file: str | os.PathLike[str] | BinaryIO) -> Self:
        """Reads a file that `save` wrote. Nothing in the file is executed.

        Raises:
            OSError: the file cannot be read.
            InvalidFileError: the file is no saved result of this kind.
        """
        return cls(**files.load(cls, file))


@dataclass(frozen=True)
class Inverted(Result):
    """The fields of an `Inversion`, which describes them, and of `Diffused`."""

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
    pasted: Image.Image | None = field(default=None, repr=False)
    placement: Placement | None = field(default=None, repr=False)
    identity_score: float | None = None


@dataclass(frozen=True)
class Edited(Result):
    """An edited picture.

    Attributes:
        code, source_code: float32 [L, 512], after the edits and before them.
        image: RGB picture of `code`.
        domain_score: 0..1, how native `code` is to the latent space.
        identity_score: 0..1, how likely `image` and the photograph show one person; where the source was a code,
            `image` and the picture of that code. None unless asked for.
        losses: of the inversion; None where the source was a code.
        handle, source_handle: names that the gateway knows the codes by, for a while. Calls that take this result send
            them in place of the codes.
        area: how well the edit was confined to its area; None where it had none.
        strokes: how the strokes were followed, measured where they are; None where the edit had none.
        faces: each face of an edit of several, the largest first; the other attributes are those of the first one, but
            for `pasted`.
        bundle, stage_seconds, aligned, start, pasted, placement, request_id, code_space: as in `Inversion`.
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
    pasted: Image.Image | None = field(default=None, repr=False)
    placement: Placement | None = field(default=None, repr=False)
    area: AreaChange | None = None
    faces: tuple[Edited, ...] = ()
    strokes: Losses | None = None
    identity_score: float | None = None


@dataclass(frozen=True)
class InvertProgress:
    """How far an inversion is.

    Attributes:
        step, steps: refinement steps done, and asked for; the first report, at step 0, is of the encoder's code.
        loss: the refinement's objective, the best so far; None before the first step.
        preview: picture of the best code so far; None unless previews are asked for.
        domain_score: 0..1, of that code; None unless previews are asked for.
    """

    step: int
    steps: int
    loss: float | None
    preview: Image.Image | None = field(repr=False)
    domain_score: float | None


@dataclass(frozen=True)
class SessionPicture(_WithPicture):
    """An answer of an edit session.

    Attributes:
        sequence: number of the request that this answers.
        skipped: requests since the previous answer that the gateway passed over because newer ones had come.
        image: RGB picture of the edited code.
        domain_score: 0..1, how native the edited code is to the latent space.
        losses: of the inversion; None unless the request began with a picture.
        request_id: id of the session, also in the gateway's log.
        pasted: the whole photograph with the result in its place; None unless the session was opened with it.
        identity_score: as in `Edited`, with the photograph that the session was opened with.
        stage_seconds, placement, area, strokes: as in `Edited`.
    """

    sequence: int
    skipped: int
    image: Image.Image = field(repr=False)
    domain_score: float
    losses: Losses | None
    stage_seconds: Mapping[str, float]
    request_id: str
    pasted: Image.Image | None = field(default=None, repr=False)
    placement: Placement | None = field(default=None, repr=False)
    area: AreaChange | None = None
    faces: tuple[Edited, ...] = ()
    strokes: Losses | None = None
    identity_score: float | None = None


@dataclass(frozen=True)
class InterpolationFrame(Result):
    """One picture of an interpolation: `position` is 0 at the start and 1 at the end; `code` is float32 [L, 512].

    `energy` and `length` are of the way up to here, in pictures: with d the mean squared difference of two neighbours
    on [-1, 1], the sum of d times the number of steps of the whole way, and the sum of the roots of d. The last picture
    has the whole way's; a geodesic's energy is at most the straight line's.
    """

    index: int
    position: float
    bundle: str
    code: CodeArray = field(repr=False)
    image: Image.Image = field(repr=False)
    domain_score: float
    code_space: str = field(default="", repr=False)
    pasted: Image.Image | None = field(default=None, repr=False)
    placement: Placement | None = field(default=None, repr=False)
    energy: float = 0.0
    length: float = 0.0


@dataclass(frozen=True)
class Mixed(Result):
    """A code float32 [L, 512] with layers of another, and its picture.

    `domain_score` is as in `Inversion`; `area`, and `identity_score` with the base, are as in `Edited`.
    """

    bundle: str
    code: CodeArray = field(repr=False)
    image: Image.Image = field(repr=False)
    domain_score: float
    stage_seconds: Mapping[str, float]
    request_id: str
    handle: str = field(default="", repr=False)
    code_space: str = field(default="", repr=False)
    pasted: Image.Image | None = field(default=None, repr=False)
    placement: Placement | None = field(default=None, repr=False)
    area: AreaChange | None = None
    identity_score: float | None = None


@dataclass(frozen=True)
class Mean(Mixed):
    """The mean of several codes: a code float32 [L, 512], and its picture; `domain_score` is as in `Inversion`.

    `distances` are the lengths, as `InterpolationFrame.length`, of the ways from it to each source, in their order: of
    straight lines or of geodesics, as the mean is linear or geodesic.
    """

    distances: tuple[float, ...] = ()


@dataclass(frozen=True)
class Diffused(Inverted):
    """A region of a target within a context: as `Inversion`, with losses within the region; `aligned` is the target
    pasted into the context, as the encoder saw it."""


@dataclass(frozen=True)
class Sample(Result):
    """A picture generated from a seed; `code` is float32 [L, 512]."""

    seed: int
    bundle: str
    code: CodeArray = field(repr=False)
    image: Image.Image = field(repr=False)
    code_space: str = field(default="", repr=False)
