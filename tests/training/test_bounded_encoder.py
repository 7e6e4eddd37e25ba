"""A bounded encoder's codes stay within what native codes reach, whatever the picture and the weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from training.networks.encoder import CodeBound, Encoder, EncoderConfig
from training.networks.layers import before_activation, scaled_leaky_relu
from training.recipe import read_recipe

RECIPES = Path(__file__).parents[2] / "training/recipes"
SHAPE = EncoderConfig(16, (8, 8, 8), bottleneck=4, layers=6, code_size=16, activation=True, bounded=True)


def native_codes() -> Tensor:
    random = torch.Generator().manual_seed(0)
    spread = torch.rand(6, 16, generator=random) + 0.5
    before = torch.randn(6, 16, generator=random) + spread * torch.randn(2_000, 6, 16, generator=random)
    return scaled_leaky_relu(before)


def hard_pictures() -> Tensor:
    """Dark, bright, flat, noisy and hard-contrast pictures float [N, 3, 16, 16]."""
    random = torch.Generator().manual_seed(1)
    noise = torch.rand(3, 16, 16, generator=random) * 2 - 1
    board = ((torch.arange(16)[:, None] + torch.arange(16)) % 2).float().expand(3, 16, 16) * 2 - 1
    halves = torch.where(torch.arange(16) < 8, -1.0, 1.0).expand(3, 16, 16)
    return torch.stack([
        torch.full((3, 16, 16), -1.0), torch.full((3, 16, 16), 1.0), torch.zeros(3, 16, 16),
        noise, noise.sign(), noise * 0.01 - 0.98, board, halves,
    ])  # fmt: skip


@pytest.fixture
def encoder() -> Encoder:
    torch.manual_seed(0)
    made = Encoder(SHAPE)
    made.start_from(native_codes())
    for _ in range(5):
        made(torch.rand(8, 3, 16, 16) - 0.5)
    return made


def distance(encoder: Encoder, codes: Tensor) -> Tensor:
    """How far the farthest entry of each code lies, in units of the bound."""
    assert isinstance(encoder.bound, CodeBound)
    x = (before_activation(codes.flatten(1)) - encoder.bound.centre) / encoder.bound.spread
    return x.abs().amax(1) / encoder.bound.reach


@torch.no_grad()
@pytest.mark.parametrize("training", [False, True])
def test_no_picture_gives_a_code_beyond_the_bound(encoder: Encoder, training: bool) -> None:
    codes = encoder.train(training)(hard_pictures())
    assert codes.isfinite().all()
    assert (distance(encoder, codes) <= 1 + 1e-4).all()


@torch.no_grad()
@pytest.mark.parametrize("size", [1.0, 10.0, 100.0])
def test_no_weights_and_no_statistics_give_a_code_beyond_the_bound(encoder: Encoder, size: float) -> None:
    torch.manual_seed(2)
    for parameter in encoder.parameters():
        parameter.add_(size * torch.randn_like(parameter))
    for module in encoder.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.add_(size * torch.randn_like(module.running_mean))
            module.running_var.mul_(torch.rand_like(module.running_var) / size)
    codes = encoder.eval()(hard_pictures())
    assert codes.isfinite().all()
    assert (distance(encoder, codes) <= 1 + 1e-4).all()
    unbounded = Encoder(SHAPE)
    unbounded.load_state_dict(encoder.state_dict())
    unbounded.unbound()
    assert (distance(encoder, unbounded.eval()(hard_pictures())) > 1).any()


@torch.no_grad()
def test_native_codes_lie_within_the_bound_and_most_pass_unchanged(encoder: Encoder) -> None:
    given = before_activation(native_codes().flatten(1))
    bound = encoder.bound
    passed = bound(given)
    near = ((given - bound.centre) / bound.spread).abs() <= CodeBound.LINEAR * bound.reach  # type: ignore[operator]
    assert near.float().mean() > 0.99
    torch.testing.assert_close(passed[near], given[near], rtol=1e-5, atol=1e-5)
    assert 3 < float(bound.reach) < 5  # type: ignore[arg-type]


@torch.no_grad()
def test_an_encoder_without_a_bound_gets_one_and_loses_it_again(encoder: Encoder) -> None:
    picture = torch.rand(4, 3, 16, 16) - 0.5
    encoder.eval().unbound()
    free = encoder(picture)
    assert not encoder.config.bounded
    assert not [key for key in encoder.state_dict() if key.startswith("bound")]
    encoder.bound_by(native_codes())
    assert encoder.config.bounded
    torch.testing.assert_close(encoder(picture).mean(0), free.mean(0), rtol=0, atol=2.0)
    assert (distance(encoder, encoder(picture)) <= 1 + 1e-4).all()


def test_the_encoder_at_128_pixels_has_at_most_seven_million_weights() -> None:
    (stage,) = (s for s in read_recipe(RECIPES / "faces128.toml") if s.command == "encoder")
    channels, bottleneck = stage.settings["channels"], stage.settings["bottleneck"]
    encoder = Encoder(
        EncoderConfig(128, tuple(channels), bottleneck, layers=12, activation=True, bounded=True)
    )
    assert sum(p.numel() for p in encoder.parameters()) <= 7_000_000
