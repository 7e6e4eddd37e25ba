"""The encoder of genforce/idinvert_pytorch (.pth): a bare state dict, beside its generator in a file of its own.

The generator is read by `stylegan1.py`. The blocks of the published encoders have batch norms and no weight scale, as
scaling and its inverse cancel. The last layer is scaled at run time; here that becomes part of its weight.
"""

from __future__ import annotations

import math
from typing import Any

from export.state_dicts.naming import (
    MOST_BLOCKS,
    MOST_CHANNELS,
    Foreign,
    Rule,
    batch_counts,
    batch_norm,
    count,
    shape_of,
    tensors_of,
)
from export.state_dicts.wrapping import state_of
from training.networks.encoder import EncoderConfig
from training.run_folders.checkpoint import CheckpointError

FAMILY = "idinvert encoder"


def find(content: Any) -> Foreign[EncoderConfig] | None:
    """The encoder, if that is what the file holds. Raises CheckpointError."""
    if not isinstance(content, dict) or "block0.bn.bn.weight" not in state_of(content):
        return None
    state = tensors_of(state_of(content))
    last = count(state, r"block(\d+)\.") - 1  # blocks 1 to last - 1 halve the side, down to 4 pixels
    if not 2 <= last <= MOST_BLOCKS + 1:
        raise CheckpointError("it has no blocks for 8 to 1024 pixels")
    widths = [shape_of(state, "block0.conv.weight", 4)[0]]
    widths += [shape_of(state, f"block{i}.conv2.weight", 4)[0] for i in range(1, last)]
    outputs, inputs = shape_of(state, f"block{last}.fc.weight", 2)
    layers = 2 * last
    if outputs % layers or max(*widths, outputs // layers) > MOST_CHANNELS:
        raise CheckpointError(
            f"it gives codes of {outputs} numbers, or has layers wider than {MOST_CHANNELS}"
        )
    config = EncoderConfig(
        resolution=2 << last,
        channels=tuple(widths),
        bottleneck=0,
        layers=layers,
        code_size=outputs // layers,
        architecture="idinvert",
    )
    rules = {"stem.weight": Rule("block0.conv.weight")} | batch_norm("block0.bn.bn", "stem_norm")
    for i in range(1, last):
        theirs, ours = f"block{i}", f"blocks.{i - 1}"
        for k in (1, 2):
            rules |= {
                f"{ours}.conv{k}.weight": Rule(f"{theirs}.conv{k}.weight"),
                f"{ours}.conv{k}.bias": Rule(f"{theirs}.wscale{k}.bias"),
            } | batch_norm(f"{theirs}.bn{k}.bn", f"{ours}.norm{k}")
        if widths[i] != widths[i - 1]:
            rules[f"{ours}.shortcut.0.weight"] = Rule(f"{theirs}.conv.weight")
            rules |= batch_norm(f"{theirs}.bn.bn", f"{ours}.shortcut.1")
    rules["fc.weight"] = Rule(f"block{last}.fc.weight", lambda weight: weight / math.sqrt(inputs))
    rules |= batch_norm(f"block{last}.bn.bn", "code_norm")
    return Foreign(FAMILY, state, config, rules, unused=batch_counts(state))
