"""A walk that a run learned is served as a direction of its bundle."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import indomain
from export.__main__ import main as export
from tests.export.run_folder import write_run
from training.__main__ import main as training


def test_a_bundle_serves_a_brightness_walk(tmp_path: Path) -> None:
    run, repository = write_run(tmp_path / "run"), tmp_path / "repository"
    quick = ["--walk.steps", "30", "--hold.pictures", "2"]
    assert training(["steer", str(run), "--transforms", "brightness", *quick]) == 0
    options = ["--refine.steps", "1", "--refine.chunk-steps", "1", "--sampled-codes", "64"]
    assert export(["bundle", str(run), "--to", str(repository), *options]) == 0
    with indomain.Client(":embedded:", model_repository=repository) as client:
        direction = client.bundles()[0].directions["steer-brightness"]
        assert direction.label == "Brightness (5 % of white)"
        assert direction.held_out is not None
        assert direction.held_out.metric == "slope"
        code = client.sample(seeds=[0])[0].code
        light = [
            float(np.asarray(client.edit(code, **{"steer-brightness": float(s)}).image, dtype=float).mean())
            for s in np.linspace(*direction.range, 5)
        ]
    assert (np.diff(light) > 0).all()
