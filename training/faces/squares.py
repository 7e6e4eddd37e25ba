"""Squares of pictures that show a face as a descriptor wants it: where they lie, and how they are cut out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

# Where the training data's pupils lie, as the face detector measures it: half-way between them, and how far apart.
EYES_X, EYES_Y, EYES_APART = 0.5026, 0.4623, 0.3086


@dataclass(frozen=True)
class Square:
    """A square of a picture, as shares of its side."""

    left: float
    top: float
    side: float


def square_between(square: Square, left_eye: Sequence[float], right_eye: Sequence[float]) -> Square:
    """A square of pictures aligned as the training data, for a face whose pupils lie elsewhere on its pictures:
    (x, y) as shares of the side."""
    scale = (right_eye[0] - left_eye[0]) / EYES_APART
    x, y = (left_eye[0] + right_eye[0]) / 2, (left_eye[1] + right_eye[1]) / 2
    return Square(x - scale * (EYES_X - square.left), y - scale * (EYES_Y - square.top), scale * square.side)


def resampling(size: int, start: float, length: float, side: int) -> Tensor:
    """Weights float [side, size] that resample a row's stretch, which starts and is long as shares of it, to `side`
    pixels.

    The filter is bilinear with antialiasing, as PyTorch's; what lies beyond the row repeats its end.
    """
    pixels = length * size / side
    centres = start * size + (torch.arange(side, dtype=torch.float64) + 0.5) * pixels
    reach = max(pixels, 1.0)
    centres = centres.clamp(0.5, size - 0.5)
    places = torch.arange(size, dtype=torch.float64) + 0.5
    weights = (1 - (places - centres[:, None]).abs() / reach).clamp(min=0)
    return (weights / weights.sum(1, keepdim=True)).float()


class Cut(nn.Module):
    """Cut a square out of pictures of one side S and resize it: float [N, 3, S, S] -> [N, 3, side, side].

    It is two products of matrices, whose gradients the exporter can write and which every runtime has.
    """

    rows: Tensor
    columns: Tensor

    def __init__(self, size: int, square: Square, side: int) -> None:
        super().__init__()
        self.register_buffer("rows", resampling(size, square.top, square.side, side), persistent=False)
        columns = resampling(size, square.left, square.side, side).T
        self.register_buffer("columns", columns, persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        return self.rows @ image @ self.columns


def cut(image: Tensor, square: Square, side: int) -> Tensor:
    """The same for pictures of any side.

    Raises ValueError for pictures that are not square.
    """
    if image.ndim != 4 or image.shape[1] != 3 or image.shape[2] != image.shape[3]:
        raise ValueError(f"faces are square pictures [N, 3, S, S], not {list(image.shape)}; align them first")
    return Cut(image.shape[2], square, side).to(image)(image)  # type: ignore[no-any-return]
