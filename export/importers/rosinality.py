"""StyleGAN2 of rosinality/stylegan2-pytorch (.pt), also the `decoder` within pSp, e4e and ReStyle.

Its layout is almost ours: kernels are not flipped, weights are scaled at run time, one w is repeated.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from export.importers.naming import Foreign, Rule, count, make_config, shape_of, tensors_of
from training.networks.generator import GeneratorConfig
from training.networks.layers import fir_kernel

FAMILY = "rosinality StyleGAN2 generator"
LATENT_AVERAGE = "latent_avg"


def find(content: Any) -> Foreign[GeneratorConfig] | None:
    """The generator in a file of this family: its moving average, a bare state dict, or a decoder."""
    if not isinstance(content, dict):
        return None
    mean = content.get(LATENT_AVERAGE)
    mean = mean if isinstance(mean, Tensor) else None
    if isinstance(content.get("g_ema"), dict):
        return read(content["g_ema"], mean, FAMILY)
    if isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
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
    config = make_config(
        state,
        constant=shape_of(state, "input.input", 4),
        widths=[f"convs.{2 * i + 1}.conv.weight" for i in range(blocks)],
        mapping=[f"style.{i + 1}.weight" for i in range(depth)],
        style="conv1.conv.modulation.weight",
    )
    rules = {"synthesis.constant": Rule("input.input")}
    for i in range(depth):
        for part in ("weight", "bias"):
            rules[f"mapping.layers.{i}.{part}"] = Rule(f"style.{i + 1}.{part}")
    for i in range(2 * blocks + 1):
        theirs, ours = f"convs.{i - 1}" if i else "conv1", f"synthesis.styled.{i}"
        rules |= convolution(theirs, ours) | {
            f"{ours}.noise_strength": Rule(f"{theirs}.noise.weight", lambda weight: weight.reshape(())),
            f"{ours}.noise": Rule(f"noises.noise_{i}"),
            f"{ours}.bias": Rule(f"{theirs}.activate.bias"),
        }
    for i in range(blocks + 1):
        theirs, ours = f"to_rgbs.{i - 1}" if i else "to_rgb1", f"synthesis.to_rgb.{i}"
        rules |= convolution(theirs, ours) | {
            f"{ours}.bias": Rule(f"{theirs}.bias", lambda bias: bias.reshape(-1))
        }
    filters = [f"convs.{2 * i}.conv.blur.kernel" for i in range(blocks)]
    filters += [f"to_rgbs.{i}.upsample.kernel" for i in range(blocks)]
    return Foreign(family, state, config, rules, dict.fromkeys(filters, 4 * fir_kernel()), mean_code=mean)


def convolution(theirs: str, ours: str) -> dict[str, Rule]:
    """A modulated convolution."""
    return {
        f"{ours}.conv.weight": Rule(f"{theirs}.conv.weight", lambda weight: weight.squeeze(0)),
        f"{ours}.conv.style.weight": Rule(f"{theirs}.conv.modulation.weight"),
        f"{ours}.conv.style.bias": Rule(f"{theirs}.conv.modulation.bias"),
    }
