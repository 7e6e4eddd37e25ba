"""Noise maps of a code: what is added to the noise of single layers of the synthesis network.

Image2StyleGAN++ (Abdal, Qin, Wonka, CVPR 2020) optimises the noise of the layers beside W+. Here a code holds the
difference to the constant noise that the generator was trained with, so that zeros are the native picture.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from training.networks.extra_rows.groups import Added, RowGroup


@dataclass(frozen=True)
class NoiseConfig:
    """Which layers' noise a pipeline's codes hold, and how dear it is; noise.json of a run folder."""

    layers: tuple[int, ...]
    """The layers, rising: one map each."""
    scales: tuple[float, ...]
    """What 1 in a code adds to all feature maps of each layer, before its activation: a part of their deviation, as the
    strengths of the trained noise differ from layer to layer by orders of magnitude."""
    weight: float
    """Weight of the mean square of the rows in a refinement's objective: it holds them small."""
    fade: float
    """As a detail's: how far an edit goes until e^-1 of the noise is left."""

    def __post_init__(self) -> None:
        if not self.layers or list(self.layers) != sorted(set(self.layers)) or self.layers[0] < 1:
            raise ValueError(f"noise needs layers from 1 on, rising, got {list(self.layers)}")
        if len(self.scales) != len(self.layers) or min(self.scales) <= 0 or self.weight < 0 or self.fade <= 0:
            raise ValueError(
                "noise needs a scale above 0 for each layer, a fade above 0, and a weight of at least 0"
            )

    @property
    def sides(self) -> tuple[int, ...]:
        """Side of each map, pixels: that of its layer."""
        return tuple(side_of(layer) for layer in self.layers)

    @property
    def described(self) -> dict[str, Any]:
        """What a bundle's manifest says of it."""
        return asdict(self) | {"sides": self.sides}

    def rows(self, code_size: int) -> int:
        """Rows of a code, [code_size] each, that hold the maps; each map fills rows of its own."""
        small = [side for side in self.sides if side**2 % code_size]
        if small:
            raise ValueError(f"a noise map of {small[0]} x {small[0]} does not fill rows of {code_size}")
        return sum(side**2 for side in self.sides) // code_size


class NoiseMaps(RowGroup):
    """Rows of a code float [N, R, 512] -> what is added to the noise of each layer, float [N, 1, side, side]."""

    name = "noise"

    def __init__(self, config: NoiseConfig) -> None:
        super().__init__()
        self.config: NoiseConfig = config

    def forward(self, rows: Tensor) -> Added:
        sides = self.config.sides
        maps = rows.flatten(1).split([side**2 for side in sides], 1)
        return Added(
            before={
                layer: part.reshape(-1, 1, side, side) * scale
                for layer, side, scale, part in zip(
                    self.config.layers, sides, self.config.scales, maps, strict=True
                )
            }
        )


def side_of(layer: int) -> int:
    """The side of the maps that a layer of StyleGAN2's synthesis network makes, pixels."""
    return 4 * 2 ** ((layer + 1) // 2)
