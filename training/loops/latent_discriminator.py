"""A code critic without pictures, for an encoder that was imported: `inversion.py` trains one beside an encoder.

What it learns to tell from sampled codes are sampled codes with Gaussian noise, from little to as much as the codes'
own spread, so that it answers to how far a code is from native ones. It has seen no encoder's codes. It judges all
layers' vectors at once, or one at a time where one w is repeated: through the inverse of the mapping's last layer
(`native`) the least noise shows, and every code but a sampled one would get a score of 0.
"""

from __future__ import annotations

import torch

from training.losses.adversarial import non_saturating_critic_loss, r1_penalty
from training.networks.discriminators import CodeCritic
from training.networks.generator import Generator, code_statistics

STEPS, BATCH = 300, 64
RATE = 2e-3  # Adam's; as in `InversionConfig`
R1_GAMMA, R1_INTERVAL = 10.0, 16
LEAST_NOISE, MOST_NOISE = 0.05, 1.0  # in standard deviations of sampled codes


def fit_code_critic(generator: Generator) -> CodeCritic:
    """Sampled codes against the same with noise, its strength log-uniform. The generator's mapping is frozen."""
    mean, deviation = code_statistics(generator, samples=10_000)
    random = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        critic = CodeCritic(mean, deviation, "joint" if generator.config.per_layer_code else "layer")
    optimiser = torch.optim.Adam(critic.parameters(), RATE, betas=(0.0, 0.99))
    for step in range(STEPS):
        with torch.no_grad():
            real = generator.mapping(torch.randn(BATCH, generator.config.z_size, generator=random))
            exponent = torch.rand(BATCH, 1, 1, generator=random)
            strength = LEAST_NOISE * (MOST_NOISE / LEAST_NOISE) ** exponent
            noise = torch.randn(real.shape, generator=random) * deviation
        loss = non_saturating_critic_loss(critic(real), critic(real + strength * noise))
        if step % R1_INTERVAL == 0:
            penalty = r1_penalty(critic.judge, critic.coordinates(real))
            loss = loss + penalty * (R1_GAMMA / 2 * R1_INTERVAL)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return critic.eval().requires_grad_(False)
