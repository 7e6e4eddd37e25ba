"""The joint discriminator: pairs of a picture and a code -> logits, high for pairs that the generator made.

Sources: Donahue et al., "Adversarial Feature Learning" (BiGAN, arXiv 1605.09782); Dumoulin et al., "Adversarially
Learned Inference" (ALI, arXiv 1606.00704). There generator and encoder are trained against it together; here the
generator is frozen, so that its pairs (G(w), w) are what the encoder's (x, E(x)) are to become.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from training.losses.adversarial import Discriminator, r1_penalty
from training.networks.generator import GeneratorConfig
from training.networks.image_discriminators import EqualizedConv, ResidualBlock
from training.networks.layers import EqualizedLinear, scaled_leaky_relu


class JointDiscriminator(Discriminator):
    """Tells (G(w), w) from (x, E(x)): pairs float [N, 3 * H * W + L * 512], made by `pairs` -> logits [N, 1].

    The picture is read by the residual blocks of StyleGAN2's discriminator, without the minibatch's deviation, which
    would see all pairs of a batch together; the code by one layer; then both by two more. Non-saturating loss, and R1
    on picture and code. Codes are standardised with the mean and deviation of sampled codes float [L, 512].
    """

    regularised = True
    mean: Tensor
    deviation: Tensor

    def __init__(self, config: GeneratorConfig, mean: Tensor, deviation: Tensor, width: int = 512) -> None:
        super().__init__()
        self.register_buffer("mean", mean.clone())  # [L, 512]
        self.register_buffer("deviation", deviation.clone())
        self.side = config.resolution
        widths = config.channels[::-1]
        self.from_rgb = EqualizedConv(3, widths[0], 1, activated=True)
        self.blocks = nn.Sequential(*(ResidualBlock(a, b) for a, b in pairwise(widths)))
        self.picture = EqualizedLinear(widths[-1] * 16, width)
        self.code = EqualizedLinear(mean.numel(), width)
        self.both = nn.ModuleList([EqualizedLinear(2 * width, width), EqualizedLinear(width, width)])
        self.logit = EqualizedLinear(width, 1)
        # It starts without an opinion, as the latent discriminator does.
        nn.init.zeros_(self.logit.weight)

    def pairs(self, image: Tensor, code: Tensor) -> Tensor:
        """Lay pictures float [N, 3, H, W] and their codes float [N, L, 512] side by side, a pair in each row."""
        standard = (code - self.mean) / self.deviation
        return torch.cat([image.float().flatten(1), standard.flatten(1)], 1)

    def forward(self, pairs: Tensor) -> Tensor:
        image, code = pairs.tensor_split([3 * self.side**2], 1)
        x = self.blocks(self.from_rgb(image.unflatten(1, (3, self.side, self.side)))).flatten(1)
        x = torch.cat([self.picture(x), self.code(code)], 1)
        for layer in self.both:
            x = layer(scaled_leaky_relu(x))
        return self.logit(scaled_leaky_relu(x))

    def compare(self, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
        logits = self(torch.cat([real, fake]))
        return logits[: len(real)], logits[len(real) :]

    def regulariser(self, real: Tensor) -> Tensor:
        """R1 on the generator's pairs."""
        return r1_penalty(self, real)
