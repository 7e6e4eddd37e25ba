"""The critics: two image critics (StyleGAN2's and a projected one) and the code critic of force-in-domain inversion.

An image critic takes pictures float [N, 3, H, W] in [-1, 1]; the code critic takes codes float [N, L, 512]. All give
logits, high for "real"; several logits a sample are averaged by the losses.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from training.networks.features import TAPS, EfficientNetLite0
from training.networks.generator import GeneratorConfig, Mapping
from training.networks.layers import (
    ACTIVATION_GAIN,
    LEAKY_SLOPE,
    EqualizedLinear,
    before_activation,
    fir_kernel,
    scaled_leaky_relu,
)


class EqualizedConv(nn.Module):
    """Convolution with run-time weight scale, optionally blurred and strided by two."""

    blur: Tensor

    def __init__(
        self, inputs: int, outputs: int, kernel: int, *, down: bool = False, bias: bool = True
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.weight_scale = 1 / math.sqrt(inputs * kernel * kernel)
        self.down, self.padding = down, kernel // 2
        if down:
            self.register_buffer("blur", fir_kernel().expand(inputs, 1, 4, 4).clone(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight * self.weight_scale
        if self.down:
            pad = 2 if self.padding else 1
            x = F.conv2d(x, self.blur.to(x.dtype), padding=pad, groups=x.shape[1])
            return F.conv2d(x, weight, self.bias, stride=2)
        return F.conv2d(x, weight, self.bias, padding=self.padding)


class ResidualBlock(nn.Module):
    """Residual block of StyleGAN2's discriminator: halves the side."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = EqualizedConv(inputs, inputs, 3)
        self.down = EqualizedConv(inputs, outputs, 3, down=True)
        self.skip = EqualizedConv(inputs, outputs, 1, down=True, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = scaled_leaky_relu(self.down(scaled_leaky_relu(self.conv(x))))
        return (y + self.skip(x)) / math.sqrt(2)


def minibatch_deviation(x: Tensor, group: int = 4) -> Tensor:
    """Append the standard deviation within groups of the batch as one more map (arXiv 1710.10196, section 3)."""
    n, _, h, w = x.shape
    size = math.gcd(n, group)
    y = x.float().reshape(size, -1, *x.shape[1:])  # [size, N / size, C, H, W]
    deviation = (y.var(0, unbiased=False) + 1e-8).sqrt().mean((1, 2, 3))  # [N / size]
    return torch.cat([x, deviation.repeat(size)[:, None, None, None].expand(n, 1, h, w).to(x.dtype)], 1)


class StyleGAN2Critic(nn.Module):
    """StyleGAN2's residual discriminator (arXiv 1912.04958): image -> logits [N, 1]."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        widths = config.channels[::-1]
        self.from_rgb = EqualizedConv(3, widths[0], 1)
        self.blocks = nn.Sequential(*(ResidualBlock(a, b) for a, b in pairwise(widths)))
        self.conv = EqualizedConv(widths[-1] + 1, widths[-1], 3)
        self.fc = EqualizedLinear(widths[-1] * 16, widths[-1])
        self.logit = EqualizedLinear(widths[-1], 1)

    def forward(self, image: Tensor) -> Tensor:
        x = self.blocks(scaled_leaky_relu(self.from_rgb(image)))
        x = scaled_leaky_relu(self.conv(minibatch_deviation(x)))
        return self.logit(scaled_leaky_relu(self.fc(x.flatten(1))))


class CrossScaleProjection(nn.Module):
    """Fixed random mixing of features across channels and scales (Projected GANs, arXiv 2111.01007, section 3.2)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        channels = list(TAPS.values())
        widths = [width * 2**i for i in range(len(channels))]
        self.mix_channels = nn.ModuleList(
            nn.Conv2d(a, b, 1, bias=False) for a, b in zip(channels, widths, strict=True)
        )
        self.mix_scales = nn.ModuleList(
            nn.Conv2d(b, a, 3, padding=1, bias=False)
            for a, b in zip([widths[0], *widths[:-1]], widths, strict=True)
        )
        for conv in [*self.mix_channels, *self.mix_scales]:
            nn.init.kaiming_normal_(conv.weight)
        self.widths = [widths[0], *widths[:-1]]

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        mixed: list[Tensor] = []
        above: Tensor | None = None
        for i in reversed(range(len(features))):
            x = self.mix_channels[i](features[i])
            if above is not None:
                x = x + F.interpolate(above, scale_factor=2.0, mode="bilinear")
            above = self.mix_scales[i](x)
            mixed.append(above)
        return mixed[::-1]


def feature_critic(channels: int, side: int) -> nn.Sequential:
    """Small convolutional critic on one scale of projected features; its logits cover a patch of the picture each."""
    blocks: list[nn.Module] = []
    while side > 8:
        outputs = min(channels * 2, 256)
        blocks += [
            spectral_norm(nn.Conv2d(channels, outputs, 4, stride=2, padding=1)),
            nn.BatchNorm2d(outputs),
            nn.LeakyReLU(LEAKY_SLOPE),
        ]
        channels, side = outputs, side // 2
    blocks += [spectral_norm(nn.Conv2d(channels, 1, min(4, side)))]
    return nn.Sequential(*blocks)


class ProjectedCritic(nn.Module):
    """Critics on fixed projections of pretrained features (Projected GANs, Sauer et al., arXiv 2111.01007).

    Image -> logits [N, M]: the patch logits of all four scales. Reaches good pictures in far fewer samples than a
    critic that learns its features; only the small critics are trained and stored.
    """

    def __init__(self, side: int = 128, width: int = 32) -> None:
        super().__init__()
        self.side = side
        self.features = EfficientNetLite0().requires_grad_(False)
        generator_state = torch.get_rng_state()
        torch.manual_seed(0)  # the projection is a constant of the critic, not of the run
        self.projection = CrossScaleProjection(width).requires_grad_(False)
        torch.set_rng_state(generator_state)
        self.critics = nn.ModuleList(
            feature_critic(c, side // s) for c, s in zip(self.projection.widths, (4, 8, 16, 32), strict=True)
        )

    def forward(self, image: Tensor) -> Tensor:
        x = F.interpolate(image, size=(self.side, self.side), mode="bilinear")
        features = self.projection(self.features(x))
        logits = [critic(f).flatten(1) for critic, f in zip(self.critics, features, strict=True)]
        # each scale weighs the same, however many patches it has
        return torch.cat(
            [score.mean(1, keepdim=True) if score.shape[1] == 1 else score for score in logits], 1
        )


class NativeCoordinates(nn.Module):
    """A code seen through the inverse of the mapping's last layer: float [N, L, 512] -> [N, I + L].

    First the I inputs of that layer that explain the code best, standardised: of native codes they are what the layer
    was really given (z itself where the mapping has one layer). Then how far each layer's vector is from any that the
    mapping can give, log(1 + (r / 0.1)^2) / 2 with r in units of the native codes' spread: 0 for native codes. It is
    the logarithm, and starts at a tenth, because a critic that sees the distance itself is sure at once, and then
    teaches nothing.
    """

    NEAR = 0.1
    offset: Tensor
    spread: Tensor
    inverse: Tensor
    inverse_bias: Tensor
    weight: Tensor
    bias: Tensor

    def __init__(self, layers: int, code_size: int, inputs: int) -> None:
        super().__init__()
        self.layers = layers
        entries = layers * code_size
        for name, shape in {
            "offset": (entries,), "spread": (entries,),  # of what the leaky ReLU is given
            "inverse": (inputs, entries), "inverse_bias": (inputs,),  # standardised entries -> standardised inputs
            "weight": (entries, inputs), "bias": (entries,),  # and back
        }.items():  # fmt: skip
            self.register_buffer(name, torch.ones(shape) if name == "spread" else torch.zeros(shape))

    @torch.no_grad()
    def fit(self, mapping: Mapping, samples: int = 10_000) -> NativeCoordinates:
        """Invert a mapping's last layer."""
        (*_, last) = mapping.layers
        assert isinstance(last, EqualizedLinear)
        repeats = 1 if mapping.config.per_layer_code else self.layers
        weight = (last.weight * last.weight_scale).repeat(repeats, 1)  # [L * 512, I]
        self.offset.copy_((last.bias * last.bias_scale).repeat(repeats))
        self.spread.fill_(1)
        random = torch.Generator().manual_seed(0)
        z = torch.randn(samples, mapping.config.z_size, generator=random).to(weight.device)
        given = self.preceding(mapping(z))
        self.spread.copy_(given.std(0) + 1e-6)
        weight = (weight / self.spread[:, None]).double()
        inverse = torch.linalg.pinv(
            weight, rtol=1e-4
        )  # inputs that hardly move a code are not to be found in it
        inputs = (given / self.spread).double() @ inverse.T
        mean, deviation = inputs.mean(0), inputs.std(0) + 1e-6
        self.inverse.copy_(inverse / deviation[:, None])
        self.inverse_bias.copy_(-mean / deviation)
        self.weight.copy_(weight * deviation)
        self.bias.copy_(weight @ mean)
        return self

    def preceding(self, code: Tensor) -> Tensor:
        """What the last leaky ReLU was given, standardised: float [N, L * 512]."""
        return (before_activation(code.flatten(1)) - self.offset) / self.spread

    def forward(self, code: Tensor) -> Tensor:
        x = self.preceding(code)
        inputs = F.linear(x, self.inverse, self.inverse_bias)
        outside = x - F.linear(inputs, self.weight, self.bias)
        squared = outside.unflatten(1, (self.layers, -1)).square().mean(2)
        return torch.cat([inputs, torch.log(1 + squared / self.NEAR**2) / 2], 1)


CodeCriticView = Literal["joint", "layer", "native"]


class CodeCritic(nn.Module):
    """Code critic D_w: tells mapping(z), z ~ N(0, I), from E(x). code float [N, L, 512] -> logits [N, 1] or [N, L].

    Four linear layers of 512 with leaky ReLU (e4e, arXiv 2102.02766). `joint` judges all layers' vectors at once, right
    where W+ is native; `layer` judges one vector at a time, for generators that repeat one w; `native` judges the code
    through the inverse of the mapping's last layer, of `inputs` inputs, to which `native` must be fitted.
    Codes are standardised with the statistics of sampled codes, so that every entry weighs alike.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(
        self,
        mean: Tensor,
        deviation: Tensor,
        view: CodeCriticView = "joint",
        width: int = 512,
        inputs: int = 512,
    ) -> None:
        super().__init__()
        self.register_buffer("mean", mean.clone())  # [L, 512]
        self.register_buffer("deviation", deviation.clone())
        self.view = view
        if view == "native":
            self.native = NativeCoordinates(mean.shape[0], mean.shape[1], inputs)
        seen = {"joint": mean.numel(), "layer": mean.shape[1], "native": inputs + len(mean)}[view]
        widths = [seen, width, width, width]
        layers: list[nn.Module] = []
        for a, b in pairwise(widths):
            layers += [EqualizedLinear(a, b), nn.LeakyReLU(LEAKY_SLOPE), Scale(ACTIVATION_GAIN)]
        logit = EqualizedLinear(width, 1)
        nn.init.zeros_(logit.weight)  # no opinion yet: a random one would first drive the encoder away
        self.layers = nn.Sequential(*layers, logit)

    def standardise(self, code: Tensor) -> Tensor:
        """Codes in units of the sampled codes' spread."""
        return (code - self.mean) / self.deviation

    def coordinates(self, code: Tensor) -> Tensor:
        """What the critic sees of codes: float [N, D], or [N, L, 512] where it judges one layer's vector at a time."""
        if self.view == "native":
            return self.native(code)
        x = self.standardise(code)
        return x if self.view == "layer" else x.flatten(1)

    def judge(self, x: Tensor) -> Tensor:
        """Logits of coordinates."""
        return self.layers(x).squeeze(2) if self.view == "layer" else self.layers(x)

    def forward(self, code: Tensor) -> Tensor:
        return self.judge(self.coordinates(code))


class Scale(nn.Module):
    """Multiply by a constant."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor
