"""Detail codes: what a picture has that W+ cannot say, as maps that are added inside the synthesis network.

A code of a pipeline with detail has more rows than layers, [L + R, 512]: the first L are the layers' vectors, the other
R hold maps of `side` x `side` pixels, flattened. Native codes and the encoder's have zeros there; only a refinement
fills them. Sources: Kang, Kim, Cho, "GAN Inversion for Out-of-Range Images" (BDInvert, ICCV 2021), whose maps are those
of one resolution; here they are the difference to what the vectors make, so that edits of the vectors go on working.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn


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

    def rows(self, code_size: int) -> int:
        """Rows of a code, [code_size] each, that hold the maps."""
        values = self.maps * self.side * self.side
        if values % code_size:
            raise ValueError(f"{self.maps} maps of {self.side} x {self.side} do not fill rows of {code_size}")
        return values // code_size


class Detail(nn.Module):
    """Rows of a code float [N, R, 512] -> what is added to the feature maps, float [N, C, side, side].

    `basis` float [C, maps]: columns of length 1, the directions among the network's C features in which pictures miss
    most.
    """

    basis: Tensor

    def __init__(self, config: DetailConfig, basis: Tensor) -> None:
        super().__init__()
        if basis.dim() != 2 or basis.shape[1] != config.maps:
            raise ValueError(f"a basis of detail must be [C, {config.maps}], got {list(basis.shape)}")
        self.config = config
        self.register_buffer("basis", basis.float())

    def forward(self, rows: Tensor) -> Tensor:
        side = self.config.side
        maps = rows.reshape(-1, self.config.maps, side, side)
        return F.conv2d(maps, (self.basis * self.config.scale)[:, :, None, None])


class WithDetail(nn.Module):
    """A network that gives codes float [N, L, 512], with rows of zeros for the detail: float [N, L + R, 512]."""

    def __init__(self, network: nn.Module, rows: int) -> None:
        super().__init__()
        self.network, self.rows = network, rows

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(self.network(x), (0, 0, 0, self.rows))


class WithoutDetail(nn.Module):
    """A network that takes codes float [N, L, 512], of codes with detail, float [N, L + R, 512]."""

    def __init__(self, network: nn.Module, layers: int) -> None:
        super().__init__()
        self.network, self.layers = network, layers

    def forward(self, code: Tensor) -> Tensor:
        result: Tensor = self.network(code[:, : self.layers])
        return result
