"""`python -m training noise`: gives a pipeline's codes noise maps, and measures what their values stand for."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import tyro
from torch import Tensor

from training.networks.extra_rows.noise import NoiseConfig, NoiseMaps, side_of
from training.networks.generator import Generator, Synthesis, sample_codes
from training.run_folders.checkpoint import CheckpointError
from training.run_folders.json_files import read_config, write_json
from training.run_folders.trained_inversion import load_inversion

NOISE_FILE = "noise.json"


@dataclass
class NoiseMapsConfig:
    """Give an encoder's run noise maps."""

    run: tyro.conf.Positional[Path]
    """Run folder of an encoder; noise.json is written into it."""
    least_side: int = 32
    """The layers of maps of at least this side, pixels, have their noise in a code."""
    scale: float = 0.5
    """What 1 in a code adds to the feature maps of a layer, in standard deviations of theirs."""
    weight: float = 0.01
    """Weight of the mean square of the maps in a refinement's objective."""
    fade: float = 2.0
    """How far an edit goes, in standard deviations of sampled codes, until e^-1 of the noise is left."""
    samples: int = 32
    """Sampled pictures to measure the feature maps on."""


def fit_noise(config: NoiseMapsConfig) -> str:
    """Measure the layers, write noise.json into the run folder, and say which layers. Raises CheckpointError."""
    noise = measured_noise(load_inversion(config.run).generator, config)
    write_json(config.run / NOISE_FILE, asdict(noise.config))
    layers = ", ".join(map(str, noise.config.layers))
    return f"codes hold the noise of layers {layers}"


@torch.no_grad()
def measured_noise(generator: Generator, config: NoiseMapsConfig) -> NoiseMaps:
    """The noise maps that a config asks for, for a generator. Raises CheckpointError where it has no such layers."""
    synthesis = generator.synthesis
    if not isinstance(synthesis, Synthesis):
        raise CheckpointError(
            f"{config.run}: noise maps need a StyleGAN2 synthesis network, as layers are counted"
        )
    layers = tuple(k for k in range(1, len(synthesis.styled)) if side_of(k) >= config.least_side)
    spread: dict[int, Tensor] = {}

    def listen(layer: int) -> torch.utils.hooks.RemovableHandle:
        return synthesis.styled[layer].register_forward_hook(
            lambda module, inputs, output: spread.update({layer: output.std()})
        )

    hooks = [listen(layer) for layer in layers]
    synthesis(sample_codes(generator, config.samples))
    for hook in hooks:
        hook.remove()
    try:
        scales = tuple(config.scale * float(spread[layer]) for layer in layers)
        noise = NoiseConfig(layers, scales, config.weight, config.fade)
        noise.rows(generator.config.code_size)
    except ValueError as error:
        raise CheckpointError(f"{config.run}: {error}; choose another least side") from None
    return NoiseMaps(noise)


def load_noise(folder: Path, generator: Generator) -> NoiseMaps | None:
    """The noise maps of a run folder, put into its generator; None if it has none. Raises CheckpointError."""
    file = folder / NOISE_FILE
    if not file.is_file():
        return None
    synthesis = generator.synthesis
    try:
        noise = NoiseMaps(read_config(NoiseConfig, json.loads(file.read_text())))
        noise.config.rows(generator.config.code_size)
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise CheckpointError(f"{folder}: {NOISE_FILE} does not fit: {error}") from None
    if not isinstance(synthesis, Synthesis) or noise.config.layers[-1] >= len(synthesis.styled):
        raise CheckpointError(f"{folder}: its generator has no layer for the noise of {NOISE_FILE}")
    synthesis.extra.put(noise)
    return noise
