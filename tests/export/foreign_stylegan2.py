"""Random StyleGAN2 generators in the formats of other projects, and a slow reference of what they draw.

The reference is written from the formats' conventions: weights for each sample, zeros inserted before up-convolutions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]
CHANNELS, CODE, Z, DEPTH = (8, 6, 4, 4), 12, 10, 3  # 4 to 32 pixels
BLOCKS = len(CHANNELS) - 1
LAYERS = 2 * BLOCKS + 2
FIR = torch.tensor([1.0, 3.0, 3.0, 1.0])
KERNEL = torch.outer(FIR, FIR) / 64


# --- reference -------------------------------------------------------------------------------------------------------


@dataclass
class Layer:
    """A modulated convolution as the paper has it; `weight` [O, I, k, k] is what a correlation takes."""

    weight: Tensor
    style_weight: Tensor
    style_bias: Tensor
    bias: Tensor
    noise: Tensor | None = None  # [H, W], its strength multiplied in
    up: bool = False


def filtered(x: Tensor, before: int, after: int) -> Tensor:
    """The resampling filter after padding, one channel at a time, with the gain of an up-sampling by two."""
    x = F.pad(x, (before, after, before, after))
    return torch.cat([F.conv2d(x[:, c : c + 1], 4 * KERNEL[None, None]) for c in range(x.shape[1])], 1)


def with_zeros(x: Tensor) -> Tensor:
    """A zero after each pixel."""
    spread = x.new_zeros(*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3])
    spread[:, :, ::2, ::2] = x
    return spread


def convolve(x: Tensor, w: Tensor, layer: Layer) -> Tensor:
    """Modulation and demodulation of the weights, sample by sample; RGB layers, without noise, are not demodulated."""
    out = []
    for sample, vector in zip(x, w, strict=True):
        style = layer.style_weight / math.sqrt(vector.numel()) @ vector + layer.style_bias
        weight = layer.weight / math.sqrt(layer.weight[0].numel()) * style[None, :, None, None]
        if layer.noise is not None:
            weight = weight / (weight.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        if layer.up:  # the full correlation, of which the last row and column see only inserted zeros
            y = F.conv2d(F.pad(with_zeros(sample[None]), (2, 1, 2, 1)), weight)
            y = filtered(y, 1, 1)
        else:
            y = F.conv2d(sample[None], weight, padding=weight.shape[-1] // 2)
        out.append(y + (0 if layer.noise is None else layer.noise) + layer.bias[:, None, None])
    y = torch.cat(out)
    return y if layer.noise is None else F.leaky_relu(y, 0.2) * math.sqrt(2)


def draw(constant: Tensor, layers: list[Layer], to_rgb: list[Layer], code: Tensor) -> Tensor:
    """Synthesis with skips: code [N, L, size] -> image [N, 3, H, W]."""
    x = convolve(constant.expand(len(code), -1, -1, -1), code[:, 0], layers[0])
    image = convolve(x, code[:, 1], to_rgb[0])
    for i in range(1, len(to_rgb)):
        x = convolve(x, code[:, 2 * i - 1], layers[2 * i - 1])
        x = convolve(x, code[:, 2 * i], layers[2 * i])
        image = filtered(with_zeros(image), 2, 1) + convolve(x, code[:, 2 * i + 1], to_rgb[i])
    return image


def map_codes(z: Tensor, dense: list[tuple[Tensor, Tensor]], rate: float = 0.01) -> Tensor:
    """z [N, size] -> code [N, L, size]."""
    x = z / (z.square().mean(1, keepdim=True) + 1e-8).sqrt()
    for weight, bias in dense:
        x = x @ (weight * rate / math.sqrt(weight.shape[1])).t() + bias * rate
        x = torch.where(x > 0, x, 0.2 * x) * math.sqrt(2)
    return x.reshape(len(z), -1, CODE).expand(-1, LAYERS, -1)


# --- the formats: a random file of each, and what the reference reads from it ----------------------------------------


@dataclass
class Case:
    """A foreign file's content, its generator's state, and the reference's picture of z."""

    content: Any
    state: State
    reference: Callable[[Tensor], Tensor]


