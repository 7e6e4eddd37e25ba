"""StyleGAN1's synthesis network against slow references, and its folded twin."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from export.graphs.folding import FoldedMapping, fold_synthesis
from training.directions.factors import sefa
from training.networks.generator import Generator, GeneratorConfig
from training.networks.stylegan1 import UpConv, instance_norm
from training.run_folders.json_files import read_config

CONFIG = GeneratorConfig(
    resolution=16, channels=(8, 8, 4), z_size=16, code_size=16, mapping_depth=2, architecture="stylegan1"
)


def generator_with_noise(config: GeneratorConfig = CONFIG) -> Generator:
    torch.manual_seed(0)
    generator = Generator(config)
    with torch.no_grad():
        for layer in generator.synthesis.styled:
            layer.noise_strength.normal_()
            layer.bias.normal_()
            layer.style.bias.add_(torch.randn(layer.style.bias.shape))
    return generator.requires_grad_(False)


def test_up_convolution_is_nearest_neighbours_and_the_flipped_kernel() -> None:
    torch.manual_seed(0)
    layer, x = UpConv(5, 6), torch.randn(2, 5, 8, 8)
    large = F.interpolate(x, scale_factor=2, mode="nearest")
    y = F.conv2d(large, layer.weight.flip(2, 3), padding=1) * (2 / (5 * 9)) ** 0.5
    taps = torch.tensor([1.0, 2.0, 1.0])
    wanted = F.conv2d(y.flatten(0, 1)[:, None], torch.outer(taps, taps)[None, None] / 16, padding=1)
    torch.testing.assert_close(layer(x).flatten(0, 1)[:, None], wanted, rtol=1e-4, atol=1e-5)


def test_instance_norm() -> None:
    x = torch.randn(3, 4, 8, 8) * 5 + 2
    torch.testing.assert_close(instance_norm(x), F.instance_norm(x, eps=1e-8), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("final_tanh", [False, True])
def test_folded_twin(final_tanh: bool) -> None:
    config = read_config(GeneratorConfig, {**vars(CONFIG), "final_tanh": final_tanh})
    generator, z = generator_with_noise(config), torch.randn(3, 16)
    wanted = generator(z)
    assert wanted.shape == (3, 3, 16, 16)
    assert (wanted.abs().max() <= 1) == final_tanh
    found = fold_synthesis(generator.synthesis)(FoldedMapping(generator.mapping)(z))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_every_vector_of_the_code_reaches_the_picture() -> None:
    generator = generator_with_noise()
    code = generator.mapping(torch.randn(1, 16)).requires_grad_()
    (gradient,) = torch.autograd.grad(generator.synthesis(code).square().sum(), code)
    assert (gradient.abs().amax(2) > 0).all()


def test_constant_noise_gives_the_same_picture_twice_and_random_noise_does_not() -> None:
    generator, z = generator_with_noise(), torch.randn(2, 16)
    assert torch.equal(generator(z), generator(z))
    assert not torch.equal(generator(z, random_noise=True), generator(z, random_noise=True))


def test_sefa_finds_the_steps_that_change_scales_and_shifts_most() -> None:
    generator = generator_with_noise()
    steps = sefa(generator, [0, 1], 2)
    assert steps.shape == (2, CONFIG.layers, 16)
    strongest, second = (
        sum(generator.synthesis.affines(k)[0].weight @ step[k] for k in (0,)).norm() ** 2
        + (generator.synthesis.affines(1)[0].weight @ step[1]).norm() ** 2
        for step in steps
    )
    assert strongest >= second


def test_an_older_checkpoint_names_no_architecture() -> None:
    older = {"resolution": 16, "channels": [8, 8, 4]}
    assert read_config(GeneratorConfig, older).architecture == "stylegan2"
    with pytest.raises(ValueError, match="architecture"):
        read_config(GeneratorConfig, {**older, "architecture": "stylegan3"})
    with pytest.raises(ValueError, match="tanh"):
        read_config(GeneratorConfig, {**older, "final_tanh": True})
