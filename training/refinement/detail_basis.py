"""`python -m training detail`: gives a pipeline detail codes, by finding the features in which its pictures miss most.

Training pictures are refined; what then still lowers the loss fastest, at every place of the maps of one resolution, is
the gradient there. The basis is the principal components of these gradients over the channels.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
import tyro
from safetensors.torch import load_file, save_file
from torch import Tensor

from training.data.pictures import load_pictures
from training.losses.perceptual import LPIPSSq
from training.networks.extra_rows.detail import Detail, DetailConfig
from training.networks.generator import Generator, Synthesis
from training.refinement.objective import Objective
from training.refinement.refinement import RefinementConfig, refine
from training.run_folders.checkpoint import CheckpointError
from training.run_folders.json_files import read_config, write_json
from training.run_folders.trained_inversion import load_inversion

DETAIL_FILE = "detail.json"
BASIS_FILE = "detail.safetensors"


@dataclass
class DetailBasisConfig:
    """Give an encoder's run detail codes."""

    run: tyro.conf.Positional[Path]
    """Run folder of an encoder; detail.json and detail.safetensors are written into it."""
    data: Path
    """Folder or zip of training pictures."""
    side: int = 32
    """Side of the maps, pixels: that of one of the generator's blocks."""
    maps: int = 16
    """How many maps a code holds; maps x side x side must fill rows of 512."""
    weight: float = 0.0025
    """Weight of the mean square of the detail in a refinement's objective."""
    scale: float = 2.0
    """What 1 in a code adds to the feature maps, in standard deviations of theirs."""
    fade: float = 2.0
    """How far an edit goes, in standard deviations of sampled codes, until e^-1 of the detail is left."""
    pictures: int = 100
    """Training pictures to look at."""
    steps: int = 10
    """Steps by which each is refined first."""
    batch: int = 4
    """Pictures at a time."""
    refine: RefinementConfig = field(default_factory=RefinementConfig)
    """The objective whose gradients are looked at."""


def fit_detail(config: DetailBasisConfig) -> str:
    """Find the basis, write it into the run folder, and say how much of the gradients it holds. Raises
    CheckpointError, DataError."""
    run = load_inversion(config.run)
    synthesis = run.generator.synthesis
    if not isinstance(synthesis, Synthesis):
        raise CheckpointError(
            f"{config.run}: detail codes need a StyleGAN2 synthesis network, as layers are counted"
        )
    shape = run.generator.config
    block = config.side.bit_length() - 3
    if not 0 < block < len(shape.channels) or config.side != 4 * 2**block:
        raise CheckpointError(f"the generator has no block of {config.side} pixels")
    if config.maps > shape.channels[block]:
        raise CheckpointError(f"{config.maps} maps, and the block has only {shape.channels[block]} features")
    channels, layers = shape.channels[block], shape.layers
    # All features first: the identity as the basis.
    whole = DetailConfig(config.side, channels, scale=1.0, weight=0.0, fade=1.0)
    try:
        rows = whole.rows(shape.code_size)
        DetailConfig(config.side, config.maps, config.scale, config.weight, config.fade).rows(shape.code_size)
    except ValueError as error:
        raise CheckpointError(str(error)) from None
    synthesis.extra.put(Detail(whole, torch.eye(channels)))
    run.generator.requires_grad_(False)
    run.encoder.requires_grad_(False)
    terms = synthesis.extra.terms(layers, shape.code_size)
    variance = float(run.latent_discriminator.deviation.square().mean())
    objective = Objective(synthesis, run.encoder, LPIPSSq(), variance, layers=layers, groups=terms)
    pictures = load_pictures(config.data, shape.resolution)
    chosen = torch.linspace(0, len(pictures) - 1, min(config.pictures, len(pictures))).long()
    moments, spread = torch.zeros(channels, channels, dtype=torch.float64), []
    for part in chosen.split(config.batch):
        gradient, deviation = gradients(objective, pictures.batch(part, mirror=False), config, rows)
        moments += (gradient.mT.double() @ gradient.double()).sum(0)
        spread.append(deviation)
    values, vectors = torch.linalg.eigh(moments)
    basis = vectors.flip(1)[:, : config.maps].float()
    share = float(values.flip(0)[: config.maps].sum() / values.sum())
    scale = config.scale * float(torch.stack(spread).mean())
    detail = Detail(DetailConfig(config.side, config.maps, scale, config.weight, config.fade), basis)
    write_json(config.run / DETAIL_FILE, asdict(detail.config))
    save_file({"basis": detail.basis.contiguous()}, config.run / BASIS_FILE)
    return f"{config.maps} of {channels} features hold {100 * share:.1f} % of the gradients' energy"


def gradients(
    objective: Objective, target: Tensor, config: DetailBasisConfig, rows: int
) -> tuple[Tensor, Tensor]:
    """Refine pictures float [N, 3, H, W]; the gradient at their feature maps, float [N, side x side, C], each picture's
    of length 1, and the standard deviation of these maps."""
    with torch.no_grad():
        start = objective.encoder(target)
    settings = config.refine
    steps = RefinementConfig(**{**vars(settings), "steps": config.steps})
    code = refine(objective, start, target, steps).code
    synthesis: Synthesis = objective.synthesis  # type: ignore[assignment]
    wide = torch.cat([code, code.new_zeros(len(code), rows, code.shape[2])], 1).requires_grad_()
    seen: list[Tensor] = []
    hook = synthesis.styled[2 * (config.side.bit_length() - 3)].register_forward_hook(
        lambda module, inputs, output: seen.append(output.detach())
    )
    loss = objective(wide, objective.target(target), settings.weights).sum()
    hook.remove()
    (gradient,) = torch.autograd.grad(loss, wide)
    maps = gradient[:, code.shape[1] :].reshape(len(code), -1, config.side**2).mT
    return maps / maps.flatten(1).norm(dim=1)[:, None, None], seen[0].std()


def load_detail(folder: Path, generator: Generator) -> Detail | None:
    """The detail of a run folder, put into its generator; None if it has none. Raises CheckpointError."""
    file = folder / DETAIL_FILE
    if not file.is_file():
        return None
    synthesis, shape = generator.synthesis, generator.config
    try:
        fields = json.loads(file.read_text())
        detail = Detail(read_config(DetailConfig, fields), load_file(folder / BASIS_FILE)["basis"])
        detail.config.rows(shape.code_size)
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise CheckpointError(f"{folder}: {DETAIL_FILE} and {BASIS_FILE} do not fit: {error}") from None
    block = detail.config.block
    if not isinstance(synthesis, Synthesis) or not 0 < block < len(shape.channels):
        raise CheckpointError(f"{folder}: its generator has no block for the detail of {DETAIL_FILE}")
    if len(detail.basis) != shape.channels[block]:
        raise CheckpointError(f"{folder}: {BASIS_FILE} is of another generator; write it again")
    synthesis.extra.put(detail)
    return detail
