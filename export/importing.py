"""`python -m export import`: makes a run folder of a foreign StyleGAN checkpoint, for training and for export.

With an encoder, in the generator's file or imported after it, the run folder becomes one that `bundle` takes. A
boundary becomes a direction of an encoder's run folder.

The family of a file is recognised by its tensors' names: `export/importers/` has a module for each. Reading the bytes
safely is the business of `foreign_files.py`.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import nn

from export.foreign_files import read_checkpoint
from export.importers import boundaries, genforce, idinvert, nvidia, pyramid, rosinality, stylegan1
from export.importers.naming import Foreign, translate
from training.loops.inversion import NO_DISCRIMINATOR
from training.loops.noise_contrastive import train_noise_contrastive
from training.networks.encoder import Encoder, EncoderConfig
from training.networks.generator import Generator, GeneratorConfig, StyledLayer, code_statistics
from training.networks.pyramid_encoder import PyramidEncoder
from training.run_folders.checkpoint import (
    CheckpointError,
    checkpoint_folder,
    load_meta,
    load_network,
    save_checkpoint,
)
from training.run_folders.json_files import read_config, write_json
from training.run_folders.run_folder import environment
from training.run_folders.trained_inversion import build_encoder

GENERATORS = (nvidia, rosinality, genforce, stylegan1)
ENCODERS = (idinvert, pyramid)

CLAMP_CODES = 2  # sampled to check that activations stay below a clamp


@dataclass
class ImportConfig:
    """Make a run folder of a foreign checkpoint: StyleGAN2 of rosinality, pSp, e4e, NVIDIA, GenForce; StyleGAN1 of
    idinvert, GenForce.

    Nothing in the file is executed. Encoders of pSp and e4e come with their file, that of idinvert has its own, to be
    imported into its generator's run folder; for others train one with `python -m training encoder --gan`. Boundaries
    of InterFaceGAN or idinvert (.npy), found among codes (W or W+) of this very generator, can then be added to the
    encoder's run folder.
    """

    file: tyro.conf.Positional[Path]
    """The checkpoint (.pt, .pth, .pkl or .safetensors) or boundary (.npy); its family is recognised."""
    to: Path
    """Run folder to write, which must not hold a checkpoint yet; for an encoder its generator's, for a boundary the
    encoder's, which must."""
    name: str | None = None
    """Name that bundles, or the direction, will have; the file's own if left out. A later encoder changes nothing."""


def import_checkpoint(config: ImportConfig) -> str:
    """Read, translate, write; return a summary. Raises CheckpointError, FileNotFoundError."""
    content = read_checkpoint(config.file)
    name = config.name or re.sub(r"\W+", "-", config.file.stem).strip("-").lower()
    try:
        if (boundary := boundaries.find(content)) is not None:
            found = boundaries.add_boundary(boundary, config.to, name)
            low, high = found.range
            return f"direction {name} added to {config.to}: layers {found.layers}, range {low} to {high}"
        generator, encoder = find_generator(content), find_encoder(content)
        if generator is None and encoder is not None:
            return add_encoder(config, encoder)
        if generator is None:
            raise CheckpointError(no_family(content))
        return write_run(config, name, generator, encoder)
    except ValueError as error:
        raise CheckpointError(f"{config.file} was not imported: {error}") from None


def find_generator(content: Any) -> Foreign[GeneratorConfig] | None:
    """The generator in a file's content, of whatever family, or None. Raises CheckpointError."""
    return next((found for family in GENERATORS if (found := family.find(content)) is not None), None)


def find_encoder(content: Any) -> Foreign[EncoderConfig] | None:
    """The encoder in a file's content, of whatever family, or None. Raises CheckpointError."""
    return next((found for family in ENCODERS if (found := family.find(content)) is not None), None)


def no_family(content: Any) -> str:
    """The message about a file that holds neither."""
    keys = [str(key)[:60] for key in content][:10] if isinstance(content, dict) else []
    return (
        "its tensors' names are of no family that can be imported (StyleGAN2 of rosinality, pSp, e4e, NVIDIA and "
        f"GenForce, StyleGAN1 of idinvert and GenForce, encoders of idinvert, pSp and e4e); it starts with {keys}"
    )


def write_run(
    config: ImportConfig, name: str, foreign: Foreign[GeneratorConfig], encoder: Foreign[EncoderConfig] | None
) -> str:
    """Write a run folder of a generator, and of the encoder in the same file if there is one; return a summary.

    Raises CheckpointError.
    """
    if is_taken(config.to):
        raise CheckpointError(f"{config.to} holds a checkpoint already; name another folder")
    generator = translate(foreign, Generator)
    check_clamp(generator, foreign)
    distance = mean_code_error(generator, foreign)
    meta: dict[str, Any] = {
        "kind": "gan", "name": name, "step": 0, "images_seen": 0, "generator": asdict(generator.config),
        "discriminator": NO_DISCRIMINATOR, "imported": source(config.file, foreign) | {"mean_code_error": distance},
    }  # fmt: skip
    lines = summary(config, foreign, generator.config, distance)
    networks: dict[str, nn.Module] = {"generator": generator}
    if encoder is not None:
        meta, networks = with_encoder(meta, generator, encoder, source(config.file, encoder))
        lines += encoder_summary(config, encoder)
    else:
        lines.append(f"next: python -m training encoder --gan {config.to} [--data PHOTOGRAPHS]")
    config.to.mkdir(parents=True, exist_ok=True)
    write_json(config.to / "config.json", config)
    write_json(config.to / "environment.json", environment())
    save_checkpoint(config.to / "checkpoint", meta, networks, {})
    return "\n".join(lines)


