"""Image discriminators: StyleGAN2's, a projected one on pretrained features, and both together.

Each takes pictures float [N, 3, H, W] in [-1, 1] and gives logits, high for "real"; for a generator with K labels, K
more, which say the labels of the picture (AC-GAN, arXiv 1610.09585). `IMAGE_DISCRIMINATORS` names all
of them: another one is a class with its losses and an entry there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import spectral_norm

from training.kernels.fused_activation import activate, fuses
from training.losses.adversarial import (
    Discriminator,
    hinge_discriminator_loss,
    hinge_generator_loss,
    r1_penalty,
)
from training.networks.features import TAPS, EfficientNetLite0
from training.networks.generator import GeneratorConfig
from training.networks.layers import (
    ACTIVATION_GAIN,
    LEAKY_SLOPE,
    EqualizedLinear,
    convolve_down,
    fir_kernel,
    scaled_leaky_relu,
)


class EqualizedConv(nn.Module):
    """Convolution with run-time weight scale (equalised learning rate).

    `down`: a blur first and a stride of two. `activated`: `scaled_leaky_relu` after it. Its gain, and `gain`, by which
    the result is multiplied, are in weights and bias.
    """

    blur: Tensor

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        *,
        down: bool = False,
        bias: bool = True,
        activated: bool = False,
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.gain = gain * (ACTIVATION_GAIN if activated else 1.0)
        self.weight_scale = self.gain / math.sqrt(inputs * kernel * kernel)
        self.down, self.padding, self.activated = down, kernel // 2, activated
        if down:
            self.register_buffer("blur", fir_kernel().expand(inputs, 1, 4, 4).clone(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight * self.weight_scale
        bias = None if self.bias is None else self.bias * self.gain
        added, later = (None, bias) if self.activated and fuses(x) else (bias, None)
        if self.down:
            x = convolve_down(x, weight, added, self.blur)
        else:
            x = F.conv2d(x, weight, added, padding=self.padding)
        return activate(x, later, LEAKY_SLOPE) if self.activated else x


class ResidualBlock(nn.Module):
    """Residual block of StyleGAN2's discriminator: halves the side."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = EqualizedConv(inputs, inputs, 3, activated=True)
        half = math.sqrt(0.5)  # keeps the variance of the sum
        self.down = EqualizedConv(inputs, outputs, 3, down=True, activated=True, gain=half)
        self.skip = EqualizedConv(inputs, outputs, 1, down=True, bias=False, gain=half)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.conv(x)) + self.skip(x)


def minibatch_deviation(x: Tensor, group: int = 4) -> Tensor:
    """Append the mean standard deviation within groups of the batch as one more map (arXiv 1710.10196, section 3).

    float [N, C, H, W] -> [N, C + 1, H, W]; groups have gcd(N, `group`) samples.
    """
    n, _, h, w = x.shape
    size = math.gcd(n, group)
    y = x.float().reshape(size, -1, *x.shape[1:])  # [size, N / size, C, H, W]
    deviation = (y.var(0, unbiased=False) + 1e-8).sqrt().mean((1, 2, 3))  # [N / size]
    return torch.cat([x, deviation.repeat(size)[:, None, None, None].expand(n, 1, h, w).to(x.dtype)], 1)


