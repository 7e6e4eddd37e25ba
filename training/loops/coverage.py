"""Coverage: an encoder trained beside the generator, so that no kind of real picture is dropped.

Where pictures and hours are few a GAN keeps to one kind of face. Real pictures that must be reconstructed from native
codes hold it to all kinds (as in VAE-GAN, arXiv 1512.09300), and a mapping fitted to their codes makes samples as
varied.
"""

from __future__ import annotations

import torch
from lightning.fabric import Fabric
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from training.losses.perceptual import LPIPSSq
from training.networks.conditional.labels import signed
from training.networks.encoder import Encoder, EncoderConfig
from training.networks.generator import Generator, GeneratorConfig, Mapping, code_statistics, sample_codes
from training.networks.latent_discriminator import LatentDiscriminator, LatentDiscriminatorView
from training.networks.layers import EqualizedLinear, before_activation
from training.optimisation.adam import ParameterGroup, adam
from training.optimisation.adversary import Adversary, discriminator_adam
from training.optimisation.step import place


@torch.no_grad()
def fitted_mapping(config: GeneratorConfig, codes: Tensor, labels: Tensor | None = None) -> Mapping:
    """Make a mapping of one layer whose codes have the mean and the covariance of `codes` float [M, L, 512].

    Before the mapping's last leaky ReLU codes are close to Gaussian (Zhu et al., arXiv 2012.09036), so the fit is
    a principal component analysis there. `config` must have a `mapping_depth` of 1.

    `labels`: those of the codes, float32 [M, K], where `config` has labels. The mean is then a linear function of them,
    and the covariance that of what it leaves. A label that is not known, NaN, is read off the code (`fill_labels`), so
    that no kind of picture is left out because nobody labelled it.
    """
    mapping, given = Mapping(config).to(codes.device), codes.new_ones(len(codes), 1)
    linear = before_activation(codes.flatten(1))  # [M, L * 512]
    if labels is not None:
        given = torch.cat([given, signed(fill_labels(linear, labels).to(given))], 1)
    means = torch.linalg.lstsq(given, linear).solution  # [1 + K, L * 512]
    rank = min(config.z_size, len(codes))
    _, singular, components = torch.pca_lowrank(linear - given @ means, q=rank, center=False)
    (layer,) = mapping.layers
    assert isinstance(layer, EqualizedLinear)
    weight = torch.zeros_like(layer.weight)
    weight[:, :rank] = components * (singular / len(codes) ** 0.5)
    weight[:, config.z_size :] = means[1:].T
    layer.weight.copy_(weight / layer.weight_scale)
    layer.bias.copy_(means[0] / layer.bias_scale)
    return mapping


def fill_labels(codes: Tensor, labels: Tensor, components: int = 256) -> Tensor:
    """Fill labels float32 [M, K] that are NaN with how probable they are, by a logistic regression on the principal
    components of the codes, float32 [M, D], that is fitted where they are known."""
    if not labels.isnan().any():
        return labels
    left, singular, _ = torch.pca_lowrank(codes, q=min(components, *codes.shape))
    seen = (left * singular).cpu().numpy()
    filled = labels.clone()
    for column in filled.T:
        known = ~column.isnan().cpu().numpy()
        if known.all():
            continue
        told = LogisticRegression(max_iter=1_000).fit(seen[known], column[known].cpu().numpy())
        column[~known] = column.new_tensor(told.predict_proba(seen[~known])[:, 1])
    return filled


class Coverage:
    """Encoder and latent discriminator trained beside the generator."""

    CODE_WEIGHT = 0.02
    PERCEPTUAL_WEIGHT = 0.5
    # For equalised weights; at a fifth of it the discriminator never caught up with the encoder.
    DISCRIMINATOR_RATE = 1e-3
    BOUND_STEPS = 100  # between two bounds
    BOUND_CODES = 2_000

    def __init__(
        self,
        generator: Generator,
        fabric: Fabric,
        channels: tuple[int, ...],
        bottleneck: int,
        encoder_rate: float,
    ) -> None:
        """Start an encoder with `channels` feature maps at the statistics of the mapping's codes as it is now."""
        shape = generator.config
        mean, deviation = code_statistics(generator)
        self.fabric = fabric
        self.encoder = Encoder(
            EncoderConfig(
                shape.resolution,
                channels,
                bottleneck,
                layers=shape.layers,
                code_size=shape.code_size,
                activation=True,
                bounded=True,
            )
        )
        place(self.encoder, fabric)
        self.encoder.start_from(sample_codes(generator, 10_000))
        # Judged together, the different vectors of an encoder's code never pass for one w that is repeated.
        self.view: LatentDiscriminatorView = "joint" if shape.per_layer_code else "layer"
        discriminator = LatentDiscriminator(mean, deviation, self.view).to(fabric.device)
        self.latent = Adversary(
            discriminator,
            discriminator_adam(discriminator, self.DISCRIMINATOR_RATE),
            fabric,
            mixed_precision=False,
        )
        self.perceptual = place(LPIPSSq(), fabric)
        self.encoder_optimiser = adam(
            [ParameterGroup(list(self.encoder.parameters()), encoder_rate, (0.9, 0.99))]
        )

    def follow(self, generator: Generator) -> None:
        """Take the encoder's bound from the mapping as it is now: native codes move while the mapping is trained."""
        self.encoder.bound_by(sample_codes(generator, self.BOUND_CODES))

    def loss(self, real: Tensor, reconstruction: Tensor, code: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """What generator and encoder minimise: errors of the reconstruction, and codes that are not native.

        Pictures float [N, 3, H, W] in [-1, 1] and codes float [N, L, 512] -> the loss, to be weighed by
        `coverage_weight`, and its terms.
        """
        with self.fabric.autocast():
            mse = (reconstruction - real).square().mean()
            perceptual = self.perceptual(reconstruction, real).float().mean()
        code_loss = self.latent.generator_loss(code)
        total = mse + self.PERCEPTUAL_WEIGHT * perceptual + self.CODE_WEIGHT * code_loss
        terms = {"mse": mse, "perceptual": perceptual, "code": code_loss}
        return total, {name: term.detach() for name, term in terms.items()}

    def discriminator_step(self, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
        """One step of the latent discriminator on sampled codes and the encoder's, float [N, L, 512] each."""
        return {"latent_discriminator": self.latent.step(real, fake).loss}
