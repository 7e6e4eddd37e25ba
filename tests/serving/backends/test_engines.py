"""The engine that a graph runs on: which one is taken, and that its answers are looked at first."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.backends import embedded
from serving.backends.embedded import EmbeddedBackend
from serving.backends.engines import choice, sessions
from serving.backends.engines.choice import Chosen, candidates, open_graph, probe
from serving.backends.engines.choice_cache import ChoiceCache
from serving.backends.engines.sessions import (
    EngineName,
    EngineUnfit,
    InHalves,
    OnnxRuntimeSession,
    OpenVinoSession,
    Session,
    has_bfloat16,
)
from serving.bundle import ROLES, Bundle, Role
from serving.errors import BundleInvalid
from serving.repository.reader import read_bundle
from serving.settings import Settings
from serving.telemetry.metrics import Metrics
from tests.serving.running_gateway import settings_for


@pytest.fixture
def bundle(tiny_repository: Path) -> Bundle:
    return read_bundle(tiny_repository, "tiny16")


@pytest.fixture
def wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """An OpenVINO that has the first loss right, and no other, as if its gradient were wrong; and other values not."""

    def run(self: OpenVinoSession, feeds: sessions.Tensors) -> sessions.Tensors:
        outputs = dict(honest(self, feeds))
        if "loss" in outputs:
            return outputs | {
                "loss": np.concatenate([outputs["loss"][:, :1], 1.1 * outputs["loss"][:, 1:]], 1)
            }
        return {name: (0.8 * value).astype(value.dtype) for name, value in outputs.items()}

    honest = OpenVinoSession.run
    monkeypatch.setattr(OpenVinoSession, "run", run)


def taken(
    monkeypatch: pytest.MonkeyPatch, bundle: Bundle, faster: type[Session], cache: ChoiceCache | None = None
) -> Chosen:
    """What is chosen for the refiner where sessions of one kind are faster."""
    monkeypatch.setattr(choice, "sample_seconds", lambda session, *_: 2.0 - isinstance(session, faster))
    return open_graph(bundle, "refiner", 1, None, cache)


@pytest.mark.parametrize("role", ROLES)
def test_openvino_answers_as_onnx_runtime_does(bundle: Bundle, role: Role) -> None:
    if role not in bundle.graphs:
        pytest.skip("the bundle has no such graph")
    found, reference = (open_graph(bundle, role, 1, engine, None) for engine in ("openvino", "onnxruntime"))
    assert isinstance(found.session, OpenVinoSession)
    assert (found.session.inputs, found.session.outputs) == (
        reference.session.inputs,
        reference.session.outputs,
    )


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_result_does_not_depend_on_its_company(bundle: Bundle, role: Role, engine: EngineName) -> None:
    """To the bit, in float32."""
    if role not in bundle.graphs:
        pytest.skip("the bundle has no such graph")
    session = open_graph(bundle, role, 2, engine, None).session
    random = np.random.default_rng(3)
    feeds = {
        name: np.concatenate([value, *(random.permutation(value.ravel()).reshape(value.shape) for _ in "12")])
        for name, value in probe(bundle, role).items()
    }
    together = session.run(feeds)
    for n in range(0, len(next(iter(feeds.values()))), 2):
        alone = session.run({name: value[n : n + 1] for name, value in feeds.items()})
        assert all(np.array_equal(together[name][n : n + 1], alone[name]) for name in alone)


def test_the_fastest_engine_is_taken(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(taken(monkeypatch, bundle, OpenVinoSession).session, OpenVinoSession)
    assert taken(monkeypatch, bundle, OnnxRuntimeSession).engine == "onnxruntime"
    monkeypatch.setattr(sessions, "openvino", None)
    assert taken(monkeypatch, bundle, OpenVinoSession).engine == "onnxruntime"


def test_a_choice_is_remembered_for_its_graph_and_machine(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cache = ChoiceCache(tmp_path / "folder" / "engines.json")
    first = taken(monkeypatch, bundle, OpenVinoSession, cache).engine
    assert first.startswith("openvino")
    # no trial: it would find the other one faster
    assert taken(monkeypatch, bundle, OnnxRuntimeSession, cache).engine == first
    assert cache.get(bundle.graphs["refiner"], 2) is None
    assert cache.get(bundle.graphs["encoder"], 1) is None
    changed = bundle.graphs["refiner"].model_copy(update={"sha256": "0" * 64})
    assert cache.get(changed, 1) is None
    monkeypatch.setattr(sessions, "openvino", None)
    assert taken(monkeypatch, bundle, OpenVinoSession, cache).engine == "onnxruntime"


def test_what_openvino_compiles_is_read_at_the_next_start(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It answers the same to the bit; a damaged file is not used, and only the newest of a model is kept."""
    cache = ChoiceCache(tmp_path / "folder" / "engines.json")
    folder = tmp_path / "folder" / "compiled"
    feeds = probe(bundle, "generator")
    fresh = open_graph(bundle, "generator", 1, "openvino", cache).session.run(feeds)
    (file, _) = sorted(folder.iterdir())
    whole = file.read_bytes()

    class NothingIsCompiled(sessions.openvino.Core):  # type: ignore[misc, name-defined]
        def compile_model(self, *_: object) -> None:
            raise AssertionError("compiled again")

    def read() -> sessions.Tensors:
        with monkeypatch.context() as without:
            without.setattr(sessions.openvino, "Core", NothingIsCompiled)
            return open_graph(bundle, "generator", 1, "openvino", cache).session.run(feeds)

    assert all(np.array_equal(found, fresh[name]) for name, found in read().items())
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(AssertionError, match="compiled again"):
        read()
    open_graph(bundle, "generator", 1, "openvino", cache)
    read()
    open_graph(bundle, "generator", 2, "openvino", cache)
    assert len(list(folder.iterdir())) == 2
    # Another engine is chosen: what this one compiled is of no use any more.
    monkeypatch.setattr(
        choice, "sample_seconds", lambda session, *_: 2.0 - isinstance(session, OnnxRuntimeSession)
    )
    assert open_graph(bundle, "generator", 2, None, cache).engine == "onnxruntime"
    assert not list(folder.iterdir())


