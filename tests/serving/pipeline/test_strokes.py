"""Edits along strokes: where they lie, that they are followed, and which are refused. Over both transports."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from indomain.v1 import editing_pb2 as pb
from serving.errors import InvalidOption
from serving.jobs import EncodedPicture
from serving.photographs.alignment import Similarity
from serving.photographs.areas import Strokes, picture_strokes
from serving.photographs.formats.headers import read_header
from serving.photographs.pictures import PictureReader
from tests.serving.messages import (
    as_json,
    as_message,
    close,
    code_of,
    image_of,
    refusal,
    sampled,
    session_request,
)
from tests.serving.pictures import encoded
from tests.serving.running_gateway import RunningGateway

RAW = pb.OutputOptions(format=pb.IMAGE_FORMAT_RAW)
STEPS = pb.RefineOptions(steps=100, domain_weight=0)
SIDE = 16


@pytest.fixture(scope="module")
def code(gateway: RunningGateway) -> np.ndarray:
    """A code whose picture stays within 0..255: the tiny refiner does not know of the generator's clipping."""
    return sampled(gateway, 3)[0] * np.float32(0.2)


def corner() -> np.ndarray:
    """Strokes uint8 [16, 16, 4]: the upper left corner is bright, all else transparent, with red behind."""
    drawn = np.zeros((SIDE, SIDE, 4), np.uint8)
    drawn[:, :, 0] = 255
    drawn[:4, :4] = (230, 220, 200, 255)
    return drawn


def as_picture(drawn: np.ndarray) -> pb.Picture:
    return pb.Picture(data=encoded(drawn))


def edited(gateway: RunningGateway, code: np.ndarray, **fields: Any) -> pb.EditResponse:
    request = pb.EditRequest(code=as_message(code), output=RAW, **fields)
    return gateway.stub.Edit(request, timeout=30)


def mse(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.mean(((one - other) / 127.5) ** 2))


def picture_of(gateway: RunningGateway, code: np.ndarray) -> np.ndarray:
    answer = gateway.stub.Decode(pb.DecodeRequest(codes=[as_message(code)], output=RAW))
    return image_of(answer.images[0]).astype(float)


def test_the_picture_follows_the_strokes_and_stays_elsewhere(
    gateway: RunningGateway, code: np.ndarray
) -> None:
    other = sampled(gateway, 5)[0] * np.float32(0.2)
    strokes, source = corner(), picture_of(gateway, code)
    strokes[:4, :4, :3] = picture_of(gateway, other)[:4, :4]  # colours that this generator has
    followed = edited(gateway, code, strokes=as_picture(strokes), refine=STEPS)
    losses, picture = followed.strokes, image_of(followed.image).astype(float)
    assert losses.pixel_mse_after < 0.8 * losses.pixel_mse_before
    assert 0 < losses.steps_done <= 100
    assert mse(picture[:4, :4], strokes[:4, :4, :3]) == pytest.approx(losses.pixel_mse_after, rel=0.05)
    assert mse(picture[4:, 4:], source[4:, 4:]) < 0.6 * mse(picture[:4, :4], source[:4, :4])
    np.testing.assert_array_equal(code_of(followed.source_code), code)

    as_body = {"data": base64.b64encode(encoded(strokes)).decode()}
    body = {"code": as_json(code), "strokes": as_body, "refine": {"steps": 100, "domain_weight": 0}}
    answer = gateway.http.post("/v1/edit", json=body).json()
    close(code_of(answer["code"]), code_of(followed.code))
    assert answer["strokes"]["pixel_mse_after"] == pytest.approx(losses.pixel_mse_after, rel=1e-2)
    request = session_request(code=as_message(code), strokes=as_picture(strokes), refine=STEPS, output=RAW)
    (of_session,) = gateway.stub.EditSession(iter([request]), timeout=30)
    close(code_of(of_session.edited.code), code_of(followed.code))


def test_an_area_holds_strokes_as_it_holds_edits(gateway: RunningGateway, code: np.ndarray) -> None:
    region = pb.Region(left=0, top=0, right=0.5, bottom=1)
    strokes = as_picture(np.flip(corner(), axis=1))  # on the right, where nothing may change
    free = edited(gateway, code, strokes=strokes, refine=STEPS)
    held = edited(gateway, code, strokes=strokes, refine=STEPS, region=region)
    assert held.strokes.pixel_mse_after == pytest.approx(free.strokes.pixel_mse_after, rel=1e-3)
    assert held.area.outside_mse_after < 0.5 * held.area.outside_mse_before


