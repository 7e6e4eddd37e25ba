"""What is known of a picture, and what a refinement towards it leaves free."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from training.refinement.measurement import DOWNSAMPLINGS, Measurement


def values(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers)


def test_squares_become_their_means_and_each_picture_has_its_own() -> None:
    pictures = torch.randn(len(DOWNSAMPLINGS), 3, 32, 32)
    found = Measurement(downsampling=values(*DOWNSAMPLINGS))(pictures)
    for side, picture, measured in zip(DOWNSAMPLINGS, pictures, found, strict=True):
        means = F.avg_pool2d(picture, side)
        torch.testing.assert_close(measured, means.repeat_interleave(side, 1).repeat_interleave(side, 2))
    torch.testing.assert_close(Measurement(downsampling=values(*DOWNSAMPLINGS))(found), found)


def test_grey_is_what_pillow_makes_grey() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    wanted = np.asarray(Image.fromarray(pixels).convert("L"), dtype=np.float32)
    picture = torch.from_numpy(pixels).permute(2, 0, 1)[None].float()
    both = torch.cat([picture, picture])
    grey, colours = Measurement(grey=values(1, 0))(both)
    for channel in grey:
        np.testing.assert_allclose(channel.numpy(), wanted, atol=0.51)
    torch.testing.assert_close(colours, picture[0])


def test_nothing_asked_is_the_picture_itself() -> None:
    picture = torch.randn(2, 3, 24, 24)
    assert Measurement()(picture) is picture
    whole = Measurement.of({"grey": values(0, 0), "downsampling": values(1, 1), "detail": values(1, 1)})
    torch.testing.assert_close(whole(picture), picture)
