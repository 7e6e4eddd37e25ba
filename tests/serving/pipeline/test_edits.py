"""Arithmetic on codes: directions, layers, seeds, truncation."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.bundle import Bundle
from serving.errors import InvalidCode, InvalidOption, UnknownDirection
from serving.jobs import EditStep
from serving.pipeline.edits import (
    apply_edits,
    check_codes,
    check_edits,
    check_sampling,
    gaussian_inputs,
    truncate,
)
from serving.repository.reader import read_bundle


@pytest.fixture(scope="module")
def bundle(tiny_repository: Path) -> Bundle:
    return read_bundle(tiny_repository, "tiny16")


@pytest.fixture
def code(bundle: Bundle) -> np.ndarray:
    return np.random.Generator(np.random.PCG64(1)).standard_normal((6, 512)).astype(np.float32)


def test_moves_by_strength_times_scale_in_its_layers_only(bundle: Bundle, code: np.ndarray) -> None:
    moved = apply_edits(code, (EditStep("smile", 1.5),), bundle) - code
    assert np.linalg.norm(moved) == pytest.approx(1.5 * 2.0, rel=1e-4)
    assert not np.any(moved[[0, 1, 4, 5]])


def test_layers_narrow_a_direction(bundle: Bundle, code: np.ndarray) -> None:
    moved = apply_edits(code, (EditStep("smile", 1.0, (3, 5)),), bundle) - code
    assert np.any(moved[3])
    assert not np.any(moved[[0, 1, 2, 4, 5]])


@given(strength=st.floats(-100, 100))
def test_there_and_back_is_the_same_code(strength: float, tiny_repository: Path) -> None:
    bundle = read_bundle(tiny_repository, "tiny16", verify=False)
    code = gaussian_inputs((1, 2, 3, 4, 5, 6), 512)
    back = apply_edits(code, (EditStep("age", strength), EditStep("age", -strength)), bundle)
    np.testing.assert_array_equal(back, code)


@pytest.mark.parametrize(
    ("edit", "kind"),
    [
        (EditStep("frown", 1.0), UnknownDirection),
        (EditStep("smile", math.nan), InvalidOption),
        (EditStep("smile", math.inf), InvalidOption),
        (EditStep("smile", 100.5), InvalidOption),
        (EditStep("smile", 1.0, (0, 1)), InvalidOption),
        (EditStep("smile", 1.0, (99,)), InvalidOption),
    ],
)
def test_edits_that_mean_nothing(edit: EditStep, kind: type[Exception], bundle: Bundle) -> None:
    with pytest.raises(kind, match=edit.direction):
        check_edits((edit,), bundle, max_edits=4)


def test_too_many_edits(bundle: Bundle) -> None:
    with pytest.raises(InvalidOption, match="limit is 4"):
        check_edits((EditStep("smile", 0.1),) * 5, bundle, max_edits=4)


@pytest.mark.parametrize("shape", [(5, 512), (6, 511), (512,), (0, 6, 512), (1, 1, 6, 512)])
def test_code_shapes(shape: tuple[int, ...], bundle: Bundle) -> None:
    with pytest.raises(InvalidCode, match=r"\[6, 512\]"):
        check_codes(np.zeros(shape, np.float32), bundle)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e30])
def test_code_values(value: float, bundle: Bundle, code: np.ndarray) -> None:
    code[3, 7] = value
    with pytest.raises(InvalidCode, match="finite"):
        check_codes(code, bundle)


def test_seeds_mean_the_same_anywhere() -> None:
    z = gaussian_inputs((0, 2**64 - 1), 512)
    assert z.shape == (2, 512)
    np.testing.assert_allclose(z[0, :3], [0.12573022, -0.13210486, 0.64042264], rtol=1e-6)
    np.testing.assert_array_equal(gaussian_inputs((5, 0), 512)[1], z[0])


def test_truncation() -> None:
    codes, mean = np.ones((2, 6, 512), np.float32), np.full((6, 512), 0.5, np.float32)
    np.testing.assert_array_equal(truncate(codes, mean, 0.0), np.full((2, 6, 512), 0.5))
    np.testing.assert_array_equal(truncate(codes, mean, 1.0), codes)


@pytest.mark.parametrize(
    ("seeds", "truncation"),
    [((), 0.7), ((1,) * 9, 0.7), ((-1,), 0.7), ((2**64,), 0.7), ((1,), math.nan), ((1,), 2.5), ((1,), -0.1)],
)
def test_sampling_out_of_range(seeds: tuple[int, ...], truncation: float) -> None:
    with pytest.raises(InvalidOption):
        check_sampling(seeds, truncation, max_codes=8)
