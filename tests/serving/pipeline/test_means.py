"""Means of several codes: real gateways, both transports, the tiny bundle and the shipped one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from indomain.v1 import editing_pb2 as pb
from tests import shipped
from tests.serving.messages import as_json, as_message, close, code_of, image_of, refusal, sampled
from tests.serving.running_gateway import RunningGateway, settings_for

RAW = pb.OutputOptions(format=pb.IMAGE_FORMAT_RAW)
REFINER = "tiny16_refiner"


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """A gateway with the shipped bundle."""
    repository = shipped.quick_repository(tmp_path_factory.mktemp("faces") / "repository")
    running = RunningGateway(settings_for(repository, engine="onnxruntime"))
    yield running
    running.close()


def bent(gateway: RunningGateway, count: int = 3) -> list[np.ndarray]:
    """Codes of the tiny bundle far out, where its pictures are cut at black and white, each third farther than the
    one before: the mean of their numbers is far from the middle in pictures."""
    return [4 * (n % 3 + 1) * code for n, code in enumerate(sampled(gateway, *range(1, count + 1)))]


def mean_of(
    gateway: RunningGateway, codes: list[np.ndarray], path: Any, steps: int = 20, timeout_s: float = 60
) -> pb.MeanResponse:
    request = pb.MeanRequest(
        sources=[pb.Source(code=as_message(code)) for code in codes],
        path=path,
        refine=pb.RefineOptions(steps=steps),
        output=RAW,
    )
    return gateway.stub.Mean(request, timeout=timeout_s)


def variance(distances: Any) -> float:
    """The sum of squares."""
    return float(np.square(distances).sum())


def geodesic_distances(
    gateway: RunningGateway, mean: pb.MeanResponse, codes: list[np.ndarray]
) -> list[float]:
    """By another way: interpolations from the mean, each by itself."""
    lengths = []
    for code in codes:
        request = pb.InterpolateRequest(
            start=pb.Source(code=as_message(code_of(mean.code))),
            end=pb.Source(code=as_message(code)),
            count=4,
            path=pb.PATH_GEODESIC,
            refine=pb.RefineOptions(steps=40),
            output=RAW,
        )
        lengths.append(list(gateway.stub.Interpolate(request, timeout=60))[-1].length)
    return lengths


def test_a_linear_mean_is_that_of_the_numbers(gateway: RunningGateway) -> None:
    codes = sampled(gateway, 1, 2, 3)
    mean = mean_of(gateway, codes, pb.PATH_UNSPECIFIED, steps=0)
    np.testing.assert_allclose(code_of(mean.code), np.mean(codes, axis=0), atol=1e-6)
    decoded = gateway.stub.Decode(pb.DecodeRequest(codes=[mean.code], output=RAW), timeout=20)
    close(image_of(mean.image), image_of(decoded.images[0]))
    for code, distance in zip(codes, mean.distances, strict=True):
        line = pb.InterpolateRequest(
            start=pb.Source(code=mean.code), end=pb.Source(code=as_message(code)), count=4, output=RAW
        )
        assert distance == pytest.approx(
            list(gateway.stub.Interpolate(line, timeout=20))[-1].length, rel=1e-3
        )


@pytest.mark.parametrize("count", [2, 3, 30])
def test_a_geodesic_mean_is_nearer_to_all_together(gateway: RunningGateway, count: int) -> None:
    codes = bent(gateway, count)
    linear, curved = (mean_of(gateway, codes, path, steps=8) for path in (pb.PATH_LINEAR, pb.PATH_GEODESIC))
    assert len(curved.distances) == len(linear.distances) == count
    # Of many codes the mean is where their pictures agree least, and little is to be gained.
    assert variance(curved.distances) < (0.98 if count <= 3 else 1) * variance(linear.distances)


def test_it_is_nearer_by_geodesics_that_are_found_by_themselves(gateway: RunningGateway) -> None:
    codes = bent(gateway)
    linear, curved = (mean_of(gateway, codes, path, steps=40) for path in (pb.PATH_LINEAR, pb.PATH_GEODESIC))
    by_hand = [variance(geodesic_distances(gateway, mean, codes)) for mean in (curved, linear)]
    assert by_hand[0] < 0.98 * by_hand[1]
    assert by_hand[0] == pytest.approx(variance(curved.distances), rel=0.1)


def test_more_steps_find_no_worse_mean(gateway: RunningGateway) -> None:
    codes = bent(gateway)
    found = [variance(mean_of(gateway, codes, pb.PATH_GEODESIC, steps).distances) for steps in (2, 8, 32)]
    assert found == sorted(found, reverse=True)
    assert found[0] > found[-1]


def test_the_mean_of_faces_is_nearer_to_them(faces: RunningGateway) -> None:
    codes = sampled(faces, 3, 8, 11)
    linear, curved = (mean_of(faces, codes, path, steps=5) for path in (pb.PATH_LINEAR, pb.PATH_GEODESIC))
    assert variance(curved.distances) < 0.99 * variance(linear.distances)
    assert curved.domain_score > 0.5 * linear.domain_score


def test_one_code_and_equal_codes_are_their_own_mean(gateway: RunningGateway) -> None:
    (code,) = sampled(gateway, 1)
    for codes in ([code], [code] * 3):
        mean = mean_of(gateway, codes, pb.PATH_GEODESIC, steps=2)
        np.testing.assert_allclose(code_of(mean.code), code, atol=1e-6)
        assert list(mean.distances) == [0.0] * len(codes)


def test_both_transports_find_the_same_mean(gateway: RunningGateway, photo_png: bytes) -> None:
    codes = bent(gateway)
    curved = mean_of(gateway, codes, pb.PATH_GEODESIC, steps=4)
    body = {
        "sources": [{"code": as_json(code)} for code in codes],
        "path": "geodesic",
        "refine": {"steps": 4},
        "output": {"format": "raw"},
    }
    answer = gateway.http.post("/v1/mean", json=body).json()
    close(image_of(answer["image"]), image_of(curved.image))
    np.testing.assert_allclose(answer["distances"], curved.distances, rtol=1e-3)
    # a picture among the sources is inverted, and pasted into where it is the first
    request = pb.MeanRequest(
        sources=[pb.Source(picture=pb.Picture(data=photo_png)), pb.Source(code=as_message(codes[0]))],
        refine=pb.RefineOptions(steps=2),
        output=pb.OutputOptions(include_pasted=True),
    )
    mean = gateway.stub.Mean(request, timeout=20)
    assert mean.HasField("pasted")
    inverted = gateway.stub.Invert(
        pb.InvertRequest(picture=request.sources[0].picture, refine=request.refine), timeout=20
    )
    close(code_of(mean.code), (code_of(inverted.code) + codes[0]) / 2)


def test_at_the_deadline_the_best_mean_so_far_is_answered(
    start_gateway: Callable[..., RunningGateway],
) -> None:
    running = start_gateway(interpose=True)
    codes = bent(running, 4)
    linear = mean_of(running, codes, pb.PATH_LINEAR)

    async def slow(model: str) -> None:
        if model == REFINER:
            await asyncio.sleep(0.3)

    running.backend.before = slow
    started_s = time.monotonic()
    curved = mean_of(running, codes, pb.PATH_GEODESIC, steps=500, timeout_s=4)
    assert time.monotonic() - started_s < 4
    assert variance(curved.distances) < variance(linear.distances)


def test_what_makes_no_mean_is_refused(gateway: RunningGateway) -> None:
    source = pb.Source(code=as_message(sampled(gateway, 1)[0]))
    geodesic = {"path": pb.PATH_GEODESIC, "refine": pb.RefineOptions(steps=0)}
    for request, reason, told in (
        (pb.MeanRequest(), "invalid_option", "0 sources; give 1 to 64"),
        (pb.MeanRequest(sources=[source] * 65), "invalid_option", "65 sources; give 1 to 64"),
        (pb.MeanRequest(sources=[source], **geodesic), "invalid_option", "needs refinement"),
        (pb.MeanRequest(sources=[source, pb.Source()]), "malformed_request", "send exactly one"),
        (
            pb.MeanRequest(sources=[source, pb.Source(picture=pb.Picture(data=b"none"))]),
            "invalid_picture",
            r"sources\[1\]",
        ),
    ):
        with pytest.raises(grpc.RpcError, match=told):
            gateway.stub.Mean(request, timeout=20)
        assert refusal(gateway.stub.Mean, request) == reason
