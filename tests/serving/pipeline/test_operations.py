"""Edits that keep other directions, presets, edits of an area alone. Against a real gateway, over both transports."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from indomain.v1 import editing_pb2 as pb
from serving.bundle import Bundle, Direction
from serving.jobs import EditStep
from serving.pipeline.edits import edit_vector
from serving.repository.reader import read_bundle
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
from tests.serving.running_gateway import RunningGateway, settings_for

RAW = pb.OutputOptions(format=pb.IMAGE_FORMAT_RAW)
PRESETS = [
    {"name": "cheerful", "label": "Cheerful", "edits": [
        {"direction": "smile", "strength": 2.0}, {"direction": "age", "strength": -0.5, "layers": [4]},
    ]},
    {"name": "quiet", "edits": [{"direction": "glasses", "strength": 1.0, "keep": ["smile"]}]},
]  # fmt: skip


@pytest.fixture(scope="module")
def repository(tiny_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny bundle with a direction that shares layers with both others, codes of uneven spread, and presets."""
    folder = Path(shutil.copytree(tiny_repository, tmp_path_factory.mktemp("operations") / "repository"))
    random = np.random.default_rng(5)
    tensors, manifest = (
        load_file(folder / "tiny16.safetensors"),
        json.loads((folder / "tiny16.json").read_text()),
    )
    glasses = np.zeros((6, 512), np.float32)
    glasses[1:5] = random.standard_normal((4, 512)) + 20 * (
        tensors["direction/smile"][1:5] + tensors["direction/age"][1:5]
    )
    tensors["direction/glasses"] = glasses / np.linalg.norm(glasses)
    tensors["code_std"] = random.uniform(0.2, 3.0, (6, 512)).astype(np.float32)
    for kind in (
        "direction",
        "boundary",
        "across",
    ):  # a direction that labels made, with a boundary of its own
        hat = glasses + random.standard_normal((6, 512)).astype(np.float32)
        hat[[0, 5]] = 0
        tensors[f"{kind}/hat"] = hat / np.linalg.norm(hat)
    save_file(tensors, folder / "tiny16.safetensors")
    manifest["tensors"]["sha256"] = hashlib.sha256((folder / "tiny16.safetensors").read_bytes()).hexdigest()
    entry = {"name": "glasses", "layers": [1, 2, 3, 4], "range": [-2.0, 2.0], "scale": 3.0}
    manifest["directions"] += [entry, entry | {"name": "hat"}]
    manifest["presets"] = PRESETS
    (folder / "tiny16.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture(scope="module")
def bundle(repository: Path) -> Bundle:
    return read_bundle(repository, "tiny16")


@pytest.fixture(scope="module")
def running(repository: Path) -> Iterator[RunningGateway]:
    gateway = RunningGateway(settings_for(repository))
    yield gateway
    gateway.close()


@pytest.fixture(scope="module")
def code(running: RunningGateway) -> np.ndarray:
    return pale(running, 3)


def pale(running: RunningGateway, seed: int) -> np.ndarray:
    """A code whose picture and edits stay within 0..255: the tiny refiner does not know of the generator's clipping."""
    return sampled(running, seed)[0] * np.float32(0.2)


def edited(running: RunningGateway, code: np.ndarray, *edits: pb.EditStep, **fields: Any) -> pb.EditResponse:
    request = pb.EditRequest(code=as_message(code), edits=edits, output=RAW, **fields)
    return running.stub.Edit(request, timeout=30)


def over_http(
    running: RunningGateway, code: np.ndarray, *edits: dict[str, Any], **fields: Any
) -> dict[str, Any]:
    body = {"code": as_json(code), "edits": edits, "output": {"format": "raw"}, **fields}
    answer = running.http.post("/v1/edit", json=body)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


# --- keeping ---------------------------------------------------------------------------------------------------------


def projected(bundle: Bundle, name: str, keep: list[str], layers: list[int]) -> np.ndarray:
    """The reference: Gram-Schmidt over the kept directions, all divided by the codes' deviation."""
    deviation = bundle.code_std.astype(float)

    def standard(direction: str) -> np.ndarray:
        narrowed = np.zeros((6, 512))
        narrowed[layers] = (bundle.directions[direction].vector / deviation)[layers]
        return narrowed

    basis: list[np.ndarray] = []
    for other in keep:
        rest = standard(other)
        for unit in basis:
            rest = rest - (rest * unit).sum() * unit
        basis.append(rest / np.linalg.norm(rest))
    left = bundle.directions[name].scale * standard(name)
    for unit in basis:
        left = left - (left * unit).sum() * unit
    return left * deviation


@pytest.mark.parametrize("layers", [[], [2, 4]])
def test_an_edit_leaves_alone_what_it_keeps(
    running: RunningGateway, bundle: Bundle, code: np.ndarray, layers: list[int]
) -> None:
    step = pb.EditStep(direction="glasses", strength=1.5, layers=layers, keep=["smile", "age"])
    wanted = 1.5 * projected(bundle, "glasses", ["smile", "age"], layers or [1, 2, 3, 4])
    moved = code_of(edited(running, code, step).code) - code
    np.testing.assert_allclose(moved, wanted, atol=1e-5)
    whole = code_of(edited(running, code, pb.EditStep(direction="glasses", strength=1.5, layers=layers)).code)
    assert np.linalg.norm(whole - code - moved) > 0.1 * np.linalg.norm(moved)
    body = {"direction": "glasses", "strength": 1.5, "layers": layers, "keep": ["smile", "age"]}
    close(code_of(over_http(running, code, body)["code"]), code + moved)


def test_what_crosses_a_boundary_is_taken_back_by_native_steps(
    running: RunningGateway, bundle: Bundle, code: np.ndarray
) -> None:
    step = {"direction": "glasses", "strength": 2.0, "keep": ["hat", "smile"]}
    whole = 2.0 * 3.0 * bundle.directions["glasses"].vector.astype(float)
    moved = code_of(edited(running, code, pb.EditStep(**step)).code).astype(float) - code
    kept = [bundle.directions[name] for name in ("hat", "smile")]
    for direction in kept:
        crossing = [(direction.boundary * move).sum() for move in (moved, whole)]
        assert abs(crossing[0]) < 1e-5 * abs(crossing[1])
    steps = np.stack([direction.across.ravel() for direction in kept], 1)
    taken = (whole - moved).ravel()
    assert np.linalg.norm(taken - steps @ np.linalg.lstsq(steps, taken)[0]) < 1e-4 * np.linalg.norm(taken)
    close(code_of(over_http(running, code, step)["code"]), code + moved.astype(np.float32))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), kept=st.integers(1, 4), layers=st.sets(st.integers(0, 5)))
