"""Folded twins give what the training networks give; storage as float16 is exact."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import nn

from export.graphs.encoder_folding import fold_encoder
from export.graphs.folding import (
    FoldedMapping,
    FoldedSynthesis,
    fold_latent_discriminator,
    fold_synthesis,
    round_weights,
)
from export.graphs.storage import compress
from tests.export.conftest import Exported
from training.networks.encoder import Encoder, EncoderConfig
from training.networks.generator import Generator, GeneratorConfig
from training.networks.latent_discriminator import LatentDiscriminator


@torch.no_grad()
def test_twins_equal_their_networks(exported: Exported) -> None:
    pipeline = exported.pipeline
    z = torch.randn(4, 512)
    code = pipeline.generator.mapping(z)
    image = pipeline.generator.synthesis(code)
    pairs = (
        (FoldedMapping(pipeline.generator.mapping)(z), code),
        (FoldedSynthesis(pipeline.generator.synthesis)(code), image),
        (fold_encoder(pipeline.encoder)(image), pipeline.encoder(image)),
        (fold_latent_discriminator(pipeline.latent_discriminator)(code), pipeline.latent_discriminator(code)),
    )
    for found, wanted in pairs:
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_repeated_code_and_layer_view() -> None:
    """Stock StyleGAN2's mapping, and the discriminator that judges one layer's vector at a time."""
    mapping = Generator(GeneratorConfig(8, (8, 8), mapping_depth=2, per_layer_code=False)).mapping
    z = torch.randn(3, 512)
    code = mapping(z)
    torch.testing.assert_close(FoldedMapping(mapping)(z), code, rtol=1e-4, atol=1e-4)
    discriminator = LatentDiscriminator(torch.randn(4, 512), torch.rand(4, 512) + 0.5, "layer")
    torch.testing.assert_close(
        fold_latent_discriminator(discriminator)(code), discriminator(code), rtol=1e-4, atol=1e-4
    )


@torch.no_grad()
def test_a_bounded_encoder_and_its_twin() -> None:
    """Inside the bound and far beyond it."""
    torch.manual_seed(0)
    encoder = Encoder(EncoderConfig(16, (8, 8, 8), 4, 6, 16, activation=True, bounded=True))
    encoder.start_from(torch.randn(6, 16) + torch.rand(6, 16) * torch.randn(500, 6, 16))
    encoder(torch.randn(8, 3, 16, 16))
    encoder.eval()
    for factor in (1.0, 1e3):
        encoder.fc.weight.mul_(factor)
        picture = torch.rand(4, 3, 16, 16) * 2 - 1
        torch.testing.assert_close(fold_encoder(encoder)(picture), encoder(picture), rtol=1e-4, atol=1e-4)


NETWORKS: dict[str, Callable[[], tuple[nn.Module, nn.Module, torch.Tensor]]] = {
    **{
        f"generator, {architecture}": lambda architecture=architecture: with_twin(
            Generator(GeneratorConfig(16, (8, 8, 8), 16, 16, architecture=architecture)).synthesis,
            fold_synthesis,
            torch.randn(2, 6, 16),
        )
        for architecture in ("stylegan2", "stylegan1")
    },
    **{
        f"encoder, {config.architecture}": lambda config=config: with_twin(
            Encoder(config), fold_encoder, torch.randn(2, 3, config.resolution, config.resolution)
        )
        for config in (
            EncoderConfig(16, (8, 8, 8), 4, 6, 16, activation=True, bounded=True),
            EncoderConfig(16, (8, 8, 8), 4, 6, 16, architecture="idinvert"),
        )
    },
}


def with_twin(
    network: nn.Module, fold: Callable[[nn.Module], nn.Module], given: torch.Tensor
) -> tuple[nn.Module, nn.Module, torch.Tensor]:
    network.eval()
    return network, fold(network), given


@torch.no_grad()
@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_computed_in_float64_stays_so(name: str) -> None:
    """A graph's gradient is held to that in float64: a part in float32 would make it no better, or fail."""
    network, twin, given = NETWORKS[name]()
    for one in (network, twin):
        wanted = one(given)
        coarse = parts_not_in_float64(one.double())
        torch.testing.assert_close(one(given.double()).float(), wanted, rtol=1e-4, atol=1e-4)
        assert not coarse


def parts_not_in_float64(network: nn.Module) -> list[str]:
    """The parts whose outputs are of another type; it fills while the network computes."""
    found: list[str] = []

    def note(name: str, output: object) -> None:
        if isinstance(output, torch.Tensor) and output.dtype != torch.float64:
            found.append(name)

    for name, part in network.named_modules():
        part.register_forward_hook(lambda _, __, output, name=name: note(name, output))
    return found


def test_rounding_leaves_what_float16_cannot_hold() -> None:
    layers = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    with torch.no_grad():
        layers[0].weight.fill_(0.1)
        layers[1].weight.fill_(1e5)
    round_weights(layers)
    assert (layers[0].weight == layers[0].weight.half().float()).all()
    assert (layers[1].weight == 1e5).all()


def test_storage_as_float16_is_exact_or_left_out() -> None:
    rng = np.random.default_rng(0)
    exact = rng.standard_normal(4096).astype(np.float16).astype(np.float32)
    inexact = rng.standard_normal(4096).astype(np.float32)
    values = [
        ir.val(name, const_value=ir.tensor(data)) for name, data in (("exact", exact), ("inexact", inexact))
    ]
    node = ir.node("Add", values)
    graph = ir.Graph([], node.outputs, nodes=[node], initializers=values, opset_imports={"": 20})
    compress(ir.Model(graph, ir_version=10))
    assert set(graph.initializers) == {"exact.half", "inexact"}
    stored = graph.initializers["exact.half"].const_value
    assert stored is not None
    np.testing.assert_array_equal(stored.numpy().astype(np.float32), exact)
    assert [n.op_type for n in graph] == ["Cast", "Add"]
