"""Differentiable augmentation of pictures before an image discriminator sees them (Zhao et al., arXiv 2006.10738).

Real and generated pictures are changed in the same ways. So a discriminator learns from few real pictures without
memorising them, and the generator does not learn the changes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def augment(image: Tensor, probability: float | Tensor = 1.0) -> Tensor:
    """Change colours, move, and cut out parts of pictures float [N, 3, H, W] in [-1, 1].

    Each change happens to a sample with `probability`, which may be a scalar on the device. A number of 0 returns the
    pictures themselves.
    """
    if not isinstance(probability, Tensor) and probability <= 0:
        return image
    return _cutout(_translate(_colour(image, probability), probability), probability)


def _chosen(image: Tensor, probability: float | Tensor) -> Tensor:
    return (torch.rand(image.shape[0], 1, 1, 1, device=image.device) < probability).to(image.dtype)


def _colour(x: Tensor, p: float | Tensor) -> Tensor:
    def uniform(low: float, high: float, rest: float) -> Tensor:
        value = torch.rand(x.shape[0], 1, 1, 1, device=x.device, dtype=x.dtype) * (high - low) + low
        return rest + _chosen(x, p) * (value - rest)

    x = x + uniform(-0.5, 0.5, 0.0)  # brightness
    grey = x.mean(1, keepdim=True)
    x = grey + (x - grey) * uniform(0.0, 2.0, 1.0)  # saturation
    mean = x.mean((1, 2, 3), keepdim=True)
    return mean + (x - mean) * uniform(0.5, 1.5, 1.0)  # contrast


def _translate(x: Tensor, p: float | Tensor, ratio: float = 0.125) -> Tensor:
    n, _, h, w = x.shape
    shift = int(h * ratio + 0.5)
    move = _chosen(x, p)[:, :, 0, 0].long()  # [N, 1]
    dy = torch.randint(-shift, shift + 1, (n, 1), device=x.device) * move
    dx = torch.randint(-shift, shift + 1, (n, 1), device=x.device) * move
    rows = (torch.arange(h, device=x.device)[None] + dy).clamp(-1, h) + 1  # [N, H] into the padded picture
    columns = (torch.arange(w, device=x.device)[None] + dx).clamp(-1, w) + 1
    # Rows, then columns: the gradient of indexing with both at once sorts all indices on a GPU.
    padded = F.pad(x, (1, 1, 1, 1))
    taken = padded.gather(2, rows[:, None, :, None].expand(-1, x.shape[1], -1, w + 2))
    return taken.gather(3, columns[:, None, None, :].expand(-1, x.shape[1], h, -1))


def _cutout(x: Tensor, p: float | Tensor, ratio: float = 0.5) -> Tensor:
    n, _, h, w = x.shape
    side = int(h * ratio)
    top = torch.randint(-side // 2, h - side // 2, (n, 1), device=x.device)
    left = torch.randint(-side // 2, w - side // 2, (n, 1), device=x.device)
    rows, columns = torch.arange(h, device=x.device)[None], torch.arange(w, device=x.device)[None]
    hole = ((rows >= top) & (rows < top + side))[:, None, :, None] & (
        (columns >= left) & (columns < left + side)
    )[:, None, None, :]
    return x * (1 - hole.to(x.dtype) * _chosen(x, p))