def test_what_is_left_is_orthogonal_to_what_is_kept_and_no_longer(
    bundle: Bundle, seed: int, kept: int, layers: set[int]
) -> None:
    random = np.random.default_rng(seed)

    def direction(name: str) -> Direction:
        vector = random.standard_normal((6, 512)).astype(np.float32) + 1
        named = replace(bundle.directions["smile"], name=name, layers=tuple(range(6)), vector=vector)
        return replace(named, boundary=vector / deviation**2, across=vector)

    names = ["moved", *(f"kept{n}" for n in range(kept))]
    deviation = random.uniform(0.1, 5, (6, 512))
    made = replace(bundle, directions={name: direction(name) for name in names})
    chosen = tuple(sorted(layers))
    left = edit_vector(EditStep("moved", 1, chosen, tuple(names[1:])), made) / deviation
    whole = edit_vector(EditStep("moved", 1, chosen), made) / deviation
    assert np.linalg.norm(left) <= np.linalg.norm(whole) * (1 + 1e-9)
    assert {n for n in range(6) if np.any(left[n])} == set(chosen or range(6))
    for name in names[1:]:
        other = made.directions[name].vector / deviation
        assert abs((left * other).sum()) < 1e-6 * np.linalg.norm(left) * np.linalg.norm(other)
    twice = EditStep("moved", 1, chosen, (*names[1:], *names[1:]))
    np.testing.assert_allclose(edit_vector(twice, made) / deviation, left, atol=1e-6)


@pytest.mark.parametrize(
    ("step", "reason", "says"),
    [
        ({"direction": "smile", "keep": ["smile"]}, "invalid_option", "cannot change and be kept"),
        ({"direction": "smile", "keep": ["beard"]}, "unknown_direction", "age, glasses, hat, smile"),
        ({"direction": "smile", "keep": ["cheerful"]}, "invalid_option", "smile, age"),
        ({"direction": "cheerful", "keep": ["smile", "age"]}, "invalid_option", "Nothing is left"),
        ({"direction": "beard"}, "unknown_direction", "cheerful"),
        ({"direction": "cheerful", "strength": 101}, "invalid_option", "cheerful"),
        ({"direction": "cheerful", "layers": [0]}, "invalid_option", "2, 3, 4"),
    ],
)
def test_what_cannot_be_kept_or_made_is_said(
    running: RunningGateway, code: np.ndarray, step: dict[str, Any], reason: str, says: str
) -> None:
    step = {"strength": 1.0} | step
    request = pb.EditRequest(code=as_message(code), edits=[pb.EditStep(**step)])
    assert refusal(running.stub.Edit, request) == reason
    answer = running.http.post("/v1/edit", json={"code": as_json(code), "edits": [step]}).json()
    assert answer["reason"] == reason
    assert says in answer["message"]


