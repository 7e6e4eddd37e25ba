"""Random StyleGAN1 generators and idinvert's encoders in their formats, and a slow reference of what they give.

The references are written from the formats' conventions: nearest-neighbour up-sampling, kernels spread by hand, batch
norms spelt out, one picture after another.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]
CODE, Z, DEPTH = 12, 10, 3
BLUR = torch.outer(torch.tensor([1.0, 2.0, 1.0]), torch.tensor([1.0, 2.0, 1.0])) / 16


@dataclass
class Case:
    """A generator's state dict, and the reference's picture of z."""

    state: State
    reference: Callable[[Tensor], Tensor]


# --- generators ------------------------------------------------------------------------------------------------------


def depthwise(x: Tensor, kernel: Tensor) -> Tensor:
    """A filter on each map for itself."""
    return torch.cat([F.conv2d(x[:, c : c + 1], kernel[None, None], padding=1) for c in range(x.shape[1])], 1)


def doubled(x: Tensor, weight: Tensor, *, fused: bool) -> Tensor:
    """weight [O, I, 3, 3] at twice the side: after nearest neighbours, or spread and transposed."""
    if not fused:
        return F.conv2d(x.repeat_interleave(2, 2).repeat_interleave(2, 3), weight, padding=1)
    spread = weight.new_zeros(*weight.shape[:2], 4, 4)
    for row in (0, 1):
        for column in (0, 1):
            spread[:, :, row : row + 3, column : column + 3] += weight
    return F.conv_transpose2d(x, spread.transpose(0, 1), stride=2, padding=1)


def normalised(x: Tensor) -> Tensor:
    x = x - x.mean((2, 3), keepdim=True)
    return x / (x.square().mean((2, 3), keepdim=True) + 1e-8).sqrt()


def generator(
    channels: tuple[int, ...] = (8, 6, 4, 4),
    *,
    idinvert: bool = True,
    repeat: bool = False,
    drawn: int = 3,
) -> Case:
    """Of idinvert's names or GenForce's, random; its pictures go through tanh in idinvert only."""
    layers, state = 2 * len(channels), State()
    outputs = CODE if repeat else layers * CODE
    sizes = [(CODE, Z), *[(CODE, CODE)] * (DEPTH - 2), (outputs, CODE)]
    dense = ("fc.weight", "wscale.bias") if idinvert else ("weight", "bias")
    for i, (rows, columns) in enumerate(sizes):
        state[f"mapping.dense{i}.{dense[0]}"] = torch.randn(rows, columns) * 100
        state[f"mapping.dense{i}.{dense[1]}"] = torch.randn(rows) * 10
    weights, tails = [], []
    for i in range(layers):
        name, width, side = f"synthesis.layer{i}", channels[i // 2], 4 << i // 2
        before = channels[max(i - 1, 0) // 2]
        tail = f"{name}.epilogue" if idinvert else name
        style = (
            ("style_mod.dense.fc.weight", "style_mod.dense.wscale.bias")
            if idinvert
            else ("style.weight", "style.bias")
        )
        tails.append([f"{tail}.{key}" for key in ("apply_noise.weight", "apply_noise.noise", "bias", *style)])
        shapes = ((width,), (1, 1, side, side), (width,), (2 * width, CODE), (2 * width,))
        state |= {key: torch.randn(shape) for key, shape in zip(tails[-1], shapes, strict=True)}
        if i == 0:
            state[f"{name}.const"] = torch.randn(1, width, 4, 4)
            weights.append("")
            continue
        up, fused = i % 2 == 0, side >= 128
        weights.append(f"{name}.conv.weight" if idinvert and not (up and fused) else f"{name}.weight")
        shape = (3, 3, before, width) if idinvert and up and fused else (width, before, 3, 3)
        state[weights[-1]] = torch.randn(shape)
        if up:
            state[f"{name}.blur.kernel"] = BLUR.expand(width, 1, 3, 3).clone()
    for i, width in enumerate(channels):
        state[f"synthesis.output{i}.{'conv.weight' if idinvert else 'weight'}"] = torch.randn(
            drawn, width, 1, 1
        )
        state[f"synthesis.output{i}.bias"] = torch.randn(drawn)
    state |= {
        "truncation.w_avg": torch.zeros(CODE if idinvert else outputs),
        "synthesis.lod": torch.zeros(()),
    }

    def reference(z: Tensor) -> Tensor:
        x = z / (z.square().mean(1, keepdim=True) + 1e-8).sqrt()
        for i in range(DEPTH):
            weight, bias = (state[f"mapping.dense{i}.{part}"] for part in dense)
            x = F.leaky_relu(x @ weight.t() * (0.01 * math.sqrt(2 / weight.shape[1])) + bias * 0.01, 0.2)
        code = x.reshape(len(z), -1, CODE).expand(-1, layers, -1)
        x = state["synthesis.layer0.const"].expand(len(z), -1, -1, -1)
        for i, tail in enumerate(tails):
            strength, noise, bias, style_weight, style_bias = (state[key] for key in tail)
            if i > 0:
                weight, up, fused = state[weights[i]], i % 2 == 0, 4 << i // 2 >= 128
                weight = weight.permute(3, 2, 0, 1) if idinvert and up and fused else weight
                weight = weight * math.sqrt(2 / weight[0].numel())
                x = doubled(x, weight, fused=fused) if up else F.conv2d(x, weight, padding=1)
                x = depthwise(x, BLUR) if up else x
            x = x + noise * strength.view(1, -1, 1, 1) + bias.view(1, -1, 1, 1)
            x = normalised(torch.where(x > 0, x, 0.2 * x))
            style = (code[:, i] @ style_weight.t() / math.sqrt(CODE) + style_bias).view(len(z), 2, -1, 1, 1)
            x = x * (style[:, 0] + 1) + style[:, 1]
        last = f"synthesis.output{len(channels) - 1}"
        weight = state[f"{last}.{'conv.weight' if idinvert else 'weight'}"]
        rgb = F.conv2d(x, weight / math.sqrt(channels[-1]), state[f"{last}.bias"])
        return rgb.tanh() if idinvert else rgb

    return Case(state, reference)


# --- encoders ---


def batch_norm(name: str, channels: int) -> State:
    return {
        f"{name}.weight": torch.rand(channels) + 0.5,
        f"{name}.bias": torch.randn(channels),
        f"{name}.running_mean": torch.randn(channels),
        f"{name}.running_var": torch.rand(channels) + 0.5,
        f"{name}.num_batches_tracked": torch.tensor(7),
    }


def normed(x: Tensor, state: State, name: str) -> Tensor:
    """A batch norm with its running statistics."""
    weight, bias, mean, variance = (
        state[f"{name}.{part}"].view(1, -1, *[1] * (x.dim() - 2))
        for part in ("weight", "bias", "running_mean", "running_var")
    )
    return (x - mean) / (variance + 1e-5).sqrt() * weight + bias


@dataclass
class EncoderCase:
    """A foreign encoder's content, and the reference's code of a picture."""

    content: dict[str, object]
    reference: Callable[[Tensor], Tensor]


def idinvert_encoder(widths: tuple[int, ...] = (4, 6, 8, 8), layers: int = 8) -> EncoderCase:
    state: State = {"block0.conv.weight": torch.randn(widths[0], 3, 3, 3)} | batch_norm(
        "block0.bn.bn", widths[0]
    )
    for i, (a, b) in enumerate(pairwise(widths), 1):
        hidden = min(a, b)
        state |= {
            f"block{i}.conv1.weight": torch.randn(hidden, a, 3, 3) / math.sqrt(9 * a),
            f"block{i}.wscale1.bias": torch.randn(hidden),
            f"block{i}.conv2.weight": torch.randn(b, hidden, 3, 3) / math.sqrt(9 * hidden),
            f"block{i}.wscale2.bias": torch.randn(b),
        }
        state |= batch_norm(f"block{i}.bn1.bn", hidden) | batch_norm(f"block{i}.bn2.bn", b)
        if a != b:
            state |= {f"block{i}.conv.weight": torch.randn(b, a, 1, 1)} | batch_norm(f"block{i}.bn.bn", b)
    last = len(widths)
    state |= {f"block{last}.fc.weight": torch.randn(layers * CODE, widths[-1] * 16) / 30}
    state |= batch_norm(f"block{last}.bn.bn", layers * CODE)

    def reference(image: Tensor) -> Tensor:
        x = F.conv2d(image, state["block0.conv.weight"], padding=1)
        x = F.leaky_relu(normed(x, state, "block0.bn.bn"), 0.2)
        for i in range(1, last):
            x = (x[:, :, ::2, ::2] + x[:, :, 1::2, ::2] + x[:, :, ::2, 1::2] + x[:, :, 1::2, 1::2]) / 4
            skip = x
            if f"block{i}.conv.weight" in state:
                skip = F.conv2d(x, state[f"block{i}.conv.weight"])
                skip = F.leaky_relu(normed(skip, state, f"block{i}.bn.bn"), 0.2)
            for k in (1, 2):
                x = F.conv2d(x, state[f"block{i}.conv{k}.weight"], padding=1)
                x = x + state[f"block{i}.wscale{k}.bias"].view(1, -1, 1, 1)
                x = F.leaky_relu(normed(x, state, f"block{i}.bn{k}.bn"), 0.2)
            x = x + skip
        weight = state[f"block{last}.fc.weight"]
        x = normed(x.flatten(1) @ weight.t() / math.sqrt(weight.shape[1]), state, f"block{last}.bn.bn")
        return x.view(len(image), layers, CODE)

    return EncoderCase(dict(state), reference)
