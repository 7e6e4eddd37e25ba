"""Reads attributes off pictures, by a regressor that is trained on real pictures.

It judges edits, and is independent of generator, encoder and codes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.linear_model import Ridge
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from training.data.labels import known
from training.data.pictures import Pictures
from training.networks.features import EfficientNetLite0

SIDE = 128  # pictures are resized to this before features are taken, pixels


@torch.no_grad()
def picture_features(network: EfficientNetLite0, images: Tensor) -> np.ndarray:
    """Features float32 [N, F] that keep rough positions, of pictures float [N, 3, H, W] in [-1, 1]."""
    rows = []
    for part in images.split(64):
        taps = network(F.interpolate(part.float(), size=(SIDE, SIDE), mode="bilinear", antialias=True))
        pooled = [F.adaptive_avg_pool2d(tap, side) for tap, side in zip(taps[1:], (4, 4, 1), strict=True)]
        rows.append(torch.cat([tap.flatten(1) for tap in pooled], 1))
    return torch.cat(rows).numpy()


@dataclass
class AttributeReader:
    """Reads attributes from pictures: continuous ones in their own unit, binary ones as a score of about 0..1."""

    network: EfficientNetLite0
    regressors: dict[str, Pipeline]

    @classmethod
    def train(cls, pictures: Pictures, names: list[str]) -> AttributeReader:
        """Fit a ridge regression for each name on features of real pictures, unmirrored, as yaw has a sign.

        Pictures whose attribute is not known are left out.
        """
        network = EfficientNetLite0()
        # In parts: as floats, 25,000 pictures of 128 pixels are 5 GB.
        parts = torch.arange(len(pictures)).split(64)
        features = np.concatenate(
            [picture_features(network, pictures.batch(part, mirror=False)) for part in parts]
        )
        regressors = {}
        for name in names:
            rows = known(pictures.attributes[name])
            regressor = make_pipeline(StandardScaler(), Ridge(alpha=3e3))
            regressors[name] = regressor.fit(features[rows], pictures.attributes[name][rows])
        return cls(network, regressors)

    def read(self, images: Tensor) -> dict[str, np.ndarray]:
        """Read each attribute, float64 [N], of pictures float [N, 3, H, W] in [-1, 1]."""
        features = picture_features(self.network, images)
        return {name: regressor.predict(features) for name, regressor in self.regressors.items()}
