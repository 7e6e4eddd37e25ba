"""Pictures of a run as uint8, and many of them on one sheet."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def to_uint8(images: Tensor) -> Tensor:
    """Round pictures from [-1, 1] to uint8 of the same shape, as the exported graphs do."""
    return ((images.detach().float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def image_grid(images: Tensor, columns: int) -> Image.Image:
    """Tile pictures float [N, 3, H, W] in [-1, 1], row by row. Places without a picture are white."""
    pixels = to_uint8(images).permute(0, 2, 3, 1).cpu().numpy()
    n, h, w, _ = pixels.shape
    rows = -(-n // columns)
    sheet = np.full((rows * h, columns * w, 3), 255, np.uint8)
    for i, picture in enumerate(pixels):
        y, x = divmod(i, columns)
        sheet[y * h : (y + 1) * h, x * w : (x + 1) * w] = picture
    return Image.fromarray(sheet)