def test_a_refiner_that_onnx_runtime_has_optimised_is_read_at_the_next_start(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It answers the same to the bit. A damaged one is made anew; where none can be kept the graph itself is read."""
    cache = ChoiceCache(tmp_path / "folder" / "engines.json")
    feeds = probe(bundle, "refiner")
    plain = open_graph(bundle, "refiner", 2, "onnxruntime", None).session.run(feeds)

    def answers(cache: ChoiceCache) -> bool:
        found = open_graph(bundle, "refiner", 2, "onnxruntime", cache).session.run(feeds)
        return all(np.array_equal(found[name], value) for name, value in plain.items())

    assert answers(cache)
    (file, _) = sorted((tmp_path / "folder" / "compiled").iterdir())
    whole = file.read_bytes()
    # Nothing but the file is read.
    with monkeypatch.context() as without:
        without.setattr(type(bundle), "graph_file", lambda *_: tmp_path / "no such graph")
        assert answers(cache)
    file.write_bytes(whole[: len(whole) // 2])
    assert answers(cache)
    assert file.read_bytes() == whole
    assert answers(ChoiceCache(file / "below a file" / "engines.json"))


def test_a_refiner_is_not_tried_on_an_engine_that_is_slower_with_its_parts(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def seconds(session: Session, feeds: sessions.Tensors) -> float:
        # OpenVINO is slower with both parts together, though faster with the encoder, and would be with the refiner
        if not isinstance(session, OpenVinoSession):
            return 10.0
        return {"image": 9.0, "code": 12.0}[next(iter(feeds))] if len(feeds) == 1 else 1.0

    monkeypatch.setattr(choice, "sample_seconds", seconds)
    monkeypatch.setattr(choice, "has_bfloat16", lambda: False)
    cache = ChoiceCache(tmp_path / "engines.json")
    assert open_graph(bundle, "refiner", 1, None, ChoiceCache(tmp_path / "other.json")).engine == "openvino"
    engines = [
        open_graph(bundle, role, 1, None, cache).engine for role in ("encoder", "generator", "refiner")
    ]
    assert engines == ["openvino", "onnxruntime", "onnxruntime"]


@pytest.mark.parametrize("content", ["", "[]", "{", '{"x": 1}'])
def test_a_broken_file_of_choices_costs_a_trial_only(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str
) -> None:
    file = tmp_path / "engines.json"
    file.write_text(content)
    assert taken(monkeypatch, bundle, OnnxRuntimeSession, ChoiceCache(file)).engine == "onnxruntime"
    remembered = ChoiceCache(file).get(bundle.graphs["refiner"], 1)
    assert remembered is not None
    assert remembered.engine == "onnxruntime"
    unwritable = ChoiceCache(file / "below a file" / "engines.json")
    assert taken(monkeypatch, bundle, OnnxRuntimeSession, unwritable).engine == "onnxruntime"


@pytest.mark.parametrize(
    ("milliseconds", "most", "batch"),
    [
        ({1: 27.0, 2: 26.0, 4: 26.0, 8: 26.0}, 8, 1),
        ({1: 34.0, 2: 26.0, 4: 26.0, 8: 26.0}, 8, 2),
        ({1: 4.0, 2: 3.0, 4: 2.5, 8: 2.0, 16: 1.0}, 8, 8),
        ({1: 4.0, 2: 3.0, 4: 2.0}, 3, 2),
    ],
)
def test_batches_are_as_large_as_pays(
    bundle: Bundle,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    milliseconds: dict[int, float],
    most: int,
    batch: int,
) -> None:
    """A batch of twice the size is taken where it saves a twentieth of the time, and what was found is remembered."""

    def seconds(session: Session, feeds: sessions.Tensors) -> float:
        count = len(next(iter(feeds.values())))
        return count * milliseconds[count] / 1e3

    monkeypatch.setattr(choice, "_best_seconds", seconds)
    monkeypatch.setattr(sessions, "openvino", None)
    graph = bundle.graphs["encoder"].model_copy(update={"max_batch_size": most})
    bundle = replace(bundle, graphs={**bundle.graphs, "encoder": graph})
    cache = ChoiceCache(tmp_path / "engines.json")
    assert open_graph(bundle, "encoder", 1, None, cache).batch == batch
    monkeypatch.setattr(choice, "_best_seconds", None)
    assert open_graph(bundle, "encoder", 1, None, cache).batch == batch
    assert open_graph(bundle, "encoder", 1, "onnxruntime", cache).batch is None, "pinned, so not tried"


@pytest.mark.parametrize("threads", [2, 3, 4])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 8])
def test_halves_answer_to_the_bit_what_the_whole_does(bundle: Bundle, count: int, threads: int) -> None:
    session = open_graph(bundle, "refiner", threads, "onnxruntime", None).session
    whole = open_graph(bundle, "refiner", 1, "onnxruntime", None).session
    assert isinstance(session, InHalves)
    feeds = {name: np.concatenate([value] * 4)[:count] for name, value in probe(bundle, "refiner").items()}
    wanted = whole.run(feeds)
    found = session.run(feeds)
    assert list(found) == list(wanted)
    assert all(np.array_equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.usefixtures("wrong")
@pytest.mark.parametrize("role", ["refiner", "generator", "encoder"])
def test_an_engine_that_answers_wrongly_is_not_used(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, role: Role
) -> None:
    with pytest.raises(EngineUnfit, match="off by"):
        open_graph(bundle, role, 1, "openvino", None)
    monkeypatch.setattr(
        choice, "sample_seconds", lambda session, *_: 2.0 - isinstance(session, OpenVinoSession)
    )
    assert open_graph(bundle, role, 1, None, None).engine == "onnxruntime"
    assert "off by" in caplog.text


def test_bfloat16_is_tried_where_the_processor_has_it(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ("openvino-bfloat16" in candidates()) == has_bfloat16()
    if not has_bfloat16():
        with pytest.raises(EngineUnfit, match="bfloat16"):
            open_graph(bundle, "generator", 1, "openvino-bfloat16", None)
    monkeypatch.setattr(choice, "has_bfloat16", lambda: True)
    assert "openvino-bfloat16" in candidates()


async def test_the_gateway_tells_which_engine_runs_what(bundle: Bundle, tiny_repository: Path) -> None:
    metrics = Metrics()
    settings = settings_for(tiny_repository, engine="openvino")
    backend = EmbeddedBackend([bundle], settings, metrics)
    await backend.load()
    model = bundle.graphs["generator"].model
    labels = {"graph": model, "engine": "openvino"}
    assert backend.engines[model] == "openvino"
    assert metrics.registry.get_sample_value("indomain_graph_engine", labels) == 1
    await backend.close()
    assert metrics.registry.get_sample_value("indomain_graph_engine", labels) == 0


async def test_a_graph_that_bundles_share_is_loaded_once(
    bundle: Bundle, tiny_repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []

    def counted(bundle: Bundle, role: Role, *rest: Any) -> Chosen:
        opened.append(bundle.graphs[role].model)
        return open_graph(bundle, role, *rest)

    monkeypatch.setattr(embedded, "open_graph", counted)
    own = bundle.graphs["generator"].model_copy(update={"model": "other_generator"})
    other = replace(bundle, name="other", graphs={**bundle.graphs, "generator": own})
    backend = EmbeddedBackend([bundle, other], settings_for(tiny_repository), Metrics())
    await backend.load()
    models = {graph.model for both in (bundle, other) for graph in both.graphs.values()}
    assert sorted(opened) == sorted(models)
    # The one that leaves takes no shared graph with it.
    await backend.keep([other])
    assert backend.engines.keys() == {graph.model for graph in other.graphs.values()}
    await backend.close()


async def test_the_gateway_remembers_its_choices(
    bundle: Bundle, tiny_repository: Path, tmp_path: Path
) -> None:
    file = tmp_path / "engines.json"
    settings = settings_for(tiny_repository, engine="auto", engine_cache=file)
    backend = EmbeddedBackend([bundle], settings, Metrics())
    await backend.load()
    kept = {entry["model"]: entry["engine"] for entry in json.loads(file.read_text()).values()}
    assert kept == backend.engines
    assert kept.keys() == {graph.model for graph in bundle.graphs.values()}
    await backend.close()


@pytest.mark.skipif(sys.platform != "linux", reason="threads have priorities of their own on Linux only")
async def test_refinements_give_way(bundle: Bundle) -> None:
    """The refiner's threads, its session's too, and no others."""

    def nicer_threads() -> set[str]:
        found = os.listdir("/proc/self/task")
        return {thread for thread in found if os.getpriority(os.PRIO_PROCESS, int(thread)) > own}

    own = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    graphs = dict(bundle.graphs)
    refiner = graphs.pop("refiner")
    backend = EmbeddedBackend([replace(bundle, graphs=graphs)], Settings(intra_op_threads=3), Metrics())
    # Other tests' gateways may be running in this process.
    before = nicer_threads()
    await backend.load()
    assert nicer_threads() <= before
    await backend.add([replace(bundle, graphs=graphs | {"refiner": refiner})])
    # its worker, and the threads of the session that runs whole batches, besides the one that calls
    assert len(nicer_threads() - before) >= 3
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == own
    await backend.close()


async def test_the_gateway_does_not_start_on_an_engine_that_is_missing(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "openvino", None)
    backend = EmbeddedBackend([bundle], Settings(engine="openvino"), Metrics())
    with pytest.raises(BundleInvalid, match="pip install"):
        await backend.load()


async def test_a_graph_that_openvino_cannot_read(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / bundle.graphs["refiner"].file).parent.mkdir(parents=True)
    for role in bundle.graphs:
        file = tmp_path / bundle.graphs[role].file
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"" if role == "refiner" else bundle.graph_file(role).read_bytes())
    backend = EmbeddedBackend([replace(bundle, folder=tmp_path)], Settings(), Metrics())
    with pytest.raises(BundleInvalid, match="export the bundle again"):
        await backend.load()


def test_no_runtime_tells_anybody_that_it_is_used(tmp_path: Path) -> None:
    """OpenVINO writes a number of the installation into the home folder before it reports anything."""
    code = "import sys; import serving.backends.engines.sessions; print(*sys.modules)"
    home = os.environ | {"HOME": str(tmp_path), "CI": ""}
    loaded = subprocess.run(
        [sys.executable, "-c", code], env=home, check=True, capture_output=True, text=True
    ).stdout
    assert "openvino" in loaded.split()
    assert not [name for name in loaded.split() if name.startswith("openvino_telemetry.")]
    assert not list(tmp_path.iterdir())
