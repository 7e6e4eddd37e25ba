"""The bundle as a stranger finds it: files, manifest, configuration, contents of the graphs."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper
from safetensors.numpy import load_file

from export.__main__ import main
from export.bundles import bundle
from export.bundles.bundle import write_bundle
from export.parity.forward import FORBIDDEN
from export.parity.sessions import open_session, run
from export.parity.tolerances import ParityError, Tolerances
from tests.export.conftest import REFINE, Exported

ROLES = ("encoder", "generator", "mapping", "critic", "refiner")


def manifest_of(exported: Exported) -> dict:
    return json.loads((exported.repository / "tiny.json").read_text())


def model_of(exported: Exported, role: str) -> onnx.ModelProto:
    return onnx.load(exported.repository / f"tiny_{role}" / "1" / "model.onnx")


def test_manifest_describes_the_files(exported: Exported) -> None:
    manifest = manifest_of(exported)
    assert (manifest["format"], manifest["bundle"], manifest["resolution"], manifest["layers"]) == (
        1,
        "tiny",
        32,
        8,
    )
    assert manifest["data"] == "random weights"
    assert manifest["refine"] == vars(REFINE)
    assert set(manifest["graphs"]) == set(ROLES)
    for entry in (*manifest["graphs"].values(), manifest["tensors"]):
        content = (exported.repository / entry["file"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == entry["sha256"]
        assert len(content) < 20e6
    assert set(ROLES) <= set(manifest["parity"])
    tensors = load_file(exported.repository / "tiny.safetensors")
    samples = {key for key in tensors if key.startswith("sample/")}
    vectors = {"direction/smile", "direction/age", "boundary/smile", "across/smile"}
    assert set(tensors) - samples == {"mean_code", "code_std", *vectors}
    assert {key.split("/")[1] for key in samples} == set(ROLES)
    assert all(len(tensors[key]) == 1 for key in samples)
    assert [d["name"] for d in manifest["directions"]] == ["smile", "age"]
    assert [preset["label"] for preset in manifest["presets"]] == ["Merry"]
    assert manifest["statistics"]["code_variance"] == pytest.approx(np.square(tensors["code_std"]).mean())


def test_nothing_else_is_left_behind(exported: Exported) -> None:
    assert {p.name for p in exported.repository.iterdir()} == {
        *(f"tiny_{role}" for role in ROLES), "tiny.json", "tiny.safetensors",
    }  # fmt: skip
    assert {p.name for p in exported.repository.parent.iterdir()} == {"run", "repository"}


def test_gateway_reads_it(exported: Exported) -> None:
    serving = pytest.importorskip("serving.repository.reader")
    read = serving.read_bundle(exported.repository, "tiny")
    assert (read.layers, read.refine.chunk_steps) == (8, REFINE.chunk_steps)


@pytest.mark.parametrize("role", ROLES)
def test_configuration_matches_the_manifest(exported: Exported, role: str) -> None:
    text = (exported.repository / f"tiny_{role}" / "config.pbtxt").read_text()
    graph = manifest_of(exported)["graphs"][role]
    assert f'name: "tiny_{role}"' in text
    assert 'backend: "onnxruntime"' in text
    assert f"max_batch_size: {graph['max_batch_size']}\n" in text
    assert "timeout_action: REJECT" in text
    assert "max_queue_size" in text
    assert "kind:" not in text
    for spec in (*graph["inputs"], *graph["outputs"]):
        dims = ", ".join(str(size) for size in spec["shape"][1:])
        kind = {"uint8": "TYPE_UINT8", "float32": "TYPE_FP32"}[spec["dtype"]]
        assert f'name: "{spec["name"]}" data_type: {kind} dims: [ {dims} ]' in text


@pytest.mark.parametrize("role", ROLES)
def test_no_control_flow_and_nothing_random(exported: Exported, role: str) -> None:
    model = model_of(exported, role)
    assert not [node.op_type for node in model.graph.node if node.op_type.startswith(FORBIDDEN)]
    assert {entry.domain for entry in model.opset_import} == {""}


@pytest.mark.parametrize(("role", "at_least"), [("generator", 7), ("mapping", 1), ("refiner", 7 + 2)])
def test_epsilons_are_in_the_graph(exported: Exported, role: str, at_least: int) -> None:
    """Torch's exporter deletes "+ 1e-8" where it optimises: demodulation, normalisation and Adam need theirs."""
    graph = model_of(exported, role).graph
    tiny = {
        t.name for t in graph.initializer if np.allclose(numpy_helper.to_array(t), 1e-8, rtol=1e-3, atol=0)
    }
    adds = [n for n in graph.node if n.op_type == "Add" and tiny & set(n.input)]
    assert len(adds) >= at_least


