"""The generator, written for ONNX export: mapping network (z -> code) and StyleGAN2's synthesis network (-> image).

StyleGAN1's synthesis network is in `stylegan1.py`. Nothing here knows about losses or data.
Source: Karras et al., "Analyzing and Improving the Image Quality of StyleGAN" (arXiv 1912.04958). The mapping ends
in one vector for *each* layer, as in the in-domain inversion paper (Zhu et al., ECCV 2020): W+ is its native space.

Codes may have more rows than layers, [L + R, 512]: extra_rows/ says what they hold, and what they add here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
import tyro
from torch import Tensor, nn

from training.kernels.fused_activation import activate
from training.networks.bidirectional.invertible_mapping import InvertibleMapping
from training.networks.conditional.labels import MappingNetwork
from training.networks.extra_rows.groups import ExtraRows
from training.networks.layers import (
    ACTIVATION_GAIN,
    LEAKY_SLOPE,
    EqualizedLinear,
    at_least_float32,
    before_activation,
    convolve_up,
    fir_kernel,
    on_white,
    scaled_leaky_relu,
    upsample,
)
from training.networks.stylegan1 import AdaINSynthesis

DEMODULATION_EPSILON = 1e-8


@dataclass(frozen=True)
class GeneratorConfig:
    """Shape of a generator; written into every checkpoint."""

    resolution: int = 64
    """Side of the square picture, a power of two, pixels."""
    channels: tuple[int, ...] = (128, 128, 128, 64, 32)
    """Feature maps at 4, 8, 16, ... pixels, one entry a resolution."""
    z_size: int = 512
    """Size of the Gaussian input."""
    code_size: int = 512
    """Size of one layer's vector of the code."""
    mapping_depth: int = 8
    """Fully connected layers of the mapping network, or its couplings."""
    mapping: Literal["dense", "invertible"] = "dense"
    """Fully connected layers from z to the code, or couplings that also lead from w back to z (LIA, arXiv 1906.08090).
    These take a z of w's size, and give one w for all layers."""
    per_layer_code: bool = True
    """The mapping gives a different vector for each layer (in-domain paper); False repeats one (stock StyleGAN)."""
    architecture: Literal["stylegan2", "stylegan1"] = "stylegan2"
    """Synthesis network: modulated convolutions with skips, or AdaIN."""
    final_tanh: bool = False
    """Pictures of StyleGAN1 go through tanh (in-domain paper)."""
    transparency: bool = False
    """The network draws RGB and alpha, and the picture is that on white."""
    labels: Annotated[tuple[str, ...], tyro.conf.arg(prefix_name=False)] = ()
    """Labels of a conditional generator (AC-GAN, arXiv 1610.09585): columns of 0 and 1 in the csv of attributes, which
    the mapping takes beside z."""

    def __post_init__(self) -> None:
        if self.architecture not in ("stylegan2", "stylegan1"):
            raise ValueError(f"architecture must be stylegan2 or stylegan1, got {self.architecture!r}")
        if self.mapping not in ("dense", "invertible"):
            raise ValueError(f"mapping must be dense or invertible, got {self.mapping!r}")
        if self.mapping == "invertible" and (
            self.per_layer_code or self.z_size != self.code_size or self.z_size % 2
        ):
            raise ValueError(
                "an invertible mapping needs per_layer_code off, and z_size and code_size even and equal; "
                f"got {self.per_layer_code}, {self.z_size} and {self.code_size}"
            )
        if len(set(self.labels)) < len(self.labels):
            raise ValueError(f"each label counts once; got {', '.join(self.labels)}")
        if self.final_tanh and self.architecture == "stylegan2":
            raise ValueError("only StyleGAN1 has a final tanh")
        blocks = int(math.log2(self.resolution)) - 1
        if self.resolution != 2 ** (blocks + 1) or self.resolution < 8:
            raise ValueError(f"resolution must be a power of two of at least 8, got {self.resolution}")
        if len(self.channels) != blocks:
            raise ValueError(
                f"{self.resolution} px needs {blocks} entries in channels, got {len(self.channels)}"
            )

    @property
    def layers(self) -> int:
        """Vectors in a code: L = 2 log2(H) - 2."""
        return 2 * int(math.log2(self.resolution)) - 2

    @property
    def relabels(self) -> bool:
        """Whether a code can be given another label (IcGAN): the mapping can be undone as far as to its labels."""
        return bool(self.labels) and (self.mapping == "invertible" or self.mapping_depth == 1)

    @property
    def drawn_channels(self) -> int:
        """Maps that the last layer draws: RGB, or RGB and alpha."""
        return 4 if self.transparency else 3


