"""A conditional generator from its run folder to the gateway: parity, manifest, Triton's configuration, calls."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from run_folder import SMALL_ENCODER, SMALL_GENERATOR, write_run

import indomain
from export.bundles.building import BundleConfig, build
from export.bundles.bundle import write_bundle
from export.bundles.checkpoint import load_pipeline
from export.bundles.verification import VerifyConfig, verify
from export.graphs.graphs import to_onnx
from tests.serving.running_gateway import RunningGateway, settings_for
from training.networks.bidirectional.invertible_mapping import InvertibleMapping
from training.networks.generator import GeneratorConfig
from training.refinement.refinement import RefinementConfig

NAMES = ("smiling", "male")
DENSE = replace(SMALL_GENERATOR, labels=NAMES)
ONE_LAYER = replace(DENSE, mapping_depth=1)
INVERTIBLE = replace(DENSE, mapping="invertible", per_layer_code=False, z_size=64, code_size=64)


def run_of(folder: Path, shape: GeneratorConfig) -> Path:
    return write_run(folder / "run", shape, replace(SMALL_ENCODER, code_size=shape.code_size))


def test_a_labelled_bundle_is_exported_verified_and_served(tmp_path: Path) -> None:
    run, repository = run_of(tmp_path, INVERTIBLE), tmp_path / "repository"
    refine = RefinementConfig(steps=2, chunk_steps=2)
    write_bundle(BundleConfig(run, repository, refine=refine, sampled_codes=64))
    assert "tiny  relabeller  inputs, outputs and sample as stored" in verify(VerifyConfig(repository))
    manifest = json.loads((repository / "tiny.json").read_text())
    assert [label["name"] for label in manifest["labels"]] == list(NAMES)
    assert all(label["held_out"]["value"] > 0.95 for label in manifest["labels"])
    assert manifest["parity"]["relabeller"]["relative_error"] < 1e-3
    config = (repository / "tiny_relabeller/config.pbtxt").read_text()
    assert '{ name: "label" data_type: TYPE_FP32 dims: [ 2 ] }' in config
    assert (
        '{ name: "label" data_type: TYPE_FP32 dims: [ 2 ] }'
        in (repository / "tiny_mapping/config.pbtxt").read_text()
    )
    mapping = load_pipeline(run).generator.mapping
    assert isinstance(mapping, InvertibleMapping)
    gateway = RunningGateway(settings_for(repository))
    try:
        for address in (gateway.target, gateway.url):
            with indomain.Client(address) as client:
                [without] = client.sample(5, 1.0, label={"smiling": 0, "male": 1})
                [wanted] = client.sample(5, 1.0, label={"smiling": 1, "male": 1})
                edited = client.edit(without, label={"smiling": 1})
                # The seed's z is the same: the edit is to find what sampling it with the other label gives.
                before, after = (np.linalg.norm(code - wanted.code) for code in (without.code, edited.code))
                assert after < 0.2 * before
                z = mapping.inverse(torch.from_numpy(without.code), torch.tensor([[0.0, 1.0]]))
                assert z.std(0).max() < 1e-3  # one z in all layers
                assert np.abs(np.asarray(edited.image).astype(int) - np.asarray(without.image)).mean() > 1
    finally:
        gateway.close()


@pytest.mark.parametrize("shape", [DENSE, ONE_LAYER, INVERTIBLE], ids=["dense", "one layer", "invertible"])
def test_graphs_do_with_labels_what_the_networks_do(tmp_path: Path, shape: GeneratorConfig) -> None:
    pipeline = load_pipeline(run_of(tmp_path, shape))
    built = build(pipeline, BundleConfig(tmp_path, tmp_path, sampled_codes=64))
    assert ("relabeller" in built.graphs) == shape.relabels
    assert all((label["held_out"] is not None) == shape.relabels for label in built.labels)
    z, label = pipeline.generator.mapping.draw(5)
    code = built.originals["mapping"](z, label)
    assert not torch.allclose(code, built.originals["mapping"](z, 1 - label), atol=0.1)
    given: dict[str, dict[str, torch.Tensor]] = {"mapping": {"z": z, "label": label}}
    if shape.relabels:
        given["relabeller"] = {"code": code, "label": 1 - label}
        kept = built.originals["relabeller"](code, torch.full_like(label, -1))
        torch.testing.assert_close(kept, code, rtol=0, atol=1e-4)
    for role, inputs in given.items():
        model = ir.to_proto(to_onnx(built.graphs[role], role)).SerializeToString()
        session = onnxruntime.InferenceSession(model)
        (found,) = session.run(None, {name: value.numpy() for name, value in inputs.items()})
        wanted = built.originals[role](*inputs.values()).numpy()
        np.testing.assert_allclose(found, wanted, rtol=0, atol=5e-3 * np.abs(wanted).max(), err_msg=role)