def test_weights_are_stored_once_and_halved(exported: Exported) -> None:
    for role in ROLES:
        graph = model_of(exported, role).graph
        large = [
            t for t in graph.initializer if t.data_type == onnx.TensorProto.FLOAT and np.prod(t.dims) > 65536
        ]
        assert not large, role
    contents = Counter(
        t.raw_data for t in model_of(exported, "refiner").graph.initializer if len(t.raw_data) > 1024
    )
    assert max(contents.values()) == 1


def test_no_weight_feeds_both_kinds_of_convolution(exported: Exported) -> None:
    graph = model_of(exported, "refiner").graph
    casts = {n.output[0]: n.input[0] for n in graph.node if n.op_type == "Cast"}
    kinds: dict[str, set[str]] = {}
    for node in graph.node:
        if node.op_type in ("Conv", "ConvTranspose"):
            weight = casts.get(node.input[1], node.input[1])
            kinds.setdefault(weight, set()).add(node.op_type)
    assert all(len(kind) == 1 for kind in kinds.values())


def test_score_is_a_percentile_of_inverted_samples(exported: Exported) -> None:
    def graph(role: str, **inputs: np.ndarray) -> np.ndarray:
        (output,) = run(open_session(exported.repository / f"tiny_{role}/1/model.onnx"), inputs).values()
        return output

    z = np.random.default_rng(1).standard_normal((400, 512)).astype(np.float32)
    image = graph("generator", code=graph("mapping", z=z))
    score = graph("critic", code=graph("encoder", image=image))
    assert score.shape == (400, 1)
    assert score.min() >= 0
    assert score.max() <= 1
    assert np.quantile(score, [0.25, 0.5, 0.75]) == pytest.approx([0.25, 0.5, 0.75], abs=0.1)


def test_failed_parity_raises_and_leaves_the_repository_alone(
    exported: Exported, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (exported.repository / "tiny.json").read_bytes()
    real, role_files = bundle.to_onnx, exported.repository

    def corrupted(graph, name):  # the files of the first export, one weight of the encoder changed
        model = ir.load(role_files / name / "1" / "model.onnx")
        if graph.role == "encoder":
            weight = next(iter(model.graph.initializers.values()))
            weight.const_value = ir.tensor(weight.const_value.numpy() * 2, name=weight.name)
        return model

    assert real is not corrupted
    monkeypatch.setattr(bundle, "to_onnx", corrupted)
    with pytest.raises(ParityError, match="encoder: relative error"):
        write_bundle(exported.config)
    assert (exported.repository / "tiny.json").read_bytes() == before
    test_nothing_else_is_left_behind(exported)

    arguments = ["export", "bundle", str(exported.run), "--to", str(exported.repository.parent / "fresh")]
    monkeypatch.setattr("sys.argv", [*arguments, "--refine.chunk-steps", str(REFINE.chunk_steps)])
    assert main() == 3
    assert "encoder" in capsys.readouterr().err
    assert not (exported.repository.parent / "fresh").exists()


def test_replaces_a_bundle_of_the_same_name(
    exported: Exported, monkeypatch: pytest.MonkeyPatch, tmp_path
) -> None:
    shutil.copytree(exported.repository, tmp_path / "repository")
    monkeypatch.setattr(
        bundle, "to_onnx", lambda graph, name: ir.load(exported.repository / name / "1" / "model.onnx")
    )
    config = bundle.BundleConfig(
        exported.run, tmp_path / "repository", refine=REFINE, sampled_codes=exported.config.sampled_codes
    )
    assert "tiny written to" in write_bundle(config)
    assert {p.name for p in tmp_path.iterdir()} == {"repository"}


def test_a_run_that_is_none_is_one_line(tmp_path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr("sys.argv", ["export", "bundle", str(tmp_path), "--to", str(tmp_path / "out")])
    assert main() == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_tolerances_are_those_that_were_promised() -> None:
    tolerances = Tolerances()
    assert (tolerances.relative, tolerances.picture_share, tolerances.gradient, tolerances.loss) == (
        1e-3, 0.999, 1.5e-4, 1e-3,
    )  # fmt: skip
