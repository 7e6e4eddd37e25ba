"""Random encoders of pSp and e4e in their format, and a slow reference of the codes that they give."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.export.foreign_stylegan1 import batch_norm, normed
from tests.export.foreign_stylegan2 import CODE, LAYERS, State, rosinality

WIDTHS = (4, 4, 6, 8, 10, 10)  # four widths; the scales come from units 2, 3 and 5
TAPS = (2, 3, 5)
SIDE = 32


def encoder_state() -> State:
    """Names as in the files, for pictures of 32 px: the coarsest scale has 2 x 2 places."""
    state: State = {
        "input_layer.0.weight": torch.randn(WIDTHS[0], 3, 3, 3) / 5,
        "input_layer.2.weight": torch.rand(WIDTHS[0]),
    } | batch_norm("input_layer.1", WIDTHS[0])
    before = WIDTHS[0]
    for i, width in enumerate(WIDTHS):
        name = f"body.{i}.res_layer"
        state |= batch_norm(f"{name}.0", before) | batch_norm(f"{name}.4", width)
        state |= {
            f"{name}.1.weight": torch.randn(width, before, 3, 3) / math.sqrt(9 * before),
            f"{name}.2.weight": torch.rand(width),
            f"{name}.3.weight": torch.randn(width, width, 3, 3) / math.sqrt(9 * width),
            f"{name}.5.fc1.weight": torch.randn(1, width, 1, 1),
            f"{name}.5.fc2.weight": torch.randn(width, 1, 1, 1),
        }
        if width != before:
            state[f"body.{i}.shortcut_layer.0.weight"] = torch.randn(width, before, 1, 1)
            state |= batch_norm(f"body.{i}.shortcut_layer.1", width)
        before = width
    for name, inputs in (("latlayer1", WIDTHS[TAPS[1]]), ("latlayer2", WIDTHS[TAPS[0]])):
        state |= {f"{name}.weight": torch.randn(before, inputs, 1, 1), f"{name}.bias": torch.randn(before)}
    for i in range(LAYERS):
        for k in range(1 if i < 3 else 2 if i < 7 else 3):
            inputs = before if k == 0 else CODE
            state[f"styles.{i}.convs.{2 * k}.weight"] = torch.randn(CODE, inputs, 3, 3) / math.sqrt(
                9 * inputs
            )
            state[f"styles.{i}.convs.{2 * k}.bias"] = torch.randn(CODE)
        state |= {
            f"styles.{i}.linear.weight": torch.randn(CODE, CODE),
            f"styles.{i}.linear.bias": torch.randn(CODE),
        }
    return state


def prelu(x: Tensor, slope: Tensor) -> Tensor:
    return torch.where(x > 0, x, x * slope.view(1, -1, 1, 1))


def encode(state: State, image: Tensor, kind: str, mean: Tensor) -> Tensor:
    """image [N, 3, 32, 32] -> code [N, L, size], operator by operator."""
    x = normed(F.conv2d(image, state["input_layer.0.weight"], padding=1), state, "input_layer.1")
    x = prelu(x, state["input_layer.2.weight"])
    maps, before = [], WIDTHS[0]
    for i, width in enumerate(WIDTHS):
        name, stride = f"body.{i}.res_layer", 2 if i == 0 or width != before else 1
        y = F.conv2d(normed(x, state, f"{name}.0"), state[f"{name}.1.weight"], padding=1)
        y = F.conv2d(prelu(y, state[f"{name}.2.weight"]), state[f"{name}.3.weight"], stride=stride, padding=1)
        y = normed(y, state, f"{name}.4")
        excited = F.conv2d(y.mean((2, 3), keepdim=True), state[f"{name}.5.fc1.weight"]).clamp(min=0)
        y = y / (1 + (-F.conv2d(excited, state[f"{name}.5.fc2.weight"])).exp())
        skip = x[:, :, ::stride, ::stride]
        if width != before:
            shortcut = f"body.{i}.shortcut_layer"
            skip = normed(F.conv2d(skip, state[f"{shortcut}.0.weight"]), state, f"{shortcut}.1")
        x, before = y + skip, width
        if i in TAPS:
            maps.append(x)
    fine, middle, coarse = maps
    middle = F.interpolate(coarse, scale_factor=2, mode="bilinear", align_corners=True) + F.conv2d(
        middle, state["latlayer1.weight"], state["latlayer1.bias"]
    )
    fine = F.interpolate(middle, scale_factor=2, mode="bilinear", align_corners=True) + F.conv2d(
        fine, state["latlayer2.weight"], state["latlayer2.bias"]
    )
    vectors: list[Tensor] = []
    for i in range(LAYERS):
        y = coarse if i < 3 else middle if i < 7 else fine
        for k in range(1 if i < 3 else 2 if i < 7 else 3):
            name = f"styles.{i}.convs.{2 * k}"
            y = F.leaky_relu(F.conv2d(y, state[f"{name}.weight"], state[f"{name}.bias"], 2, 1), 0.01)
        y = y.flatten(1) @ state[f"styles.{i}.linear.weight"].t() / math.sqrt(CODE)
        y = y + state[f"styles.{i}.linear.bias"]
        vectors.append(y + vectors[0] if kind == "Encoder4Editing" and i else y)
    return torch.stack(vectors, 1) + mean


def content_of(kind: str, state: State, mean: Tensor) -> dict[str, Any]:
    decoder = {f"decoder.{name}": value for name, value in rosinality().state.items()}
    encoder = {f"encoder.{name}": value for name, value in state.items()}
    options = {"encoder_type": kind, "start_from_latent_avg": True, "input_nc": 3, "learn_in_w": False}
    return {"state_dict": encoder | decoder, "latent_avg": mean, "opts": options}
