"""What is known of a picture: all of it, or its grey values, or means over squares of pixels.

A code is refined so that the measurement of its picture is the target's; what was not measured comes from the
generator. Source: Ma, Ayaz and Karaman, "Invertibility of Convolutional Generative Networks from Partial Measurements"
(NeurIPS 2018). Unknown places are the mask's matter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

DOWNSAMPLINGS = (1, 2, 4, 8, 16)
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow's


@dataclass(frozen=True)
class Measurement:
    """How pictures are measured, each float [N]; None: as they are, and no operator is spent on it."""

    grey: Tensor | None = None
    """1: only grey values are known; 0: colours, too."""
    downsampling: Tensor | None = None
    """Side of the squares, in pixels, of which only the mean is known: one of `DOWNSAMPLINGS`."""

    @classmethod
    def of(cls, settings: Mapping[str, Tensor]) -> Measurement:
        """The measurement that settings, float [N] by name, ask for."""
        return cls(settings.get("grey"), settings.get("downsampling"))

    def __call__(self, image: Tensor) -> Tensor:
        """Measure pictures float [N, 3, H, W]; what is left of them has the same shape."""
        if self.downsampling is not None:
            image = averaged(image, self.downsampling)
        if self.grey is not None:
            share = self.grey[:, None, None, None]
            luma = (image * image.new_tensor(LUMA)[:, None, None]).sum(1, keepdim=True)
            image = image + share * (luma - image)
        return image


def averaged(image: Tensor, downsampling: Tensor) -> Tensor:
    """Pictures float [N, C, H, W] with each square of `downsampling` pixels a side, float [N], replaced by its mean.

    Between two of `DOWNSAMPLINGS` it is a mixture of both. A side that a square does not divide has no such squares.
    """
    height, width = image.shape[2:]
    exponent = torch.log2(downsampling)[:, None, None, None]
    result = torch.zeros_like(image)
    for power, side in enumerate(DOWNSAMPLINGS):
        share = (1 - (exponent - power).abs()).clamp(min=0)
        if height % side or width % side:
            continue
        result = result + share * squares(image, side)
    return result


def squares(image: Tensor, side: int) -> Tensor:
    """The means over squares of `side` pixels, in the size of the picture float [N, C, H, W]."""
    if side == 1:
        return image
    n, channels, height, width = image.shape
    cut = image.reshape(n, channels, height // side, side, width // side, side)
    return cut.mean((3, 5), keepdim=True).expand_as(cut).reshape(image.shape)