def test_strokes_lie_on_the_photograph_or_on_the_square(gateway: RunningGateway, photo_png: bytes) -> None:
    """The photograph has 40 x 30 pixels, of which the middle 30 are encoded; a form brings them, too."""
    wide = np.zeros((30, 40, 4), np.uint8)
    wide[8:20, 14:26] = (200, 40, 60, 255)
    refine = pb.RefineOptions(steps=10)
    answers = [
        gateway.stub.Edit(
            pb.EditRequest(picture=pb.Picture(data=photo_png), strokes=as_picture(drawn), refine=refine)
        )
        for drawn in (wide, wide[:, 5:35])
    ]
    close(code_of(answers[0].code), code_of(answers[1].code))
    assert not np.array_equal(code_of(answers[0].code), code_of(answers[0].source_code))
    files = {"picture": photo_png, "strokes": encoded(wide)}
    answer = gateway.http.post(
        "/v1/edit", files=files, data={"options": json.dumps({"refine": {"steps": 10}})},
        headers={"accept": "image/png"},
    )  # fmt: skip
    mse = answers[0].strokes.pixel_mse_after
    assert float(answer.headers["x-strokes-mse"]) == pytest.approx(mse, rel=1e-2)


def test_colours_and_cover_are_read_from_what_is_half_transparent() -> None:
    drawn = np.zeros((8, 8, 4), np.uint8)
    drawn[:4] = (200, 100, 50, 128)
    drawn[4:6] = (10, 20, 30, 255)
    picture = EncodedPicture(encoded(drawn))
    reader = PictureReader(picture, read_header(picture, 10_000, 10_000))
    strokes = picture_strokes(*reader.cut_on_both(Similarity(8, 0j), 8))
    np.testing.assert_allclose(strokes.cover[:, :, 0], drawn[:, :, 3] / 255, atol=0.01)
    assert np.abs(strokes.colours[:6].astype(int) - drawn[:6, :, :3]).max() <= 2
    ground = np.full((8, 8, 3), 90, np.uint8)
    painted = strokes.painted_on(ground)
    np.testing.assert_array_equal(painted[6:], ground[6:])
    np.testing.assert_allclose(painted[0, 0], (145, 95, 70), atol=2)
    for cover, share in ((strokes.cover > 0.4, 0.75), (np.arange(64).reshape(8, 8, 1) == 0, 0.1)):
        weights = Strokes(strokes.colours, cover.astype(np.float32)).weights()
        assert weights[cover].sum() / weights.sum() == pytest.approx(share), (
            "a tenth, or as much as they cover"
        )
    for cover in (0, 255):
        with pytest.raises(InvalidOption):
            picture_strokes(*(np.full((8, 8, 3), value, np.uint8) for value in (cover and 90, cover or 255)))


@pytest.mark.parametrize(
    ("drawn", "fields", "reason"),
    [
        (np.zeros((SIDE, SIDE, 4), np.uint8), {}, "invalid_option"),
        (np.full((SIDE, SIDE, 3), 90, np.uint8), {}, "invalid_option"),
        (corner()[:, :8], {}, "invalid_picture"),
        (None, {}, "invalid_picture"),
        (corner(), {"refine": pb.RefineOptions(steps=0)}, "invalid_option"),
    ],
    ids=["transparent", "nowhere transparent", "of another shape", "no picture", "no steps"],
)
def test_strokes_that_cannot_be_are_said(
    gateway: RunningGateway,
    code: np.ndarray,
    drawn: np.ndarray | None,
    fields: dict[str, Any],
    reason: str,
) -> None:
    strokes = pb.Picture(data=b"no picture") if drawn is None else as_picture(drawn)
    request = pb.EditRequest(code=as_message(code), strokes=strokes, **fields)
    assert refusal(gateway.stub.Edit, request) == reason


def test_bad_strokes_do_not_take_a_sessions_photograph(gateway: RunningGateway, photo_png: bytes) -> None:
    asked = iter(
        [
            session_request(1, picture=pb.Picture(data=photo_png), strokes=pb.Picture(data=b"no picture")),
            session_request(2, edits=[pb.EditStep(direction="smile", strength=1.0)]),
        ]
    )
    turn = threading.Semaphore(1)

    def in_turn() -> Iterator[pb.EditSessionRequest]:
        for request in asked:
            turn.acquire()
            yield request

    answers: Any = gateway.stub.EditSession(in_turn(), timeout=30)
    first = next(answers)
    turn.release()
    assert (first.error.reason, first.error.message[:9]) == ("invalid_picture", "strokes: ")
    assert next(answers).edited.HasField("image")


def test_strokes_count_in_the_memory_of_sessions(start_gateway: Callable[..., RunningGateway]) -> None:
    running = start_gateway(max_session_photograph_bytes=20_000)
    noise = np.random.default_rng(0).integers(0, 256, (100, 100, 4), np.uint8)
    code = sampled(running, 3)[0]
    request = session_request(code=as_message(code), strokes=as_picture(noise))
    (answer,) = running.stub.EditSession(iter([request]), timeout=30)
    assert answer.error.reason == "queue_full"
