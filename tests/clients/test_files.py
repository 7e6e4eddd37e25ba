"""Results as files: what is written comes back, and says whose it is."""

from __future__ import annotations

import io
import json
import pickle
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import indomain
from tests.clients.support import PORTRAIT, assert_same
from tests.serving.running_gateway import RunningGateway


@pytest.fixture
def client(live_gateway: RunningGateway) -> Any:
    with indomain.Client(live_gateway.target) as client:
        yield client


def test_an_inversion_comes_back_as_it_was(client: indomain.Client, tmp_path: Path) -> None:
    inversion = client.invert(PORTRAIT, include_start=True)
    inversion.save(tmp_path / "me.npz")
    again = indomain.Inversion.load(tmp_path / "me.npz", client=client)
    for field in fields(inversion):
        if field.name == "handle":
            assert again.handle == ""  # passes with the gateway that gave it
        elif field.name != "_edit":
            assert_same(getattr(inversion, field.name), getattr(again, field.name), field.name)
    assert np.array_equal(inversion.code, again.code)
    assert np.array_equal(again.edit(smile=1.0).code, inversion.edit(smile=1.0).code)
    with pytest.raises(RuntimeError, match=r"Client\.edit"):
        indomain.Inversion.load(tmp_path / "me.npz").edit(smile=1.0)


def test_other_results_and_open_files(client: indomain.Client) -> None:
    (sample,) = client.sample(3)
    local = client.edit(PORTRAIT, smile=1.0, region=(0.2, 0.5, 0.8, 0.9))
    for result in (sample, local, client.mix(sample, sample, [1])):
        file = io.BytesIO()
        result.save(file)
        file.seek(0)
        again = type(result).load(file)
        expected = replace(
            result, **{name: "" for name in ("handle", "source_handle") if hasattr(result, name)}
        )
        assert_same(expected, again)


def test_a_file_of_an_earlier_version(client: indomain.Client, tmp_path: Path) -> None:
    """What was saved when a frame was called Between is read as an InterpolationFrame."""
    one, other = client.sample([1, 2])
    frame = next(client.interpolate(one, other, 2))
    frame.save(tmp_path / "frame.npz")
    with np.load(tmp_path / "frame.npz") as stored:
        arrays = dict(stored)
    former = str(arrays.pop("about")).replace("InterpolationFrame", "Between")
    assert "Between" in former
    np.savez(tmp_path / "former.npz", about=np.array(former), **arrays)
    assert_same(frame, indomain.InterpolationFrame.load(tmp_path / "former.npz"))


async def test_an_inversion_of_either_client_is_loaded_by_either(
    client: indomain.Client, live_gateway: RunningGateway, tmp_path: Path
) -> None:
    client.invert(PORTRAIT, steps=0).save(tmp_path / "me.npz")
    async with indomain.AsyncClient(live_gateway.target) as other:
        inversion = indomain.AsyncInversion.load(tmp_path / "me.npz", other)
        edited = await inversion.edit(smile=1.0)
        (await other.invert(PORTRAIT, steps=0)).save(tmp_path / "again.npz")
    again = indomain.Inversion.load(tmp_path / "again.npz", client)
    assert np.allclose(again.edit(smile=1.0).code, edited.code, atol=1e-4)


def test_anybody_can_read_the_file(client: indomain.Client, tmp_path: Path) -> None:
    inversion = client.invert(PORTRAIT, steps=0)
    inversion.save(tmp_path / "me.npz")
    with np.load(tmp_path / "me.npz", allow_pickle=False) as stored:
        about = json.loads(str(stored["about"]))
        assert np.array_equal(stored["code"], inversion.code)
    assert about["resolution"] == 16
    assert about["facts"]["code_space"] == client.bundles()[0].code_space
    assert about["facts"]["losses"]["stop_reason"] == "not_refined"


def test_another_bundles_generator_refuses_it(client: indomain.Client, tmp_path: Path) -> None:
    """`twin16` has codes of the same shape that mean something else."""
    one, other = (bundle.code_space for bundle in client.bundles())
    client.invert(PORTRAIT, bundle="tiny16").save(tmp_path / "me.npz")
    inversion = indomain.Inversion.load(tmp_path / "me.npz", client)
    with pytest.raises(indomain.OtherCodeSpaceError) as caught:
        client.edit(inversion, bundle="twin16", smile=1.0)
    assert one in caught.value.message
    assert other in caught.value.message
    with pytest.raises(indomain.OtherCodeSpaceError):
        client.mix(inversion, client.sample(1, bundle="twin16")[0], [1])
    with (
        client.session(inversion, bundle="twin16") as session,
        pytest.raises(indomain.OtherCodeSpaceError),
    ):
        session.edit(smile=1.0)


def test_what_is_no_saved_result_is_refused(client: indomain.Client, tmp_path: Path) -> None:
    file = tmp_path / "x.npz"
    file.write_bytes(b"no archive")
    with pytest.raises(indomain.InvalidFileError, match=r"x\.npz is no saved Inversion"):
        indomain.Inversion.load(file)
    np.savez(file, code=np.zeros(3))
    with pytest.raises(indomain.InvalidFileError):
        indomain.Inversion.load(file)
    client.sample(1)[0].save(file)
    with pytest.raises(indomain.InvalidFileError, match="holds 'Sample'"):
        indomain.Inversion.load(file)
    with pytest.raises(FileNotFoundError):
        indomain.Inversion.load(tmp_path / "nowhere.npz")


@pytest.mark.parametrize("name", ["a.png", "a.JPG"])
def test_a_result_is_not_saved_under_the_name_of_a_picture(
    client: indomain.Client, tmp_path: Path, name: str
) -> None:
    with pytest.raises(ValueError, match=r"its picture with result\.image\.save"):
        client.sample(1)[0].save(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_nothing_in_a_file_is_executed(tmp_path: Path) -> None:
    file, trace = tmp_path / "x.npz", tmp_path / "trace"

    class Trap:
        def __reduce__(self) -> Any:
            return Path.touch, (trace,)

    for content in (np.array([Trap()], dtype=object), np.array("{}")):
        np.savez(file, about=content, code=np.array([Trap()], dtype=object), allow_pickle=True)
        with pytest.raises(indomain.InvalidFileError):
            indomain.Inversion.load(file)
    file.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(indomain.InvalidFileError):
        indomain.Inversion.load(file)
    assert not trace.exists()


def test_a_notebook_shows_the_picture(client: indomain.Client) -> None:
    (sample,) = client.sample(1)
    with client.session(sample) as session:
        for result in (sample, session.edit(smile=1.0)):
            shown = Image.open(io.BytesIO(result._repr_png_()))
            assert np.array_equal(np.asarray(shown), result.pixels)
