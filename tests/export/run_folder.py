"""Run folders with random weights, as `python -m training encoder` would leave them; their cards say so."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save_file

from training.networks.encoder import Encoder, EncoderConfig
from training.networks.generator import Generator, GeneratorConfig
from training.networks.latent_discriminator import LatentDiscriminator, LatentDiscriminatorView
from training.run_folders.checkpoint import save_checkpoint

SMALL_GENERATOR = GeneratorConfig(resolution=32, channels=(16, 16, 8, 8), mapping_depth=2)
SMALL_ENCODER = EncoderConfig(resolution=32, channels=(8, 8, 16, 16), bottleneck=4, layers=8, activation=True)


@torch.no_grad()
def write_run(
    folder: Path,
    generator_config: GeneratorConfig = SMALL_GENERATOR,
    encoder_config: EncoderConfig = SMALL_ENCODER,
    *,
    name: str = "tiny",
    seed: int = 0,
    code_weight: float = 0.1,
) -> Path:
    """A run folder of kind "inversion" with two made-up directions, a preset and a card that says what it is."""
    torch.manual_seed(seed)
    generator, encoder = Generator(generator_config), Encoder(encoder_config)
    for layer in generator.synthesis.styled:  # noise and biases that a graph must not lose
        layer.noise_strength.fill_(0.1)
        layer.bias.normal_(0, 0.1)
    codes = generator.mapping(*generator.mapping.draw(512))
    encoder.start_from(codes)
    for part in codes[:64].split(16):  # batch norm statistics that are not 0 and 1
        encoder(generator.synthesis(part))
    view: LatentDiscriminatorView = "native" if generator_config.per_layer_code else "layer"
    discriminator = LatentDiscriminator(
        codes.mean(0), codes.std(0), view, inputs=generator.mapping.last_inputs
    )
    if view == "native":
        discriminator.native.fit(generator.mapping)
    discriminator.layers[-1].weight.normal_()
    meta = {
        "kind": "inversion", "name": name, "generator": asdict(generator_config), "encoder": asdict(encoder_config),
        "latent_discriminator_view": view,
        "latent_discriminator": {"latent_discriminator_rate": 2e-3, "r1_gamma": 10.0, "code_pool": 50},
        "data": "random weights", "images_seen": 0, "step": 0,
        "seed": seed,
        "loss_weights": {"pixel_weight": 1.0, "code_weight": code_weight, "code_cycle_weight": code_weight * 5},
    }  # fmt: skip
    networks = {"generator": generator, "encoder": encoder, "latent_discriminator": discriminator}
    save_checkpoint(folder / "checkpoint", meta, networks, {})
    entries, tensors = [], {}
    for key, layers in (("smile", [2, 3, 4]), ("age", [0, 1, 2, 3])):
        vector = torch.zeros(generator_config.layers, generator_config.code_size)
        vector[layers] = torch.randn(len(layers), generator_config.code_size)
        tensors[f"direction/{key}"] = vector / vector.norm()
        if key == "smile":  # as if labels had made it
            tensors |= {"boundary/smile": torch.ones_like(vector), "across/smile": torch.ones_like(vector)}
        entries.append({
            "name": key, "label": key.capitalize(), "layers": layers, "range": [-3.0, 3.0],
            "scale": float(codes.std(0).mean()) * 10, "held_out": {"metric": "accuracy", "value": 0.5},
            "conditioned_on": [],
        })  # fmt: skip
    (folder / "directions.json").write_text(json.dumps(entries))
    save_file(tensors, folder / "directions.safetensors")
    merry = {"name": "merry", "edits": [{"direction": "smile", "strength": 2.0, "keep": ["age"]}]}
    (folder / "presets.json").write_text(json.dumps([merry]))
    card = {
        "data": "random weights",
        "licence": "Apache-2.0",
        "limits": "Not trained: for development and tests only.",
    }
    (folder / "card.json").write_text(json.dumps(card))
    return folder
