"""Attributes that are labels: columns of 0 and 1, of which some cells may be empty."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from training.data.pictures import DataError, Pictures


def is_binary(values: np.ndarray) -> bool:
    """Whether an attribute has the two values 0 and 1 only; unknown ones, NaN, do not count."""
    return bool(np.isin(values[known(values)], (0.0, 1.0)).all())


def known(values: np.ndarray) -> np.ndarray:
    """Which values of an attribute are known, bool [N]: a csv may have empty cells."""
    return ~np.isnan(values)


def label_rows(pictures: Pictures, names: tuple[str, ...]) -> Tensor:
    """The labels of each picture, float32 [M, K] of 0 and 1, NaN where a cell is empty.

    Raises DataError for a column that is not there, that has other values, or whose pictures are all alike.
    """
    for name in names:
        values = pictures.attributes.get(name)
        if values is None:
            columns = ", ".join(pictures.attributes) or "none"
            raise DataError(
                f"there is no column of numbers {name!r} to take labels from; there are: {columns}"
            )
        if not is_binary(values) or len(np.unique(values[known(values)])) < 2:
            raise DataError(f"a label has the values 0 and 1, both of them; the column {name!r} has not")
    return torch.from_numpy(np.stack([pictures.attributes[name] for name in names], 1)).float()