# --- presets ---------------------------------------------------------------------------------------------------------


def test_a_preset_is_what_its_edits_are_together(running: RunningGateway, code: np.ndarray) -> None:
    by_name = edited(running, code, pb.EditStep(direction="cheerful", strength=1.5))
    apart = [
        pb.EditStep(direction="smile", strength=3.0),
        pb.EditStep(direction="age", strength=-0.75, layers=[4]),
    ]
    np.testing.assert_allclose(code_of(by_name.code), code_of(edited(running, code, *apart).code), atol=1e-5)
    body = {"direction": "cheerful", "strength": 1.5}
    close(code_of(over_http(running, code, body)["code"]), code_of(by_name.code))
    narrow = edited(
        running, code, pb.EditStep(direction="cheerful", strength=1.5, layers=[2, 4], keep=["age"])
    )
    moved = code_of(narrow.code) - code
    np.testing.assert_allclose(moved[2], code_of(by_name.code)[2] - code[2], atol=1e-5)
    assert np.any(moved[2])
    assert not np.any(moved[[0, 1, 3, 5]])
    assert np.abs(moved[4]).max() < 1e-5  # nothing there but age, which is kept


def test_presets_are_listed(running: RunningGateway) -> None:
    presets = running.stub.ListBundles(pb.ListBundlesRequest()).bundles[0].presets
    assert [(preset.name, preset.label) for preset in presets] == [
        ("cheerful", "Cheerful"),
        ("quiet", "quiet"),
    ]
    assert list(presets[1].edits) == [pb.EditStep(direction="glasses", strength=1.0, keep=["smile"])]
    listed = running.http.get("/v1/bundles").json()["bundles"][0]["presets"]
    assert listed[0]["edits"][1] == {"direction": "age", "strength": -0.5, "layers": [4], "keep": []}


# --- areas -----------------------------------------------------------------------------------------------------------

LEFT = pb.Region(left=0, top=0, right=0.5, bottom=1)
STEPS = pb.RefineOptions(steps=200, domain_weight=0)
AGE = pb.EditStep(direction="age", strength=3.0)


def mse(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.mean(((one.astype(float) - other) / 127.5) ** 2))


def test_only_the_area_changes(running: RunningGateway, code: np.ndarray) -> None:
    whole = edited(running, code, AGE)
    assert not whole.HasField("area")
    held = edited(running, code, AGE, region=LEFT, refine=STEPS)
    source = image_of(running.stub.Decode(pb.DecodeRequest(codes=[as_message(code)], output=RAW)).images[0])
    before, after = image_of(whole.image), image_of(held.image)
    close(image_of(running.stub.Decode(pb.DecodeRequest(codes=[held.code], output=RAW)).images[0]), after)
    # This generator has 48 shapes to make pictures of: half of what is asked for on either side is the best it can.
    far = (slice(None), slice(10, None))  # beyond the soft border
    assert mse(source[far], after[far]) < 0.5 * mse(source[far], before[far])
    change = held.area
    assert change.outside_mse_after < 0.5 * change.outside_mse_before
    assert change.inside_mse_after > 0.1 * change.inside_mse_before
    assert change.losses.pixel_mse_after < change.losses.pixel_mse_before
    assert 0 < change.losses.steps_done <= 200

    mask = np.zeros((16, 16, 3), np.uint8)
    mask[:, :8] = 255
    by_mask = over_http(
        running, code, {"direction": "age", "strength": 3.0},
        mask={"data": base64.b64encode(encoded(mask)).decode()}, refine={"steps": 200, "domain_weight": 0},
    )  # fmt: skip
    close(code_of(by_mask["code"]), code_of(held.code))
    assert by_mask["area"]["outside_mse_after"] == pytest.approx(change.outside_mse_after, rel=1e-2)


def test_a_form_has_a_mask_too_and_a_picture_its_figures(running: RunningGateway, photo_png: bytes) -> None:
    mask = np.zeros((30, 40, 3), np.uint8)
    mask[:15] = 255
    options = json.dumps({"edits": [{"direction": "age", "strength": 2}], "refine": {"steps": 10}})
    answer = running.http.post(
        "/v1/edit", files={"picture": photo_png, "mask": encoded(mask)}, data={"options": options},
        headers={"accept": "image/png"},
    )  # fmt: skip
    assert answer.headers["content-type"] == "image/png"
    assert float(answer.headers["x-outside-mse"]) >= 0


