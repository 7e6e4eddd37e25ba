"""Pictures of an evaluation: comparison grids, t-SNE of codes, the domain gap against the reconstruction error."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

# Writes files and needs no screen.
matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.manifold import TSNE
from torch import Tensor

from training.run_folders.picture_grid import image_grid

COLUMNS = 12  # pictures in a row


def pictures(path: Path, sets: Mapping[str, Tensor], rows: int = 1) -> None:
    """Draw sets of pictures float [N, 3, H, W] in [-1, 1], a few rows of each under its name."""
    figure, axes = plt.subplots(
        len(sets), 1, figsize=(COLUMNS * 0.9, len(sets) * (0.9 * rows + 0.15)), squeeze=False
    )
    for axis, (name, images) in zip(axes[:, 0], sets.items(), strict=True):
        axis.imshow(np.asarray(image_grid(images[: COLUMNS * rows], COLUMNS)))
        axis.set_title(name, fontsize=8, loc="left", pad=2)
        axis.axis("off")
    _save(figure, path)


def columns(path: Path, sets: Mapping[str, Tensor]) -> None:
    """Draw the same pictures float [N, 3, H, W] in [-1, 1] by each method, in a column under its name."""
    count = len(next(iter(sets.values())))
    figure, axes = plt.subplots(count, len(sets), figsize=(1.5 * len(sets), 1.5 * count + 0.8), squeeze=False)
    for column, (name, images) in zip(axes.T, sets.items(), strict=True):
        column[0].set_title(textwrap.fill(name, 18), fontsize=7)
        for axis, image in zip(column, images, strict=True):
            axis.imshow(np.asarray(image_grid(image[None], 1)))
            axis.axis("off")
    _save(figure, path)


def code_map(path: Path, sampled: Tensor, inverted: Mapping[str, Tensor], seed: int = 0) -> None:
    """Draw t-SNE (van der Maaten & Hinton, 2008) of sampled codes and each method's, standardised [N, L, 512]."""
    figure, axes = plt.subplots(1, len(inverted), figsize=(3.2 * len(inverted), 3.2), squeeze=False)
    for axis, (name, codes) in zip(axes[0], inverted.items(), strict=True):
        together = torch.cat([sampled, codes]).flatten(1).numpy()
        points = TSNE(2, init="pca", perplexity=30, random_state=seed).fit_transform(together)
        for part, label in ((points[: len(sampled)], "sampled"), (points[len(sampled) :], "inverted")):
            axis.scatter(*part.T, s=4, alpha=0.6, label=label, linewidths=0)
        axis.set_title(name, fontsize=8)
        axis.set_xticks([])
        axis.set_yticks([])
    axes[0, 0].legend(fontsize=7, markerscale=2)
    _save(figure, path)


def gap_against_error(path: Path, encoders: Sequence[Mapping[str, Any]]) -> None:
    """Draw domain gap against reconstruction error: a point for each encoder, with its code weight beside it."""
    figure, axis = plt.subplots(figsize=(5, 3.6))
    methods = [re.sub(", code weight [^,]*", "", encoder["method"]) for encoder in encoders]
    for method in dict.fromkeys(methods):
        of_method = [e for e, its in zip(encoders, methods, strict=True) if its == method]
        errors, gaps = ([e["figures"][name] for e in of_method] for name in ("mse", "code_fd"))
        axis.scatter(errors, gaps, s=18, label=method)
        for encoder, x, y in zip(of_method, errors, gaps, strict=True):
            axis.annotate(f" {encoder['code_weight']:g}", (x, y), fontsize=6)
    floor = np.mean([e["figures"]["floor_code_fd"] for e in encoders])
    axis.axhline(floor, color="grey", linewidth=0.8, linestyle="--", label="sampled codes against others")
    axis.set_xlabel("MSE of G(E(x)) on [-1, 1]")
    axis.set_ylabel("Frechet distance of codes, joint")
    axis.set_yscale("log")
    axis.legend(fontsize=7)
    _save(figure, path)


def reliability(path: Path, scores: Mapping[str, np.ndarray]) -> None:
    """Draw the share of codes whose domain score is at most s, against s. New sampled codes lie on the diagonal."""
    figure, axis = plt.subplots(figsize=(4, 3.6))
    levels = np.linspace(0, 1, 101)
    axis.plot(levels, levels, color="grey", linewidth=0.8, linestyle="--")
    for name, values in scores.items():
        axis.plot(levels, [(values <= level).mean() for level in levels], label=name)
    axis.set_xlabel("domain score s")
    axis.set_ylabel("share of codes with a score of at most s")
    axis.legend(fontsize=7)
    _save(figure, path)


def _save(figure: plt.Figure, path: Path) -> None:
    figure.tight_layout(pad=0.4)
    figure.savefig(path, dpi=110)
    plt.close(figure)
