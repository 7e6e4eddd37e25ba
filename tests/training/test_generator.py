"""Generator against slow references: modulation of weights per sample, up-sampling by zeros, the shapes of codes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from training.networks.generator import Generator, GeneratorConfig, ModulatedConv, code_statistics
from training.networks.layers import fir_kernel

CONFIG = GeneratorConfig(resolution=16, channels=(8, 8, 4), z_size=16, code_size=16)


def modulated_conv_ref(layer: ModulatedConv, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """Equations 1 to 3 of arXiv 1912.04958 as written: weights scaled and demodulated for each sample."""
    style = layer.style(w)
    results = []
    for sample, s in zip(x, style, strict=True):
        weight = layer.weight * layer.weight_scale * s[None, :, None, None]
        if layer.demodulate:
            weight = weight * torch.rsqrt(weight.square().sum((1, 2, 3), keepdim=True) + 1e-8)
        y = sample[None]
        if layer.up:
            zeros = torch.zeros(1, y.shape[1], y.shape[2] * 2 + 1, y.shape[3] * 2 + 1)
            zeros[:, :, 1::2, 1::2] = y
            # a transposed convolution is a convolution of the zero-filled picture with the kernel flipped
            y = F.conv2d(F.pad(zeros, (1, 1, 1, 1)), weight.flip(2, 3))
            blur = (fir_kernel() * 4).expand(y.shape[1], 1, 4, 4)
            y = F.conv2d(y, blur, padding=1, groups=y.shape[1])
        else:
            y = F.conv2d(y, weight, padding=layer.padding)
        results.append(y)
    return torch.cat(results)


@pytest.mark.parametrize(
    ("kernel", "up", "demodulate"), [(3, False, True), (3, True, True), (1, False, False)]
)
def test_scaled_activations_equal_weights_modulated_per_sample(
    kernel: int, up: bool, demodulate: bool
) -> None:
    torch.manual_seed(0)
    layer = ModulatedConv(8, 6, kernel, CONFIG, up=up, demodulate=demodulate)
    x, w = torch.randn(3, 8, 8, 8), torch.randn(3, 16)
    expected = modulated_conv_ref(layer, x, w)
    assert layer(x, w).shape == (3, 6, 16, 16) if up else (3, 6, 8, 8)
    torch.testing.assert_close(layer(x, w), expected, rtol=1e-4, atol=1e-5)


def test_a_code_has_a_vector_for_each_layer() -> None:
    torch.manual_seed(0)
    generator = Generator(CONFIG)
    code = generator.mapping(torch.randn(3, 16))
    assert code.shape == (3, CONFIG.layers, 16) == (3, 6, 16)
    assert not torch.equal(code[:, 0], code[:, 1])
    assert generator.synthesis(code).shape == (3, 3, 16, 16)


def test_repeated_codes_are_an_option() -> None:
    config = GeneratorConfig(resolution=16, channels=(8, 8, 4), z_size=16, code_size=16, per_layer_code=False)
    code = Generator(config).mapping(torch.randn(2, 16))
    assert code.shape == (2, 6, 16)
    assert torch.equal(code[:, 0], code[:, 5])


def test_every_vector_of_the_code_reaches_the_picture() -> None:
    torch.manual_seed(0)
    generator = Generator(CONFIG)
    code = generator.mapping(torch.randn(1, 16)).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(generator.synthesis(code).square().sum(), code)
    assert (gradient.abs().amax(2) > 0).all()


def test_constant_noise_gives_the_same_picture_twice_and_random_noise_does_not() -> None:
    generator = Generator(CONFIG)
    for layer in generator.synthesis.styled:
        layer.noise_strength.data.fill_(1.0)
    z = torch.randn(1, 16)
    assert torch.equal(generator(z), generator(z))
    assert not torch.equal(generator(z, random_noise=True), generator(z, random_noise=True))


def test_statistics_of_codes_do_not_hang_on_the_seed() -> None:
    generator = Generator(CONFIG)
    mean, deviation = code_statistics(generator, samples=4_000, seed=0)
    other, _ = code_statistics(generator, samples=4_000, seed=1)
    assert mean.shape == deviation.shape == (6, 16)
    assert ((mean - other).abs() < 0.2 * deviation + 1e-4).all()


@pytest.mark.parametrize("bad", [{"resolution": 48}, {"resolution": 64, "channels": (8, 8)}])
def test_a_shape_that_cannot_be_is_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"power of two|entries in channels"):
        GeneratorConfig(**bad)  # type: ignore[arg-type]
