"""Trains a latent discriminator without an encoder: it tells sampled codes from the same with noise.

For encoders that are imported, which bring no latent discriminator and no training pictures, and for those whose
codes a mapping was fitted to, which none tells from samples (`inversion.py` trains one beside an encoder).
Noise-contrastive estimation (Gutmann and Hyvaerinen, AISTATS 2010), with noise from little to as much as the codes'
own spread, so that the logit says how far a code is from native ones.

It judges all layers' vectors at once, or one at a time where the mapping repeats one w. The view `native` would notice
the least noise, so that every code but a sampled one would get a domain score of 0.
"""

from __future__ import annotations

import torch

from training.networks.generator import Generator, code_statistics
from training.networks.latent_discriminator import LatentDiscriminator

STEPS, BATCH = 300, 64
WIDTH = 256  # of its layers; the first sees all of a code, and is most of its weights
RATE = 2e-3  # of Adam, as in `InversionConfig`
R1_GAMMA, R1_INTERVAL = 10.0, 16
LEAST_NOISE, MOST_NOISE = 0.05, 1.0  # in standard deviations of sampled codes


def train_noise_contrastive(generator: Generator) -> LatentDiscriminator:
    """Train on a frozen generator's mapping; return the discriminator frozen and in evaluation mode.

    The strength of the noise is log-uniform. The same generator always gives the same discriminator.
    """
    mean, deviation = code_statistics(generator, samples=10_000)
    random = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        discriminator = LatentDiscriminator(
            mean, deviation, "joint" if generator.config.per_layer_code else "layer", WIDTH
        )
    optimiser = torch.optim.Adam(discriminator.parameters(), RATE, betas=(0.0, 0.99))
    for step in range(STEPS):
        with torch.no_grad():
            real = generator.mapping(*generator.mapping.draw(BATCH, random))
            exponent = torch.rand(BATCH, 1, 1, generator=random)
            strength = LEAST_NOISE * (MOST_NOISE / LEAST_NOISE) ** exponent
            noise = torch.randn(real.shape, generator=random) * deviation
        loss = discriminator.discriminator_loss(discriminator(real), discriminator(real + strength * noise))
        if step % R1_INTERVAL == 0:
            loss = loss + discriminator.regulariser(real) * (R1_GAMMA / 2 * R1_INTERVAL)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return discriminator.eval().requires_grad_(False)
