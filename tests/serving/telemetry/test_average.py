"""The smoothed average that the gateway's time estimates come from."""

from __future__ import annotations

import pytest

from serving.telemetry.average import ExponentialAverage


def test_it_moves_by_its_weight() -> None:
    average = ExponentialAverage(0.2, initial=1.0)
    average.add(2.0)
    assert average.value == pytest.approx(1.2)


def test_without_an_initial_value_the_first_measurement_counts_in_full() -> None:
    average = ExponentialAverage(0.3)
    assert average.value == 0.0
    average.add(2.0)
    average.add(3.0)
    assert average.value == pytest.approx(2.3)


def test_it_forgets_a_slow_moment() -> None:
    average = ExponentialAverage(0.3)
    average.add(10.0)
    for _ in range(20):
        average.shrink(0.8)
    assert average.value < 0.2
