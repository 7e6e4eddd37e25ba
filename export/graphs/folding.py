"""Folds trained networks for inference: weight scales, gains and batch norms become part of plain weights.

Nothing here knows ONNX. A folded network consists of buffers and plain layers, and gives what its training network
gives; `tests/export/test_folding.py` checks that.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.networks.bidirectional.invertible_mapping import InvertibleMapping
from training.networks.conditional.labels import signed
from training.networks.generator import (
    DEMODULATION_EPSILON,
    Mapping,
    ModulatedConv,
    StyledLayer,
    Synthesis,
    moved_before_activation,
)
from training.networks.latent_discriminator import LatentDiscriminator, NativeCoordinates, Scale
from training.networks.layers import ACTIVATION_GAIN, LEAKY_SLOPE, EqualizedLinear, at_least_float32, on_white
from training.networks.stylegan1 import AdaINLayer, AdaINSynthesis, Conv, UpConv, instance_norm, spread

FLOAT16_MAX = 65504.0


def round_weights(network: nn.Module) -> nn.Module:
    """Round the weights (of two axes or more) of folded layers to float16 numbers, in place; return the network.

    They stay float32 tensors. Biases, noise and statistics are left as they are, and so is a weight that float16 cannot
    hold.
    """
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d | FoldedModulatedConv):
            weight = module.weight.detach()
            if weight.abs().max() <= FLOAT16_MAX:
                module.weight.data = weight.half().float()
        if isinstance(module, FoldedModulatedConv):
            module.set_energy()
            # Relative errors of a sum's terms, which the root halves.
            module.energy.copy_(module.energy.half().float())
        if isinstance(module, NativeCoordinates):
            for name in ("basis", "weight"):
                matrix = getattr(module, name)
                if matrix.abs().max() <= FLOAT16_MAX:
                    setattr(module, name, matrix.half().float())
    return network


def fold_linear(layer: EqualizedLinear, gain: float = 1.0) -> nn.Linear:
    """Make a plain linear layer that gives `gain` times what an equalised one gives."""
    folded = nn.Linear(layer.weight.shape[1], layer.weight.shape[0])
    with torch.no_grad():
        folded.weight.copy_(layer.weight * (layer.weight_scale * gain))
        folded.bias.copy_(layer.bias * (layer.bias_scale * gain))
    return folded


class FoldedModulatedConv(nn.Module):
    """`ModulatedConv` with its weight scale folded in, and sum_k W^2 kept as a buffer for the demodulation.

    Its output is multiplied by `gain`, that of the leaky ReLU after it, with which a positive factor commutes.
    """

    weight: Tensor
    energy: Tensor
    blur: Tensor

    def __init__(self, conv: ModulatedConv, gain: float = 1.0) -> None:
        super().__init__()
        if not conv.demodulate and gain != 1.0:
            raise ValueError("a gain needs demodulation, which carries it")
        weight = conv.weight.detach() * conv.weight_scale
        # An up-convolution is a transposed one, whose weight has the inputs first.
        self.register_buffer("weight", (weight.transpose(0, 1) if conv.up else weight).contiguous())
        self.register_buffer("energy", weight.new_zeros(weight.shape[1], weight.shape[0]))  # [C_in, C_out]
        self.style = fold_linear(conv.style)
        self.up, self.demodulate, self.padding, self.gain = conv.up, conv.demodulate, conv.padding, gain
        if conv.up:
            self.register_buffer("blur", conv.blur.clone())
        self.set_energy()

    def set_energy(self) -> None:
        """Compute sum_k W^2 of the weight as it is now."""
        energy = at_least_float32(self.weight).square().sum((2, 3))
        self.energy.copy_(energy if self.up else energy.t())

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """x [N, C_in, H, W] in the weight's precision, w float32 [N, 512] -> that precision, but float32 for RGB."""
        style = self.style(w)  # [N, C_in]
        scale: Tensor | None = None  # [N, C_out], or [N, 1]
        if self.demodulate:
            scale = torch.rsqrt(style.square() @ self.energy + DEMODULATION_EPSILON) * self.gain
        if self.weight.dtype != torch.float32:
            # Styles are divided by the largest, so that sums stay within 16 bits, and the result is multiplied by it
            # (Karras et al., "Training Generative Adversarial Networks with Limited Data", arXiv 2006.06676).
            peak = style.abs().amax(1, keepdim=True).clamp(min=DEMODULATION_EPSILON)
            style, scale = style / peak, peak if scale is None else scale * peak
        x = x * style[..., None, None].to(x.dtype)
        if self.up:
            x = F.conv_transpose2d(x, self.weight, stride=2)
            x = F.conv2d(x, self.blur, padding=1, groups=self.blur.shape[0])
        else:
            x = F.conv2d(x, self.weight, padding=self.padding)
        if not self.demodulate:
            # RGB is summed over all resolutions.
            x = at_least_float32(x)
        return x if scale is None else x * scale[..., None, None].to(x.dtype)


