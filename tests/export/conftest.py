"""One small bundle with random weights, written once by the command's own function and looked at by all tests."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from filelock import FileLock

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
    own = tmp_path_factory.mktemp("export")
    # An export takes a minute: the processes of one run of pytest share it, and each changes its own copy.
    shared = tmp_path_factory.getbasetemp().parent / "exported"
    with FileLock(shared.with_suffix(".lock")):
        if not shared.is_dir():
            made = own / "made"
            run = write_run(made / "run")
            write_bundle(BundleConfig(run, made / "repository", refine=REFINE, sampled_codes=2000))
            made.rename(shared)
    folder = own / "copy"
    shutil.copytree(shared, folder)
    config = BundleConfig(folder / "run", folder / "repository", refine=REFINE, sampled_codes=2000)
    run = config.run
    pipeline = load_pipeline(run)
    return Exported(run, config.to, config, pipeline, build(pipeline, config))