def widths(i: int) -> tuple[int, int, int]:
    """Inputs, outputs and resolution of the i-th styled layer."""
    block = (i + 1) // 2
    return CHANNELS[(i + 1) // 2 - 1 if i % 2 else block], CHANNELS[block], 4 << block


def mapping_sizes(outputs: int) -> list[tuple[int, int]]:
    sizes = [Z, *[CODE] * (DEPTH - 1), outputs]
    return list(zip(sizes[1:], sizes[:-1], strict=True))


def rosinality(drawn: int = 3) -> Case:
    """`drawn`: maps of its pictures, 3 for RGB."""
    state: State = {"input.input": torch.randn(1, CHANNELS[0], 4, 4)}
    for i, (rows, columns) in enumerate(mapping_sizes(CODE), 1):
        state |= {
            f"style.{i}.weight": torch.randn(rows, columns) * 100,
            f"style.{i}.bias": torch.randn(rows) * 10,
        }
    for i in range(2 * BLOCKS + 1):
        name, (inputs, outputs, side) = f"convs.{i - 1}" if i else "conv1", widths(i)
        state |= {
            f"{name}.conv.weight": torch.randn(1, outputs, inputs, 3, 3),
            f"{name}.conv.modulation.weight": torch.randn(inputs, CODE),
            f"{name}.conv.modulation.bias": torch.randn(inputs) + 1,
            f"{name}.noise.weight": torch.rand(1),
            f"{name}.activate.bias": torch.randn(outputs),
            f"noises.noise_{i}": torch.randn(1, 1, side, side),
        }
        if i % 2:
            state[f"{name}.conv.blur.kernel"] = 4 * KERNEL
    for i, channels in enumerate(CHANNELS):
        name = f"to_rgbs.{i - 1}" if i else "to_rgb1"
        state |= {
            f"{name}.conv.weight": torch.randn(1, drawn, channels, 1, 1),
            f"{name}.conv.modulation.weight": torch.randn(channels, CODE),
            f"{name}.conv.modulation.bias": torch.randn(channels) + 1,
            f"{name}.bias": torch.randn(1, drawn, 1, 1),
        }
        if i:
            state[f"{name}.upsample.kernel"] = 4 * KERNEL

    def layer(name: str, i: int | None) -> Layer:
        weight, up = state[f"{name}.conv.weight"][0], i is not None and i % 2 == 1
        return Layer(
            weight.flip(2, 3) if up else weight,  # up: a convolution, not a correlation
            state[f"{name}.conv.modulation.weight"],
            state[f"{name}.conv.modulation.bias"],
            state[f"{name}.bias" if i is None else f"{name}.activate.bias"].flatten(),
            None if i is None else state[f"noises.noise_{i}"][0, 0] * state[f"{name}.noise.weight"],
            up,
        )

    def reference(z: Tensor) -> Tensor:
        code = map_codes(
            z, [(state[f"style.{i}.weight"], state[f"style.{i}.bias"]) for i in range(1, DEPTH + 1)]
        )
        layers = [layer(f"convs.{i - 1}" if i else "conv1", i) for i in range(2 * BLOCKS + 1)]
        to_rgb = [layer(f"to_rgbs.{i - 1}" if i else "to_rgb1", None) for i in range(BLOCKS + 1)]
        return draw(state["input.input"], layers, to_rgb, code)

    return Case({"g_ema": state, "g": state, "latent_avg": torch.zeros(CODE)}, state, reference)


def e4e() -> Case:
    case = rosinality()
    decoder = {f"decoder.{key}": value for key, value in case.state.items()}
    encoder = {"encoder.input_layer.0.weight": torch.randn(4, 3, 3, 3)}
    options = {"stylegan_size": 32, "encoder_type": "BackboneEncoderUsingLastLayerIntoW"}
    content = {"state_dict": encoder | decoder, "latent_avg": torch.zeros(LAYERS, CODE), "opts": options}
    return Case(content, case.state, case.reference)


def nvidia(rate: float = 0.01, drawn: int = 3) -> Case:
    state: State = {"synthesis.b4.const": torch.randn(CHANNELS[0], 4, 4), "mapping.w_avg": torch.zeros(CODE)}
    for i, (rows, columns) in enumerate(mapping_sizes(CODE)):
        state |= {
            f"mapping.fc{i}.weight": torch.randn(rows, columns) / rate,
            f"mapping.fc{i}.bias": torch.randn(rows),
        }
    names = ["b4.conv1", *(f"b{8 << i}.{part}" for i in range(BLOCKS) for part in ("conv0", "conv1"))]
    names = [f"synthesis.{name}" for name in names]
    for i, name in enumerate(names):
        inputs, outputs, side = widths(i)
        state |= {
            f"{name}.weight": torch.randn(outputs, inputs, 3, 3),
            f"{name}.affine.weight": torch.randn(inputs, CODE),
            f"{name}.affine.bias": torch.randn(inputs) + 1,
            f"{name}.noise_strength": torch.rand(()),
            f"{name}.noise_const": torch.randn(side, side),
            f"{name}.bias": torch.randn(outputs),
            f"{name}.resample_filter": KERNEL,
        }
    for i, channels in enumerate(CHANNELS):
        name = f"synthesis.b{4 << i}"
        state |= {
            f"{name}.torgb.weight": torch.randn(drawn, channels, 1, 1),
            f"{name}.torgb.affine.weight": torch.randn(channels, CODE),
            f"{name}.torgb.affine.bias": torch.randn(channels) + 1,
            f"{name}.torgb.bias": torch.randn(drawn),
            f"{name}.resample_filter": KERNEL,
        }

    def layer(name: str, i: int | None) -> Layer:
        up = i is not None and i % 2 == 1
        weight = state[f"{name}.weight"]
        noise = None if i is None else state[f"{name}.noise_const"] * state[f"{name}.noise_strength"]
        style = state[f"{name}.affine.weight"], state[f"{name}.affine.bias"]
        return Layer(weight.flip(2, 3) if up else weight, *style, state[f"{name}.bias"], noise, up)

    def reference(z: Tensor) -> Tensor:
        dense = [(state[f"mapping.fc{i}.weight"], state[f"mapping.fc{i}.bias"]) for i in range(DEPTH)]
        to_rgb = [layer(f"synthesis.b{4 << i}.torgb", None) for i in range(BLOCKS + 1)]
        layers = [layer(name, i) for i, name in enumerate(names)]
        return draw(state["synthesis.b4.const"][None], layers, to_rgb, map_codes(z, dense, rate))

    return Case({"G_ema": state}, state, reference)


def genforce(*, repeat: bool = True, drawn: int = 3) -> Case:
    state: State = {"synthesis.early_layer.const": torch.randn(1, CHANNELS[0], 4, 4)}
    outputs = CODE if repeat else LAYERS * CODE
    state |= {"truncation.w_avg": torch.zeros(outputs), "synthesis.upsample.kernel": 4 * KERNEL[None, None]}
    for i, (rows, columns) in enumerate(mapping_sizes(outputs)):
        state |= {f"mapping.dense{i}.weight": torch.randn(rows, columns) * 100}
        state |= {f"mapping.dense{i}.bias": torch.randn(rows) * 10}
    for i in range(2 * BLOCKS + 1):
        name, (inputs, channels, side) = f"synthesis.layer{i}", widths(i)
        state |= {
            f"{name}.weight": torch.randn(channels, inputs, 3, 3),
            f"{name}.style.weight": torch.randn(inputs, CODE),
            f"{name}.style.bias": torch.randn(inputs),
            f"{name}.noise_strength": torch.rand(()),
            f"{name}.noise": torch.randn(1, 1, side, side),
            f"{name}.bias": torch.randn(channels),
        }
        if i % 2:
            state[f"{name}.filter.kernel"] = 4 * KERNEL[None, None]
    for i, channels in enumerate(CHANNELS):
        name = f"synthesis.output{i}"
        state |= {
            f"{name}.weight": torch.randn(drawn, channels, 1, 1),
            f"{name}.style.weight": torch.randn(channels, CODE),
            f"{name}.style.bias": torch.randn(channels),
            f"{name}.bias": torch.randn(drawn),
        }

    def layer(name: str, i: int | None) -> Layer:
        noise = None if i is None else state[f"{name}.noise"][0, 0] * state[f"{name}.noise_strength"]
        style = state[f"{name}.style.weight"], state[f"{name}.style.bias"] + 1
        # the kernel is flipped before the transposed convolution, which is a correlation then
        return Layer(
            state[f"{name}.weight"], *style, state[f"{name}.bias"], noise, i is not None and i % 2 == 1
        )

    def reference(z: Tensor) -> Tensor:
        dense = [(state[f"mapping.dense{i}.weight"], state[f"mapping.dense{i}.bias"]) for i in range(DEPTH)]
        layers = [layer(f"synthesis.layer{i}", i) for i in range(2 * BLOCKS + 1)]
        to_rgb = [layer(f"synthesis.output{i}", None) for i in range(BLOCKS + 1)]
        return draw(state["synthesis.early_layer.const"], layers, to_rgb, map_codes(z, dense))

    return Case({"generator": {}, "generator_smooth": state, "discriminator": {}}, state, reference)


FORMATS: dict[str, Callable[[], Case]] = {
    "rosinality": rosinality,
    "e4e": e4e,
    "nvidia": nvidia,
    "genforce": genforce,
    "genforce, w per layer": lambda: genforce(repeat=False),
}