class FoldedStyledLayer(nn.Module):
    """`StyledLayer` with constant noise; the activation's gain has moved into demodulation, noise and bias."""

    noise: Tensor
    bias: Tensor

    def __init__(self, layer: StyledLayer) -> None:
        super().__init__()
        self.conv = FoldedModulatedConv(layer.conv, ACTIVATION_GAIN)
        self.register_buffer("noise", layer.noise * layer.noise_strength.detach() * ACTIVATION_GAIN)
        self.register_buffer("bias", layer.bias.detach()[:, None, None] * ACTIVATION_GAIN)

    def forward(self, x: Tensor, w: Tensor, added: Tensor | None = None) -> Tensor:
        """`added`: float32 [N, 1, H, W], beside the noise."""
        # The two constants are added first: their sum is folded when a session opens.
        x = self.conv(x, w) + (self.noise + self.bias)
        if added is not None:
            x = x + (added * ACTIVATION_GAIN).to(x.dtype)
        return F.leaky_relu(x, LEAKY_SLOPE)


class FoldedSynthesis(nn.Module):
    """`Synthesis` without random noise: code float32 [N, L, 512] -> image float32 [N, 3, H, W].

    Codes may have the rows of its groups, too.
    """

    constant: Tensor
    rgb_up: Tensor
    rgb_bias: Tensor

    def __init__(self, synthesis: Synthesis) -> None:
        super().__init__()
        self.register_buffer("constant", synthesis.constant.detach().clone())
        self.register_buffer("rgb_up", synthesis.rgb_up.clone())
        self.styled = nn.ModuleList(FoldedStyledLayer(layer) for layer in synthesis.styled)  # type: ignore[arg-type]
        self.to_rgb = nn.ModuleList(FoldedModulatedConv(layer.conv) for layer in synthesis.to_rgb)  # type: ignore[arg-type]
        biases = torch.stack([layer.bias.detach() for layer in synthesis.to_rgb])  # type: ignore[misc]
        self.register_buffer("rgb_bias", biases[:, :, None, None].clone())  # [blocks, 3 or 4, 1, 1]
        self.transparency, self.layers = synthesis.config.transparency, synthesis.config.layers
        self.extra = synthesis.extra

    def forward(self, code: Tensor) -> Tensor:
        w = code[:, : self.layers].unbind(1)
        added = self.extra(code, self.layers)
        x = self.styled[0](self.constant, w[0])
        rgb = self.to_rgb[0](x, w[1]) + self.rgb_bias[0]
        for i in range(1, len(self.to_rgb)):
            for k in (2 * i - 1, 2 * i):
                x = self.styled[k](x, w[k], added.before.get(k))
                if k in added.after:
                    x = x + added.after[k].to(x.dtype)
            rgb = F.conv_transpose2d(rgb, self.rgb_up, stride=2, padding=1, groups=len(self.rgb_up))
            rgb = rgb + self.to_rgb[i](x, w[2 * i + 1]) + self.rgb_bias[i]
        return on_white(rgb) if self.transparency else rgb


