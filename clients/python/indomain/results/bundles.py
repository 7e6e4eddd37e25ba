"""What a gateway serves: bundles, their directions and presets, limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from indomain.calls.options import Edit, Refine


@dataclass(frozen=True)
class HeldOut:
    """How well a direction predicts its attribute on pictures that it was not made from.

    Attributes:
        metric: `"accuracy"`, `"r"`, or `"slope"` of a walk: 1 where a strength does as much as the label says.
        value: of the metric.
    """

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
class Label:
    """A binary attribute that a bundle's generator was trained with; its values are 0..1.

    Attributes:
        frequency: the share of the training pictures that have it.
        held_out: how well a code's own label is read off sampled codes; None: `Client.sample` takes the label, and
            `Client.edit` does not.
    """

    name: str
    frequency: float
    held_out: HeldOut | None


@dataclass(frozen=True)
class Preset:
    """Several edits under one name, which may be used like a direction's; at strength 1 they are as listed."""

    name: str
    label: str
    edits: tuple[Edit, ...]


@dataclass(frozen=True)
class DetailCodes:
    """Rows of a code beyond its layers: `maps` of side x side pixels that the generator adds to its features after
    `layer`. They hold what a picture has that the layers' vectors cannot say; in codes of samples they are zero, and
    may be left out. `fade`: how far an edit goes, in standard deviations of sampled codes, until e^-1 of them is left.
    """

    rows: int
    layer: int
    side: int
    maps: int
    fade: float


@dataclass(frozen=True)
class NoiseMaps:
    """Rows of a code after its layers and its detail: a map of side x side pixels for each of `layers`, whose noise it
    changes. In codes of samples they are zero, and may be left out with those of the detail. `fade`: as of
    `DetailCodes`."""

    rows: int
    layers: tuple[int, ...]
    sides: tuple[int, ...]
    fade: float


@dataclass(frozen=True)
class Bundle:
    """One trained pipeline of the gateway. `resolution` is in pixels, of both sides; codes are [layers, code_size], and
    with `detail` or `noise` [code_rows, code_size]; `code_space` names the bundle and the generator that its codes
    belong to; `identity_score` says whether answers may have one."""

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
    detail: DetailCodes | None = None
    labels: Mapping[str, Label] = field(default_factory=dict)
    noise: NoiseMaps | None = None
    identity_score: bool = False

    @property
    def code_rows(self) -> int:
        """Rows of a code: one a layer, and those of detail and noise."""
        return self.layers + sum(group.rows for group in (self.detail, self.noise) if group)


@dataclass(frozen=True)
class Limits:
    """What the gateway accepts in one request, at most."""

    max_picture_bytes: int
    max_picture_pixels: int
    max_codes: int
    max_refine_steps: int
    max_edits: int
    max_request_bytes: int
    max_interpolated_pictures: int = 0


@dataclass(frozen=True)
class GatewayInfo:
    """What a gateway serves; calls that name no bundle use the first one."""

    bundles: tuple[Bundle, ...]
    limits: Limits
    version: str
