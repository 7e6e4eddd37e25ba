"""Growing: a run at twice the side goes on from a smaller one, and its new blocks are faded in.

Progressive growing (Karras et al., arXiv 1710.10196): the smaller side takes a third of the work, and most of what a
generator learns it learns there. The skip architecture makes it simple: the generator's new block adds to the
up-sampled picture, with a factor that rises from 0 to 1; StyleGAN2's discriminator mixes its new block with the
smaller picture read directly.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from training.loops.coverage import Coverage
from training.networks.generator import Generator, GeneratorConfig
from training.networks.image_discriminators import StyleGAN2Discriminator
from training.run_folders.checkpoint import CheckpointError, load_meta, read_network
from training.run_folders.json_files import read_config


class Growth:
    """How far the new blocks are faded in, and the tensor that tells the networks."""

    def __init__(self, since: int, images: int, device: torch.device) -> None:
        """Fade over `images` pictures, beginning at `since` pictures seen."""
        self.since, self.images = since, images
        self.fade = torch.zeros((), device=device)

    def begin(self, generators: list[Generator], discriminator: nn.Module) -> None:
        """Let the networks fade. StyleGAN2's discriminator keeps the layer that read the smaller picture."""
        for generator in generators:
            generator.synthesis.fade = self.fade
        for part in stylegan2_parts(discriminator):
            part.begin_fade(self.fade)

    def end(self, generators: list[Generator], discriminator: nn.Module) -> None:
        """Let the networks be as if they had never grown."""
        for generator in generators:
            generator.synthesis.fade = None
        for part in stylegan2_parts(discriminator):
            part.end_fade()

    def advance(self, seen: int) -> bool:
        """Set the factor for a step; return whether the fade is over."""
        share = (seen - self.since) / self.images if self.images > 0 else 1.0
        self.fade.fill_(min(share, 1.0))
        return share >= 1.0

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps while the fade lasts."""
        return {"since": self.since, "images": self.images}


def stylegan2_parts(discriminator: nn.Module) -> list[StyleGAN2Discriminator]:
    """The parts of an image discriminator that grow with the picture."""
    return [part for part in discriminator.modules() if isinstance(part, StyleGAN2Discriminator)]


def refuse_unfit(smaller: Path, shape: GeneratorConfig) -> None:
    """Raise CheckpointError where a generator of this shape cannot have grown from the run folder `smaller`."""
    known = read_config(GeneratorConfig, load_meta(smaller, "gan")["generator"])
    if replace(known, resolution=2 * known.resolution, channels=shape.channels) != shape or (
        known.channels != shape.channels[:-1]
    ):
        raise CheckpointError(
            f"{smaller} is {known}; a run that grows from it has twice the resolution, one more entry in channels, "
            f"and is else the same, not {shape}"
        )


def load_smaller_generator(smaller: Path, generator: Generator) -> None:
    """Load a generator of half the side, from its moving average. Both vectors of the new layers begin as the last."""
    state = read_network(smaller, "generator")
    load_grown(generator, state, generator.config.code_size)


def load_smaller_discriminator(smaller: Path, discriminator: nn.Module) -> None:
    """Load an image discriminator for half the side, after `Growth.begin`."""
    state = read_network(smaller, "image_discriminator")
    for part in stylegan2_parts(discriminator):
        prefix = "" if part is discriminator else "stylegan2."
        own = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        state = {k: v for k, v in state.items() if k.removeprefix(prefix) not in own}
        read_before = {k.replace("from_rgb.", "from_rgb_before."): v for k, v in shifted(own).items()}
        load_grown(part, read_before, 0)
    load_grown(discriminator, state, 0)


def load_smaller_encoder(smaller: Path, coverage: Coverage, code_size: int) -> None:
    """Load the encoder for half the side, where there is one. Its layer that reads pictures is made anew."""
    state = read_network(smaller, "encoder")
    kept = {k: v for k, v in shifted(state).items() if not k.startswith(("stem.", "stem_norm."))}
    load_grown(coverage.encoder, kept, code_size)


def shifted(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state whose blocks, fine to coarse, make room for one before them."""

    def name(key: str) -> str:
        if not key.startswith("blocks."):
            return key
        _, number, rest = key.split(".", 2)
        return f"blocks.{int(number) + 1}.{rest}"

    return {name(key): value for key, value in state.items()}


def load_grown(network: nn.Module, state: dict[str, Tensor], code_size: int) -> None:
    """Load a smaller network's state. Where a tensor lacks vectors of the code, the last one is repeated.

    Raises CheckpointError for what does not fit.
    """
    wanted, found = network.state_dict(), {}
    for key, value in state.items():
        target = wanted.get(key)
        if target is not None and target.shape != value.shape and value.dim() and code_size:
            missing = target.shape[0] - value.shape[0]
            value = torch.cat([value, *[value[-code_size:]] * (missing // code_size)])
        if target is None or target.shape != value.shape:
            raise CheckpointError(f"{key} of the smaller run does not fit")
        found[key] = value
    network.load_state_dict(found, strict=False)