def fold_conv(conv: Conv | UpConv, bias: Tensor) -> nn.Module:
    """Make a plain convolution, or a transposed one and its blur, with the bias that comes after it."""
    outputs, inputs, *_ = conv.weight.shape
    weight = conv.weight.detach() * conv.weight_scale
    if isinstance(conv, Conv):
        plain = nn.Conv2d(inputs, outputs, 3, padding=1)
        plain.weight.data, plain.bias.data = weight, bias.detach().clone()
        return plain
    up = nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1, bias=False)
    up.weight.data = spread(weight).contiguous()
    blur = nn.Conv2d(outputs, outputs, 3, padding=1, groups=outputs)
    blur.weight.data, blur.bias.data = conv.blur.clone(), bias.detach().clone()
    return nn.Sequential(up, blur)


class FoldedStyle(nn.Module):
    """Scales and shifts normalised maps float32 [N, C, H, W] by a layer's vector [N, 512]."""

    def __init__(self, style: EqualizedLinear) -> None:
        super().__init__()
        self.style = fold_linear(style)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        scale, shift = self.style(w)[..., None, None].chunk(2, 1)
        return x * scale + shift


class FoldedAdaINLayer(nn.Module):
    """`AdaINLayer` with constant noise and plain convolutions."""

    noise: Tensor
    strength: Tensor

    def __init__(self, layer: AdaINLayer) -> None:
        super().__init__()
        assert isinstance(layer.conv, Conv | UpConv)
        self.conv, self.style = fold_conv(layer.conv, layer.bias), FoldedStyle(layer.style)
        # Two buffers: their product is folded when a session opens, and would make the file many times larger.
        self.register_buffer("noise", layer.noise.clone())
        self.register_buffer("strength", layer.noise_strength.detach()[:, None, None].clone())

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        x = F.leaky_relu(self.conv(x) + self.noise * self.strength, LEAKY_SLOPE)
        # Squares do not fit into 16 bits.
        return self.style(instance_norm(at_least_float32(x)), w).to(x.dtype)


class FoldedAdaINSynthesis(nn.Module):
    """`AdaINSynthesis` without random noise: code float32 [N, L, 512] -> image float32 [N, 3, H, W]."""

    start: Tensor

    def __init__(self, synthesis: AdaINSynthesis) -> None:
        super().__init__()
        first, *rest = synthesis.styled
        assert isinstance(first, AdaINLayer)
        # All that comes before the first style is constant.
        with torch.no_grad():
            x = synthesis.constant + first.noise * first.noise_strength[:, None, None]
            x = F.leaky_relu(x + first.bias[:, None, None], LEAKY_SLOPE)
            self.register_buffer("start", instance_norm(x))
        self.first = FoldedStyle(first.style)
        self.rest = nn.ModuleList(FoldedAdaINLayer(layer) for layer in rest)  # type: ignore[arg-type]
        self.rgb = nn.Conv2d(synthesis.channels[-1], len(synthesis.rgb_bias), 1)
        self.rgb.weight.data = synthesis.rgb_weight.detach() * synthesis.rgb_scale
        self.rgb.bias.data = synthesis.rgb_bias.detach().clone()
        self.last = nn.Tanh() if synthesis.final_tanh else nn.Identity()
        self.transparency = synthesis.transparency

    def forward(self, code: Tensor) -> Tensor:
        first, *rest = code.unbind(1)
        x = self.first(at_least_float32(self.start), first).to(self.rgb.weight.dtype)
        for layer, w in zip(self.rest, rest, strict=True):
            x = layer(x, w)
        rgb = self.last(at_least_float32(self.rgb(x)))
        return on_white(rgb) if self.transparency else rgb


