"""ONNX Runtime on a GPU, without one: the same sessions on the processor's provider, under the names of the engines."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from serving.backends.embedded import EmbeddedBackend
from serving.backends.engines import choice, choice_cache, gpu, sessions
from serving.backends.engines.choice import candidates, largest_batch, open_graph, probe
from serving.backends.engines.choice_cache import Choice, ChoiceCache
from serving.backends.engines.gpu import CUDA, Device, DeviceSession, tensorrt
from serving.backends.engines.sessions import EngineName, EngineUnfit, OnnxRuntimeSession
from serving.bundle import ROLES, Bundle, Role
from serving.deadline import Deadline
from serving.errors import BundleInvalid
from serving.repository.reader import read_bundle
from serving.settings import Settings
from serving.telemetry.metrics import Metrics
from tests.serving.backends.graph_inputs import some_inputs
from tests.serving.running_gateway import settings_for

PROCESSOR = Device("CPUExecutionProvider", "cpu")


@pytest.fixture
def bundle(tiny_repository: Path) -> Bundle:
    return read_bundle(tiny_repository, "tiny16")


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """The processor in place of a GPU, and no OpenVINO."""
    monkeypatch.setattr(choice, "CUDA", PROCESSOR)
    monkeypatch.setattr(choice, "tensorrt", lambda graph, folder: PROCESSOR)
    monkeypatch.setattr(sessions, "openvino", None)


@pytest.fixture
def copies(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts buffers on the device, and copies and bytes to and from them."""
    counted: Counter[str] = Counter()
    value = onnxruntime.OrtValue
    make, put, fetch = value.ortvalue_from_shape_and_type, value.update_inplace, value.numpy

    def counting_make(*given: Any, **named: Any) -> Any:
        counted["buffers"] += 1
        return make(*given, **named)

    def counting_put(self: Any, array: np.ndarray[Any, Any]) -> None:
        counted.update({"copies to": 1, "bytes to": array.nbytes})
        put(self, array)

    def counting_fetch(self: Any) -> Any:
        array = fetch(self)
        counted.update({"copies from": 1, "bytes from": array.nbytes})
        return array

    monkeypatch.setattr(value, "ortvalue_from_shape_and_type", counting_make)
    monkeypatch.setattr(value, "update_inplace", counting_put)
    monkeypatch.setattr(value, "numpy", counting_fetch)
    return counted


def opened(bundle: Bundle, role: Role, device: Device = PROCESSOR) -> DeviceSession:
    return DeviceSession(bundle.graph_file(role), bundle.graphs[role], device)


def shuffled(bundle: Bundle, role: Role, count: int) -> dict[str, np.ndarray[Any, Any]]:
    """Inputs of samples that differ."""
    random = np.random.default_rng(3)
    return {
        name: np.concatenate(
            [random.permutation(value[:1].ravel()).reshape(value[:1].shape) for _ in range(count)]
        )
        for name, value in probe(bundle, role).items()
    }


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("count", [1, 2, 3, 5, 8])
def test_a_result_does_not_depend_on_its_company_nor_on_what_fills_a_batch(
    bundle: Bundle, role: Role, count: int
) -> None:
    """To the bit; and it is what ONNX Runtime answers by itself, but for the last bits."""
    session = opened(bundle, role)
    reference = OnnxRuntimeSession(bundle.graph_file(role), 1)
    assert (session.inputs, session.outputs) == (reference.inputs, reference.outputs)
    feeds = shuffled(bundle, role, count)
    together = session.run(feeds)
    wanted = reference.run(feeds)
    for n in range(count):
        alone = session.run({name: value[n : n + 1] for name, value in feeds.items()})
        assert alone.keys() == wanted.keys()
        for name in alone:
            assert np.array_equal(together[name][n : n + 1], alone[name])
    # Later losses of a refiner say less: an optimiser amplifies rounding errors.
    compared = {"loss": 2} if role == "refiner" else dict.fromkeys(wanted)
    for name, first in compared.items():
        found, expected = together[name][:, :first], wanted[name][:, :first]
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1 if found.dtype == np.uint8 else 1e-4)


