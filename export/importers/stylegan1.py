"""StyleGAN1 of genforce/idinvert_pytorch and genforce/genforce (.pth): the same network under two sets of names.

Up to 64 pixels they up-sample by nearest neighbours before a convolution; above that they use a transposed one with a
spread kernel. Ours does the latter everywhere, with the kernels of the former flipped. Their mapping scales weights by
the gain that ours applies after activations, so that only its biases differ: they are divided by that gain.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from export.importers.genforce import flipped, generator_of
from export.state_dicts.naming import (
    Foreign,
    Rule,
    as_rgb,
    count,
    drawn_channels,
    make_config,
    notes_on,
    same,
    shape_of,
    tensors_of,
)
from training.networks.generator import GeneratorConfig
from training.networks.layers import ACTIVATION_GAIN, fir_kernel
from training.run_folders.checkpoint import CheckpointError

FUSED_FROM = 128  # side from which up-convolutions are transposed, pixels


@dataclass(frozen=True)
class Names:
    """A project's names for the parts of a layer, after "synthesis.layer3." or "mapping.dense3."."""

    family: str
    dense: tuple[str, str]
    bias: str
    noise: str
    style: tuple[str, str]
    conv: str
    final_tanh: bool


IDINVERT = Names(
    family="idinvert StyleGAN generator",
    dense=("fc.weight", "wscale.bias"),
    bias="epilogue.bias",
    noise="epilogue.apply_noise",
    style=("epilogue.style_mod.dense.fc.weight", "epilogue.style_mod.dense.wscale.bias"),
    conv="conv.weight",
    final_tanh=True,
)
GENFORCE = Names(
    family="GenForce StyleGAN generator",
    dense=("weight", "bias"),
    bias="bias",
    noise="apply_noise",
    style=("style.weight", "style.bias"),
    conv="weight",
    final_tanh=False,
)


def find(content: Any) -> Foreign[GeneratorConfig] | None:
    """The generator in a file of either project: its moving average if there is one, or a bare state dict."""
    if not isinstance(content, dict):
        return None
    content = generator_of(content)
    if "synthesis.layer0.const" not in content:
        return None
    return read(tensors_of(content), IDINVERT if f"synthesis.layer0.{IDINVERT.bias}" in content else GENFORCE)


def read(state: dict[str, Tensor], names: Names) -> Foreign[GeneratorConfig]:
    """Rules for a generator's state dict. Raises CheckpointError."""
    blocks, depth = count(state, r"synthesis\.output(\d+)\.") - 1, count(state, r"mapping\.dense(\d+)\.")
    dense, styles = names.dense, names.style
    drawn = drawn_channels(state, f"synthesis.output{blocks}.{names.conv}", -4)
    config = make_config(
        state,
        constant=shape_of(state, "synthesis.layer0.const", 4),
        widths=[f"synthesis.layer{2 * i + 3}.{names.conv}" for i in range(blocks)],
        mapping=[f"mapping.dense{i}.{dense[0]}" for i in range(depth)],
        style=f"synthesis.layer0.{styles[0]}",
        drawn=drawn,
    )
    config = replace(config, architecture="stylegan1", final_tanh=names.final_tanh)
    refuse_growing(state)
    rules = {
        "synthesis.constant": Rule("synthesis.layer0.const"),
        "synthesis.rgb_weight": Rule(f"synthesis.output{blocks}.{names.conv}", as_rgb(drawn)),
        "synthesis.rgb_bias": Rule(f"synthesis.output{blocks}.bias", as_rgb(drawn)),
    }
    for i in range(depth):
        rules[f"mapping.layers.{i}.weight"] = Rule(f"mapping.dense{i}.{dense[0]}")
        rules[f"mapping.layers.{i}.bias"] = Rule(
            f"mapping.dense{i}.{dense[1]}", lambda bias: bias / ACTIVATION_GAIN
        )
    filters = {}
    for i in range(config.layers):
        theirs, ours = f"synthesis.layer{i}", f"synthesis.styled.{i}"
        rules |= {
            f"{ours}.noise_strength": Rule(f"{theirs}.{names.noise}.weight"),
            f"{ours}.noise": Rule(f"{theirs}.{names.noise}.noise"),
            f"{ours}.bias": Rule(f"{theirs}.{names.bias}"),
            f"{ours}.style.weight": Rule(f"{theirs}.{styles[0]}"),
            f"{ours}.style.bias": Rule(f"{theirs}.{styles[1]}", from_one),
        }
        up = i > 0 and i % 2 == 0
        if up:
            filters[f"{theirs}.blur.kernel"] = fir_kernel(1, 2, 1)
        if i > 0:
            weight, change = convolution(theirs, names, fused=up and 4 << i // 2 >= FUSED_FROM, up=up)
            rules[f"{ours}.conv.weight"] = Rule(weight, change)
    coarser = {f"synthesis.output{i}.{part}" for i in range(blocks) for part in (names.conv, "bias")}
    unused = frozenset(coarser | {"truncation.w_avg", "truncation.truncation", "synthesis.lod"})
    mean, size = state.get("truncation.w_avg"), config.code_size
    if mean is not None and mean.numel() != size * (config.layers if config.per_layer_code else 1):
        # It is that of one w, and the mapping gives one for each layer.
        mean = None
    elif mean is not None:
        mean = mean.reshape(-1, size)
    return Foreign(names.family, state, config, rules, filters, unused, mean, notes=notes_on(drawn))


def convolution(layer: str, names: Names, *, fused: bool, up: bool) -> tuple[str, Callable[[Tensor], Tensor]]:
    """Name of a layer's weight, and how it becomes ours, float [C_out, C_in, 3, 3]."""
    if not up:
        return f"{layer}.{names.conv}", same
    if not fused:
        return f"{layer}.{names.conv}", flipped
    # There idinvert has [3, 3, C_in, C_out].
    if names is IDINVERT:
        return f"{layer}.weight", lambda weight: weight.permute(3, 2, 0, 1)
    return f"{layer}.weight", same


def from_one(bias: Tensor) -> Tensor:
    """Add 1 to the first half of a style's bias: their scales lack it; the second half are shifts."""
    first = torch.arange(len(bias)) < len(bias) // 2
    return bias + first.to(bias.dtype)


def refuse_growing(state: dict[str, Tensor]) -> None:
    """Raise CheckpointError where progressive growing has not ended: then RGB comes from other layers too."""
    lod = state.get("synthesis.lod")
    if lod is not None and (lod.numel() != 1 or float(lod) != 0):
        raise CheckpointError("its progressive growing has not ended (synthesis.lod is not 0)")
