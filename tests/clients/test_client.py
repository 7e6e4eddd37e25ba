"""What the client asks for and what it makes of the answers, against a server on loopback."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import indomain
from indomain.wire.codes import code_from_wire
from tests.clients.scripted_gateway import LAYERS, SIZE, ScriptedGateway

PIXELS = np.zeros((5, 5, 3), np.uint8)


def test_bundles(client: indomain.Client) -> None:
    (bundle,) = client.bundles()
    assert (bundle.name, bundle.resolution, bundle.layers) == ("tiny", SIZE, LAYERS)
    smile = bundle.directions["smile"]
    assert smile.range == (-3.0, 3.0)
    assert smile.layers == (0, 1, 2)
    assert smile.held_out is not None
    assert smile.held_out.metric == "r"
    assert bundle.refine.steps == 100


def test_info_has_limits_and_version(client: indomain.Client) -> None:
    info = client.info()
    assert info.limits.max_codes == 64
    assert info.version == "0.1.0"


def test_invert(client: indomain.Client, gateway: ScriptedGateway) -> None:
    inversion = client.invert(PIXELS, steps=20, refine=indomain.Refine(steps=5, learning_rate=0.1))
    assert np.array_equal(inversion.code, gateway.code)
    assert inversion.code.dtype == np.float32
    assert np.array_equal(inversion.pixels, gateway.picture)
    assert isinstance(inversion.image, Image.Image)
    assert inversion.losses.stop_reason == "converged"
    assert inversion.stage_seconds == {"encode": 0.75}  # parts of one stage are added up
    assert inversion.start is None
    assert inversion.request_id == gateway.request_ids[-1]
    sent = gateway.requests[-1].refine
    assert sent.steps == 20
    assert sent.learning_rate == pytest.approx(0.1)
    assert not sent.HasField("pixel_weight")
    client.invert(PIXELS, quality="fast", refine=indomain.Refine(steps=5))
    sent = gateway.requests[-1].refine
    assert (sent.quality, sent.HasField("steps")) == ("fast", False)


def test_what_is_not_said_is_left_to_the_bundle(client: indomain.Client, gateway: ScriptedGateway) -> None:
    client.invert(PIXELS)
    assert not gateway.requests[-1].refine.HasField("steps")
    assert gateway.requests[-1].bundle == ""


def test_further_pictures_are_answered_when_asked_for(client: indomain.Client) -> None:
    inversion = client.invert(PIXELS, include_start=True)
    assert inversion.start is not None
    assert inversion.aligned is None


def test_an_inversion_is_edited_by_its_code(client: indomain.Client, gateway: ScriptedGateway) -> None:
    edited = client.invert(PIXELS).edit(smile=2.0)
    request = gateway.requests[-1]
    assert request.WhichOneof("source") == "code"
    assert request.bundle == "tiny"
    assert np.array_equal(code_from_wire(request.code), gateway.code)
    assert np.array_equal(edited.code, gateway.code + 1)
    assert np.array_equal(edited.source_code, gateway.code)
    assert edited.losses is None


def test_a_picture_is_edited_as_a_picture(client: indomain.Client, gateway: ScriptedGateway) -> None:
    edited = client.edit(PIXELS, indomain.Edit("smile", 1.5, layers=(2, 3)), steps=7, smile=-1)
    request = gateway.requests[-1]
    assert request.WhichOneof("source") == "picture"
    assert request.refine.steps == 7
    assert [(s.direction, s.strength, list(s.layers)) for s in request.edits] == [
        ("smile", 1.5, [2, 3]),
        ("smile", -1.0, []),
    ]
    assert edited.losses is not None


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_code_is_edited_as_a_code(
    client: indomain.Client, gateway: ScriptedGateway, dtype: type[np.floating]
) -> None:
    client.edit(gateway.code.astype(dtype), smile=1)
    assert np.array_equal(code_from_wire(gateway.requests[-1].code), gateway.code)


def test_what_is_neither_picture_nor_code_is_refused(client: indomain.Client) -> None:
    with pytest.raises(TypeError, match="a picture"):
        client.edit(7, smile=1)  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(LAYERS, 512), (3, LAYERS, 512)])
def test_decode(client: indomain.Client, shape: tuple[int, ...]) -> None:
    images = client.decode(np.zeros(shape, np.float32))
    assert len(images) == (shape[0] if len(shape) == 3 else 1)
    assert images[0].size == (SIZE, SIZE)


def test_decode_a_list_of_codes(client: indomain.Client) -> None:
    assert len(client.decode([np.zeros((LAYERS, 512))] * 2)) == 2


def test_results_and_codes_of_files_are_decoded(
    client: indomain.Client, gateway: ScriptedGateway, tmp_path: Path
) -> None:
    inversion = client.invert(PIXELS)
    inversion.save(tmp_path / "a.npz")
    code = indomain.load_code(tmp_path / "a.npz", client)
    assert len(client.decode(code)) == 1
    assert len(client.decode([code, inversion, inversion.code])) == 3
    assert [sent.space for sent in gateway.requests[-1].codes] == [inversion.code_space] * 2 + [""]


@pytest.mark.parametrize("wrong", ["a.npy", b"a", Path("a.npy")])
def test_what_is_no_code_is_said(client: indomain.Client, wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"a code is an array float32 \[L, 512\], not .*load_code"):
        client.decode(wrong)


@pytest.mark.parametrize("name", ["a.npy", "a.npz"])
def test_a_file_of_a_code_is_no_picture_and_says_how_it_is_read(
    client: indomain.Client, gateway: ScriptedGateway, tmp_path: Path, name: str
) -> None:
    client.invert(PIXELS).save(tmp_path / name)
    asked = len(gateway.requests)
    for call in (client.invert, client.edit, client.find_faces):
        with pytest.raises(indomain.InvalidPictureError, match=r"load_code reads it"):
            call(tmp_path / name)
    assert len(gateway.requests) == asked


@pytest.mark.parametrize("address", ["https://example.org/a.png", "data:image/png;base64,AAAA"])
def test_an_address_is_no_picture(client: indomain.Client, address: str) -> None:
    with pytest.raises(ValueError, match="is an address, and a picture is a file"):
        client.invert(address)


def test_the_argument_that_is_at_fault_is_named(client: indomain.Client) -> None:
    wrong = np.zeros((4, 4, 3), np.int64)
    for call, name in (
        (lambda: client.edit(PIXELS, smile=1, mask=wrong), "mask"),
        (lambda: client.mix(PIXELS, wrong, [1]), "style"),
        (lambda: client.mix(wrong, PIXELS, [1]), "base"),
        (lambda: list(client.interpolate(PIXELS, wrong)), "end"),
        (lambda: client.diffuse(PIXELS, wrong), "context"),
        (lambda: client.diffuse(PIXELS, b"PK\3\4"), "context"),
    ):
        with pytest.raises((TypeError, ValueError, indomain.InvalidPictureError), match=f"^{name}: "):
            call()


def test_options_of_another_kind_are_refused_in_words(client: indomain.Client) -> None:
    with pytest.raises(TypeError, match="align is an indomain"):
        client.invert(PIXELS, align=True)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="a region is left, top, right, bottom"):
        client.edit(PIXELS, smile=1, region=(0, 0, 1))  # type: ignore[arg-type]


def test_sample(client: indomain.Client, gateway: ScriptedGateway) -> None:
    samples = client.sample(range(3), truncation=0.5)
    assert [sample.seed for sample in samples] == [0, 1, 2]
    assert samples[0].code.shape == (LAYERS, 512)
    assert gateway.requests[-1].truncation == 0.5
    assert len(client.sample(7)) == 1
    assert not gateway.requests[-1].HasField("truncation")


@pytest.mark.parametrize("picture_format", ["png", "jpeg", "webp", "raw"])
def test_the_wanted_format_is_asked_for(
    gateway: ScriptedGateway, picture_format: indomain.PictureFormat
) -> None:
    with indomain.Client(gateway.address, picture_format=picture_format) as client:
        client.decode(gateway.code)
    name = gateway.requests[-1].output.DESCRIPTOR.fields_by_name["format"].enum_type.values_by_number
    assert name[gateway.requests[-1].output.format].name == f"IMAGE_FORMAT_{picture_format.upper()}"


def test_each_call_has_a_request_id_of_its_own(client: indomain.Client, gateway: ScriptedGateway) -> None:
    client.bundles()
    client.bundles()
    assert len(set(gateway.request_ids)) == 2
