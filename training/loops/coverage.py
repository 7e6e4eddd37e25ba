"""Coverage: an encoder trained beside the generator, so that no kind of real picture is dropped.

Where pictures and hours are few a GAN keeps to one kind of face. Reconstructing real pictures from native codes holds
it to all of them (as in VAE-GAN, arXiv 1512.09300), and fitting the mapping to their codes makes samples as varied.
"""

from __future__ import annotations

import torch
from lightning.fabric import Fabric
from torch import Tensor

from training.loops.loop import update
from training.losses.adversarial import non_saturating_critic_loss, non_saturating_loss
from training.losses.perceptual import LPIPSSq
from training.networks.discriminators import CodeCritic
from training.networks.encoder import Encoder, EncoderConfig
from training.networks.generator import Generator, GeneratorConfig, Mapping, code_statistics, sample_codes
from training.networks.layers import before_activation


@torch.no_grad()
def fitted_mapping(config: GeneratorConfig, codes: Tensor) -> Mapping:
    """A mapping of one layer whose codes have the mean and the covariance of `codes` float [M, L, 512].

    Before the mapping's last leaky ReLU codes are close to Gaussian (Zhu et al., arXiv 2012.09036), so the fit is
    a principal component analysis there.
    """
    mapping = Mapping(config).to(codes.device)
    linear = before_activation(codes.flatten(1))  # [M, L * 512]
    mean = linear.mean(0)
    rank = min(config.z_size, len(codes))
    _, singular, components = torch.pca_lowrank(linear, q=rank)
    weight = torch.zeros(linear.shape[1], config.z_size, device=codes.device)
    weight[:, :rank] = components * (singular / len(codes) ** 0.5)
    (layer,) = mapping.layers
    layer.weight.copy_(weight / layer.weight_scale)
    layer.bias.copy_(mean / layer.bias_scale)
    return mapping


class Coverage:
    """Encoder and code critic trained beside the generator: real pictures must be reconstructed from native codes."""

    CODE_WEIGHT = 0.02
    PERCEPTUAL_WEIGHT = 0.5
    CODE_CRITIC_RATE = (
        1e-3  # for equalised weights; at a fifth of it the critic never caught up with the encoder
    )

    def __init__(
        self, generator: Generator, fabric: Fabric, channels: tuple[int, ...], encoder_rate: float
    ) -> None:
        shape, layout = generator.config, torch.channels_last
        mean, deviation = code_statistics(generator)
        self.fabric = fabric
        self.encoder = Encoder(
            EncoderConfig(
                shape.resolution, channels, layers=shape.layers, code_size=shape.code_size, activation=True
            )
        )
        self.encoder.to(fabric.device, memory_format=layout)
        self.encoder.start_from(sample_codes(generator, 10_000))
        self.code_critic = CodeCritic(mean, deviation).to(fabric.device)
        self.perceptual = LPIPSSq().to(fabric.device, memory_format=layout)
        self.encoder_optimiser = torch.optim.Adam(self.encoder.parameters(), encoder_rate, betas=(0.9, 0.99))
        self.code_optimiser = torch.optim.Adam(
            self.code_critic.parameters(), self.CODE_CRITIC_RATE, betas=(0.0, 0.99)
        )

    def loss(self, real: Tensor, reconstruction: Tensor, code: Tensor) -> tuple[Tensor, dict[str, float]]:
        """Reconstruction and nativeness of the codes, to be weighed by `coverage_weight`."""
        with self.fabric.autocast():
            mse = (reconstruction - real).square().mean()
            perceptual = self.perceptual(reconstruction, real).float().mean()
        code_loss = non_saturating_loss(self.code_critic(code))
        total = mse + self.PERCEPTUAL_WEIGHT * perceptual + self.CODE_WEIGHT * code_loss
        return total, {"mse": mse.item(), "perceptual": perceptual.item(), "code": code_loss.item()}

    def critic_step(self, real: Tensor, fake: Tensor) -> dict[str, float]:
        """One step of the code critic."""
        loss = non_saturating_critic_loss(self.code_critic(real), self.code_critic(fake))
        update(self.fabric, loss, self.code_optimiser)
        return {"code_critic": loss.item()}
