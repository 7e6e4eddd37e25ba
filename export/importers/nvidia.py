"""StyleGAN2 of NVIDIA's stylegan2-ada-pytorch and stylegan3 repositories (.pkl).

The pickle holds whole networks with their source code. `indomain/unpickling/` reads names of classes and their fields.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from export.importers.naming import Foreign, Rule, count, make_config, shape_of, tensors_of
from indomain.unpickling.values import Record
from training.networks.generator import GeneratorConfig
from training.networks.layers import fir_kernel
from training.run_folders.checkpoint import CheckpointError

FAMILY = "NVIDIA StyleGAN2 generator"
OUR_RATE = 0.01  # learning rate multiplier of our mapping network, in `training/networks/generator.py`
DEEPEST = 16  # modules within modules


def find(content: Any) -> Foreign[GeneratorConfig] | None:
    """The generator's moving average in a file of this family, pickled whole or as a state dict."""
    network = content.get("G_ema", content) if isinstance(content, dict) else content
    if isinstance(network, Record):
        return read(network)
    if isinstance(network, dict) and "synthesis.b4.conv1.affine.weight" in network:
        return rules_for(tensors_of(network), OUR_RATE, None)
    return None


def fields(record: Record, kind: str) -> dict[str, Any]:
    """A module's own "_modules", "_parameters" or "_buffers"."""
    found = record.fields.get(kind)
    return found if isinstance(found, dict) else {}


def module(record: Record, *path: str) -> Record:
    """The module at a path within another one. Raises CheckpointError."""
    for name in path:
        found = fields(record, "_modules").get(name)
        if not isinstance(found, Record):
            raise CheckpointError(f"its {record.kind} has no {name}, so it is not of the StyleGAN2 type")
        record = found
    return record


def tensors(record: Record, depth: int = 0) -> dict[str, Tensor]:
    """A module's state dict: parameters and buffers by their full names."""
    if depth > DEEPEST:
        raise CheckpointError("it has modules within modules without end")
    state = tensors_of(fields(record, "_parameters")) | tensors_of(fields(record, "_buffers"))
    for name, part in fields(record, "_modules").items():
        if isinstance(part, Record):
            state |= {f"{name}.{key}": value for key, value in tensors(part, depth + 1).items()}
    return state


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
    return rules_for(tensors(generator), rate, clamp)


def rules_for(state: dict[str, Tensor], rate: float, clamp: float | None) -> Foreign[GeneratorConfig]:
    """Rules for a generator's state dict.

    `rate`: learning rate multiplier of its mapping network. `clamp`: where it clamps activations.
    """
    depth = count(state, r"mapping\.fc(\d+)\.")
    blocks = sum(f"synthesis.b{8 << i}.conv0.weight" in state for i in range(12))
    config = make_config(
        state,
        constant=shape_of(state, "synthesis.b4.const", 3),
        widths=[f"synthesis.b{8 << i}.conv1.weight" for i in range(blocks)],
        mapping=[f"mapping.fc{i}.weight" for i in range(depth)],
        style="synthesis.b4.conv1.affine.weight",
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
        rules |= convolution(theirs, ours) | {f"{ours}.bias": Rule(f"{theirs}.bias")}
    filters = [f"synthesis.{name}.resample_filter" for name in layers]
    filters += [f"synthesis.b{4 << i}.resample_filter" for i in range(blocks + 1)]
    mean = state.get("mapping.w_avg")
    return Foreign(
        FAMILY,
        state,
        config,
        rules,
        dict.fromkeys(filters, fir_kernel()),
        frozenset({"mapping.w_avg"}),
        mean,
        clamp,
    )


def convolution(theirs: str, ours: str) -> dict[str, Rule]:
    """A modulated convolution."""
    return {
        f"{ours}.conv.weight": Rule(f"{theirs}.weight"),
        f"{ours}.conv.style.weight": Rule(f"{theirs}.affine.weight"),
        f"{ours}.conv.style.bias": Rule(f"{theirs}.affine.bias"),
    }
