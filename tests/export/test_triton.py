"""config.pbtxt as Triton itself reads it, with and without TensorRT, and what TensorRT is asked to build.

No engine is built here: that needs a GPU. What is checked is all that can fail before.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
import types
from pathlib import Path
from typing import Any

import onnx
import pytest
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig, ModelInstanceGroup

from export.__main__ import main
from serving.bundle import ROLES as NEEDED
from tests import shipped
from tests.export.conftest import Exported

ROLES = (*NEEDED, "detector")
# onnx-tensorrt's docs/operators.md, release 10.0: those of its supported operators that StyleGANs are made of
TENSORRT = {
    "Abs", "Add", "And", "AveragePool", "BatchNormalization", "Cast", "CastLike", "Ceil", "Clip", "Concat",
    "Constant", "ConstantOfShape", "Conv", "ConvTranspose", "Div", "Equal", "Erf", "Exp", "Expand", "Flatten",
    "Floor", "Gather", "GatherElements", "GatherND", "Gemm", "GlobalAveragePool", "Greater", "GreaterOrEqual",
    "Identity", "InstanceNormalization", "LeakyRelu", "Less", "LessOrEqual", "Log", "MatMul", "Max", "MaxPool",
    "Min", "Mul", "Neg", "Not", "Or", "Pad", "Pow", "PRelu", "Range", "Reciprocal", "ReduceMax", "ReduceMean",
    "ReduceMin", "ReduceSum", "ReduceSumSquare", "Relu", "Reshape", "Resize", "Round", "Shape", "Sigmoid",
    "Sign", "Slice", "Softplus", "Split", "Sqrt", "Squeeze", "Sub", "Sum", "Tanh", "Tile", "Transpose",
    "Unsqueeze", "Where",
}  # fmt: skip
TENSORRT_OPSETS = range(9, 21)
# the accelerator's parameters in onnxruntime_backend's src/onnxruntime.cc; any other one is a load error
ACCELERATOR = {
    "precision_mode", "max_workspace_size_bytes", "trt_engine_cache_enable", "trt_engine_cache_path",
    "trt_timing_cache_enable", "trt_timing_cache_path", "trt_layer_norm_fp32_fallback", "trt_profile_min_shapes",
    "trt_profile_opt_shapes", "trt_profile_max_shapes", "trt_cuda_graph_enable", "trt_builder_optimization_level",
}  # fmt: skip


def parsed(repository: Path, model: str) -> ModelConfig:
    return text_format.Parse((repository / model / "config.pbtxt").read_text(), ModelConfig())


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """The shipped bundle, without its weights."""
    shutil.copytree(shipped.REPOSITORY, tmp_path / "repository", ignore=shutil.ignore_patterns("*.onnx"))
    return tmp_path / "repository"


def graphs_of(repository: Path) -> dict[str, Any]:
    return json.loads(shipped.manifest_in(repository).read_text())["graphs"]


@pytest.mark.parametrize("tensorrt", [False, True])
@pytest.mark.parametrize("role", ROLES)
def test_triton_reads_the_configuration(repository: Path, role: str, tensorrt: bool) -> None:
    if tensorrt:
        assert main(["tensorrt", str(repository), "--release", "26.07", "--gpu", "h200"]) == 0
    graph = graphs_of(repository)[role]
    config = parsed(repository, graph["model"])
    assert (config.name, config.backend, config.max_batch_size) == (
        graph["model"], "onnxruntime", graph["max_batch_size"],
    )  # fmt: skip
    for entries, specs in ((config.input, graph["inputs"]), (config.output, graph["outputs"])):
        assert [(e.name, list(e.dims)) for e in entries] == [(b["name"], b["shape"][1:]) for b in specs]
    queue = config.dynamic_batching.default_queue_policy
    assert queue.max_queue_size >= config.max_batch_size
    (instances,) = config.instance_group
    wanted = ModelInstanceGroup.KIND_GPU if tensorrt else ModelInstanceGroup.KIND_AUTO
    assert instances.kind == wanted
    assert bool(config.model_warmup) == tensorrt


@pytest.mark.parametrize("role", ROLES)
def test_tensorrt_has_its_profiles_its_own_cache_and_warm_ups(repository: Path, role: str) -> None:
    assert (
        main(["tensorrt", str(repository), "--release", "26.07", "--gpu", "h200", "--precision", "bf16"]) == 0
    )
    graph = graphs_of(repository)[role]
    config = parsed(repository, graph["model"])
    (accelerator,) = config.optimization.execution_accelerators.gpu_execution_accelerator
    settings = dict(accelerator.parameters)
    assert accelerator.name == "tensorrt"
    assert settings.keys() <= ACCELERATOR
    assert settings["precision_mode"] == ("FP32" if role in ("refiner", "detector") else "BF16")
    for part in ("26.07", "h200", graph["sha256"][:16]):
        assert part in settings["trt_engine_cache_path"]
    profile = [settings[f"trt_profile_{end}_shapes"] for end in ("min", "opt", "max")]
    sizes = []
    for shapes in profile:
        found = dict(entry.split(":") for entry in shapes.split(","))
        assert found.keys() == {spec["name"] for spec in graph["inputs"]}
        for spec in graph["inputs"]:
            batch, *dims = map(int, found[spec["name"]].split("x"))
            assert dims == spec["shape"][1:]
        sizes.append(batch)
    assert sizes[0] == 1
    assert sizes == sorted(sizes)
    assert sizes[2] == config.max_batch_size
    assert [warm_up.batch_size for warm_up in config.model_warmup] == sorted(set(sizes))
    for warm_up in config.model_warmup:
        assert set(warm_up.inputs) == {spec["name"] for spec in graph["inputs"]}


def test_the_refiner_is_set_to_openvino_and_nothing_else(repository: Path) -> None:
    before = {path.parent.name: path.read_text() for path in repository.rglob("*.pbtxt")}
    assert main(["openvino", str(repository)]) == 0
    config = parsed(repository, shipped.model_of("refiner"))
    assert (config.backend, config.default_model_filename) == ("openvino", "model.onnx")
    # the back end's own names, of its README; it does not complain of others
    assert set(config.parameters) == {"PERFORMANCE_HINT", "NUM_STREAMS", "HINT_BF16"}
    usual = text_format.Parse(before.pop(shipped.model_of("refiner")), ModelConfig())
    assert (config.input, config.output) == (usual.input, usual.output)
    assert config.dynamic_batching == usual.dynamic_batching
    for model, text in before.items():
        assert (repository / model / "config.pbtxt").read_text() == text


@pytest.mark.parametrize("role", ROLES)
def test_tensorrt_can_take_the_graphs(exported: Exported, role: str) -> None:
    file = exported.repository / f"tiny_{role}" / "1" / "model.onnx"
    if role == "detector":  # the same in every bundle that has one
        file = shipped.REPOSITORY / shipped.MANIFEST["graphs"]["detector"]["file"]
    graph = onnx.shape_inference.infer_shapes(onnx.load(file)).graph
    assert {node.op_type for node in graph.node} <= TENSORRT
    assert onnx.load(file).opset_import[0].version in TENSORRT_OPSETS
    # bytes are taken at the specs only, and cast at once
    specs = {value.name for value in [*graph.input, *graph.output]}
    types_of = {
        v.name: v.type.tensor_type.elem_type for v in [*graph.input, *graph.output, *graph.value_info]
    }
    of_bytes = {name for name, kind in types_of.items() if kind == onnx.TensorProto.UINT8}
    assert of_bytes <= specs
    touching = [node for node in graph.node if of_bytes & {*node.input, *node.output}]
    assert {node.op_type for node in touching} <= {"Cast"}
    assert len(types_of) > len(graph.node) / 2  # shapes and types were found


def test_without_tensorrt_a_script_builds_the_plans(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")  # no nvidia-smi
    before = {path: path.read_bytes() for path in repository.rglob("*.pbtxt")}
    assert main(["tensorrt", str(repository), "--plans", str(tmp_path / "plans")]) == 0
    assert {path: path.read_bytes() for path in repository.rglob("*.pbtxt")} == before
    lines = (tmp_path / "plans/build-plans.sh").read_text().splitlines()
    commands = {
        m[1]: shlex.split(line)
        for line in lines
        if (m := re.search(rf"{shipped.NAME}_(\w+)/\d+/model.onnx", line))
    }
    assert commands.keys() == graphs_of(repository).keys()
    for role, command in commands.items():
        options = dict(option.lstrip("-").split("=", 1) for option in command[1:] if "=" in option)
        graph = graphs_of(repository)[role]
        assert command[0] == "trtexec"
        assert (tmp_path / "plans" / options["onnx"]).resolve() == repository / graph["file"]
        assert ("--fp16" in command) == (role not in ("refiner", "detector", "relabeller", "identity"))
        assert options["maxShapes"].startswith(f"{graph['inputs'][0]['name']}:{graph['max_batch_size']}x")
        config = parsed(tmp_path / "plans", graph["model"])
        assert config.platform == "tensorrt_plan"
        assert not config.backend
        assert not config.parameters
        assert options["saveEngine"] == f"{graph['model']}/{graph['version']}/model.plan"
    assert main(["tensorrt", str(repository), "--plans", str(repository)]) == 2
    assert {path: path.read_bytes() for path in repository.rglob("*.pbtxt")} == before


def test_a_graph_in_16_bits_keeps_its_own_precision(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = json.loads(shipped.manifest_in(repository).read_text())
    manifest["graphs"]["generator"]["precision"] = "bfloat16"
    shipped.manifest_in(repository).write_text(json.dumps(manifest))
    assert main(["tensorrt", str(repository), "--release", "26.07", "--gpu", "h200"]) == 0
    modes = {
        role: re.search(
            r'"precision_mode" value: "(\w+)"',
            (repository / shipped.model_of(role) / "config.pbtxt").read_text(),
        )
        for role in ROLES
    }
    found = {role: mode[1] for role, mode in modes.items() if mode}
    assert (found["generator"], found["encoder"], found["refiner"]) == ("BF16", "FP16", "FP32")
    monkeypatch.setenv("PATH", "")  # no nvidia-smi
    assert main(["tensorrt", str(repository), "--plans", str(tmp_path / "plans")]) == 0
    lines = (tmp_path / "plans/build-plans.sh").read_text().splitlines()
    typed = [line for line in lines if "--stronglyTyped" in line]
    assert len(typed) == 1
    assert shipped.model_of("generator") in typed[0]
    assert "--fp16" not in typed[0]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--gpu", "h200"], "--release"),
        (["--release", "26.07"], "--gpu"),
        (["--release", "26.07", "--gpu", "h200", "--bundle", "cats"], "none"),
    ],
)
def test_what_is_missing_is_said_and_nothing_written(
    repository: Path,
    options: list[str],
    says: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "")  # no nvidia-smi
    before = {path: path.read_bytes() for path in repository.rglob("*.pbtxt")}
    assert main(["tensorrt", str(repository), *options]) == 2
    assert says in capsys.readouterr().err
    assert {path: path.read_bytes() for path in repository.rglob("*.pbtxt")} == before


def test_it_runs_without_pytorch(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", types.ModuleType("broken"))
    for name in [name for name in sys.modules if name.startswith("export")]:
        monkeypatch.delitem(sys.modules, name)
    from export.__main__ import main as fresh

    assert fresh(["tensorrt", str(repository), "--release", "26.07", "--gpu", "h200"]) == 0
