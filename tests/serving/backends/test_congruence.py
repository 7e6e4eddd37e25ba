"""One back end is like another: the same calls on a fake, on ONNX Runtime and OpenVINO in process, on a real Triton."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.backends.backend import Backend, Tensors
from serving.backends.embedded import EmbeddedBackend
from serving.backends.engines import choice
from serving.backends.engines.gpu import Device
from serving.backends.engines.sessions import openvino
from serving.backends.triton import TritonBackend
from serving.bundle import ROLES, Bundle, Role
from serving.deadline import Deadline
from serving.errors import BackendFailed, BackendUnavailable, DeadlineExceeded, QueueFull, ShuttingDown
from serving.jobs import RefineOptions
from serving.pipeline.refinement import Refiner, RefineSettings, StopRule
from serving.repository.reader import read_bundle
from serving.results import StopReason
from serving.telemetry.metrics import Metrics
from tests.serving.backends.fake_backend import FakeBackend
from tests.serving.backends.graph_inputs import some_inputs
from tests.serving.pictures import photograph
from tests.serving.running_gateway import settings_for
from tests.serving.triton_server import TritonServer

BACKENDS = ("fake", "onnxruntime", "openvino", "onnxruntime-cuda", "triton", "triton, shared memory")
QUEUE = 24  # samples; every graph of the tiny bundle runs up to 16 at once
SOON = 30.0


@pytest.fixture(scope="module")
def bundle(tiny_repository: Path) -> Bundle:
    return read_bundle(tiny_repository, "tiny16")


@pytest.fixture(params=BACKENDS)
async def backend(
    request: pytest.FixtureRequest, bundle: Bundle, tiny_repository: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Backend]:
    overrides: dict[str, Any] = {"max_queue_samples": QUEUE, "engine": "onnxruntime"}
    made: Backend
    if request.param.startswith("triton"):
        server: TritonServer = request.getfixturevalue("triton")
        overrides = {"triton_addresses": (server.address,), "triton_shared_memory": "shared" in request.param}
        settings = settings_for(tiny_repository, **overrides)
        made = TritonBackend([bundle], settings, Metrics())
    elif request.param == "fake":
        made = FakeBackend([bundle], QUEUE)
    else:
        if request.param == "openvino" and openvino is None:
            pytest.skip("OpenVINO is not installed")
        # The processor stands in for a GPU.
        monkeypatch.setattr(choice, "CUDA", Device("CPUExecutionProvider", "cpu"))
        overrides["engine"] = request.param
        made = EmbeddedBackend([bundle], settings_for(tiny_repository, **overrides), Metrics())
    await made.load()
    yield made
    await made.close()


@pytest.fixture
async def reference(bundle: Bundle) -> FakeBackend:
    made = FakeBackend([bundle], 10_000)
    await made.load()
    return made


def assert_alike(found: Tensors, wanted: Tensors) -> None:
    assert found.keys() >= wanted.keys()
    for name, value in wanted.items():
        assert (found[name].shape, found[name].dtype) == (value.shape, value.dtype), name
        if value.dtype == np.uint8:
            assert np.abs(found[name].astype(int) - value.astype(int)).max() <= 1, name
        else:
            # as a whole: OpenVINO's refiner may compute in 16 bits, and Adam makes a whole step of any sign
            assert np.linalg.norm(found[name] - value) <= 0.05 * np.linalg.norm(value) + 1e-6, name


@pytest.mark.parametrize("role", ROLES)
async def test_every_graph_gives_the_same(
    role: Role, backend: Backend, reference: Backend, bundle: Bundle
) -> None:
    for count in (1, 3):
        inputs = some_inputs(bundle, role, count)
        found = await backend.infer(bundle.graphs[role], inputs, Deadline.after(SOON))
        wanted = await reference.infer(bundle.graphs[role], inputs, Deadline.after(SOON))
        assert_alike(found.outputs, wanted.outputs)
        assert found.queued_s >= 0.0


async def test_more_samples_than_a_batch_holds(backend: Backend, reference: Backend, bundle: Bundle) -> None:
    inputs = some_inputs(bundle, "generator", QUEUE)
    found = await backend.infer(bundle.graphs["generator"], inputs, Deadline.after(SOON))
    wanted = await reference.infer(bundle.graphs["generator"], inputs, Deadline.after(SOON))
    assert_alike(found.outputs, wanted.outputs)


async def test_each_of_many_gets_its_own(backend: Backend, reference: Backend, bundle: Bundle) -> None:
    asked = [some_inputs(bundle, "encoder", 1 + n % 2, seed=n) for n in range(14)]
    graph = bundle.graphs["encoder"]
    found = await asyncio.gather(*(backend.infer(graph, inputs, Deadline.after(SOON)) for inputs in asked))
    for inputs, one in zip(asked, found, strict=True):
        assert_alike(one.outputs, (await reference.infer(graph, inputs, Deadline.after(SOON))).outputs)


async def test_refinement_goes_the_same_way(backend: Backend, reference: Backend, bundle: Bundle) -> None:
    settings = RefineSettings.resolve(RefineOptions(steps=12), bundle.refine, 100)
    target = photograph(5, bundle.resolution, bundle.resolution)
    rule = StopRule(window_steps=10, min_improvement_ratio=0.0)

    async def refined(by: Backend) -> Any:
        refiner = Refiner(bundle, by, rule)
        return await refiner.refine(bundle.mean_code, target, settings, Deadline.after(SOON), lambda: 0.0)

    found, wanted = await refined(backend), await refined(reference)
    assert (found.steps_done, found.stop_reason) == (12, StopReason.STEPS_DONE)
    assert found.loss_before == pytest.approx(wanted.loss_before, rel=0.02)
    assert found.loss_before - found.loss_after == pytest.approx(
        wanted.loss_before - wanted.loss_after, rel=0.2
    )
    assert found.loss_after < found.loss_before


async def test_inputs_that_do_not_fit(backend: Backend, bundle: Bundle) -> None:
    graph = bundle.graphs["generator"]
    good = some_inputs(bundle, "generator", 1)["code"]
    for bad in (good[:, :3], good.astype(np.float64), good[:0]):
        with pytest.raises(BackendFailed, match=r"tiny16_generator"):
            await backend.infer(graph, {"code": bad}, Deadline.after(SOON))
    chunk = some_inputs(bundle, "refiner", 2)
    with pytest.raises(BackendFailed, match="number of samples"):
        await backend.infer(
            bundle.graphs["refiner"], chunk | {"step": chunk["step"][:1]}, Deadline.after(SOON)
        )
    assert (await backend.infer(graph, {"code": good}, Deadline.after(SOON))).outputs["image"].any()


async def test_a_graph_that_is_not_there(backend: Backend, bundle: Bundle) -> None:
    later = bundle.graphs["mapping"].model_copy(update={"version": 9})
    with pytest.raises(BackendUnavailable) as raised:
        await backend.infer(later, some_inputs(bundle, "mapping", 1), Deadline.after(SOON))
    assert raised.value.row.retryable


async def test_too_late(backend: Backend, bundle: Bundle) -> None:
    with pytest.raises(DeadlineExceeded):
        await backend.infer(bundle.graphs["mapping"], some_inputs(bundle, "mapping", 1), Deadline.after(0.0))


async def test_one_of_four_is_cancelled(backend: Backend, reference: Backend, bundle: Bundle) -> None:
    graph = bundle.graphs["mapping"]
    asked = [some_inputs(bundle, "mapping", 1, seed=n) for n in range(4)]
    running = [asyncio.create_task(backend.infer(graph, one, Deadline.after(SOON))) for one in asked]
    await asyncio.sleep(0.002)
    running[1].cancel()
    found = await asyncio.gather(*running, return_exceptions=True)
    assert not isinstance(found[1], Exception)  # an answer that was there already, or the cancellation
    for n in (0, 2, 3):
        one = found[n]
        assert not isinstance(one, BaseException)
        assert_alike(one.outputs, (await reference.infer(graph, asked[n], Deadline.after(SOON))).outputs)


async def test_a_full_queue_is_said_so_and_harms_nobody(
    backend: Backend, reference: Backend, bundle: Bundle
) -> None:
    graph, inputs = bundle.graphs["critic"], some_inputs(bundle, "critic", 2)
    wanted = await reference.infer(graph, inputs, Deadline.after(SOON))
    answers = await asyncio.gather(
        *(backend.infer(graph, inputs, Deadline.after(SOON)) for _ in range(60)), return_exceptions=True
    )
    refused = [answer for answer in answers if isinstance(answer, BaseException)]
    assert 0 < len(refused) < len(answers)
    assert all(isinstance(answer, QueueFull) and answer.retry_after_s > 0.0 for answer in refused)
    for answer in answers:
        if not isinstance(answer, BaseException):
            assert_alike(answer.outputs, wanted.outputs)
    assert await backend.healthy()


async def test_after_it_is_closed(backend: Backend, bundle: Bundle) -> None:
    assert await backend.healthy()
    await backend.close()
    assert not await backend.healthy()
    with pytest.raises(ShuttingDown):
        await backend.infer(bundle.graphs["mapping"], some_inputs(bundle, "mapping", 1), Deadline.after(SOON))
