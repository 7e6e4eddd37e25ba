"""Geodesics between codes: real gateways, both transports, the tiny bundle and the shipped one."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from indomain.v1 import editing_pb2 as pb
from serving.errors import QueueFull
from serving.pipeline.paths.geodesic import evenly_spaced, squared_steps
from tests import shipped
from tests.serving.messages import as_json, as_message, close, code_of, image_of, refusal, sampled
from tests.serving.running_gateway import RunningGateway, settings_for
from tests.serving.waiting import wait_for

RAW = pb.OutputOptions(format=pb.IMAGE_FORMAT_RAW)
REFINER, GENERATOR = "tiny16_refiner", "tiny16_generator"
CHUNK_STEPS = 2  # of the tiny bundle


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """A gateway with the shipped bundle."""
    repository = shipped.quick_repository(tmp_path_factory.mktemp("faces") / "repository")
    running = RunningGateway(settings_for(repository, engine="onnxruntime"))
    yield running
    running.close()


def bent(gateway: RunningGateway) -> tuple[np.ndarray, np.ndarray]:
    """Two codes of the tiny bundle far out, where its pictures are cut at black and white: the straight line between
    them has neither even steps nor the least energy."""
    one, other = sampled(gateway, 1, 2)
    return 4 * one, 4 * other


def way(
    gateway: RunningGateway, start: np.ndarray, end: np.ndarray, count: int, path: Any, steps: int = 20
) -> list[pb.InterpolateResponse]:
    request = pb.InterpolateRequest(
        start=pb.Source(code=as_message(start)),
        end=pb.Source(code=as_message(end)),
        count=count,
        path=path,
        refine=pb.RefineOptions(steps=steps),
        output=RAW,
    )
    return list(gateway.stub.Interpolate(request, timeout=60))


def energy_of(answers: list[pb.InterpolateResponse]) -> float:
    """From the pictures, as the contract says it."""
    pictures = np.stack([image_of(answer.image) for answer in answers]).astype(np.float64) / 127.5 - 1
    return (len(answers) - 1) * float((np.diff(pictures, axis=0) ** 2).mean(axis=(1, 2, 3)).sum())


def check_figures(answers: list[pb.InterpolateResponse]) -> None:
    """Energy and length, which grow from 0, are those of the pictures."""
    energies, lengths = ([getattr(answer, name) for answer in answers] for name in ("energy", "length"))
    assert energies[0] == lengths[0] == 0.0
    assert (np.diff(energies) >= 0).all()
    assert (np.diff(lengths) >= 0).all()
    assert energies[-1] == pytest.approx(energy_of(answers), rel=1e-4)
    assert lengths[-1] ** 2 <= energies[-1] * (1 + 1e-5)


def test_a_geodesic_of_faces_has_less_energy_than_the_line(faces: RunningGateway) -> None:
    start, end = sampled(faces, 3, 8)
    line, geodesic = (way(faces, start, end, 4, path, steps=5) for path in (pb.PATH_LINEAR, pb.PATH_GEODESIC))
    for answers in (line, geodesic):
        check_figures(answers)
        np.testing.assert_array_equal(code_of(answers[0].code), start)
        np.testing.assert_array_equal(code_of(answers[-1].code), end)
    assert geodesic[-1].energy < 0.98 * line[-1].energy
    # its pictures are those of its codes
    codes = [answer.code for answer in geodesic]
    decoded = faces.stub.Decode(pb.DecodeRequest(codes=codes, output=RAW), timeout=20)
    for answer, picture in zip(geodesic, decoded.images, strict=True):
        close(image_of(answer.image), image_of(picture))


@pytest.mark.parametrize("count", [2, 3, 4, 11])
def test_a_geodesic_has_at_most_the_energy_of_the_line(gateway: RunningGateway, count: int) -> None:
    start, end = bent(gateway)
    line = way(gateway, start, end, count, pb.PATH_UNSPECIFIED)
    geodesic = way(gateway, start, end, count, pb.PATH_GEODESIC)
    check_figures(line)
    check_figures(geodesic)
    assert [answer.index for answer in geodesic] == list(range(count))
    np.testing.assert_array_equal(code_of(geodesic[0].code), start)
    np.testing.assert_array_equal(code_of(geodesic[-1].code), end)
    if count == 2:
        assert geodesic[-1].energy == line[-1].energy
    else:
        assert geodesic[-1].energy < 0.9 * line[-1].energy


def test_more_steps_find_no_worse_way(gateway: RunningGateway) -> None:
    start, end = bent(gateway)
    energies = [way(gateway, start, end, 7, pb.PATH_GEODESIC, steps)[-1].energy for steps in (2, 8, 32)]
    assert energies == sorted(energies, reverse=True)
    assert energies[0] > energies[-1]


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_each_picture_is_refined_by_the_steps_that_were_asked_for(
    gateway: RunningGateway, steps: int
) -> None:
    def samples() -> float:
        return gateway.metric("indomain_batch_size_sum", graph=REFINER)

    start, end = bent(gateway)
    before = samples()
    way(gateway, start, end, 9, pb.PATH_GEODESIC, steps)
    assert 7 <= samples() - before <= 7 * -(-steps // CHUNK_STEPS)


def test_both_transports_find_the_same_geodesic(gateway: RunningGateway) -> None:
    start, end = bent(gateway)
    found = way(gateway, start, end, 5, pb.PATH_GEODESIC, steps=4)
    body = {
        "start": {"code": as_json(start)},
        "end": {"code": as_json(end)},
        "count": 5,
        "path": "geodesic",
        "refine": {"steps": 4},
        "output": {"format": "raw"},
    }
    lines = gateway.http.post("/v1/interpolate", json=body).text.splitlines()
    answers = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
    for one, other in zip(found, answers, strict=True):
        close(image_of(one.image), image_of(other["image"]))
        assert other["energy"] == pytest.approx(one.energy, rel=1e-3)
        assert other["length"] == pytest.approx(one.length, rel=1e-3)


def test_ends_may_be_pictures(gateway: RunningGateway, photo_png: bytes) -> None:
    (other,) = sampled(gateway, 3)
    request = pb.InterpolateRequest(
        start=pb.Source(picture=pb.Picture(data=photo_png)),
        end=pb.Source(code=as_message(other)),
        count=3,
        path=pb.PATH_GEODESIC,
        refine=pb.RefineOptions(steps=4),
        output=pb.OutputOptions(format=pb.IMAGE_FORMAT_RAW, include_pasted=True),
    )
    answers = list(gateway.stub.Interpolate(request, timeout=30))
    check_figures(answers)
    assert all(answer.HasField("pasted") for answer in answers)


# --- time ---------------------------------------------------------------------------------------------------


def slow_refiner(running: RunningGateway, seconds: float) -> list[float]:
    """Makes each run of the refiner take this much longer. Gives the moments at which runs begin."""
    runs: list[float] = []

    async def before(model: str) -> None:
        if model == REFINER:
            runs.append(time.monotonic())
            await asyncio.sleep(seconds)

    running.backend.before = before
    return runs


def long_geodesic(gateway: RunningGateway) -> pb.InterpolateRequest:
    start, end = bent(gateway)
    return pb.InterpolateRequest(
        start=pb.Source(code=as_message(start)),
        end=pb.Source(code=as_message(end)),
        count=12,
        path=pb.PATH_GEODESIC,
        refine=pb.RefineOptions(steps=500),
        output=RAW,
    )


def test_at_the_deadline_the_best_way_so_far_is_answered(
    start_gateway: Callable[..., RunningGateway],
) -> None:
    running = start_gateway(interpose=True)
    request = long_geodesic(running)
    # A gateway that has just started answers slowly, and would keep all of the time for that.
    for _ in range(3):
        line = way(running, *bent(running), 12, pb.PATH_LINEAR)
    runs = slow_refiner(running, 0.6)
    answers = list(running.stub.Interpolate(request, timeout=10.0))
    assert len(answers) == 12
    assert 2 <= len(runs) <= 16
    assert answers[-1].energy < line[-1].energy


def test_without_time_for_a_move_the_line_is_answered(start_gateway: Callable[..., RunningGateway]) -> None:
    running = start_gateway(interpose=True, decode_reserve_ms=60_000.0)
    runs = slow_refiner(running, 0.0)
    answers = list(running.stub.Interpolate(long_geodesic(running), timeout=20))
    line = way(running, *bent(running), 12, pb.PATH_LINEAR)
    assert [answer.code for answer in answers] == [answer.code for answer in line]
    assert not runs


def test_a_geodesic_that_is_cancelled_stops_between_moves(
    start_gateway: Callable[..., RunningGateway],
) -> None:
    running = start_gateway(interpose=True)
    request = long_geodesic(running)
    runs = slow_refiner(running, 0.05)
    call = running.stub.Interpolate(request, timeout=60)
    wait_for(lambda: len(runs) >= 2)
    call.cancel()
    wait_for(lambda: running.gateway.pipeline.in_flight == 0)
    done = len(runs)
    time.sleep(0.2)
    assert len(runs) == done
    assert running.metric("indomain_requests_total", method="Interpolate", code="CANCELLED") == 1.0


# --- others, and full queues --------------------------------------------------------------------------------


def test_two_geodesics_leave_turns_to_others_of_their_caller(
    start_gateway: Callable[..., RunningGateway],
) -> None:
    running = start_gateway(interpose=True)
    request = long_geodesic(running)
    runs = slow_refiner(running, 0.1)
    calls = [running.stub.Interpolate(request, timeout=120) for _ in range(2)]
    wait_for(lambda: len(runs) >= 4)
    line = way(running, *bent(running), 3, pb.PATH_LINEAR)
    assert [answer.index for answer in line] == [0, 1, 2]
    done = len(runs)
    wait_for(lambda: len(runs) > done)
    assert running.gateway.pipeline.in_flight == 2
    for call in calls:
        call.cancel()


def test_a_queue_that_is_full_for_a_moment_does_not_end_a_geodesic(
    start_gateway: Callable[..., RunningGateway],
) -> None:
    running = start_gateway(interpose=True)
    start, end = bent(running)
    line = way(running, start, end, 5, pb.PATH_LINEAR)
    runs: list[str] = []

    async def full_every_other_time(model: str) -> None:
        # The critic is asked together with the generator: one of the two would always be refused.
        runs.extend([model] if model in (REFINER, GENERATOR) else [])
        if model == runs[-1] and len(runs) % 2 == 0:
            raise QueueFull("No room for a moment.", retry_after_s=0.01)

    running.backend.before = full_every_other_time
    geodesic = way(running, start, end, 5, pb.PATH_GEODESIC, steps=4)
    check_figures(geodesic)
    assert geodesic[-1].energy < line[-1].energy
    assert runs.count(REFINER) >= 4

    async def full(model: str) -> None:
        raise QueueFull("No room.", retry_after_s=0.01)

    # Before it has cost anything, it is refused as everything is.
    running.backend.before = full
    with pytest.raises(grpc.RpcError, match="No room"):
        way(running, start, end, 5, pb.PATH_GEODESIC, steps=4)


# --- what is refused ----------------------------------------------------------------------------------------


def test_what_makes_no_geodesic_is_refused(gateway: RunningGateway) -> None:
    code = as_message(sampled(gateway, 1)[0])
    for options, told in (
        ({"count": 65, "path": pb.PATH_GEODESIC}, "from 2 to 64 for a geodesic"),
        ({"count": 1, "path": pb.PATH_GEODESIC}, "from 2 to 64 for a geodesic"),
        ({"count": 3, "path": pb.PATH_GEODESIC, "refine": pb.RefineOptions(steps=0)}, "needs refinement"),
        ({"count": 3, "path": 7}, "one of linear, geodesic"),
    ):
        request = pb.InterpolateRequest(start=pb.Source(code=code), end=pb.Source(code=code), **options)
        with pytest.raises(grpc.RpcError, match=told):
            list(gateway.stub.Interpolate(request, timeout=20))
        reason = refusal(lambda *args, **kwargs: list(gateway.stub.Interpolate(*args, **kwargs)), request)
        assert reason == "invalid_option"
    body = {"start": {}, "end": {}, "count": 3, "path": "zigzag"}
    answer = gateway.http.post("/v1/interpolate", json=body)
    assert answer.status_code == 400
    assert "path" in answer.text


def test_a_straight_line_may_be_longer(gateway: RunningGateway) -> None:
    start, end = sampled(gateway, 1, 2)
    assert len(way(gateway, start, end, 65, pb.PATH_LINEAR, steps=0)) == 65


# --- arithmetic ---------------------------------------------------------------------------------------------


@given(squared=st.lists(st.floats(0, 4), min_size=1, max_size=20), seed=st.integers(0, 2**32 - 1))
def test_spacing_keeps_the_ends_and_the_way(squared: list[float], seed: int) -> None:
    """On one axis, codes as far apart as their pictures are: then equal parts of the length are even steps."""
    steps = np.sqrt(squared)
    axis = np.random.default_rng(seed).standard_normal((2, 3)).astype(np.float32)
    codes = (np.concatenate([[0.0], np.cumsum(steps)])[:, None, None] * axis).astype(np.float32)
    spaced = evenly_spaced(codes, squared)
    np.testing.assert_array_equal(spaced[0], codes[0])
    np.testing.assert_array_equal(spaced[-1], codes[-1])
    if steps.sum() > 0:
        even = np.tile((codes[-1] - codes[0]) / len(squared), (len(squared), 1, 1))
        np.testing.assert_allclose(np.diff(spaced, axis=0), even, atol=1e-3)


@given(seed=st.integers(0, 2**32 - 1), count=st.integers(2, 6))
def test_no_way_has_less_energy_than_its_length_squared_or_the_cross_fade(seed: int, count: int) -> None:
    images = list(np.random.default_rng(seed).integers(0, 256, (count, 4, 4, 3), dtype=np.uint8))
    squared = squared_steps(images)
    energy, length = (count - 1) * sum(squared), float(np.sqrt(squared).sum())
    assert length**2 <= energy * (1 + 1e-6)
    (cross_fade,) = squared_steps([images[0], images[-1]])
    assert cross_fade <= length**2 * (1 + 1e-6)
