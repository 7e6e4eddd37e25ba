"""`python -m training factors`: finds directions without labels, for people to look at and to name.

SeFa (Shen & Zhou, arXiv 2007.06600): steps that change the styles of some layers most, in closed form. GANSpace
(Haerkoenen et al., arXiv 2004.02546): principal components of sampled codes. Voynov & Babenko (arXiv 2002.03754): those
that a regressor tells apart (`bank.py`). None knows which ones mean something; labelled pictures can name them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from training.data.pictures import DataError, load_pictures
from training.directions.attributes import AttributeReader
from training.directions.bank import BankConfig, learn_bank
from training.directions.directions import (
    DOMAIN_FLOOR,
    READ,
    CodeSpace,
    Direction,
    Edits,
    add_directions,
    parse_layers,
)
from training.networks.generator import Generator, sample_codes
from training.networks.layers import EqualizedLinear
from training.run_folders.trained_inversion import load_inversion


@dataclass
class FactorsConfig:
    """Find directions without labels, and add them to an encoder's run folder."""

    run: Path
    """Run folder of an encoder."""
    method: Literal["sefa", "ganspace", "voynov"] = "sefa"
    """From the generator's weights, from sampled codes, or learned with a regressor that tells them apart."""
    count: int = 5
    """Directions for each group of layers, the strongest ones."""
    layers: tuple[str, ...] = ()
    """Groups of layers, as `0-3`; by default the coarse, the middle and the fine third."""
    samples: int = 10_000
    """Codes that GANSpace samples."""
    domain_floor: float = DOMAIN_FLOOR
    """A direction's range ends where the median domain score of edited codes falls below this."""
    bank: BankConfig = field(default_factory=BankConfig)
    """How those of Voynov & Babenko are learned."""
    data: Path | None = None
    """Pictures, with --attributes: labels then say which attribute each direction moves most."""
    attributes: Path | None = None
    """Their csv."""


def find_factors(config: FactorsConfig) -> Path:
    """Find directions in each group of layers; return the path of directions.json.

    Raises DataError, CheckpointError.
    """
    run = load_inversion(config.run)
    generator, shape = run.generator, run.generator.config
    if not 1 <= config.count <= shape.code_size:
        raise DataError(f"--count is {config.count}; a group of layers has 1 to {shape.code_size} directions")
    if (config.data is None) != (config.attributes is None):
        raise DataError("--data and --attributes name directions together; give both, or neither")
    space = CodeSpace(run)
    codes = sample_codes(generator, config.samples, seed=3) if config.method == "ganspace" else space.sampled
    found = []
    for group in config.layers or thirds(shape.layers):
        layers = parse_layers(group, shape.layers)
        told: list[float] | None = None
        if config.method == "sefa":
            steps = sefa(generator, layers, config.count)
        elif config.method == "ganspace":
            steps = ganspace(codes, layers, config.count)
        else:
            steps, told = learn_bank(generator, native_map(generator), layers, config.count, config.bank)
        for number, step in enumerate(steps, 1):
            name = f"{config.method}-{layers[0]}-{layers[-1]}-{number}"
            direction = space.direction(name, step, layers, space.inversions[:READ], config.domain_floor)
            if told:
                direction = replace(
                    direction, held_out={"metric": "accuracy", "value": round(told[number - 1], 4)}
                )
            found.append(direction)
            print(f"{name}: range {direction.range[0]} to {direction.range[1]}")
    if config.data and config.attributes:
        pictures = load_pictures(config.data, shape.resolution, config.attributes)
        reader = AttributeReader.train(pictures, list(pictures.attributes))
        edits = Edits(reader, generator, space.inversions[:READ])
        spread = {name: float(np.nanstd(values)) for name, values in pictures.attributes.items()}
        found = [named(direction, edits, spread) for direction in found]
    return add_directions(config.run, found)


def named(direction: Direction, edits: Edits, spread: dict[str, float]) -> Direction:
    """The direction with a label that says which two attributes it moves most, in deviations of real pictures."""
    moved = edits.moved(direction.scale * direction.vector)
    shares = {name: by / spread[name] for name, by in moved.items() if spread[name] > 0}
    most = sorted(shares, key=lambda name: -abs(shares[name]))[:2]
    label = f"{direction.name}: " + ", ".join(
        f"{name.replace('_', ' ')} {shares[name]:+.1f}" for name in most
    )
    print(label)
    return replace(direction, label=label)


def thirds(count: int) -> tuple[str, ...]:
    """The coarse, the middle and the fine third of `count` layers, as `0-3`."""
    cuts = [round(count * third / 3) for third in range(4)]
    return tuple(f"{first}-{end - 1}" for first, end in pairwise(cuts))


@torch.no_grad()
def native_map(generator: Generator) -> Tensor:
    """How a step of what the mapping's last layer is given moves codes, float32 [L, 512, I].

    Where the mapping repeats one vector, it moves every layer alike, and is the identity.
    """
    config = generator.config
    if not config.per_layer_code:
        return torch.eye(config.code_size).expand(config.layers, -1, -1)
    last = generator.mapping.layers[-1]
    assert isinstance(last, EqualizedLinear)
    return (last.weight * last.weight_scale).unflatten(0, (config.layers, -1))


@torch.no_grad()
def sefa(generator: Generator, layers: list[int], count: int) -> Tensor:
    """The steps that change the styles of `layers` most for their size, strongest first: float32 [count, L, 512].

    These are the eigenvectors of A'A with the largest eigenvalues (equation 7 of the paper), where A are the weights
    from a code to styles. Where the mapping gives each layer a vector of its own, A includes the mapping's last layer,
    so that one step moves all layers together as the mapping would.
    """
    native = native_map(generator)
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