@pytest.mark.parametrize(("count", "size"), [(1, 1), (2, 2), (3, 4), (4, 4), (5, 8)])
def test_a_run_copies_each_input_and_output_once(
    bundle: Bundle, copies: Counter[str], count: int, size: int
) -> None:
    graph = bundle.graphs["refiner"]
    session = opened(bundle, "refiner")
    session.prepare(8)
    made = copies["buffers"]
    assert made == 4 * len(graph.inputs + graph.outputs), "a set of buffers for each of 1, 2, 4 and 8"
    feeds = shuffled(bundle, "refiner", count)
    for _ in range(3):
        copies.clear()
        session.run(feeds)
        assert copies["buffers"] == 0
        assert (copies["copies to"], copies["copies from"]) == (len(graph.inputs), len(graph.outputs))
        for way, specs in (("bytes to", graph.inputs), ("bytes from", graph.outputs)):
            sample = sum(np.dtype(spec.dtype).itemsize * int(np.prod(spec.shape[1:])) for spec in specs)
            assert copies[way] == size * sample


def test_answers_belong_to_the_caller(bundle: Bundle) -> None:
    session = opened(bundle, "generator")
    feeds = shuffled(bundle, "generator", 2)
    first = session.run({"code": feeds["code"][:1]})["image"]
    kept = first.copy()
    session.run({"code": feeds["code"][1:]})
    assert np.array_equal(first, kept)


