"""SDK and command line against the gateway itself, as a process of its own, on a bundle in miniature."""

from __future__ import annotations

import importlib.util
import io
import json
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

import indomain
from indomain.cli import main

EXAMPLES = Path(__file__).resolve().parents[2] / "clients/python/examples"
PORTRAIT = EXAMPLES / "portrait.png"
LAYERS, RESOLUTION = 6, 16


def load_demo() -> ModuleType:
    """The demo's module: it knows how to start a gateway and to wait for it."""
    spec = importlib.util.spec_from_file_location("indomain_demo", EXAMPLES / "demo.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def address(tiny_repository: Path) -> Iterator[str]:
    with load_demo().running_gateway(tiny_repository) as address:
        yield address


@pytest.fixture(scope="module")
def client(address: str) -> Iterator[indomain.Client]:
    with indomain.Client(address, timeout_s=120.0) as client:
        yield client


def test_bundles(client: indomain.Client) -> None:
    info = client.info()
    (bundle,) = info.bundles
    assert (bundle.name, bundle.resolution, bundle.layers) == ("tiny16", RESOLUTION, LAYERS)
    assert set(bundle.directions) == {"smile", "age"}
    assert info.limits.max_codes > 0
    assert info.version


def test_invert_refines(client: indomain.Client) -> None:
    inversion = client.invert(PORTRAIT, include_aligned=True, include_start=True)
    assert inversion.code.shape == (LAYERS, 512)
    assert inversion.image.size == (RESOLUTION, RESOLUTION)
    assert inversion.losses.pixel_mse_after < inversion.losses.pixel_mse_before
    assert inversion.losses.steps_done > 0
    assert 0 <= inversion.domain_score <= 1
    assert {"encode", "refine", "decode"} <= set(inversion.stage_seconds)
    assert inversion.aligned is not None
    assert inversion.start is not None


def test_no_steps_leave_the_encoders_code(client: indomain.Client) -> None:
    losses = client.invert(PORTRAIT, steps=0).losses
    assert losses.stop_reason == "not_refined"
    assert losses.pixel_mse_after == losses.pixel_mse_before


def test_every_way_to_hand_over_a_picture_gives_the_same_code(client: indomain.Client) -> None:
    with Image.open(PORTRAIT) as image:
        image.load()
    ways = (PORTRAIT, str(PORTRAIT), PORTRAIT.read_bytes(), image, np.asarray(image.convert("RGB")))
    codes = [client.invert(way, steps=0).code for way in ways]
    for code in codes[1:]:
        assert np.allclose(code, codes[0], atol=1e-5)


def test_decoding_a_code_gives_its_picture(client: indomain.Client) -> None:
    inversion = client.invert(PORTRAIT)
    (image,) = client.decode(inversion.code)
    assert np.array_equal(np.asarray(image), inversion.pixels)


@pytest.mark.parametrize("picture_format", ["png", "raw"])
def test_lossless_formats_agree(
    address: str, client: indomain.Client, picture_format: indomain.PictureFormat
) -> None:
    code = client.sample(1)[0].code
    with indomain.Client(address, picture_format=picture_format) as other:
        assert np.array_equal(np.asarray(other.decode(code)[0]), np.asarray(client.decode(code)[0]))


def test_edits_move_the_code_on_the_directions_layers(client: indomain.Client) -> None:
    inversion = client.invert(PORTRAIT)
    edited = inversion.edit(smile=2.0)
    moved = np.abs(edited.code - inversion.code).max(axis=1) > 0
    assert [layer for layer in range(LAYERS) if moved[layer]] == [2, 3]
    assert np.array_equal(edited.source_code, inversion.code)
    only = inversion.edit(indomain.Edit("smile", 2.0, layers=(3,)))
    assert np.array_equal(only.code[2], inversion.code[2])
    back = client.edit(edited, smile=-2.0)
    assert np.allclose(back.code, inversion.code, atol=1e-4)


def test_a_picture_can_be_edited_at_once(client: indomain.Client) -> None:
    edited = client.edit(PORTRAIT, smile=1.0, age=-1.0)
    two_calls = client.invert(PORTRAIT).edit(smile=1.0, age=-1.0)
    assert edited.losses is not None
    assert np.allclose(edited.code, two_calls.code, atol=1e-3)


def test_a_seed_gives_the_same_picture_again(client: indomain.Client) -> None:
    first, second = client.sample([5, 6]), client.sample(6)
    assert np.allclose(first[1].code, second[0].code, atol=1e-5)
    assert not np.allclose(first[0].code, first[1].code, atol=1e-3)


def test_one_client_serves_many_threads(client: indomain.Client) -> None:
    alone = {sample.seed: sample.code for sample in client.sample(range(16))}
    with ThreadPoolExecutor(8) as pool:
        for seed, (sample,) in zip(alone, pool.map(client.sample, alone), strict=True):
            assert np.allclose(sample.code, alone[seed], atol=1e-5)


def truncated_picture() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), "teal").save(buffer, "PNG")
    return buffer.getvalue()[:60]


CODE = np.zeros((LAYERS, 512), np.float32)


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        (lambda c: c.invert(b"no picture"), indomain.InvalidPictureError),
        (lambda c: c.invert(truncated_picture()), indomain.InvalidPictureError),
        (lambda c: c.invert(PORTRAIT, steps=10**6), indomain.InvalidOptionError),
        (lambda c: c.invert(PORTRAIT, bundle="nobody"), indomain.UnknownBundleError),
        (lambda c: c.edit(CODE, halo=1.0), indomain.UnknownDirectionError),
        (lambda c: c.edit(CODE, smile=float("nan")), indomain.InvalidRequestError),
        (lambda c: c.decode(CODE[:3]), indomain.InvalidCodeError),
        (lambda c: c.decode(CODE * np.nan), indomain.InvalidCodeError),
        (lambda c: c.sample(range(10_000)), indomain.InvalidOptionError),
        (lambda c: c.sample(1, truncation=-5.0), indomain.InvalidOptionError),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_errors_are_typed_and_the_gateway_goes_on(
    client: indomain.Client, call: object, kind: type[indomain.IndomainError]
) -> None:
    with pytest.raises(kind) as caught:
        call(client)  # type: ignore[operator]
    assert len(caught.value.request_id) == 32
    assert not caught.value.retryable
    assert client.sample(1)


def test_the_command_line_from_picture_to_edit(
    address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again, smiling = tmp_path / "again.png", tmp_path / "smiling.png"
    assert main(["invert", str(PORTRAIT), "-o", str(again), "--server", address]) == 0
    capsys.readouterr()
    arguments = ["edit", str(again.with_suffix(".npy")), "smile=2", "-o", str(smiling)]
    assert main([*arguments, "--server", address, "--json"]) == 0
    (result,) = json.loads(capsys.readouterr().out)
    assert result["bundle"] == "tiny16"
    assert Image.open(smiling).size == (RESOLUTION, RESOLUTION)
