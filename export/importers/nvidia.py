"""StyleGAN2 of NVIDIA's stylegan2-ada-pytorch and stylegan3 repositories (.pkl).

The pickle holds whole networks with their source code. `indomain/unpickling/` reads names of classes and their fields.
A network that is conditional on classes becomes one for a single class: its label is part of the mapping network then.
"""

from __future__ import annotations

import math
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
from export.state_dicts.wrapping import fields_of, state_of, tensors_of_module
from indomain.unpickling.values import Record
from training.networks.generator import GeneratorConfig
from training.networks.layers import fir_kernel
from training.run_folders.checkpoint import CheckpointError

FAMILY = "NVIDIA StyleGAN2 generator"
MARK = "synthesis.b4.conv1.affine.weight"
OUR_RATE = 0.01  # learning rate multiplier of our mapping network, in `training/networks/generator.py`
MOST_LABELS = 100_000


def find(content: Any) -> Foreign[GeneratorConfig] | None:
    """The generator's moving average in a file of this family, pickled whole or as a state dict."""
    network = content.get("G_ema", content) if isinstance(content, dict) else content
    if isinstance(network, Record) and MARK in tensors_of_module(network):
        return read(network)
    if isinstance(network, dict) and MARK in state_of(network):
        return rules_for(tensors_of(state_of(network)), OUR_RATE, None)
    return None


def module(record: Record, *path: str) -> Record:
    """The module at a path within another one. Raises CheckpointError."""
    for name in path:
        found = fields_of(record.fields.get("_modules")).get(name)
        if not isinstance(found, Record):
            raise CheckpointError(f"its {record.kind} has no {name}, so it is not of the StyleGAN2 type")
        record = found
    return record


def read(generator: Record) -> Foreign[GeneratorConfig]:
    """Rules for a generator that was pickled whole. Raises CheckpointError for variants other than ours."""
    block, first = module(generator, "synthesis", "b4"), module(generator, "mapping", "fc0")
    layer = module(block, "conv1")
    if (
        layer.fields.get("activation", "lrelu") != "lrelu"
        or block.fields.get("architecture", "skip") != "skip"
    ):
        raise CheckpointError("its generator is not StyleGAN2's with skips and leaky ReLUs")
    rate, clamp = first.fields.get("bias_gain", OUR_RATE), layer.fields.get("conv_clamp")
    if not isinstance(rate, int | float) or not isinstance(clamp, int | float | None):
        raise CheckpointError("its layers' gains are not numbers")
    return rules_for(tensors_of_module(generator), rate, clamp)


def rules_for(state: dict[str, Tensor], rate: float, clamp: float | None) -> Foreign[GeneratorConfig]:
    """Rules for a generator's state dict, of any class if it is conditional.

    `rate`: learning rate multiplier of its mapping network. `clamp`: where it clamps activations.
    Raises CheckpointError.
    """
    if "mapping.embed.weight" not in state:
        return unconditional(state, rate, clamp)
    features, labels = shape_of(state, "mapping.embed.weight", 2)
    inputs = shape_of(state, "mapping.fc0.weight", 2)[1]
    if not 0 < labels <= MOST_LABELS or inputs <= features:
        raise CheckpointError("its mapping network takes labels, and no z beside them")

    def at_label(label: int) -> Foreign[GeneratorConfig]:
        return unconditional(
            with_label(state, label),
            rate,
            clamp,
            f"it draws class {label} of {labels}: the bundle has no other",
        )

    return Foreign(FAMILY, state, at_label(0).config, {}, labels=labels, at_label=at_label)


