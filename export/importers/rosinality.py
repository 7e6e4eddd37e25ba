"""StyleGAN2 of rosinality/stylegan2-pytorch (.pt), also the `decoder` within pSp, e4e and ReStyle.

Its layout is almost ours: kernels are not flipped, weights are scaled at run time, one w is repeated.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from export.state_dicts.naming import (
    Foreign,
    Rule,
    as_rgb,
    count,
    drawn_channels,
    make_config,
    notes_on,
    shape_of,
    tensors_of,
)
from export.state_dicts.wrapping import state_of
from training.networks.generator import GeneratorConfig
from training.networks.layers import fir_kernel

FAMILY = "rosinality StyleGAN2 generator"
LATENT_AVERAGE = "latent_avg"
NOISE_SEED = 0
WITHOUT_NOISE = (
    "it has no noise maps (files of the project's first versions have none); as that project does with strict=False, "
    f"they are drawn at random, here with seed {NOISE_SEED}, and stored: the strengths are the file's own"
)


def find(content: Any) -> Foreign[GeneratorConfig] | None:
    """The generator in a file of this family: its moving average, a bare state dict, or a decoder."""
    if not isinstance(content, dict):
        return None
    mean = content.get(LATENT_AVERAGE)
    mean = mean if isinstance(mean, Tensor) else None
    if isinstance(content.get("g_ema"), dict):
        return read(content["g_ema"], mean, FAMILY)
    content = state_of(content)
    decoder = {
        key.removeprefix("decoder."): value for key, value in content.items() if is_part(key, "decoder.")
    }
    if decoder:
        return read(decoder, mean, f"{FAMILY} (decoder of an encoder's checkpoint)")
    return read(content, mean, FAMILY) if "conv1.conv.modulation.weight" in content else None


def is_part(key: Any, prefix: str) -> bool:
    """Whether a state dict's key starts with the prefix."""
    return isinstance(key, str) and key.startswith(prefix)


def read(content: Mapping[str, Any], mean: Tensor | None, family: str) -> Foreign[GeneratorConfig]:
    """Rules for a generator's state dict."""
    state = tensors_of(content)
    blocks = count(state, r"to_rgbs\.(\d+)\.")
    depth = count(state, r"style\.(\d+)\.weight") - 1  # the first module is the normalisation
    drawn = drawn_channels(state, "to_rgb1.conv.weight", -4)
    config = make_config(
        state,
        constant=shape_of(state, "input.input", 4),
        widths=[f"convs.{2 * i + 1}.conv.weight" for i in range(blocks)],
        mapping=[f"style.{i + 1}.weight" for i in range(depth)],
        style="conv1.conv.modulation.weight",
        drawn=drawn,
    )
    rules = {"synthesis.constant": Rule("input.input")}
    for i in range(depth):
        for part in ("weight", "bias"):
            rules[f"mapping.layers.{i}.{part}"] = Rule(f"style.{i + 1}.{part}")
    made, notes = {}, notes_on(drawn)
    if not any(name.startswith("noises.") for name in state):
        random = torch.Generator().manual_seed(NOISE_SEED)
        sides = [4 << (i + 1) // 2 for i in range(2 * blocks + 1)]
        made = {
            f"synthesis.styled.{i}.noise": torch.randn(1, 1, side, side, generator=random)
            for i, side in enumerate(sides)
        }
        notes += (WITHOUT_NOISE,)
    for i in range(2 * blocks + 1):
        theirs, ours = f"convs.{i - 1}" if i else "conv1", f"synthesis.styled.{i}"
        rules |= convolution(theirs, ours) | {
            f"{ours}.noise_strength": Rule(f"{theirs}.noise.weight", lambda weight: weight.reshape(())),
            f"{ours}.bias": Rule(f"{theirs}.activate.bias"),
        }
        if not made:
            rules[f"{ours}.noise"] = Rule(f"noises.noise_{i}")
    for i in range(blocks + 1):
        theirs, ours = f"to_rgbs.{i - 1}" if i else "to_rgb1", f"synthesis.to_rgb.{i}"
        rules |= convolution(theirs, ours, drawn) | {
            f"{ours}.bias": Rule(f"{theirs}.bias", as_rgb(drawn, lambda bias: bias.reshape(-1)))
        }
    filters = [f"convs.{2 * i}.conv.blur.kernel" for i in range(blocks)]
    filters += [f"to_rgbs.{i}.upsample.kernel" for i in range(blocks)]
    return Foreign(
        family,
        state,
        config,
        rules,
        dict.fromkeys(filters, 4 * fir_kernel()),
        mean_code=mean,
        made=made,
        notes=notes,
    )


def convolution(theirs: str, ours: str, drawn: int = 3) -> dict[str, Rule]:
    """A modulated convolution; one that draws grey becomes one that draws RGB."""
    return {
        f"{ours}.conv.weight": Rule(f"{theirs}.conv.weight", as_rgb(drawn, lambda weight: weight.squeeze(0))),
        f"{ours}.conv.style.weight": Rule(f"{theirs}.conv.modulation.weight"),
        f"{ours}.conv.style.bias": Rule(f"{theirs}.conv.modulation.bias"),
    }
