"""One small bundle with random weights, written once by the command's own function and looked at by all tests."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for run_folder, which scripts use too

from run_folder import write_run

from export.bundles.building import Built, BundleConfig, build
from export.bundles.bundle import write_bundle
from export.bundles.checkpoint import Pipeline, load_pipeline
from training.refinement.refinement import RefinementConfig

REFINE = RefinementConfig(steps=10, chunk_steps=2)


@dataclass(frozen=True)
class Exported:
    """A run, the repository made of it, and its networks."""

    run: Path
    repository: Path
    config: BundleConfig
    pipeline: Pipeline
    built: Built
    """Built again from the run, with the same rounding as the files."""


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    folder = tmp_path_factory.mktemp("export")
    run = write_run(folder / "run")
    config = BundleConfig(run, folder / "repository", refine=REFINE, sampled_codes=2000)
    write_bundle(config)
    pipeline = load_pipeline(run)
    return Exported(run, config.to, config, pipeline, build(pipeline, config))