def with_label(state: dict[str, Tensor], label: int) -> dict[str, Tensor]:
    """The state dict of the network that the generator is for one class.

    The mapping's first layer takes z and the label's embedding, each normalised, one behind the other. The embedding is
    constant then, and what the layer makes of it becomes part of the bias. Its weight is scaled by the root of the
    number of inputs, of which fewer are left. The mean code is that of all classes, and is dropped.
    """
    embed = state["mapping.embed.weight"].float()
    bias = state.get("mapping.embed.bias", torch.zeros(1)).float()
    y = embed[:, label] / math.sqrt(embed.shape[1]) + bias
    y = y * torch.rsqrt(y.square().mean() + 1e-8)
    weight = state["mapping.fc0.weight"].float()
    inputs = weight.shape[1]
    size = inputs - len(y)
    dropped = {"mapping.embed.weight", "mapping.embed.bias", "mapping.w_avg"}
    return {key: value for key, value in state.items() if key not in dropped} | {
        "mapping.fc0.weight": weight[:, :size] * math.sqrt(size / inputs),
        "mapping.fc0.bias": state["mapping.fc0.bias"].float() + weight[:, size:] @ y / math.sqrt(inputs),
    }


def unconditional(
    state: dict[str, Tensor], rate: float, clamp: float | None, *notes: str
) -> Foreign[GeneratorConfig]:
    """Rules for the state dict of a generator that takes z alone. Raises CheckpointError."""
    depth = count(state, r"mapping\.fc(\d+)\.")
    blocks = sum(f"synthesis.b{8 << i}.conv0.weight" in state for i in range(12))
    drawn = drawn_channels(state, "synthesis.b4.torgb.weight", -4)
    config = make_config(
        state,
        constant=shape_of(state, "synthesis.b4.const", 3),
        widths=[f"synthesis.b{8 << i}.conv1.weight" for i in range(blocks)],
        mapping=[f"mapping.fc{i}.weight" for i in range(depth)],
        style=MARK,
        drawn=drawn,
    )
    rules = {"synthesis.constant": Rule("synthesis.b4.const", lambda constant: constant.unsqueeze(0))}
    for i in range(depth):
        for part in ("weight", "bias"):
            rules[f"mapping.layers.{i}.{part}"] = Rule(
                f"mapping.fc{i}.{part}", lambda x: x * (rate / OUR_RATE)
            )
    layers = ["b4.conv1", *(f"b{8 << i}.{name}" for i in range(blocks) for name in ("conv0", "conv1"))]
    for i, name in enumerate(layers):
        theirs, ours = f"synthesis.{name}", f"synthesis.styled.{i}"
        rules |= convolution(theirs, ours) | {
            f"{ours}.noise_strength": Rule(f"{theirs}.noise_strength"),
            f"{ours}.noise": Rule(f"{theirs}.noise_const", lambda noise: noise[None, None]),
            f"{ours}.bias": Rule(f"{theirs}.bias"),
        }
    for i in range(blocks + 1):
        theirs, ours = f"synthesis.b{4 << i}.torgb", f"synthesis.to_rgb.{i}"
        rules |= convolution(theirs, ours, drawn)
        rules[f"{ours}.bias"] = Rule(f"{theirs}.bias", as_rgb(drawn))
    filters = [f"synthesis.{name}.resample_filter" for name in layers]
    filters += [f"synthesis.b{4 << i}.resample_filter" for i in range(blocks + 1)]
    return Foreign(
        FAMILY,
        state,
        config,
        rules,
        dict.fromkeys(filters, fir_kernel()),
        frozenset({"mapping.w_avg"}),
        state.get("mapping.w_avg"),
        clamp,
        notes=(*notes_on(drawn), *notes),
    )


def convolution(theirs: str, ours: str, drawn: int = 3) -> dict[str, Rule]:
    """A modulated convolution; one that draws grey becomes one that draws RGB."""
    return {
        f"{ours}.conv.weight": Rule(f"{theirs}.weight", as_rgb(drawn)),
        f"{ours}.conv.style.weight": Rule(f"{theirs}.affine.weight"),
        f"{ours}.conv.style.bias": Rule(f"{theirs}.affine.bias"),
    }