class StyleGAN2Discriminator(Discriminator):
    """StyleGAN2's residual discriminator (arXiv 1912.04958): image -> logits [N, 1 + K]. Non-saturating loss and R1.

    The auxiliary classifier of labels shares all layers but the last one.
    """

    regularised = True

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        widths = config.channels[::-1]
        self.from_rgb = EqualizedConv(3, widths[0], 1, activated=True)
        self.blocks = nn.Sequential(*(ResidualBlock(a, b) for a, b in pairwise(widths)))
        self.conv = EqualizedConv(widths[-1] + 1, widths[-1], 3, activated=True)
        self.fc = EqualizedLinear(widths[-1] * 16, widths[-1])
        self.labels = len(config.labels)
        self.logit = EqualizedLinear(widths[-1], 1 + self.labels)
        # While the first block is new: a scalar 0..1 that says how much it counts, and what read the smaller picture.
        self.fade: Tensor | None = None
        self.from_rgb_before: EqualizedConv | None = None

    def begin_fade(self, fade: Tensor) -> None:
        """Fade the first block in, beside a frozen layer that reads the picture of half the side."""
        first = self.blocks[0]
        assert isinstance(first, ResidualBlock)
        outputs = first.down.weight.shape[0]
        self.fade, self.from_rgb_before = (
            fade,
            EqualizedConv(3, outputs, 1, activated=True).to(fade.device).requires_grad_(False),
        )

    def end_fade(self) -> None:
        """Let the first block count in full."""
        self.fade = self.from_rgb_before = None

    def _first_block(self, image: Tensor) -> Tensor:
        x = self.blocks[0](self.from_rgb(image))
        if self.fade is None or self.from_rgb_before is None:
            return x
        before = self.from_rgb_before(F.avg_pool2d(image, 2))
        return before + (x - before) * self.fade

    def forward(self, image: Tensor) -> Tensor:
        return self._judge(minibatch_deviation(self.blocks[1:](self._first_block(image))))

    def _judge(self, x: Tensor) -> Tensor:
        return self.logit(scaled_leaky_relu(self.fc(self.conv(x).flatten(1))))

    def compare(self, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
        """Both as one batch, but for the minibatch's deviation, which is each one's own."""
        features = self.blocks[1:](self._first_block(torch.cat([real, fake]))).split([len(real), len(fake)])
        logits = self._judge(torch.cat([minibatch_deviation(x) for x in features]))
        return logits[: len(real)], logits[len(real) :]

    def regulariser(self, real: Tensor) -> Tensor:
        """R1 on real pictures."""
        return r1_penalty(lambda image: self.split(self(image))[0], real)


class CrossScaleProjection(nn.Module):
    """Fixed random mixing of features across channels and scales (Projected GANs, arXiv 2111.01007, section 3.2).

    Takes the features of `EfficientNetLite0`, fine to coarse, and gives as many maps, of `widths` channels.
    """

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


def feature_discriminator(channels: int, side: int) -> nn.Sequential:
    """A small convolutional discriminator of one scale's features [N, C, side, side]; a logit for each patch."""
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


class ProjectedDiscriminator(Discriminator):
    """Discriminators on fixed projections of pretrained features (Projected GANs, Sauer et al., arXiv 2111.01007).

    Image -> logits [N, M + K]: the patch logits of all four scales, then those of the labels, which are linear in all
    features, pooled to 4 x 4 and normalised, as a scale's may be large. Hinge loss, no regulariser. It reaches good
    pictures in far fewer samples than a discriminator that learns its features. Only the small discriminators are
    trained and stored.
    """

    def __init__(self, side: int = 128, width: int = 32, labels: int = 0) -> None:
        super().__init__()
        self.side = side
        self.features = EfficientNetLite0().requires_grad_(False)
        # The projection is a constant: the same in every run, whatever the run's seed.
        run_state = torch.get_rng_state()
        torch.manual_seed(0)
        self.projection = CrossScaleProjection(width).requires_grad_(False)
        torch.set_rng_state(run_state)
        sides = [side // stride for stride in (4, 8, 16, 32)]
        self.discriminators = nn.ModuleList(
            feature_discriminator(width, side)
            for width, side in zip(self.projection.widths, sides, strict=True)
        )
        self.labels = labels
        self.classifier = EqualizedLinear(16 * sum(self.projection.widths), labels) if labels else None

    def forward(self, image: Tensor) -> Tensor:
        return self._judge(self._project(image))

    def _project(self, image: Tensor) -> list[Tensor]:
        if image.shape[2] != self.side:
            image = F.interpolate(image, size=(self.side, self.side), mode="bilinear")
        return self.projection(self.features(image))

    def _judge(self, features: Sequence[Tensor]) -> Tensor:
        pairs = zip(self.discriminators, features, strict=True)
        logits = [discriminator(feature).flatten(1) for discriminator, feature in pairs]
        if self.classifier is not None:
            pooled = [F.adaptive_avg_pool2d(feature, 4).flatten(1) for feature in features]
            pooled = [F.layer_norm(feature, feature.shape[1:]) for feature in pooled]
            logits.append(self.classifier(torch.cat(pooled, 1)))
        return torch.cat(logits, 1)

    def compare(self, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
        """The features of both as one batch; the trained parts have batch norms, which see each one alone."""
        features = [x.split([len(real), len(fake)]) for x in self._project(torch.cat([real, fake]))]
        # Within it the spectral norms are computed once.
        with parametrize.cached():
            return self._judge([x[0] for x in features]), self._judge([x[1] for x in features])

    def discriminator_loss(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return hinge_discriminator_loss(real_logits, fake_logits)

    def generator_loss(self, fake_logits: Tensor) -> Tensor:
        return hinge_generator_loss(fake_logits)


class PairedDiscriminator(Discriminator):
    """StyleGAN2's discriminator and the projected one, trained side by side: image -> logits [N, 1 + M + K].

    StyleGAN2's logit comes first; those of labels, last, are the mean of both parts'. StyleGAN2's judges texture and
    structure; the projected one learns from fewer pictures. Each has its own loss, and R1 is for StyleGAN2's alone.
    The generator minimises the weighted sum of what both say.
    The weights do not touch the discriminators' own losses: they share no parameters, and Adam ignores a factor.
    """

    regularised = True

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.stylegan2 = StyleGAN2Discriminator(config)
        self.projected = ProjectedDiscriminator(labels=len(config.labels))
        self.labels = len(config.labels)
        self.weights = {"stylegan2": 1.0, "projected": 1.0}

    def parts(self) -> dict[str, Discriminator]:
        return {"stylegan2": self.stylegan2, "projected": self.projected}

    def forward(self, image: Tensor) -> Tensor:
        return self._joined(self.stylegan2(image), self.projected(image))

    def _joined(self, stylegan2: Tensor, projected: Tensor) -> Tensor:
        (first, one), (second, other) = self.stylegan2.split(stylegan2), self.projected.split(projected)
        said = [] if one is None or other is None else [(one + other) / 2]
        return torch.cat([first, second, *said], 1)

    def compare(self, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
        both = zip(self.stylegan2.compare(real, fake), self.projected.compare(real, fake), strict=True)
        real_logits, fake_logits = (self._joined(*logits) for logits in both)
        return real_logits, fake_logits

    def discriminator_loss(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return self.stylegan2.discriminator_loss(real_logits[:, :1], fake_logits[:, :1]) + (
            self.projected.discriminator_loss(real_logits[:, 1:], fake_logits[:, 1:])
        )

    def generator_loss(self, fake_logits: Tensor) -> Tensor:
        return self.weights["stylegan2"] * self.stylegan2.generator_loss(fake_logits[:, :1]) + (
            self.weights["projected"] * self.projected.generator_loss(fake_logits[:, 1:])
        )

    def certainty(self, real_logits: Tensor) -> Tensor:
        """The mean of both parts', so that the many logits of the projected one do not drown StyleGAN2's."""
        stylegan2, projected = real_logits[:, :1], real_logits[:, 1:]
        return (super().certainty(stylegan2) + super().certainty(projected)) / 2

    def regulariser(self, real: Tensor) -> Tensor:
        """R1 of StyleGAN2's discriminator on real pictures."""
        return self.stylegan2.regulariser(real)


IMAGE_DISCRIMINATORS: dict[str, Callable[[GeneratorConfig], Discriminator]] = {
    "projected": lambda config: ProjectedDiscriminator(labels=len(config.labels)),
    "stylegan2": StyleGAN2Discriminator,
    "both": PairedDiscriminator,
}
"""Name, in configs and checkpoints -> what makes the discriminator for a generator of this shape."""


class UnknownDiscriminator(ValueError):
    """There is no image discriminator of this name; the message says which there are."""


def build_image_discriminator(name: str, config: GeneratorConfig) -> Discriminator:
    """Make an untrained image discriminator. Raises UnknownDiscriminator."""
    if name not in IMAGE_DISCRIMINATORS:
        known = ", ".join(IMAGE_DISCRIMINATORS)
        raise UnknownDiscriminator(f"there is no image discriminator {name!r}; there are {known}")
    return IMAGE_DISCRIMINATORS[name](config)
