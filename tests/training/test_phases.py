"""Convolutions on phases, which GPUs use, give what the plain ones give: pictures, logits and gradients."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from training.losses.adversarial import r1_penalty
from training.networks import layers
from training.networks.generator import Generator, GeneratorConfig
from training.networks.image_discriminators import StyleGAN2Discriminator

SHAPE = GeneratorConfig(32, (12, 10, 8, 6), z_size=16, code_size=16, mapping_depth=2)


def both_forms(monkeypatch: pytest.MonkeyPatch, run: Callable[[], list[Tensor]]) -> None:
    """Hold what `run` gives in one form equal to what it gives in the other, to 1e-4."""
    results = []
    for phases in (False, True):
        with monkeypatch.context() as patch:
            patch.setattr(layers, "on_phases", lambda _, phases=phases: phases)
            results.append(run())
    plain, on_phases = results
    assert len(plain) == len(on_phases)
    for a, b in zip(plain, on_phases, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-4 * float(a.abs().max()))


def gradients(network: nn.Module) -> list[Tensor]:
    found = [p.grad for p in network.parameters() if p.grad is not None]
    network.zero_grad(set_to_none=True)
    return found


def test_pictures_and_their_gradients_are_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    generator, z, weight = Generator(SHAPE), torch.randn(3, 16), torch.randn(3, 3, 32, 32)

    def run() -> list[Tensor]:
        image = generator(z)
        (image * weight).sum().backward()
        return [image.detach(), *gradients(generator)]

    both_forms(monkeypatch, run)


def test_logits_gradients_and_r1_are_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    discriminator, image = StyleGAN2Discriminator(SHAPE), torch.randn(4, 3, 32, 32)

    def run() -> list[Tensor]:
        seen = image.clone().requires_grad_()
        logits = discriminator(seen)
        logits.square().sum().backward()
        assert seen.grad is not None
        first = [logits.detach(), seen.grad, *gradients(discriminator)]
        penalty = r1_penalty(discriminator, image)
        penalty.backward()
        return [*first, penalty.detach(), *gradients(discriminator)]

    both_forms(monkeypatch, run)


def test_the_plain_form_is_that_of_cpus() -> None:
    assert not layers.on_phases(torch.zeros(1))