class Mapping(MappingNetwork):
    """The mapping network: z float32 [N, 512] -> code float32 [N, L, 512], without truncation.

    Labels y float32 [N, K] are embedded, and laid beside z in the input of the first layer. A mapping of one layer
    takes them as they are.
    """

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__(config.z_size, config.labels)
        self.config = config
        rows = config.layers if config.per_layer_code else 1
        # Two linear layers in a row would be one.
        embeds = config.labels and config.mapping_depth > 1
        inputs = config.z_size + (config.z_size if embeds else len(config.labels))
        widths = [inputs] + [config.code_size] * (config.mapping_depth - 1) + [rows * config.code_size]
        self.layers = nn.ModuleList(EqualizedLinear(a, b, rate=0.01) for a, b in pairwise(widths))
        if config.labels:
            self.embedding = EqualizedLinear(len(config.labels), config.z_size) if embeds else nn.Identity()
        # Number of inputs of the last layer.
        self.last_inputs = widths[-2]

    def label_inputs(self) -> nn.Module:
        return self.embedding

    @torch.no_grad()
    def begin_without_labels(self) -> None:
        super().begin_without_labels()
        if isinstance(self.embedding, nn.Identity):
            self.layers[0].weight[:, self.config.z_size :] = 0  # type: ignore[index, operator]

    def before_last(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        """The input float [N, I] of the last layer, for z float [N, 512] and labels float [N, K]."""
        x = z * torch.rsqrt(z.square().mean(1, keepdim=True) + 1e-8)
        if self.labels is not None:
            x = torch.cat([x, self.embedded(self.embedding, label)], 1)
        for layer in self.layers[:-1]:
            x = scaled_leaky_relu(layer(x))
        return x

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        x = scaled_leaky_relu(self.layers[-1](self.before_last(z, label)))
        x = x.unflatten(1, (-1, self.config.code_size))
        return x if self.config.per_layer_code else x.expand(-1, self.config.layers, -1)

    def relabel(self, code: Tensor, held: Tensor, wanted: Tensor) -> Tensor:
        """What codes float [N, L, 512] of the labels `held` are with those `wanted`, float [N, K], and the same z.

        Only for a mapping of one layer. What z and labels give adds up before its activation, so z need not be known.
        """
        (layer,) = self.layers
        assert isinstance(layer, EqualizedLinear)
        apart = self.embedded(self.embedding, wanted) - self.embedded(self.embedding, held)
        return moved_before_activation(
            code, apart @ (layer.weight[:, self.config.z_size :] * layer.weight_scale).t()
        )


def moved_before_activation(code: Tensor, offset: Tensor) -> Tensor:
    """Codes float [N, L, 512] moved by `offset`, float [N, L * 512] or one for all layers [N, 512], before the last
    activation of the mapping."""
    return scaled_leaky_relu(before_activation(code) + offset.unflatten(1, (-1, code.shape[2])))


def build_mapping(config: GeneratorConfig) -> Mapping | InvertibleMapping:
    """Make an untrained mapping network of the config's kind."""
    if config.mapping == "invertible":
        return InvertibleMapping(config.z_size, config.mapping_depth, config.layers, config.labels)
    return Mapping(config)


class ModulatedConv(nn.Module):
    """Modulated convolution with the *activations* scaled: x * s -> convolution -> * d.

    Equal to scaling the weights per sample (arXiv 1912.04958, equations 1 to 3) but needs no per-sample weights, so a
    dynamic batch exports to an ordinary convolution.
    """

    blur: Tensor

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        config: GeneratorConfig,
        *,
        up: bool = False,
        demodulate: bool = True,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.style = EqualizedLinear(config.code_size, inputs, bias=1.0)
        self.weight_scale = 1 / math.sqrt(inputs * kernel * kernel)
        self.up, self.demodulate, self.padding = up, demodulate, kernel // 2
        if up:
            # A 4 x 4 binomial filter. Its gain of 4 makes up for the zeros that up-sampling by two inserts.
            self.register_buffer(
                "blur", (fir_kernel() * 4).expand(outputs, 1, 4, 4).clone(), persistent=False
            )

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """Maps [N, C_in, H, W], modulated by the vectors w [N, 512] -> [N, C_out, H or 2H, W or 2W]."""
        style = self.style(w)
        x = self.convolve(x, style)
        return activate(x, scale=self.demodulation(style)) if self.demodulate else x

    def convolve(self, x: Tensor, style: Tensor) -> Tensor:
        """Scale maps [N, C_in, H, W] by a style [N, C_in], and convolve them; without the demodulation."""
        x = activate(x, scale=style)
        weight = self.weight * self.weight_scale
        if self.up:
            return convolve_up(x, weight, self.blur)
        return F.conv2d(x, weight, padding=self.padding)

    def demodulation(self, style: Tensor) -> Tensor:
        """The factor [N, C_out] that brings the maps of `convolve` back to a standard deviation of 1."""
        # The sum of squares needs float32.
        with torch.autocast(style.device.type, enabled=False):
            energy = at_least_float32(self.weight * self.weight_scale).square().sum((2, 3))  # [C_out, C_in]
            return torch.rsqrt(at_least_float32(style).square() @ energy.t() + DEMODULATION_EPSILON)


class StyledLayer(nn.Module):
    """Modulated convolution, noise, bias, activation."""

    noise: Tensor

    def __init__(
        self, inputs: int, outputs: int, resolution: int, config: GeneratorConfig, *, up: bool = False
    ) -> None:
        super().__init__()
        self.conv = ModulatedConv(inputs, outputs, 3, config, up=up)
        self.noise_strength = nn.Parameter(torch.zeros(()))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.register_buffer("noise", torch.randn(1, 1, resolution, resolution))

    def forward(self, x: Tensor, w: Tensor, *, random_noise: bool, added: Tensor | None = None) -> Tensor:
        """`added`: float [N, 1, H, W], beside the noise times its strength."""
        style = self.conv.style(w)
        x = self.conv.convolve(x, style)
        noise = torch.randn(x.shape[0], 1, *x.shape[2:], device=x.device) if random_noise else self.noise
        noise = noise * (self.noise_strength * ACTIVATION_GAIN)
        if added is not None:
            noise = noise + added * ACTIVATION_GAIN
        # `scaled_leaky_relu` of maps * demodulation + bias + noise, with its gain in these three.
        return activate(
            x,
            self.bias * ACTIVATION_GAIN,
            LEAKY_SLOPE,
            scale=self.conv.demodulation(style) * ACTIVATION_GAIN,
            noise=noise,
        )


class ToRGB(nn.Module):
    """1 x 1 modulated convolution to RGB, or to RGB and alpha, without demodulation."""

    def __init__(self, inputs: int, config: GeneratorConfig) -> None:
        super().__init__()
        self.conv = ModulatedConv(inputs, config.drawn_channels, 1, config, demodulate=False)
        self.bias = nn.Parameter(torch.zeros(config.drawn_channels))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        return self.conv(x, w) + self.bias[:, None, None].to(x.dtype)


class Synthesis(nn.Module):
    """code float32 [N, L, 512] -> image float [N, 3, H, W], nominally in [-1, 1]; skip architecture.

    Of a code with more rows than layers, `extra` makes maps of the others.
    """

    rgb_up: Tensor

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config = config
        self.constant = nn.Parameter(torch.randn(1, config.channels[0], 4, 4))
        self.styled = nn.ModuleList([StyledLayer(config.channels[0], config.channels[0], 4, config)])
        self.to_rgb = nn.ModuleList([ToRGB(config.channels[0], config)])
        for i, (a, b) in enumerate(pairwise(config.channels)):
            resolution = 8 * 2**i
            self.styled.append(StyledLayer(a, b, resolution, config, up=True))
            self.styled.append(StyledLayer(b, b, resolution, config))
            self.to_rgb.append(ToRGB(b, config))
        rgb_up = (fir_kernel() * 4).expand(config.drawn_channels, 1, 4, 4).clone()
        self.register_buffer("rgb_up", rgb_up, persistent=False)
        # While the last block is new: a scalar 0..1 that says how much it adds to the picture.
        self.fade: Tensor | None = None
        # Run folders hold its groups beside the generator, into which they are put once that is loaded.
        self.extra = ExtraRows()

    def forward(self, code: Tensor, *, random_noise: bool = False) -> Tensor:
        layers = self.config.layers
        # One split instead of a gather per layer: its gradient is one concatenation.
        w = code[:, :layers].unbind(1)
        x = self.constant.expand(code.shape[0], -1, -1, -1)
        added = self.extra(code, layers)
        x = self.styled[0](x, w[0], random_noise=random_noise)
        rgb = at_least_float32(self.to_rgb[0](x, w[1]))
        for i in range(1, len(self.to_rgb)):
            for k in (2 * i - 1, 2 * i):
                x = self.styled[k](x, w[k], random_noise=random_noise, added=added.before.get(k))
                if k in added.after:
                    x = x + added.after[k].to(x.dtype)
            rgb = upsample(rgb, self.rgb_up)
            more = at_least_float32(self.to_rgb[i](x, w[2 * i + 1]))
            if self.fade is not None and i == len(self.to_rgb) - 1:
                more = more * self.fade
            rgb = rgb + more
        return on_white(rgb) if self.config.transparency else rgb

    def affines(self, layer: int) -> list[EqualizedLinear]:
        """The linear layers that make styles of the vector of `layer`: for its convolution, and for RGB if shared."""
        users = [*self.styled[layer : layer + 1], *([self.to_rgb[layer // 2]] if layer % 2 else [])]
        return [user.conv.style for user in users]


class Generator(nn.Module):
    """G: z float32 [N, 512] -> image float [N, 3, H, W]. Its halves are `mapping` (z -> code) and `synthesis`.

    A conditional generator takes labels y float32 [N, K] beside z.
    """

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config = config
        self.mapping = build_mapping(config)
        self.synthesis: Synthesis | AdaINSynthesis
        if config.architecture == "stylegan2":
            self.synthesis = Synthesis(config)
        else:
            self.synthesis = AdaINSynthesis(
                config.channels,
                config.code_size,
                final_tanh=config.final_tanh,
                transparency=config.transparency,
            )

    def forward(self, z: Tensor, label: Tensor | None = None, *, random_noise: bool = False) -> Tensor:
        return self.synthesis(self.mapping(z, label), random_noise=random_noise)


@torch.no_grad()
def sample_codes(generator: Generator, count: int, seed: int | torch.Generator = 1) -> Tensor:
    """Sample codes of Gaussian z and drawn labels, without truncation: float32 [count, L, 512], the same for a seed."""
    device = next(generator.parameters()).device
    drawn = generator.mapping.draw(
        count, torch.Generator().manual_seed(seed) if isinstance(seed, int) else seed
    )
    parts = zip(*(latent.split(1_000) for latent in drawn), strict=True)
    return torch.cat([generator.mapping(*(latent.to(device) for latent in part)) for part in parts])


def code_statistics(generator: Generator, samples: int = 50_000, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of sampled codes, float32 [L, 512] each."""
    codes = sample_codes(generator, samples, seed)
    return codes.mean(0), codes.std(0) + 1e-6
