"""The prior discriminator: what a code is as an input of the mapping -> logits, high for draws from the prior.

Source: Makhzani et al., "Adversarial Autoencoders" (arXiv 1511.05644), whose discriminator tells an encoder's z from
draws of N(0, I). A latent discriminator sees all of a code; this one sees only the inputs of the mapping's last layer
(z, where the mapping has one layer), and what of a code no input explains, its residual, is paid for by itself.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from training.losses.adversarial import Discriminator, r1_penalty
from training.networks.layers import EqualizedLinear, scaled_leaky_relu


class PriorDiscriminator(Discriminator):
    """Tells the inputs of sampled codes from those of an encoder's: standardised, float [N, I] -> logits [N, 1].

    Four linear layers. They see the squares of the inputs, too: what gives an encoder away is how much each input
    varies. Non-saturating loss and R1.
    """

    regularised = True

    def __init__(self, inputs: int, width: int = 512) -> None:
        super().__init__()
        widths = [2 * inputs, width, width, width]
        self.layers = nn.ModuleList(EqualizedLinear(a, b) for a, b in pairwise(widths))
        self.logit = EqualizedLinear(width, 1)
        # It starts without an opinion, as the latent discriminator does.
        nn.init.zeros_(self.logit.weight)

    def forward(self, inputs: Tensor) -> Tensor:
        # The square of a standard normal has mean 1 and variance 2.
        x = torch.cat([inputs, (inputs.square() - 1) * 0.5**0.5], 1)
        for layer in self.layers:
            x = scaled_leaky_relu(layer(x))
        return self.logit(x)

    def compare(self, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
        logits = self(torch.cat([real, fake]))
        return logits[: len(real)], logits[len(real) :]

    def regulariser(self, real: Tensor) -> Tensor:
        """R1 on the inputs of sampled codes."""
        return r1_penalty(self, real)