def add_encoder(config: ImportConfig, foreign: Foreign[EncoderConfig]) -> str:
    """Add an encoder to its generator's run folder; return a summary. Raises CheckpointError."""
    meta = load_meta(config.to, "gan")
    # Of a run that was trained, discriminators and optimisers would be lost.
    if meta["discriminator"] != NO_DISCRIMINATOR:
        raise CheckpointError(f"{config.to} was trained here; name a folder of an imported generator")
    generator = Generator(read_config(GeneratorConfig, meta["generator"])).eval().requires_grad_(False)
    load_network(config.to, "generator", generator)
    meta, networks = with_encoder(meta, generator, foreign, source(config.file, foreign))
    save_checkpoint(config.to / "checkpoint", meta, networks, {})
    return "\n".join(encoder_summary(config, foreign))


def with_encoder(
    meta: dict[str, Any], generator: Generator, foreign: Foreign[EncoderConfig], about: dict[str, str]
) -> tuple[dict[str, Any], dict[str, nn.Module]]:
    """Meta and networks of a complete inversion run: generator, encoder, and a new latent discriminator."""
    given, shape = foreign.config, generator.config
    wanted = (shape.resolution, shape.layers, shape.code_size)
    if (given.resolution, given.layers, given.code_size) != wanted:
        raise CheckpointError(
            f"the {foreign.family} takes {given.resolution} px and gives codes {given.layers} x {given.code_size}; "
            f"the generator has {shape.resolution} px and codes {shape.layers} x {shape.code_size}"
        )
    encoder: Encoder | PyramidEncoder = translate(foreign, build_encoder)
    discriminator = train_noise_contrastive(generator)
    networks: dict[str, nn.Module] = {
        "generator": generator,
        "encoder": encoder,
        "latent_discriminator": discriminator,
    }
    added = {
        "kind": "inversion", "encoder": asdict(given), "latent_discriminator_view": discriminator.view,
        "imported_encoder": about,
    }  # fmt: skip
    return meta | added, networks


def source(file: Path, foreign: Foreign[Any]) -> dict[str, Any]:
    """Where a network comes from, for checkpoint.json."""
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    return {"family": foreign.family, "file": file.name, "sha256": digest}


def is_taken(folder: Path) -> bool:
    """Whether a folder holds a checkpoint."""
    try:
        checkpoint_folder(folder)
    except CheckpointError:
        return False
    return True


@torch.no_grad()
def check_clamp(generator: Generator, foreign: Foreign[GeneratorConfig]) -> None:
    """Raise CheckpointError where activations reach the original's clamp, which ours does not have."""
    if foreign.clamp is None:
        return
    highest = [0.0]
    layers = [layer for layer in generator.modules() if isinstance(layer, StyledLayer)]
    hooks = [
        layer.register_forward_hook(lambda _, __, x: highest.append(float(x.abs().max()))) for layer in layers
    ]
    random = torch.Generator().manual_seed(0)
    for _ in range(CLAMP_CODES):
        generator(torch.randn(1, generator.config.z_size, generator=random))
    for hook in hooks:
        hook.remove()
    if max(highest) >= foreign.clamp:
        raise CheckpointError(
            f"activations reach {max(highest):.0f}; the original clamps them at {foreign.clamp}, and ours does not"
        )


def mean_code_error(generator: Generator, foreign: Foreign[GeneratorConfig]) -> float | None:
    """Distance of the file's mean code from that of sampled codes, in standard deviations (root mean square).

    None where the file has no mean code. Raises CheckpointError where it does not fit.
    """
    if foreign.mean_code is None:
        return None
    shape, theirs = generator.config, foreign.mean_code.float().flatten()
    if theirs.numel() not in (shape.code_size, shape.layers * shape.code_size):
        raise CheckpointError(f"its mean code has shape {tuple(foreign.mean_code.shape)}")
    mean, deviation = code_statistics(generator, samples=10_000)
    return float(((theirs.reshape(-1, shape.code_size) - mean) / deviation).square().mean().sqrt())


def summary(
    config: ImportConfig, foreign: Foreign[GeneratorConfig], shape: GeneratorConfig, distance: float | None
) -> list[str]:
    """Lines about the generator that was written."""
    channels = " ".join(map(str, shape.channels))
    lines = [
        f"{foreign.family} written to {config.to}",
        f"  {shape.resolution} px, channels {channels}, codes {shape.layers} x {shape.code_size}",
    ]
    if distance is not None:
        lines.append(f"  its mean code is {distance:.3f} standard deviations from that of samples")
    return lines


def encoder_summary(config: ImportConfig, foreign: Foreign[EncoderConfig]) -> list[str]:
    """Lines about the encoder that was written, and what its domain score is worth."""
    return [
        f"{foreign.family} written to {config.to}",
        "  its latent discriminator is new: it tells sampled codes from the same with noise, "
        "and has seen no encoder's codes",
        f"next: python -m export bundle {config.to} --to MODEL_REPOSITORY",
        f"  or train discriminator and encoder on: python -m training encoder --gan {config.to} [--data PHOTOGRAPHS]",
    ]
