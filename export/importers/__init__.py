"""`python -m export import`: a foreign StyleGAN2 checkpoint to a run folder that training and export go on from.

Or a boundary that somebody found, to a direction of an encoder's run folder.

Which family a file belongs to is seen from its tensors' names: one file of this folder for each, `naming.py` for what
they share. Reading the bytes safely is `export/unpickling.py`.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import tyro

from export.importers import boundaries, genforce, nvidia, rosinality
from export.importers.naming import Foreign, translate
from export.unpickling import read_checkpoint
from training.generator import Generator, StyledLayer, code_statistics
from training.runs import CheckpointError, checkpoint_folder, environment, save_checkpoint, write_json

FAMILIES = (nvidia, rosinality, genforce)
NO_CRITIC = "none"  # `training/inversion.py` starts a fresh one
CLAMP_CODES = 2  # sampled to see whether activations stay below a clamp


@dataclass
class ImportConfig:
    """Make a run folder of a foreign StyleGAN2 checkpoint: rosinality, pSp or e4e, NVIDIA, GenForce.

    Nothing in the file is executed. Train an encoder for the result with `python -m training encoder --gan`; boundaries
    of InterFaceGAN or idinvert (.npy), found among codes (W or W+) of this very generator, can then be added to the
    encoder's run folder.
    """

    file: tyro.conf.Positional[Path]
    """The checkpoint (.pt, .pth, .pkl or .safetensors) or boundary (.npy); its family is recognised."""
    to: Path
    """Run folder to write, which must not hold a checkpoint yet; for a boundary the encoder's, which must."""
    name: str | None = None
    """Name that bundles, or the direction, will have; the file's own if left out."""


def import_checkpoint(config: ImportConfig) -> str:
    """Read, translate, write; gives a summary. Raises CheckpointError or FileNotFoundError."""
    content = read_checkpoint(config.file)
    name = config.name or re.sub(r"\W+", "-", config.file.stem).strip("-").lower()
    try:
        if (boundary := boundaries.find(content)) is not None:
            found = boundaries.add_boundary(boundary, config.to, name)
            low, high = found.range
            return f"direction {name} added to {config.to}: layers {found.layers}, range {low} to {high}"
        if is_taken(config.to):
            raise CheckpointError(f"{config.to} holds a checkpoint already; name another folder")
        foreign = recognise(content)
        generator = translate(foreign)
        check_clamp(generator, foreign)
        distance = mean_code_error(generator, foreign)
    except ValueError as error:
        raise CheckpointError(f"{config.file} was not imported: {error}") from None
    source = {
        "family": foreign.family,
        "file": config.file.name,
        "sha256": hashlib.sha256(config.file.read_bytes()).hexdigest(),
        "mean_code_error": distance,
    }
    meta = {
        "kind": "gan", "name": name, "step": 0, "images_seen": 0, "generator": asdict(generator.config),
        "critic": NO_CRITIC, "imported": source,
    }  # fmt: skip
    config.to.mkdir(parents=True, exist_ok=True)
    write_json(config.to / "config.json", config)
    write_json(config.to / "environment.json", environment())
    save_checkpoint(config.to / "checkpoint", meta, {"generator": generator}, {})
    return summary(config, foreign, distance)


def is_taken(folder: Path) -> bool:
    """Does it hold a checkpoint?"""
    try:
        checkpoint_folder(folder)
    except CheckpointError:
        return False
    return True


def recognise(content: Any) -> Foreign:
    """The generator in a file's content, whatever family it is of. Raises CheckpointError."""
    for family in FAMILIES:
        if (foreign := family.find(content)) is not None:
            return foreign
    keys = [str(key)[:60] for key in content][:10] if isinstance(content, dict) else []
    raise CheckpointError(
        "its tensors' names are of no family that can be imported (rosinality, pSp, e4e, NVIDIA and GenForce "
        f"StyleGAN2); it starts with {keys}"
    )


@torch.no_grad()
def check_clamp(generator: Generator, foreign: Foreign) -> None:
    """Where the original clamps activations, which ours does not, make sure that it makes no difference."""
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


def mean_code_error(generator: Generator, foreign: Foreign) -> float | None:
    """Distance of the file's mean code from that of sampled codes, in standard deviations (root mean square)."""
    if foreign.mean_code is None:
        return None
    shape, theirs = generator.config, foreign.mean_code.float().flatten()
    if theirs.numel() not in (shape.code_size, shape.layers * shape.code_size):
        raise CheckpointError(f"its mean code has shape {tuple(foreign.mean_code.shape)}")
    mean, deviation = code_statistics(generator, samples=10_000)
    return float(((theirs.reshape(-1, shape.code_size) - mean) / deviation).square().mean().sqrt())


def summary(config: ImportConfig, foreign: Foreign, distance: float | None) -> str:
    """What was written, for the terminal."""
    shape = foreign.config
    channels = " ".join(map(str, shape.channels))
    lines = [
        f"{foreign.family} generator written to {config.to}",
        f"  {shape.resolution} px, channels {channels}, codes {shape.layers} x {shape.code_size}",
    ]
    if distance is not None:
        lines.append(f"  its mean code is {distance:.3f} standard deviations from that of samples")
    lines.append(f"next: python -m training encoder --gan {config.to} [--data PHOTOGRAPHS]")
    return "\n".join(lines)
