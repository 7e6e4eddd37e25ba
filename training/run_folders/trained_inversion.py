"""An encoder's run as a whole: generator, encoder and latent discriminator, ready for use."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch

from training.networks.encoder import Encoder, EncoderConfig
from training.networks.generator import Generator, GeneratorConfig
from training.networks.latent_discriminator import LatentDiscriminator
from training.networks.pyramid_encoder import PyramidEncoder
from training.run_folders.checkpoint import CheckpointError, load_meta, load_network, read_network
from training.run_folders.json_files import read_config


class TrainedInversion(NamedTuple):
    """An encoder's run, networks in evaluation mode and frozen."""

    generator: Generator
    encoder: Encoder | PyramidEncoder
    latent_discriminator: LatentDiscriminator
    meta: dict[str, Any]
    """checkpoint.json"""


def build_encoder(config: EncoderConfig) -> Encoder | PyramidEncoder:
    """Make an untrained encoder of the config's architecture."""
    return PyramidEncoder(config) if config.architecture in ("psp", "e4e") else Encoder(config)


def encoder_to_go_on_with(meta: dict[str, Any], wanted: EncoderConfig) -> EncoderConfig | None:
    """Read the shape of the encoder in a run folder with that checkpoint.json, if training can go on with it: it is an
    imported one, or as wide as is wanted. None if it cannot, or if there is none."""
    if "encoder" not in meta:
        return None
    known = read_config(EncoderConfig, meta["encoder"])
    widths = [(shape.channels, shape.bottleneck, shape.activation) for shape in (known, wanted)]
    return known if known.architecture != "residual" or widths[0] == widths[1] else None


def load_inversion(run: Path) -> TrainedInversion:
    """Load an encoder's run folder, or its published copy. Raises CheckpointError."""
    meta = load_meta(run, "inversion")
    generator = Generator(read_config(GeneratorConfig, meta["generator"]))
    encoder = build_encoder(read_config(EncoderConfig, meta["encoder"]))
    shape = (generator.config.layers, generator.config.code_size)
    given = (encoder.config.layers, encoder.config.code_size)
    if given != shape:
        raise CheckpointError(f"{run}: the encoder gives codes {given}, and the generator takes {shape}")
    # One that was trained against noise is narrower. Where there is none, loading it says so.
    first = read_network(run, "latent_discriminator").get("layers.0.weight")
    discriminator = LatentDiscriminator(
        torch.zeros(shape),
        torch.ones(shape),
        meta["latent_discriminator_view"],
        512 if first is None else len(first),
        inputs=generator.mapping.last_inputs,
    )
    networks = {"generator": generator, "encoder": encoder, "latent_discriminator": discriminator}
    for name, network in networks.items():
        load_network(run, name, network)
        network.eval().requires_grad_(False)
    if discriminator.view == "native":
        discriminator.native.fit(generator.mapping)
    return TrainedInversion(generator, encoder, discriminator, meta)
