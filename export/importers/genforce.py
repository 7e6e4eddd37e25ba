"""StyleGAN2 of genforce/genforce (.pth).

It flips the kernels of up-convolutions at run time, and adds 1 to a style besides its bias. It may have a w per layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

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
from export.state_dicts.wrapping import state_of
from training.networks.generator import GeneratorConfig
from training.networks.layers import fir_kernel

FAMILY = "GenForce StyleGAN2 generator"


def find(content: Any) -> Foreign[GeneratorConfig] | None:
    """The generator in a file of this family: its moving average if there is one, or a bare state dict."""
    if not isinstance(content, dict):
        return None
    content = generator_of(content)
    return read(content) if "synthesis.early_layer.const" in content else None


def generator_of(content: dict[Any, Any]) -> dict[Any, Any]:
    """A generator's state dict: the moving average in a file of GenForce's runner, or the file's own."""
    models = content.get("models")
    networks = models if isinstance(models, dict) else content
    for name in ("generator_smooth", "generator"):
        if isinstance(networks.get(name), dict):
            return networks[name]
    return state_of(content)


def read(content: Mapping[str, Any]) -> Foreign[GeneratorConfig]:
    """Rules for a generator's state dict."""
    state = tensors_of(content)
    blocks, depth = count(state, r"synthesis\.output(\d+)\.") - 1, count(state, r"mapping\.dense(\d+)\.")
    drawn = drawn_channels(state, "synthesis.output0.weight", -4)
    config = make_config(
        state,
        constant=shape_of(state, "synthesis.early_layer.const", 4),
        widths=[f"synthesis.layer{2 * i + 2}.weight" for i in range(blocks)],
        mapping=[f"mapping.dense{i}.weight" for i in range(depth)],
        style="synthesis.layer0.style.weight",
        drawn=drawn,
    )
    rules = {"synthesis.constant": Rule("synthesis.early_layer.const")}
    for i in range(depth):
        for part in ("weight", "bias"):
            rules[f"mapping.layers.{i}.{part}"] = Rule(f"mapping.dense{i}.{part}")
    for i in range(2 * blocks + 1):
        theirs, ours = f"synthesis.layer{i}", f"synthesis.styled.{i}"
        rules |= convolution(theirs, ours, up=i % 2 == 1) | {
            f"{ours}.noise_strength": Rule(f"{theirs}.noise_strength"),
            f"{ours}.noise": Rule(f"{theirs}.noise"),
        }
    for i in range(blocks + 1):
        rules |= convolution(f"synthesis.output{i}", f"synthesis.to_rgb.{i}", drawn=drawn)
    filters = [
        "synthesis.upsample.kernel",
        *(f"synthesis.layer{2 * i + 1}.filter.kernel" for i in range(blocks)),
    ]
    mean = state.get("truncation.w_avg")
    mean = (
        mean.reshape(-1, config.code_size)
        if mean is not None and mean.numel() % config.code_size == 0
        else None
    )
    return Foreign(
        FAMILY,
        state,
        config,
        rules,
        dict.fromkeys(filters, 4 * fir_kernel()),
        frozenset({"truncation.w_avg"}),
        mean,
        notes=notes_on(drawn),
    )


def convolution(theirs: str, ours: str, *, up: bool = False, drawn: int = 3) -> dict[str, Rule]:
    """A modulated convolution and the bias after it; one that draws grey becomes one that draws RGB."""
    return {
        f"{ours}.conv.weight": Rule(f"{theirs}.weight", as_rgb(drawn, flipped if up else same)),
        f"{ours}.conv.style.weight": Rule(f"{theirs}.style.weight"),
        f"{ours}.conv.style.bias": Rule(f"{theirs}.style.bias", lambda bias: bias + 1),
        f"{ours}.bias": Rule(f"{theirs}.bias", as_rgb(drawn)),
    }


def flipped(kernel: Tensor) -> Tensor:
    """Reverse both axes of a kernel."""
    return kernel.flip(2, 3)
