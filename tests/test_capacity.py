"""The simulation of benchmarks/capacity.py, against what queueing theory says."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.capacity import Load, Service, Shares, machines, simulate

EDIT, INVERSION = Service(0.03, 0.0), Service(3.0, 0.1, turns=5)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.8])
def test_edits_alone_wait_as_pollaczek_and_khinchine_say(share: float) -> None:
    """M/D/1: the mean wait is rho / (2 (1 - rho)) service times."""
    runs = [simulate(Load(share / EDIT.machine_s, 0.0), EDIT, INVERSION, 600.0, seed) for seed in range(8)]
    mean_s = np.mean([latency for run in runs for latency in run.edits_s])
    assert mean_s == pytest.approx(EDIT.machine_s * (1 + share / (2 * (1 - share))), rel=0.05)
    assert np.mean([run.utilisation for run in runs]) == pytest.approx(share, rel=0.02)


def test_edits_hardly_wait_for_inversions_and_inversions_take_turns() -> None:
    crowded = simulate(Load(0.5, 0.25), EDIT, INVERSION, 4000.0)
    assert max(crowded.edits_s) < 3 * EDIT.machine_s
    assert min(crowded.edits_s) == pytest.approx(EDIT.machine_s)
    assert np.max(crowded.edits_s) >= EDIT.machine_s / Shares().edits - 1e-9
    alone = simulate(Load(0.0, 0.02), EDIT, INVERSION, 1000.0)
    assert np.median(alone.inversions_s) == pytest.approx(INVERSION.machine_s + INVERSION.besides_s)
    assert crowded.utilisation == pytest.approx(0.5 * 0.03 + 0.25 * 3.0, rel=0.05)


def test_twice_the_load_takes_about_twice_the_machines() -> None:
    once, twice = (machines(Load(200.0 * n, 20.0 * n), EDIT, INVERSION, 3.0) for n in (1, 2))
    least = 200 * EDIT.machine_s + 20 * INVERSION.machine_s
    assert once > least
    assert twice == pytest.approx(2 * once, rel=0.1)
    assert machines(Load(200.0, 20.0), EDIT, INVERSION, 10.0) < once


def test_kinds_that_hinder_each_other_are_slower_and_busy_for_longer() -> None:
    """While both have work, each advances at its share; of the processors' time a request takes what it was told to."""
    free, hindered = (
        simulate(Load(5.0, 0.2), EDIT, INVERSION, 2000.0, both=both) for both in (Shares(), Shares(0.6, 0.2))
    )
    assert np.mean(hindered.edits_s) > np.mean(free.edits_s)
    assert np.mean(hindered.inversions_s) > np.mean(free.inversions_s)
    assert hindered.utilisation > free.utilisation
    half = Service(EDIT.machine_s, 0.0, processors=0.5)
    found = simulate(Load(0.5 / EDIT.machine_s, 0.0), half, INVERSION, 2000.0)
    assert found.utilisation == pytest.approx(0.25, rel=0.03)