def test_a_batch_is_filled_with_copies_of_a_sample(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    session = opened(bundle, "generator")
    session.prepare(4)
    put: list[np.ndarray[Any, Any]] = []
    honest = onnxruntime.OrtValue.update_inplace

    def noting(self: Any, array: np.ndarray[Any, Any]) -> None:
        put.append(array.copy())
        honest(self, array)

    monkeypatch.setattr(onnxruntime.OrtValue, "update_inplace", noting)
    code = shuffled(bundle, "generator", 3)["code"]
    assert len(session.run({"code": code})["image"]) == 3
    assert np.array_equal(put[0], np.concatenate([code, code[:1]]))


@pytest.mark.parametrize("role", ROLES)
def test_a_graph_of_one_size_has_no_arithmetic_of_shapes_left(
    bundle: Bundle, role: Role, tmp_path: Path
) -> None:
    """Which would run on the processor, and keep ONNX Runtime from capturing the rest."""
    file = bundle.graph_file(role)
    (axis,) = {
        value.type.tensor_type.shape.dim[0].dim_param
        for value in onnx.load(file, load_external_data=False).graph.input
    }
    options = gpu.fixed_options({axis}, 4)
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(tmp_path / "fixed.onnx")
    onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    graph = onnx.shape_inference.infer_shapes(onnx.load(tmp_path / "fixed.onnx")).graph
    whole = {value.name for value in graph.value_info if value.type.tensor_type.elem_type == 7}
    assert not [node.op_type for node in graph.node if node.op_type == "Shape" or whole & {*node.output}]


def test_all_runs_are_on_one_thread(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[int] = set()
    honest = onnxruntime.InferenceSession.run_with_iobinding

    def noting(self: Any, *given: Any) -> None:
        seen.add(threading.get_ident())
        honest(self, *given)

    monkeypatch.setattr(onnxruntime.InferenceSession, "run_with_iobinding", noting)
    session = opened(bundle, "encoder")
    feeds = shuffled(bundle, "encoder", 2)
    wanted = session.run(feeds)["code"]
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(session.run, [feeds] * 12))
    assert all(np.array_equal(answer["code"], wanted) for answer in answers)
    assert len(seen) == 1
    assert threading.get_ident() not in seen


class Given:
    """What sessions were opened with: providers and options, in place of those of CUDA and TensorRT."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, refused: str = "", starts: bool = True) -> None:
        self.providers: list[list[tuple[str, dict[str, str]]]] = []
        honest = onnxruntime.InferenceSession

        def session(file: str, options: Any, providers: list[Any], **named: Any) -> Any:
            if isinstance(providers[0], str):
                return honest(file, options, providers=providers)
            self.providers.append(providers)
            if any(refused in settings for _, settings in providers if refused):
                raise onnxruntime.capi.onnxruntime_pybind11_state.Fail("cannot use the graph capture feature")
            made = honest(file, options, providers=["CPUExecutionProvider"])
            if starts:
                made.get_providers = lambda: [name for name, _ in providers]
            return made

        make = onnxruntime.OrtValue.ortvalue_from_shape_and_type
        available = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
        monkeypatch.setattr(onnxruntime, "InferenceSession", session)
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: available)
        monkeypatch.setattr(
            onnxruntime.OrtValue,
            "ortvalue_from_shape_and_type",
            lambda shape, kind, _: make(shape, kind, "cpu"),
        )


def test_runs_on_cuda_are_captured_and_computed_in_whole_float32(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = Given(monkeypatch)
    opened(bundle, "generator", CUDA).run(shuffled(bundle, "generator", 2))
    for ((provider, options),) in given.providers:
        assert provider == "CUDAExecutionProvider"
        assert options["use_tf32"] == "0"
        assert options["enable_cuda_graph"] == "1"
    assert len(given.providers) == 2, "a session for one sample, and one for two"


def test_a_graph_that_cannot_be_captured_runs_all_the_same(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    wanted = opened(bundle, "generator").run(shuffled(bundle, "generator", 1))["image"]
    given = Given(monkeypatch, refused="enable_cuda_graph")
    found = opened(bundle, "generator", CUDA).run(shuffled(bundle, "generator", 1))["image"]
    assert np.array_equal(found, wanted)
    assert "enable_cuda_graph" not in given.providers[-1][0][1]
    assert "without CUDA graphs" in caplog.text


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_tensorrt_keeps_its_engines_for_each_size_apart(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, precision: str
) -> None:
    given = Given(monkeypatch)
    graph = bundle.graphs["generator"].model_copy(update={"precision": precision})
    session = DeviceSession(bundle.graph_file("generator"), graph, tensorrt(graph, tmp_path))
    session.prepare(4)
    folders = []
    for providers in given.providers:
        assert [name for name, _ in providers] == ["TensorrtExecutionProvider", "CUDAExecutionProvider"]
        options, beside = providers[0][1], providers[1][1]
        assert ("trt_fp16_enable" in options) == (precision == "float16")
        assert "enable_cuda_graph" not in beside, "TensorRT's part is not CUDA's to capture"
        folders.append(Path(options["trt_engine_cache_path"]))
    assert len({*folders}) == 3
    assert all(folder.is_dir() and tmp_path in folder.parents for folder in folders)


def test_a_device_that_does_not_start_is_named(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime itself would go on without it."""
    Given(monkeypatch, starts=False)
    with pytest.raises(EngineUnfit, match="does not start here; look at the driver"):
        opened(bundle, "generator", CUDA)


@pytest.mark.parametrize("engine", ["onnxruntime-cuda", "tensorrt"])
async def test_the_gateway_does_not_start_on_a_gpu_that_is_missing(
    bundle: Bundle, engine: EngineName
) -> None:
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("onnxruntime-gpu is installed")
    backend = EmbeddedBackend([bundle], Settings(engine=engine), Metrics())
    with pytest.raises(BundleInvalid, match="install onnxruntime-gpu"):
        await backend.load()


def test_auto_tries_cuda_where_it_is_and_never_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ("onnxruntime-cuda" in candidates()) == (
        "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    )
    Given(monkeypatch)
    assert candidates()[-1] == "onnxruntime-cuda"
    assert "tensorrt" not in candidates()


@pytest.mark.usefixtures("stand_in")
def test_the_gpu_is_chosen_where_it_is_faster(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cache = ChoiceCache(tmp_path / "engines.json")
    monkeypatch.setattr(
        choice, "sample_seconds", lambda session, *_: 2.0 - isinstance(session, DeviceSession)
    )
    assert open_graph(bundle, "encoder", 1, None, cache).engine == "onnxruntime-cuda"
    monkeypatch.setattr(choice, "_tried", None)
    assert isinstance(open_graph(bundle, "encoder", 1, None, cache).session, DeviceSession)


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize("engine", ["onnxruntime-cuda", "tensorrt"])
@pytest.mark.parametrize("role", ["refiner", "generator", "encoder"])
def test_a_gpu_that_answers_wrongly_is_not_used(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, role: Role, engine: EngineName
) -> None:
    honest = DeviceSession.run

    def wrong(self: DeviceSession, feeds: sessions.Tensors) -> sessions.Tensors:
        return {name: (0.8 * value).astype(value.dtype) for name, value in honest(self, feeds).items()}

    monkeypatch.setattr(DeviceSession, "run", wrong)
    with pytest.raises(EngineUnfit, match="off by"):
        open_graph(bundle, role, 1, engine, None)
    monkeypatch.setattr(
        choice, "sample_seconds", lambda session, *_: 2.0 - isinstance(session, DeviceSession)
    )
    assert open_graph(bundle, role, 1, None, None).engine == "onnxruntime"


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_a_graph_in_float16_may_be_further_off(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    """By half a per cent, as 11 significant bits may be after many layers."""
    honest = DeviceSession.run

    def rounded(self: DeviceSession, feeds: sessions.Tensors) -> sessions.Tensors:
        return {name: 1.005 * value for name, value in honest(self, feeds).items()}

    monkeypatch.setattr(DeviceSession, "run", rounded)
    graph = bundle.graphs["encoder"].model_copy(update={"precision": precision})
    bundle = replace(bundle, graphs={**bundle.graphs, "encoder": graph})
    if precision == "float16":
        assert open_graph(bundle, "encoder", 1, "onnxruntime-cuda", None).engine == "onnxruntime-cuda"
    else:
        with pytest.raises(EngineUnfit, match="off by"):
            open_graph(bundle, "encoder", 1, "onnxruntime-cuda", None)


@pytest.fixture
def little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device on which buffers of more than four samples find no room."""
    make = onnxruntime.OrtValue.ortvalue_from_shape_and_type

    def limited(shape: list[int], *given: Any) -> Any:
        if shape[0] > 4:
            raise RuntimeError("Available memory is smaller than requested")
        return make(shape, *given)

    monkeypatch.setattr(onnxruntime.OrtValue, "ortvalue_from_shape_and_type", limited)


@pytest.mark.usefixtures("stand_in", "little_memory")
async def test_batches_that_find_no_memory(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measured ones end before them; pinned ones are refused at the start, with what to set."""
    feeds = probe(bundle, "encoder")
    monkeypatch.setattr(choice, "_WORTH", 1e9)
    assert largest_batch(opened(bundle, "encoder"), feeds, 16) == 4
    backend = EmbeddedBackend([bundle], Settings(engine="onnxruntime-cuda", max_batch_size=16), Metrics())
    with pytest.raises(BundleInvalid, match=r"not for 8, .*INDOMAIN_MAX_BATCH_SIZE to 4"):
        await backend.load()
    backend = EmbeddedBackend([bundle], Settings(engine="onnxruntime-cuda", max_batch_size=4), Metrics())
    await backend.load()
    await backend.close()


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize("engine", ["onnxruntime-cuda", "tensorrt"])
async def test_a_gateway_on_a_gpu(
    bundle: Bundle, tiny_repository: Path, copies: Counter[str], engine: EngineName
) -> None:
    """Requests share batches, each gets its own answer, and after the start none waits for a size to be opened."""
    metrics = Metrics()
    settings = settings_for(tiny_repository, engine=engine, max_batch_size=4)
    backend = EmbeddedBackend([bundle], settings, metrics)
    await backend.load()
    assert {*backend.engines.values()} == {engine}
    made = copies["buffers"]
    graph = bundle.graphs["generator"]
    inputs = some_inputs(bundle, "generator", 7)
    answers = await asyncio.gather(
        *(backend.infer(graph, {"code": inputs["code"][n : n + 1]}, Deadline.after(30.0)) for n in range(7))
    )
    wanted = opened(bundle, "generator").run({"code": inputs["code"]})["image"]
    assert copies["buffers"] == made + len(graph.inputs + graph.outputs) * 2, (
        "of this test's own session only"
    )
    assert all(np.array_equal(answers[n].outputs["image"][0], wanted[n]) for n in range(7))
    labels = {"graph": graph.model, "engine": engine}
    assert metrics.registry.get_sample_value("indomain_graph_engine", labels) == 1
    await backend.close()


def test_a_choice_holds_for_the_gpus_of_the_machine(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def on_machine(driver: str, *models: str) -> None:
        folder = tmp_path / f"{driver}-{len(models)}"
        for n, model in enumerate(models):
            (folder / f"gpus/{n}").mkdir(parents=True, exist_ok=True)
            (folder / f"gpus/{n}/information").write_text(f"Model: \t {model}\nBus Location: 0000:0{n}\n")
            (folder / "version").write_text(f"NVRM version: {driver}\nGCC version: any\n")
        monkeypatch.setattr(choice_cache, "_GPU_INFO", folder)
        choice_cache._machine.cache_clear()

    cache, graph = ChoiceCache(tmp_path / "engines.json"), bundle.graphs["encoder"]
    try:
        on_machine("550", "H100")
        cache.put(graph, 1, Choice("onnxruntime-cuda", 8, {"onnxruntime-cuda": 0.1}))
        assert cache.get(graph, 1) is not None
        for driver, models in (("none", ()), ("560", ("H100",)), ("550", ("H100", "H100"))):
            on_machine(driver, *models)
            assert cache.get(graph, 1) is None
        on_machine("550", "H100")
        assert cache.get(graph, 1) is not None
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
        choice_cache._machine.cache_clear()
        assert cache.get(graph, 1) is None
    finally:
        choice_cache._machine.cache_clear()
