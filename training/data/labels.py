"""Attributes that are labels: columns of 0 and 1, of which some cells may be empty, or made of columns of numbers."""

from __future__ import annotations

import re

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


def with_labels(pictures: Pictures, wanted: tuple[str, ...]) -> tuple[str, ...]:
    """Give pictures the labels that are made of columns of numbers; return the names of all that are wanted.

    `smiling=smile:0.05:0.12` is the label `smiling`: 1 where the column `smile` is above 0.12, 0 where it is below
    0.05, and not known between. Without `=` a label is a column of 0 and 1. Raises DataError.
    """
    names = []
    for text in wanted:
        name, made, column = text.partition("=")
        names.append(name)
        if not made:
            continue
        found = re.fullmatch(r"([^:]+):([-+.\de]+):([-+.\de]+)", column)
        try:
            source, low, high = found[1], float(found[2]), float(found[3])  # type: ignore[index]
        except (TypeError, ValueError):
            raise DataError(
                f"a label is COLUMN or NAME=COLUMN:LOW:HIGH, as smiling=smile:0.05:0.12, not {text!r}"
            ) from None
        if low > high:
            raise DataError(f"{text!r}: {low:g} is above {high:g}; the lower bound comes first")
        if source not in pictures.attributes:
            columns = ", ".join(pictures.attributes) or "none"
            raise DataError(
                f"there is no column of numbers {source!r} to make {name} of; there are: {columns}"
            )
        values = pictures.attributes[source]
        pictures.attributes[name] = np.select([values > high, values < low], [1.0, 0.0], np.nan)
    return tuple(names)


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
