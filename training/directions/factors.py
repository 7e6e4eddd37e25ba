"""`python -m training factors`: finds directions without labels, for people to look at and to name.

SeFa (Shen & Zhou, arXiv 2007.06600): steps that change the styles of some layers most, in closed form. GANSpace
(Haerkoenen et al., arXiv 2004.02546): principal components of sampled codes. A bank (Voynov & Babenko, arXiv
2002.03754): directions that a regressor tells apart by their pictures, learned in `banks/`. None knows what they mean.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from training.data.pictures import DataError
from training.directions.banks.bank import (
    Bank,
    BankConfig,
    check_bank,
    learn_bank,
    tell_apart,
    train_regressor,
)
from training.directions.banks.regressor import Regressor
from training.directions.directions import (
    DOMAIN_FLOOR,
    READ,
    CodeSpace,
    Direction,
    add_directions,
    parse_layers,
    stored_boundaries,
)
from training.directions.journeys import walks_sheet
from training.networks.generator import Generator, Mapping, sample_codes
from training.networks.layers import EqualizedLinear
from training.run_folders.trained_inversion import load_inversion

COMPONENTS = 64  # principal components among which a bank is learned
SHOWN = 2  # codes on the sheet of pictures
SHEET = 17  # seed of these codes


@dataclass
class FactorsConfig:
    """Find directions without labels, and add them to an encoder's run folder."""

    run: Path
    """Run folder of an encoder."""
    method: Literal["sefa", "ganspace", "bank"] = "sefa"
    """From the generator's weights, from sampled codes, or learned together with a regressor that tells them apart."""
    count: int = 5
    """Directions for each group of layers, the strongest ones."""
    layers: tuple[str, ...] = ()
    """Groups of layers, as `0-3`; by default the coarse, the middle and the fine third."""
    samples: int = 10_000
    """Codes that GANSpace and a bank sample."""
    domain_floor: float = DOMAIN_FLOOR
    """A direction's range ends where the median domain score of edited codes falls below this."""
    tell_apart: bool = False
    """Also train a regressor on the directions of each group, and print how well it tells them apart. A bank has one
    anyway."""
    bank: BankConfig = field(default_factory=BankConfig)
    """How a bank and regressors are learned."""
    picture: Path | None = None
    """Also write a sheet there: a row a direction, strengths -2 to 2 of two codes."""


def find_factors(config: FactorsConfig) -> Path:
    """Find directions in each group of layers; return the path of directions.json.

    Raises DataError, CheckpointError.
    """
    check_bank(config.bank)
    run = load_inversion(config.run)
    generator, shape = run.generator, run.generator.config
    if not 1 <= config.count <= shape.code_size:
        raise DataError(f"--count is {config.count}; a group of layers has 1 to {shape.code_size} directions")
    groups = [parse_layers(group, shape.layers) for group in config.layers or thirds(shape.layers)]
    # As many as are edited: on a CPU inversions take most of the time.
    space, boundaries = CodeSpace(run, READ), stored_boundaries(config.run)
    codes = space.sampled if config.method == "sefa" else sample_codes(generator, config.samples, seed=3)
    found = []
    for layers in groups:
        stem = f"{config.method}-{layers[0]}-{layers[-1]}"
        steps, regressor = _find(generator, codes, layers, config)
        directions = [
            space.direction(f"{stem}-{number}", step, layers, space.inversions[:READ], config.domain_floor)
            for number, step in enumerate(steps, 1)
        ]
        shares = [""] * len(directions)
        if regressor or config.tell_apart:
            served = served_steps(directions)
            regressor = regressor or train_regressor(generator, served, config.bank)
            told = tell_apart(generator, regressor, served, config.bank.fresh)
            shares = [f", named {share:.0%}" for share in told.shares]
            print(
                f"{stem}: a regressor names {told.accuracy:.1%} of the directions on fresh pairs of pictures, and "
                f"misses their strengths by {told.strength_error:.2f}"
            )
        for direction, share in zip(directions, shares, strict=True):
            label = attribute_label(direction, boundaries, space.sampled)
            low, high = direction.range
            print(f"{label or direction.name}: range {low} to {high}{share}", flush=True)
            found.append(replace(direction, label=label))
    if config.picture:
        shown = sample_codes(generator, SHOWN, seed=SHEET)
        walks_sheet(generator.synthesis, shown, list(served_steps(found))).save(config.picture, quality=65)
    return add_directions(config.run, found)


def _find(
    generator: Generator, codes: Tensor, layers: list[int], config: FactorsConfig
) -> tuple[Tensor, Regressor | None]:
    """The steps of a group of layers, float32 [count, L, 512], and the regressor that was learned with a bank."""
    if config.method == "sefa":
        return sefa(generator, layers, config.count), None
    if config.method == "ganspace":
        return ganspace(codes, layers, config.count), None
    components = ganspace(codes, layers, min(COMPONENTS, *codes[:, layers].flatten(1).shape))
    bank = Bank(components, codes, config.count, config.bank.seed)
    regressor = learn_bank(generator, bank, config.bank)
    return bank.steps().detach(), regressor


def served_steps(directions: list[Direction]) -> Tensor:
    """Steps of strength 1, float32 [K, L, 512]."""
    return torch.stack([direction.scale * direction.vector for direction in directions])


def attribute_label(direction: Direction, boundaries: dict[str, Tensor], codes: Tensor) -> str:
    """A label with the attribute that a direction goes together with most; empty without boundaries."""
    likest = likest_attribute(direction.vector, boundaries, codes)
    return f"{direction.name}: {likest[0].replace('_', ' ')} (r {likest[1]:.2f})" if likest else ""


def likest_attribute(
    vector: Tensor, boundaries: dict[str, Tensor], codes: Tensor
) -> tuple[str, float] | None:
    """The attribute with which a direction float [L, 512] goes together most, and the correlation r.

    It is that of two coordinates over sampled codes [M, L, 512]: along the direction, and across the attribute's
    boundary, float [L, 512]. None without boundaries.
    """
    if not boundaries:
        return None
    normals = torch.stack([vector, *boundaries.values()]).flatten(1)
    r = torch.corrcoef(normals @ codes.flatten(1).T)[0, 1:]
    most = int(r.abs().argmax())
    return list(boundaries)[most], float(r[most])


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
