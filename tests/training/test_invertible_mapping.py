"""A mapping that is run backwards: z -> w -> z, in the latent discriminator, in runs and in exported graphs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch import nn

from export.bundles.building import BundleConfig, build
from export.bundles.checkpoint import load_pipeline
from export.graphs.graphs import to_onnx
from tests.training.pictures import write_pictures
from training.__main__ import main
from training.networks.bidirectional.invertible_mapping import InvertibleMapping
from training.networks.generator import Generator, GeneratorConfig, build_mapping
from training.networks.latent_discriminator import LatentDiscriminator
from training.run_folders.checkpoint import load_meta, load_network, read_network
from training.run_folders.json_files import read_config

SHAPE = GeneratorConfig(
    32, (8, 8, 8, 8), z_size=16, code_size=16, mapping_depth=4, mapping="invertible", per_layer_code=False
)


def far_from_identity(size: int, depth: int) -> InvertibleMapping:
    """A mapping whose couplings shift each half by a third of its spread; they start by changing nothing."""
    torch.manual_seed(0)
    mapping = InvertibleMapping(size, depth, layers=6)
    for coupling in mapping.couplings:
        nn.init.normal_(coupling.affine.weight, std=0.3 / coupling.affine.weight_scale / size**0.5)  # type: ignore[union-attr, operator, arg-type]
    return mapping


@torch.no_grad()
@pytest.mark.parametrize(("size", "depth"), [(16, 1), (512, 8)])
def test_z_is_found_again_and_so_is_any_w(size: int, depth: int) -> None:
    mapping = far_from_identity(size, depth)
    z = torch.randn(200, size)
    code = mapping(z)
    assert code.shape == (200, 6, size)
    # Half of z passes a coupling as it is; the rest has moved.
    assert (code[:, 0] - z).abs().mean() > 0.1
    torch.testing.assert_close(mapping.inverse(code[:, 0]), z, rtol=0, atol=1e-4)
    torch.testing.assert_close(mapping.inverse(code), z[:, None].expand(-1, 6, -1), rtol=0, atol=1e-4)
    w = code[torch.randperm(200), 0].lerp(code[:, 3], 0.5)  # no z was drawn for these
    torch.testing.assert_close(mapping(mapping.inverse(w))[:, 5], w, rtol=0, atol=1e-4)


@torch.no_grad()
def test_the_latent_discriminator_reads_z_off_a_code_exactly() -> None:
    mapping = far_from_identity(16, 4)
    discriminator = LatentDiscriminator(
        torch.zeros(6, 16), torch.ones(6, 16), "native", width=32, inputs=mapping.last_inputs
    )
    trained, stored = len(list(discriminator.parameters())), discriminator.state_dict().keys()
    seen = discriminator.native.fit(mapping)
    # The inverse follows from the mapping: no optimiser and no checkpoint has it a second time.
    assert len(list(discriminator.parameters())) == trained
    assert discriminator.state_dict().keys() == stored
    z = torch.randn(300, 16)
    inputs, outside = seen(mapping(z)).split([16, 6], 1)
    torch.testing.assert_close(inputs, z, rtol=0, atol=1e-4)
    assert outside.max() < 1e-4
    moved = mapping(z) + 0.5 * (torch.arange(6) == 2)[:, None]
    inputs, outside = seen(moved).split([16, 6], 1)
    assert outside.mean(0).argmax() == 2
    assert (inputs - z).abs().mean() < 0.3  # the nearest native code is near
    assert discriminator(moved).shape == (300, 1)


def test_a_miniature_is_trained_saved_loaded_inverted_and_exported(tmp_path: Path) -> None:
    data = write_pictures(tmp_path, 8, 32)[0]
    common = ["--data", str(data), "--runs", str(tmp_path), "--batch", "4", "--compute.accelerator", "cpu",
              "--compute.precision", "32-true"]  # fmt: skip
    shape = ["--generator.resolution", "32", "--generator.channels", "8", "8", "8", "8", "--generator.z-size", "16",
             "--generator.code-size", "16", "--generator.mapping-depth", "4", "--generator.mapping", "invertible",
             "--generator.no-per-layer-code"]  # fmt: skip
    assert main(["gan", *common, *shape, "--images", "12", "--discriminator", "stylegan2"]) == 0
    (gan,) = tmp_path.glob("*-gan-*")
    generator = Generator(read_config(GeneratorConfig, load_meta(gan)["generator"]))
    assert generator.config == SHAPE
    load_network(gan, "generator_live", generator)
    assert isinstance(generator.mapping, InvertibleMapping)
    assert all(weight.any() for weight in generator.mapping.parameters())  # it left the identity
    assert main(["encoder", *common, "--gan", str(gan), "--images", "4", "--channels", "8", "8", "8", "8",
                 "--latent-discriminator-view", "native"]) == 0  # fmt: skip
    (run,) = tmp_path.glob("*-inversion-*")
    assert not [key for key in read_network(run, "latent_discriminator") if key.startswith("native.")]

    pipeline = load_pipeline(run)
    z = torch.randn(5, 16)
    code = pipeline.generator.mapping(z)
    torch.testing.assert_close(
        pipeline.latent_discriminator.native(code)[:, :16], z, rtol=0, atol=1e-4
    )  # fmt: skip
    built = build(pipeline, BundleConfig(run, tmp_path / "repository", sampled_codes=64))
    given = {"mapping": ("z", z), "critic": ("code", code)}
    for role, (name, value) in given.items():
        model = ir.to_proto(to_onnx(built.graphs[role], role)).SerializeToString()
        (found,) = onnxruntime.InferenceSession(model).run(None, {name: value.numpy()})
        wanted = built.originals[role](value)
        # Weights of graphs are rounded to float16, forwards and backwards alike.
        np.testing.assert_allclose(found, wanted.numpy(), rtol=0, atol=2e-2, err_msg=role)


def test_what_an_invertible_mapping_cannot_be_is_refused(tmp_path: Path) -> None:
    assert isinstance(build_mapping(SHAPE), InvertibleMapping)
    for wrong in (
        {"per_layer_code": True},
        {"z_size": 8},
        {"z_size": 15, "code_size": 15},
        {"mapping": "bent"},
    ):
        with pytest.raises(ValueError, match=r"mapping must be|needs per_layer_code off, and z_size"):
            GeneratorConfig(**{**SHAPE.__dict__, **wrong})


def test_a_mapping_is_not_fitted_in_its_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_pictures(tmp_path, 4, 32)[0]
    (tmp_path / "checkpoint").mkdir()
    meta = {"kind": "gan", "name": "m", "discriminator": "stylegan2", "generator": SHAPE.__dict__}
    (tmp_path / "checkpoint/checkpoint.json").write_text(json.dumps(meta))
    assert main(["gan", "--data", str(data), "--resume", str(tmp_path), "--fit-mapping"]) == 2
    assert "leave --fit-mapping out" in capsys.readouterr().err