@settings(max_examples=8, deadline=None)
@given(sides=st.tuples(*[st.sampled_from([0, 0.25, 0.5, 0.75, 1])] * 4), seed=st.integers(0, 99))
def test_outside_stays_nearer_to_the_source(
    running: RunningGateway, sides: tuple[float, ...], seed: int
) -> None:
    left, right, top, bottom = (*sorted(sides[:2]), *sorted(sides[2:]))
    if left == right or top == bottom:
        return
    code = pale(running, seed)
    region = pb.Region(left=left, top=top, right=right, bottom=bottom)
    change = edited(running, code, AGE, region=region, refine=STEPS).area
    assert change.outside_mse_after <= change.outside_mse_before
    assert change.losses.pixel_mse_after <= change.losses.pixel_mse_before


def test_an_area_of_all_is_no_area(running: RunningGateway, code: np.ndarray) -> None:
    white = pb.Picture(data=encoded(np.full((8, 8, 3), 255, np.uint8)))
    everywhere = edited(running, code, AGE, mask=white)
    close(code_of(everywhere.code), code_of(edited(running, code, AGE).code))
    assert everywhere.area.losses.stop_reason == pb.STOP_REASON_NOT_REFINED
    assert everywhere.area.outside_mse_after == 0.0
    nothing = edited(running, code, region=LEFT)  # no edit: the source, wherever
    np.testing.assert_array_equal(code_of(nothing.code), code)


def test_an_area_that_cannot_be_is_said(running: RunningGateway, code: np.ndarray) -> None:
    def asked(**fields: Any) -> str:
        request = pb.EditRequest(code=as_message(code), edits=[AGE], **fields)
        return refusal(running.stub.Edit, request)

    assert asked(region=LEFT, refine=pb.RefineOptions(steps=0)) == "invalid_option"
    assert asked(region=pb.Region(left=1)) == "invalid_option"
    assert asked(mask=pb.Picture(data=encoded(np.zeros((16, 16, 3), np.uint8)))) == "invalid_option"
    assert asked(mask=pb.Picture(data=b"no picture")) == "invalid_picture"
    assert asked(mask=pb.Picture(data=encoded(np.full((16, 8, 3), 255, np.uint8)))) == "invalid_picture"
    region = {"left": 0, "top": 0, "right": 1, "bottom": 1}
    both = {"code": as_json(code), "region": region, "mask": {"data": "AAAA"}}
    assert running.http.post("/v1/edit", json=both).json()["reason"] == "malformed_request"


def test_inversion_and_area_share_the_time(
    start_gateway: Callable[..., RunningGateway], photo_png: bytes
) -> None:
    running = start_gateway(interpose=True, refine_min_improvement_ratio=0.0)

    async def slow(model: str) -> None:
        if model.endswith("refiner"):
            await asyncio.sleep(0.05)

    running.backend.before = slow
    request = pb.EditRequest(
        picture=pb.Picture(data=photo_png), edits=[AGE], region=LEFT, refine=pb.RefineOptions(quality="best")
    )
    answer = running.stub.Edit(request, timeout=5.0)
    for losses in (answer.losses, answer.area.losses):
        assert losses.stop_reason == pb.STOP_REASON_DEADLINE
        assert losses.steps_done > 0


def test_a_session_has_areas_too(running: RunningGateway, code: np.ndarray) -> None:
    requests = [
        session_request(sequence=1, code=as_message(code), edits=[AGE], refine=STEPS, output=RAW, region=LEFT),
    ]  # fmt: skip
    (answer,) = running.stub.EditSession(iter(requests), timeout=30)
    close(code_of(answer.edited.code), code_of(edited(running, code, AGE, region=LEFT, refine=STEPS).code))
    assert answer.edited.area.outside_mse_after < answer.edited.area.outside_mse_before


def test_strengths_are_cut_to_their_range_where_that_is_asked_for(
    running: RunningGateway, code: np.ndarray
) -> None:
    low, high = next((d.range_min, d.range_max) for d in directions(running) if d.name == "age")

    def age(strength: float, **fields: Any) -> np.ndarray:
        steps = [pb.EditStep(direction="age", strength=strength)]
        return code_of(running.stub.Edit(pb.EditRequest(code=as_message(code), edits=steps, **fields)).code)

    for far, end in ((high + 3.0, high), (low - 3.0, low)):
        np.testing.assert_array_equal(age(far, within_range=True), age(end))
        assert not np.array_equal(age(far), age(end))
    np.testing.assert_array_equal(age(high / 2, within_range=True), age(high / 2))


def directions(running: RunningGateway) -> Any:
    return running.stub.ListBundles(pb.ListBundlesRequest()).bundles[0].directions
