"""Latent codes in files: each format both ways, codes of other projects, and codes of other generators."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import indomain
from indomain.cli import main
from indomain.latents import differs
from tests.clients.support import PORTRAIT
from tests.serving.running_gateway import RunningGateway

W = np.random.default_rng(0).standard_normal(512).astype(np.float32)
LAYERS = 4
W_PLUS = np.random.default_rng(1).standard_normal((LAYERS, 512)).astype(np.float32)


@pytest.fixture
def client(live_gateway: RunningGateway) -> Iterator[indomain.Client]:
    with indomain.Client(live_gateway.target) as client:
        yield client


# --- formats ----------------------------------------------------------------------------------------------------------


def torch_file(content: Any) -> Callable[[Path], None]:
    return lambda path: torch.save(content, path)


def numpy_file(**arrays: Any) -> Callable[[Path], None]:
    return lambda path: np.savez(path, **arrays)


FILES: dict[str, tuple[str, Callable[[Path], None], np.ndarray]] = {
    "one w": ("a.npy", lambda path: np.save(path, W), W),
    "w of each layer": ("a.npy", lambda path: np.save(path, W_PLUS), W_PLUS),
    "in float64, with an axis of one code": ("a.npy", lambda path: np.save(path, W_PLUS[None].astype(float)), W_PLUS),
    "NVIDIA's projector": ("projected_w.npz", numpy_file(w=W_PLUS[None]), W_PLUS),
    "e4e and pSp": ("latents.pt", torch_file(torch.tensor(W_PLUS[None])), W_PLUS),
    "e4e, before torch 1.6": (
        "latents.pt",
        lambda path: torch.save(torch.tensor(W_PLUS), path, _use_new_zipfile_serialization=False),
        W_PLUS,
    ),
    "a dict of pSp's, pickled": (
        "latents.npy",
        lambda path: np.save(path, {"me.png": W_PLUS}, allow_pickle=True),  # type: ignore[arg-type]
        W_PLUS,
    ),
    "rosinality's projector, one w": (
        "me.pt",
        torch_file({"me.png": {"img": torch.zeros(3, 8), "latent": torch.tensor(W), "noise": [torch.zeros(4, 4)]}}),
        W,
    ),
    "rosinality's projector, w+": ("me.pt", torch_file({"me.png": {"latent": torch.tensor(W_PLUS)}}), W_PLUS),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_codes_of_other_projects_are_read(tmp_path: Path, name: str) -> None:
    file, write, expected = FILES[name]
    write(tmp_path / file)
    code = indomain.load_code(tmp_path / file)
    np.testing.assert_array_equal(code.code, expected)
    assert code.code.dtype == np.float32
    assert (code.bundle, code.code_space) == ("", "")


def test_several_codes_in_a_file(tmp_path: Path) -> None:
    torch.save(torch.tensor(np.stack([W_PLUS, -W_PLUS])), tmp_path / "latents.pt")
    assert len(indomain.load_codes(tmp_path / "latents.pt")) == 2
    with pytest.raises(indomain.InvalidFileError, match="holds 2 codes"):
        indomain.load_code(tmp_path / "latents.pt")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "it is empty"),
        (b"\x93NUMPY", "cut short"),
        (b"PK\5\6" + bytes(18), "nothing in it"),
        (b"<!DOCTYPE html><title>Quota exceeded</title>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\nsize 5\n", "Git LFS"),
        (b"cos\nsystem\n(S'true'\ntR.", "system"),
    ],
)
@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.pt"])
def test_what_is_no_code_is_said(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(indomain.InvalidFileError, match=says) as caught:
        indomain.load_code(tmp_path / name)
    assert name in str(caught.value)


def test_arrays_that_are_no_codes_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((4, 4), np.uint8))
    with pytest.raises(indomain.InvalidFileError, match="no latent code"):
        indomain.load_code(tmp_path / "a.npy")


# --- both ways --------------------------------------------------------------------------------------------------------


def test_what_a_result_saves_the_command_line_reads(
    client: indomain.Client, live_gateway: RunningGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    inversion = client.invert(PORTRAIT, steps=0)
    inversion.save("me.npz")
    inversion.save("me.npy")
    expected = inversion.edit(smile=1.0).pixels
    for file in ("me.npz", "me.npy"):
        assert main(["edit", file, "smile=1", "-o", f"{file}.png", "--server", live_gateway.target]) == 0
        edited = np.asarray(indomain.wire.pictures.Image.open(f"{file}.png"))
        np.testing.assert_array_equal(edited, expected)
    assert np.array_equal(np.load("me.npy"), inversion.code)


def test_what_the_command_line_writes_a_result_loads(
    client: indomain.Client, live_gateway: RunningGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    invert = ["invert", str(PORTRAIT), "--steps", "0", "--server", live_gateway.target]
    assert main([*invert, "-o", "me.npz"]) == 0
    inversion = indomain.Inversion.load("me.npz", client)
    assert inversion.edit(smile=1.0).image
    assert main([*invert, "-o", "me.png"]) == 0
    np.testing.assert_array_equal(indomain.load_code("me.npy", client).code, inversion.code)
    with pytest.raises(indomain.InvalidFileError, match=r"load_code"):
        indomain.Inversion.load("me.npy")


def test_a_saved_result_says_whose_it_is(client: indomain.Client, tmp_path: Path) -> None:
    sample = client.sample(1, bundle="twin16")[0]
    sample.save(tmp_path / "a.npz")
    code = indomain.load_code(tmp_path / "a.npz", client)
    assert (code.bundle, code.code_space) == ("twin16", sample.code_space)
    assert client.edit(code, smile=1).bundle == "twin16"
    with pytest.raises(indomain.OtherCodeSpaceError):
        client.edit(code, bundle="tiny16", smile=1)


# --- whose code it is -------------------------------------------------------------------------------------------------


def test_one_w_becomes_that_of_each_layer(client: indomain.Client, tmp_path: Path) -> None:
    bundle = client.bundles()[0]
    np.save(tmp_path / "w.npy", client.sample(3)[0].code[0])
    code = indomain.load_code(tmp_path / "w.npy", client).code
    assert code.shape == (bundle.layers, bundle.code_size)
    assert (code == code[0]).all()


def test_a_code_of_another_shape_is_refused(client: indomain.Client, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((18, 512), np.float32))
    with pytest.raises(indomain.OtherCodeSpaceError, match=r"a\.npy has a code \[18, 512\]"):
        indomain.load_code(tmp_path / "a.npy", client)
    with pytest.raises(indomain.UnknownBundleError, match="tiny16"):
        indomain.load_code(tmp_path / "a.npy", client, bundle="nowhere")


def test_a_code_of_another_generator_is_told(client: indomain.Client, tmp_path: Path) -> None:
    own, refined = client.sample(5)[0].code, client.edit(client.invert(PORTRAIT, steps=5), smile=2).code
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for code in (own, refined):
            np.save(tmp_path / "own.npy", code)
            indomain.load_code(tmp_path / "own.npy", client)
    np.save(tmp_path / "other.npy", 100.0 * np.random.default_rng(0).standard_normal(own.shape))
    with pytest.warns(indomain.ForeignCodeWarning, match="another generator"):
        indomain.load_code(tmp_path / "other.npy", client)


def test_codes_are_told_apart_by_statistics() -> None:
    """Generators whose mean code says much, and such whose mean is near 0."""
    rng = np.random.default_rng(0)
    for spread_of_means in (1.0, 0.0):
        means = rng.standard_normal((2, 1, 512)) * spread_of_means
        deviations = rng.uniform(0.1, 2.0, (2, 1, 512)) ** 2
        own, other = (
            means[n] + deviations[n] * rng.standard_normal((64, 1, 512)).repeat(10, axis=1) for n in (0, 1)
        )
        own, other = own.astype(np.float32), other.astype(np.float32)
        extended = own + 0.5 * deviations[0] * rng.standard_normal((64, 10, 512))
        assert not any(differs(code.astype(np.float32), own) for code in [*own, *extended])
        assert all(differs(code, own) for code in other)
