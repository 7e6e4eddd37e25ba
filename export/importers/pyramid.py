"""The encoder of pSp and e4e (.pt), in one file with a generator that `rosinality.py` reads.

Of their encoders, those that give W+ from a feature pyramid on RGB pictures: GradualStyleEncoder, Encoder4Editing.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from export.state_dicts.naming import (
    MOST_CHANNELS,
    Foreign,
    Rule,
    batch_counts,
    batch_norm,
    count,
    shape_of,
    tensors_of,
)
from export.state_dicts.wrapping import fields_of, state_of
from training.networks.encoder import EncoderConfig
from training.networks.pyramid_encoder import COARSE, MIDDLE
from training.run_folders.checkpoint import CheckpointError

KINDS: dict[str, Literal["psp", "e4e"]] = {"GradualStyleEncoder": "psp", "Encoder4Editing": "e4e"}
MOST_HALVINGS = 6  # strided convolutions on the coarsest scale's maps, down to one place


def find(content: Any) -> Foreign[EncoderConfig] | None:
    """The encoder beside a decoder, if its type is one of ours. Raises CheckpointError."""
    if not isinstance(content, dict) or not isinstance(content.get("state_dict"), dict):
        return None
    options = fields_of(content.get("opts"))
    kind = KINDS.get(str(options.get("encoder_type")))
    if kind is None or why_left_out(content):
        return None
    state = encoder_part(content)
    layers = count(state, r"encoder\.styles\.(\d+)\.")
    units = sum(f"encoder.body.{i}.res_layer.1.weight" in state for i in range(MOST_CHANNELS))
    halvings = sum(f"encoder.styles.0.convs.{2 * i}.weight" in state for i in range(MOST_HALVINGS + 1))
    size = shape_of(state, "encoder.styles.0.linear.weight", 2)[0]
    widths = [shape_of(state, f"encoder.body.{i}.res_layer.1.weight", 4)[0] for i in range(units)]
    if not widths or layers < 4 or layers % 2 or not 1 <= halvings <= MOST_HALVINGS:
        raise CheckpointError("its encoder is not a feature pyramid for 8 to 1024 pixels")
    if max(*widths, size) > MOST_CHANNELS:
        raise CheckpointError(f"its encoder has layers wider than {MOST_CHANNELS}")
    config = EncoderConfig(
        resolution=2 << layers // 2,
        channels=tuple(widths),
        bottleneck=0,
        layers=layers,
        code_size=size,
        architecture=kind,
        side=16 << halvings,
    )
    state["latent_avg"] = mean_code(
        content, layers, size, added=bool(options.get("start_from_latent_avg", True))
    )
    return Foreign(f"{kind} encoder", state, config, rules_for(config), unused=batch_counts(state))


def encoder_part(content: dict[Any, Any]) -> dict[str, Tensor]:
    """The encoder's tensors, by their names in the file."""
    tensors = tensors_of(state_of(content))
    return {name: value for name, value in tensors.items() if name.startswith("encoder.")}


def why_left_out(content: Any) -> str | None:
    """What to say about an encoder in the file that is not imported; None if there is none or it is."""
    if not isinstance(content, dict) or not encoder_part(content):
        return None
    options = fields_of(content.get("opts"))
    kind, inputs = str(options.get("encoder_type")), options.get("input_nc", 3)
    if "encoder_type" not in options:
        why = "the file does not say its type (opts.encoder_type)"
    elif options.get("learn_in_w") or "IntoW" in kind:
        why = f"{kind} gives one w for all layers (into W)"
    elif inputs == 6 or "n_iters_per_batch" in options:
        why = f"{kind} is ReStyle's, which refines a code in several passes over photograph and picture"
    elif inputs != 3:
        why = f"{kind} takes {inputs} channels, and photographs have three"
    elif kind not in KINDS:
        why = f"{kind} is none of {', '.join(KINDS)}"
    else:
        return None
    return f"its encoder was left out: {why}; train one as said below"


def mean_code(content: dict[Any, Any], layers: int, size: int, *, added: bool) -> Tensor:
    """The mean code float [L, 512] that is added to the encoder's; zeros unless `added`. Raises CheckpointError."""
    if not added:
        return torch.zeros(layers, size)
    mean = content.get("latent_avg")
    if not isinstance(mean, Tensor) or mean.numel() not in (size, layers * size):
        raise CheckpointError(
            "it has no latent_avg of a code's shape, which its encoder's codes are added to"
        )
    return mean.reshape(-1, size).expand(layers, -1)


def rules_for(config: EncoderConfig) -> dict[str, Rule]:
    """Rules for the encoder's part of a state dict."""
    rules = {
        "mean_code": Rule("latent_avg"),
        "stem.weight": Rule("encoder.input_layer.0.weight"),
        "stem_activation.weight": Rule("encoder.input_layer.2.weight"),
    } | batch_norm("encoder.input_layer.1", "stem_norm")
    before = config.channels[0]
    for i, width in enumerate(config.channels):
        theirs, ours = f"encoder.body.{i}.res_layer", f"units.{i}"
        rules |= {
            f"{ours}.conv1.weight": Rule(f"{theirs}.1.weight"),
            f"{ours}.activation.weight": Rule(f"{theirs}.2.weight"),
            f"{ours}.conv2.weight": Rule(f"{theirs}.3.weight"),
            f"{ours}.excitation.squeeze.weight": Rule(f"{theirs}.5.fc1.weight"),
            f"{ours}.excitation.excite.weight": Rule(f"{theirs}.5.fc2.weight"),
        }
        rules |= batch_norm(f"{theirs}.0", f"{ours}.norm1") | batch_norm(f"{theirs}.4", f"{ours}.norm2")
        if width != before:
            shortcut = f"encoder.body.{i}.shortcut_layer"
            rules[f"{ours}.shortcut.weight"] = Rule(f"{shortcut}.0.weight")
            rules |= batch_norm(f"{shortcut}.1", f"{ours}.shortcut_norm")
        before = width
    for part in ("weight", "bias"):
        rules[f"lateral_middle.{part}"] = Rule(f"encoder.latlayer1.{part}")
        rules[f"lateral_fine.{part}"] = Rule(f"encoder.latlayer2.{part}")
    halvings = (config.side // 16).bit_length() - 1
    for i in range(config.layers):
        theirs, ours = f"encoder.styles.{i}", f"heads.{i}"
        for part in ("weight", "bias"):
            for k in range(halvings + (0 if i < COARSE else 1 if i < MIDDLE else 2)):
                rules[f"{ours}.convs.{k}.{part}"] = Rule(f"{theirs}.convs.{2 * k}.{part}")
            rules[f"{ours}.linear.{part}"] = Rule(f"{theirs}.linear.{part}")
    return rules