def fold_synthesis(synthesis: nn.Module) -> nn.Module:
    """Fold a generator's synthesis network, of either architecture."""
    if isinstance(synthesis, AdaINSynthesis):
        return FoldedAdaINSynthesis(synthesis)
    assert isinstance(synthesis, Synthesis)
    return FoldedSynthesis(synthesis)


class FoldedMapping(nn.Module):
    """`Mapping` with scales and gains folded: z float32 [N, 512], maybe labels [N, K] -> code float32 [N, L, 512]."""

    def __init__(self, mapping: Mapping) -> None:
        super().__init__()
        self.config = mapping.config
        self.layers = nn.ModuleList(fold_linear(layer, ACTIVATION_GAIN) for layer in mapping.layers)  # type: ignore[arg-type]
        self.labels: nn.Linear | None = None
        if mapping.labels is not None and self.config.mapping_depth > 1:
            self.labels = fold_linear(mapping.embedding)  # type: ignore[arg-type]
        elif mapping.labels is not None:
            # What z and labels give apart, so that the relabeller has no need of z's weights.
            (layer,) = self.layers
            z, labels = layer.weight.detach().split([self.config.z_size, len(self.config.labels)], 1)  # type: ignore[operator]
            layer.weight = nn.Parameter(z.contiguous())
            self.labels = nn.Linear(labels.shape[1], labels.shape[0], bias=False)
            self.labels.weight = nn.Parameter(labels.contiguous())

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        x = z * torch.rsqrt(z.square().mean(1, keepdim=True) + 1e-8)
        embedded = None if self.labels is None or label is None else self.labels(signed(label))
        if embedded is not None and self.config.mapping_depth > 1:
            x, embedded = torch.cat([x, embedded], 1), None
        for layer in self.layers:
            x = layer(x)
            x = F.leaky_relu(x if embedded is None else x + embedded, LEAKY_SLOPE)
        x = x.unflatten(1, (-1, self.config.code_size))
        return x if self.config.per_layer_code else x.expand(-1, self.config.layers, -1)

    def relabel(self, code: Tensor, held: Tensor, wanted: Tensor) -> Tensor:
        """As `Mapping.relabel`."""
        assert self.labels is not None
        apart = self.labels(signed(wanted)) - self.labels(signed(held))
        # They have the gain that comes after the activation.
        return moved_before_activation(code, apart / ACTIVATION_GAIN)


def fold_mapping(mapping: Mapping | InvertibleMapping) -> nn.Module:
    """Fold a generator's mapping network, of either kind."""
    return FoldedMapping(mapping) if isinstance(mapping, Mapping) else fold_couplings(mapping)


def fold_couplings(mapping: InvertibleMapping) -> InvertibleMapping:
    """Make a copy with plain linear layers, which can still be inverted."""
    folded = copy.deepcopy(mapping).eval()
    for owner in (folded, *folded.couplings):
        for name, layer in list(owner.named_children()):
            if isinstance(layer, EqualizedLinear):
                setattr(owner, name, fold_linear(layer))
    return folded


def fold_latent_discriminator(discriminator: LatentDiscriminator) -> LatentDiscriminator:
    """Make a copy with plain linear layers; the gain after each activation is part of the layer before it."""
    folded = copy.deepcopy(discriminator)
    layers: list[nn.Module] = []
    for layer in discriminator.layers:
        if isinstance(layer, EqualizedLinear):
            layers.append(fold_linear(layer, ACTIVATION_GAIN))
        elif not isinstance(layer, Scale):
            layers.append(layer)
    # No activation follows the last layer.
    layers[-1] = fold_linear(discriminator.layers[-1])  # type: ignore[arg-type]
    folded.layers = nn.Sequential(*layers)
    if folded.view == "native" and folded.native.exact is not None:
        folded.native.exact = fold_couplings(folded.native.exact)
    return folded
