"""The engine that refinement steps run on: which one is taken, and that its answers are looked at first."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from serving.backends import engines
from serving.backends.embedded import EmbeddedBackend
from serving.backends.engines import (
    EngineUnfit,
    InHalves,
    OnnxRuntimeSession,
    OpenVinoSession,
    Session,
    has_bfloat16,
    loss_error,
    open_refiner,
    probe,
)
from serving.bundle import Bundle
from serving.errors import BundleInvalid
from serving.repository.reader import read_bundle
from serving.settings import Settings
from serving.telemetry.metrics import Metrics


@pytest.fixture
def bundle(tiny_repository: Path) -> Bundle:
    return read_bundle(tiny_repository, "tiny16")


@pytest.fixture
def wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """An OpenVINO that has the first loss right, and no other: as if its gradient were wrong."""

    def run(self: OpenVinoSession, feeds: engines.Tensors) -> engines.Tensors:
        outputs = dict(honest(self, feeds))
        return outputs | {"loss": np.concatenate([outputs["loss"][:, :1], 1.1 * outputs["loss"][:, 1:]], 1)}

    honest = OpenVinoSession.run
    monkeypatch.setattr(OpenVinoSession, "run", run)


def test_openvino_answers_as_onnx_runtime_does(bundle: Bundle) -> None:
    session, reference = open_refiner(bundle, 1, "openvino"), open_refiner(bundle, 1, "onnxruntime")
    assert isinstance(session, OpenVinoSession)
    assert (session.inputs, session.outputs) == (reference.inputs, reference.outputs)
    assert loss_error(session, reference, probe(bundle)) < 0.02


def test_the_faster_engine_is_taken_by_itself(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    def taken(faster: type[Session]) -> type[Session]:
        monkeypatch.setattr(engines, "chunk_seconds", lambda session, _: 2.0 - isinstance(session, faster))
        return type(open_refiner(bundle, 1, "auto"))

    assert taken(OpenVinoSession) is (OpenVinoSession if has_bfloat16() else OnnxRuntimeSession)
    assert taken(OnnxRuntimeSession) is OnnxRuntimeSession
    monkeypatch.setattr(engines, "openvino", None)
    assert taken(OpenVinoSession) is OnnxRuntimeSession


@pytest.mark.parametrize("threads", [2, 3, 4])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 8])
def test_halves_answer_to_the_bit_what_the_whole_does(bundle: Bundle, count: int, threads: int) -> None:
    session, whole = open_refiner(bundle, threads, "onnxruntime"), open_refiner(bundle, 1, "onnxruntime")
    assert isinstance(session, InHalves)
    feeds = {name: np.concatenate([value] * 4)[:count] for name, value in probe(bundle).items()}
    wanted = whole.run(feeds)
    found = session.run(feeds)
    assert list(found) == list(wanted)
    assert all(np.array_equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.usefixtures("wrong")
def test_an_engine_that_answers_wrongly_is_not_used(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(EngineUnfit, match="off by"):
        open_refiner(bundle, 1, "openvino")
    monkeypatch.setattr(engines, "has_bfloat16", lambda: True)
    assert isinstance(open_refiner(bundle, 1, "auto"), OnnxRuntimeSession)
    assert "refined by ONNX Runtime" in caplog.text


async def test_the_gateway_does_not_start_on_an_engine_that_is_missing(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "openvino", None)
    backend = EmbeddedBackend([bundle], Settings(refiner_engine="openvino"), Metrics())
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
