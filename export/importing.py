"""`python -m export import`: makes a run folder of a foreign StyleGAN checkpoint, for training and for export.

With an encoder, in the generator's file or imported after it, the run folder becomes one that `bundle` takes. Files of
directions add to an encoder's run folder.

The family of a file is recognised by its tensors' names: `export/importers/` has a module for each.
`export/state_dicts/` finds these names within the file, and reading its bytes safely is the business of
`indomain/unpickling/`.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import nn

from export.foreign_files import read_checkpoint
from export.importers import (
    directions,
    genforce,
    idinvert,
    nvidia,
    pyramid,
    rosinality,
    stylegan1,
    tensorflow,
)
from export.state_dicts.naming import Foreign, translate
from export.state_dicts.unsupported import why_unsupported
from export.state_dicts.wrapping import inner_networks, without_added_names
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

GENERATORS = (nvidia, tensorflow, rosinality, genforce, stylegan1)
ENCODERS = (idinvert, pyramid)

CLAMP_CODES = 2  # sampled to check that activations stay below a clamp


@dataclass
class ImportConfig:
    """Make a run folder of a foreign checkpoint: StyleGAN2 of rosinality, pSp, e4e, NVIDIA (PyTorch and TensorFlow),
    GenForce; StyleGAN1 of idinvert, GenForce, NVIDIA (TensorFlow).

    Nothing in the file is executed. Encoders of pSp and e4e come with their file, that of idinvert has its own, to be
    imported into its generator's run folder; for others train one with `python -m training encoder --gan`. Directions
    of InterFaceGAN, idinvert or e4e, found among codes (W or W+) of this very generator, can then be added to the
    encoder's run folder.
    """

    file: tyro.conf.Positional[Path]
    """The checkpoint (.pt, .pth, .pkl, .safetensors) or directions (.npy, .npz, .pt); its family is recognised."""
    to: Path
    """Run folder to write, which must not hold a checkpoint yet; for an encoder its generator's, for directions the
    encoder's, which must."""
    name: str | None = None
    """Name that bundles, or the direction, will have; the file's own if left out. Before the names of several
    directions, with a hyphen. A later encoder changes nothing."""
    label: int | None = None
    """Class that a network which is conditional on classes shall draw, from 0. The bundle draws no other."""


def import_checkpoint(config: ImportConfig) -> str:
    """Read, translate, write; return a summary. Raises CheckpointError, FileNotFoundError."""
    content = read_checkpoint(config.file)
    name = config.name or plain_name(config.file.stem)
    try:
        content = without_added_names(content)
        generator, encoder = find_networks(content)
        if generator is not None:
            return write_run(config, name, at_label(generator, config.label), encoder)
        if encoder is not None:
            return add_encoder(config, encoder)
        if reason := why_unsupported(content):
            raise CheckpointError(reason)
        if found := directions.find(content):
            return add_directions(config, name, found)
        raise CheckpointError(no_family(content))
    except ValueError as error:
        raise CheckpointError(f"{config.file} was not imported: {error}") from None


def plain_name(text: str) -> str:
    """A text as a name of a bundle or a direction: "My Faces" -> "my-faces"."""
    return re.sub(r"\W+", "-", text).strip("-").lower()


def find_networks(content: Any) -> tuple[Foreign[GeneratorConfig] | None, Foreign[EncoderConfig] | None]:
    """The generator and the encoder in a file's content, of whatever families, and what people should know of both.

    They are where their project puts them; if there are none, anywhere within the content. Raises CheckpointError.
    """
    generator, encoder = networks_of(content)
    if generator is None and encoder is None:
        for where, inner in inner_networks(content):
            further, other = networks_of(inner)
            if further is not None:
                generator = replace(further, notes=(f"it was read from {where}*", *further.notes))
            encoder = encoder or other
    return generator, encoder


def networks_of(content: Any) -> tuple[Foreign[GeneratorConfig] | None, Foreign[EncoderConfig] | None]:
    """The generator and the encoder that are where their project puts them. Raises CheckpointError."""
    generator = next((found for family in GENERATORS if (found := family.find(content)) is not None), None)
    encoder = next((found for family in ENCODERS if (found := family.find(content)) is not None), None)
    if generator is not None and (left_out := pyramid.why_left_out(content)):
        generator = replace(generator, notes=(*generator.notes, left_out))
    return generator, encoder


def at_label(foreign: Foreign[GeneratorConfig], label: int | None) -> Foreign[GeneratorConfig]:
    """The network for one class if it is conditional on classes. Raises CheckpointError for a wrong --label."""
    if foreign.at_label is None:
        if label is not None:
            raise CheckpointError("it is not conditional on classes, so leave out --label")
        return foreign
    if label is None or not 0 <= label < foreign.labels:
        raise CheckpointError(
            f"it is conditional on {foreign.labels} classes; choose one with --label 0 to {foreign.labels - 1}"
        )
    chosen = foreign.at_label(label)
    return replace(chosen, notes=(*foreign.notes, *chosen.notes))


def add_directions(config: ImportConfig, name: str, found: dict[str, directions.ForeignDirection]) -> str:
    """Add directions to an encoder's run folder; return a summary. Raises CheckpointError."""
    before = f"{config.name}-" if config.name and len(found) > 1 else ""
    named = {f"{before}{plain_name(key)}" if key else "": direction for key, direction in found.items()}
    if config.name and len(found) == 1:
        named = {"": next(iter(found.values()))}
    if len(named) < len(found):
        raise CheckpointError(f"its directions have names that are alike: {sorted(found)}")
    added = directions.add_foreign_directions(named, config.to, name)
    return "\n".join(
        f"direction {direction.name} added to {config.to}: layers {direction.layers}, "
        f"range {direction.range[0]} to {direction.range[1]}"
        for direction in added
    )


def no_family(content: Any) -> str:
    """The message about a file that holds neither."""
    keys = [str(key)[:60] for key in content][:10] if isinstance(content, dict) else []
    return (
        "its tensors' names are of no family that can be imported (StyleGAN2 of rosinality, pSp, e4e, NVIDIA and "
        "GenForce, StyleGAN of idinvert, GenForce and NVIDIA, encoders of idinvert, pSp and e4e, directions); "
        f"it starts with {keys}"
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
    meta: dict[str, Any], generator: Generator, foreign: Foreign[EncoderConfig], about: dict[str, Any]
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
    return {"family": foreign.family, "file": file.name, "sha256": digest, "notes": list(foreign.notes)}


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
    return lines + [f"  {note}" for note in foreign.notes]


def encoder_summary(config: ImportConfig, foreign: Foreign[EncoderConfig]) -> list[str]:
    """Lines about the encoder that was written, and what its domain score is worth."""
    return [
        f"{foreign.family} written to {config.to}",
        "  its latent discriminator is new: it tells sampled codes from the same with noise, "
        "and has seen no encoder's codes",
        f"next: python -m export bundle {config.to} --to MODEL_REPOSITORY",
        f"  or train discriminator and encoder on: python -m training encoder --gan {config.to} [--data PHOTOGRAPHS]",
    ]
