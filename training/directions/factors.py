"""`python -m training factors`: finds directions without labels, for people to look at and to name.

SeFa (Shen & Zhou, arXiv 2007.06600): steps that change the styles of some layers most, in closed form. GANSpace
(Haerkoenen et al., arXiv 2004.02546): principal components of sampled codes. Neither knows which ones mean something.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from training.data.pictures import DataError
from training.directions.directions import (
    DOMAIN_FLOOR,
    READ,
    CodeSpace,
    add_directions,
    parse_layers,
)
from training.networks.generator import Generator, Mapping, sample_codes
from training.networks.layers import EqualizedLinear
from training.run_folders.trained_inversion import load_inversion


@dataclass
class FactorsConfig:
    """Find directions without labels, and add them to an encoder's run folder."""

    run: Path
    """Run folder of an encoder."""
    method: Literal["sefa", "ganspace"] = "sefa"
    """From the generator's weights, or from sampled codes."""
    count: int = 5
    """Directions for each group of layers, the strongest ones."""
    layers: tuple[str, ...] = ()
    """Groups of layers, as `0-3`; by default the coarse, the middle and the fine third."""
    samples: int = 10_000
    """Codes that GANSpace samples."""
    domain_floor: float = DOMAIN_FLOOR
    """A direction's range ends where the median domain score of edited codes falls below this."""


def find_factors(config: FactorsConfig) -> Path:
    """Find directions in each group of layers; return the path of directions.json.

    Raises DataError, CheckpointError.
    """
    run = load_inversion(config.run)
    generator, shape = run.generator, run.generator.config
    if not 1 <= config.count <= shape.code_size:
        raise DataError(f"--count is {config.count}; a group of layers has 1 to {shape.code_size} directions")
    space = CodeSpace(run)
    codes = sample_codes(generator, config.samples, seed=3) if config.method == "ganspace" else space.sampled
    found = []
    for group in config.layers or thirds(shape.layers):
        layers = parse_layers(group, shape.layers)
        steps = (
            sefa(generator, layers, config.count)
            if config.method == "sefa"
            else ganspace(codes, layers, config.count)
        )
        for number, step in enumerate(steps, 1):
            name = f"{config.method}-{layers[0]}-{layers[-1]}-{number}"
            found.append(space.direction(name, step, layers, space.inversions[:READ], config.domain_floor))
            print(f"{name}: range {found[-1].range[0]} to {found[-1].range[1]}")
    return add_directions(config.run, found)


def thirds(count: int) -> tuple[str, ...]:
    """The coarse, the middle and the fine third of `count` layers, as `0-3`."""
    cuts = [round(count * third / 3) for third in range(4)]
    return tuple(f"{first}-{end - 1}" for first, end in pairwise(cuts))


@torch.no_grad()
def sefa(generator: Generator, layers: list[int], count: int) -> Tensor:
    """The steps that change the styles of `layers` most for their size, strongest first: float32 [count, L, 512].

    These are the eigenvectors of A'A with the largest eigenvalues (equation 7 of the paper), where A are the weights
    from a code to styles. Where the mapping gives each layer a vector of its own, A includes the mapping's last layer,
    so that one step moves all layers together as the mapping would.
    """
    config = generator.config
    if config.per_layer_code:
        assert isinstance(generator.mapping, Mapping)
        last = generator.mapping.layers[-1]
        assert isinstance(last, EqualizedLinear)
        native = (last.weight * last.weight_scale).unflatten(0, (config.layers, -1))  # [L, 512, I]
    else:
        native = torch.eye(config.code_size).expand(config.layers, -1, -1)
    styles = [
        affine.weight * affine.weight_scale @ native[layer]
        for layer in layers
        for affine in generator.synthesis.affines(layer)
    ]
    weight = torch.cat(styles).double()
    _, vectors = torch.linalg.eigh(weight.T @ weight)  # ascending
    strongest = one_sign(vectors.flip(1)[:, :count].T)  # [count, I]
    return torch.einsum("loi,ci->clo", native, strongest.float())


@torch.no_grad()
def ganspace(codes: Tensor, layers: list[int], count: int) -> Tensor:
    """The principal components of sampled codes [M, L, 512] in `layers`, strongest first: float32 [count, L, 512].

    Raises DataError where there are too few samples.
    """
    part = codes[:, layers].flatten(1)
    if not 1 <= count <= min(part.shape):
        raise DataError(f"{len(part)} samples have no {count} components; ask for fewer, or sample more")
    # pca_lowrank starts from random directions.
    torch.manual_seed(0)
    _, _, components = torch.pca_lowrank(part, q=min(count + 8, *part.shape), niter=4)
    steps = torch.zeros(count, *codes.shape[1:])
    steps[:, layers] = one_sign(components[:, :count].T).unflatten(1, (len(layers), -1))
    return steps


def one_sign(rows: Tensor) -> Tensor:
    """Give each row the sign that makes its largest entry positive: an eigenvector's own sign is arbitrary."""
    largest = rows.gather(1, rows.abs().argmax(1, keepdim=True))
    return rows * largest.sign()
