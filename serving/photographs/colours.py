"""Colours of a photograph: from its own ICC profile to sRGB, which the networks know, and back, by LittleCMS.

A conversion takes some 40 ns a pixel. So only what is cut out of a photograph is converted, and what is pasted in.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from PIL import Image as PillowImage
from PIL import ImageCms

from serving.photographs.formats.limits import MAX_PROFILE_BYTES

ColourMode = Literal["L", "RGB", "CMYK"]

# A profile that changes no colour by more levels is taken for sRGB's own: there are many, which differ in rounding.
_SAME_COLOUR = 1
_SRGB = ImageCms.createProfile("sRGB")


@dataclass(frozen=True, eq=False)
class Colours:
    """Conversions between the colours of a profile and sRGB. Their results are 8-bit pictures of the same size.

    mode: of a picture in the profile's colours. back: None if the profile cannot be converted to, as that of a
    scanner. is_srgb: whether the profile says that colours are sRGB, so that nothing needs to be converted.
    """

    mode: ColourMode
    forth: ImageCms.ImageCmsTransform
    back: ImageCms.ImageCmsTransform | None
    is_srgb: bool

    def to_srgb(self, picture: PillowImage.Image) -> PillowImage.Image:
        """A picture in `mode` as sRGB, in mode RGB."""
        return _apply(self.forth, picture)

    def from_srgb(self, picture: PillowImage.Image) -> PillowImage.Image:
        """An sRGB picture, in mode RGB, in the profile's colours. Only if there is a way `back`."""
        assert self.back is not None, "who asks has looked"
        return _apply(self.back, picture)


@lru_cache(maxsize=8)
def colours_of(profile: bytes, mode: ColourMode) -> Colours | None:
    """The colours of a picture in `mode` with an ICC profile.

    None if the profile is of no use: it is empty, broken, too large, or that of another kind of picture.
    """
    if not profile or len(profile) > MAX_PROFILE_BYTES:
        return None
    try:
        # Profiles that are made to break it raise errors of many types.
        own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        forth = ImageCms.buildTransform(own, _SRGB, mode, "RGB")
    except Exception:
        return None
    try:
        back = ImageCms.buildTransform(_SRGB, own, "RGB", mode)
    except Exception:
        back = None
    return Colours(mode, forth, back, mode != "CMYK" and _is_srgb(forth, mode))


def _is_srgb(forth: ImageCms.ImageCmsTransform, mode: ColourMode) -> bool:
    levels = np.linspace(0, 255, 11).round().astype(np.uint8)
    if mode == "L":
        sample = levels[None]
        wanted = np.repeat(sample[:, :, None], 3, axis=2)
    else:
        wanted = sample = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(1, -1, 3)
    seen = np.asarray(_apply(forth, PillowImage.fromarray(sample)))
    return bool(np.abs(seen.astype(int) - wanted).max() <= _SAME_COLOUR)


def _apply(transform: ImageCms.ImageCmsTransform, picture: PillowImage.Image) -> PillowImage.Image:
    converted = transform.apply(picture)
    # Pillow's copy of the profile is of no use.
    converted.info.clear()
    return converted
