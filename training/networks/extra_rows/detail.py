"""Detail codes: what a picture has that W+ cannot say, as maps that are added inside the synthesis network.

After Kang, Kim, Cho, "GAN Inversion for Out-of-Range Images" (BDInvert, ICCV 2021); but here the maps are a difference
to what the vectors make, so that edits of the vectors go on working.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from training.networks.extra_rows.groups import Added, RowGroup


@dataclass(frozen=True)
class DetailConfig:
    """Shape of a pipeline's detail codes, and how dear they are; detail.json of a run folder."""

    side: int
    """Side of the maps, pixels: that of one of the synthesis network's blocks."""
    maps: int
    """How many maps there are."""
    scale: float
    """What 1 in a code adds to the feature maps, along a vector of the basis of length 1."""
    weight: float
    """Weight of the mean square of the rows in a refinement's objective: it holds them small."""
    fade: float
    """How far an edit goes, as the root mean square of its change in standard deviations of sampled codes, until e^-1
    of the detail is left. The maps do not move with a face that turns."""

    def __post_init__(self) -> None:
        if self.side < 4 or self.side & (self.side - 1):
            raise ValueError(f"the side of detail maps must be a power of two of at least 4, got {self.side}")
        if self.maps < 1 or self.scale <= 0 or self.weight < 0 or self.fade <= 0:
            raise ValueError(
                "detail needs at least one map, a scale and a fade above 0, and a weight of at least 0"
            )

    @property
    def block(self) -> int:
        """The block of the synthesis network whose maps it is added to: 0 at 4 x 4."""
        return self.side.bit_length() - 3

    @property
    def layer(self) -> int:
        """The layer after whose convolution it is added."""
        return 2 * self.block

    @property
    def described(self) -> dict[str, Any]:
        """What a bundle's manifest says of it."""
        return asdict(self) | {"layer": self.layer}

    def rows(self, code_size: int) -> int:
        """Rows of a code, [code_size] each, that hold the maps."""
        values = self.maps * self.side * self.side
        if values % code_size:
            raise ValueError(f"{self.maps} maps of {self.side} x {self.side} do not fill rows of {code_size}")
        return values // code_size


class Detail(RowGroup):
    """Rows of a code float [N, R, 512] -> what is added to the feature maps, float [N, C, side, side].

    `basis` float [C, maps]: columns of length 1, the directions among the network's C features in which pictures miss
    most.
    """

    name = "detail"
    basis: Tensor

    def __init__(self, config: DetailConfig, basis: Tensor) -> None:
        super().__init__()
        if basis.dim() != 2 or basis.shape[1] != config.maps:
            raise ValueError(f"a basis of detail must be [C, {config.maps}], got {list(basis.shape)}")
        self.config: DetailConfig = config
        self.register_buffer("basis", basis.float())

    def forward(self, rows: Tensor) -> Added:
        side = self.config.side
        maps = rows.reshape(-1, self.config.maps, side, side)
        return Added(
            after={self.config.layer: F.conv2d(maps, (self.basis * self.config.scale)[:, :, None, None])}
        )
