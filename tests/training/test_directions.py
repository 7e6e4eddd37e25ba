"""The step of a direction against its definition, and against other steps that meet the same conditions."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from training.directions import fit_boundary, native_step


@given(st.integers(0, 10_000))
def test_a_native_step_moves_its_attribute_keeps_the_others_and_is_the_shortest(seed: int) -> None:
    random = np.random.default_rng(seed)
    codes = random.standard_normal((400, 6)) @ random.standard_normal((6, 6)) + random.standard_normal(6)
    normal, other = random.standard_normal((2, 6))
    step = native_step(codes, normal, [other])
    np.testing.assert_allclose([normal @ step, other @ step], [1, 0], atol=1e-6)
    precision = np.linalg.inv(np.cov(codes.T))
    boundaries = np.stack([normal, other], 1)
    for _ in range(5):  # any change that keeps both conditions makes it longer
        change = random.standard_normal(6)
        change -= boundaries @ np.linalg.lstsq(boundaries, change, rcond=None)[0]
        assert (step + change) @ precision @ (step + change) >= step @ precision @ step * (1 - 1e-6)


def test_boundaries_point_the_way_their_labels_grow() -> None:
    random = np.random.default_rng(0)
    codes = random.standard_normal((600, 10))
    for labels in (codes[:, 3] * 2 + 5, (codes[:, 3] > 0).astype(float)):
        normal, figure = fit_boundary(codes, labels, penalty=1.0, held_out=0.2)
        assert np.argmax(np.abs(normal)) == 3
        assert normal[3] > 0
        assert isinstance(figure["value"], float)
        assert figure["value"] > 0.9
