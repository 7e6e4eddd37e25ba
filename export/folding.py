"""Inference twins of the trained networks: weight scales, gains and batch norms folded into plain weights.

Nothing here knows ONNX. A twin is a tree of buffers and plain layers that gives what its training network gives;
`tests/export/test_folding.py` holds them to it.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from training.critics import CodeCritic, NativeCoordinates, Scale
from training.encoder import BatchNorm, Encoder, EncoderBlock
from training.generator import (
    ACTIVATION_GAIN,
    DEMODULATION_EPSILON,
    LEAKY_SLOPE,
    EqualizedLinear,
    Mapping,
    ModulatedConv,
    StyledLayer,
    Synthesis,
)

FLOAT16_MAX = 65504.0


def round_weights(network: nn.Module) -> nn.Module:
    """Round, in place, the weights (two axes or more) of folded layers to float16 numbers; they stay float32 tensors.

    Biases, noise and statistics are left as they are, and so is a weight that float16 cannot hold.
    """
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | FoldedModulatedConv):
            weight = module.weight.detach()
            if weight.abs().max() <= FLOAT16_MAX:
                module.weight.data = weight.half().float()
        if isinstance(module, FoldedModulatedConv):
            module.set_energy()
        if isinstance(module, NativeCoordinates):
            for name in ("inverse", "weight"):
                matrix = getattr(module, name)
                if matrix.abs().max() <= FLOAT16_MAX:
                    setattr(module, name, matrix.half().float())
    return network


def fold_linear(layer: EqualizedLinear, gain: float = 1.0) -> nn.Linear:
    """A plain linear layer that gives `gain` times what an equalised one does."""
    folded = nn.Linear(layer.weight.shape[1], layer.weight.shape[0])
    with torch.no_grad():
        folded.weight.copy_(layer.weight * (layer.weight_scale * gain))
        folded.bias.copy_(layer.bias * (layer.bias_scale * gain))
    return folded


class FoldedModulatedConv(nn.Module):
    """`ModulatedConv` with its weight scale folded in and sum_k W^2 kept as a buffer for the demodulation.

    With `gain`, its output is multiplied by that: a leaky ReLU commutes with a positive factor.
    """

    weight: Tensor
    energy: Tensor
    blur: Tensor

    def __init__(self, conv: ModulatedConv, gain: float = 1.0) -> None:
        super().__init__()
        if not conv.demodulate and gain != 1.0:
            raise ValueError("a gain needs demodulation, which carries it")
        weight = conv.weight.detach() * conv.weight_scale
        # an up-convolution is a transposed one, whose weight has the inputs first
        self.register_buffer("weight", (weight.transpose(0, 1) if conv.up else weight).contiguous())
        self.register_buffer("energy", weight.new_zeros(weight.shape[1], weight.shape[0]))  # [C_in, C_out]
        self.style = fold_linear(conv.style)
        self.up, self.demodulate, self.padding, self.gain = conv.up, conv.demodulate, conv.padding, gain
        if conv.up:
            self.register_buffer("blur", conv.blur.clone())
        self.set_energy()

    def set_energy(self) -> None:
        """Compute sum_k W^2 from the weight as it is now."""
        energy = self.weight.float().square().sum((2, 3))
        self.energy.copy_(energy if self.up else energy.t())

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """x [N, C_in, H, W] in the weight's precision, w float32 [N, 512] -> in x's, but float32 for RGB."""
        style = self.style(w)  # [N, C_in]
        scale: Tensor | None = None  # [N, C_out], or [N, 1]
        if self.demodulate:
            scale = torch.rsqrt(style.square() @ self.energy + DEMODULATION_EPSILON) * self.gain
        if self.weight.dtype != torch.float32:
            # The largest style becomes 1, so that sums stay within 16 bits, and is given back after the convolution;
            # from Karras et al., "Training Generative Adversarial Networks with Limited Data" (arXiv 2006.06676).
            peak = style.abs().amax(1, keepdim=True).clamp(min=DEMODULATION_EPSILON)
            style, scale = style / peak, peak if scale is None else scale * peak
        x = x * style[..., None, None].to(x.dtype)
        if self.up:
            x = F.conv_transpose2d(x, self.weight, stride=2)
            x = F.conv2d(x, self.blur, padding=1, groups=self.blur.shape[0])
        else:
            x = F.conv2d(x, self.weight, padding=self.padding)
        if not self.demodulate:
            x = x.float()  # the picture is summed over all resolutions
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

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        # the two constants first: their sum is folded when a session opens
        return F.leaky_relu(self.conv(x, w) + (self.noise + self.bias), LEAKY_SLOPE)


class FoldedSynthesis(nn.Module):
    """`Synthesis` without random noise: code float32 [N, L, 512] -> image float32 [N, 3, H, W]."""

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
        self.register_buffer("rgb_bias", biases[:, :, None, None].clone())  # [blocks, 3, 1, 1]

    def forward(self, code: Tensor) -> Tensor:
        w = code.unbind(1)
        x = self.styled[0](self.constant, w[0])
        rgb = self.to_rgb[0](x, w[1]) + self.rgb_bias[0]
        for i in range(1, len(self.to_rgb)):
            x = self.styled[2 * i - 1](x, w[2 * i - 1])
            x = self.styled[2 * i](x, w[2 * i])
            rgb = F.conv_transpose2d(rgb, self.rgb_up, stride=2, padding=1, groups=3)
            rgb = rgb + self.to_rgb[i](x, w[2 * i + 1]) + self.rgb_bias[i]
        return rgb


class FoldedMapping(nn.Module):
    """`Mapping` with scales and gains folded: z float32 [N, 512] -> code float32 [N, L, 512]."""

    def __init__(self, mapping: Mapping) -> None:
        super().__init__()
        self.config = mapping.config
        self.layers = nn.ModuleList(fold_linear(layer, ACTIVATION_GAIN) for layer in mapping.layers)  # type: ignore[arg-type]

    def forward(self, z: Tensor) -> Tensor:
        x = z * torch.rsqrt(z.square().mean(1, keepdim=True) + 1e-8)
        for layer in self.layers:
            x = F.leaky_relu(layer(x), LEAKY_SLOPE)
        x = x.unflatten(1, (-1, self.config.code_size))
        return x if self.config.per_layer_code else x.expand(-1, self.config.layers, -1)


def fold_encoder(encoder: Encoder) -> Encoder:
    """A copy in which every batch norm has become part of the layer before it."""
    folded = copy.deepcopy(encoder).eval()
    folded.stem = fuse_conv_bn_eval(folded.stem, folded.stem_norm)
    folded.squeeze = fuse_conv_bn_eval(folded.squeeze, folded.squeeze_norm)
    folded.fc = fuse_linear_bn_eval(folded.fc, folded.code_norm)
    folded.stem_norm = folded.squeeze_norm = folded.code_norm = nn.Identity()  # type: ignore[assignment]
    for block in folded.blocks:
        assert isinstance(block, EncoderBlock)
        block.conv1 = fuse_conv_bn_eval(block.conv1, block.norm1)
        block.conv2 = fuse_conv_bn_eval(block.conv2, block.norm2)
        block.norm1 = block.norm2 = nn.Identity()  # type: ignore[assignment]
        if isinstance(block.shortcut, nn.Sequential):
            conv, norm = block.shortcut
            assert isinstance(norm, BatchNorm)
            block.shortcut = nn.Sequential(fuse_conv_bn_eval(conv, norm))
    return folded


def fold_code_critic(critic: CodeCritic) -> CodeCritic:
    """A copy with plain linear layers; the gain after each activation has moved into the layer before it."""
    folded = copy.deepcopy(critic)
    layers: list[nn.Module] = []
    for layer in critic.layers:
        if isinstance(layer, EqualizedLinear):
            layers.append(fold_linear(layer, ACTIVATION_GAIN))
        elif not isinstance(layer, Scale):
            layers.append(layer)
    layers[-1] = fold_linear(critic.layers[-1])  # type: ignore[arg-type]  # no activation follows it
    folded.layers = nn.Sequential(*layers)
    return folded
