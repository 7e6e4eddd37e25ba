"""Training as processes: two that share a batch, and one that is killed and goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.training.pictures import write_pictures

ROOT = Path(__file__).parents[2]
GAN = ["--generator.resolution", "32", "--generator.channels", "16", "16", "8", "8", "--generator.z-size", "32",
       "--generator.code-size", "32", "--generator.mapping-depth", "2", "--discriminator", "stylegan2",
       "--encoder-channels", "8", "8", "16", "16", "--coverage-weight", "10", "--r1-interval", "4"]  # fmt: skip
EXACT = ["--compute.accelerator", "cpu", "--compute.precision", "32-true"]


def training(*arguments: str | Path, **options: object) -> subprocess.Popen[bytes]:
    """`python -m training ...` with one thread a process."""
    command = [sys.executable, "-m", "training", *map(str, arguments), *EXACT]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, **options)  # type: ignore[call-overload, no-any-return]


def curve(run: Path, figure: str) -> dict[int, float]:
    lines = [json.loads(line) for line in (run / "figures.jsonl").read_text().splitlines()]
    assert len({line["step"] for line in lines if figure in line}) == sum(figure in line for line in lines)
    return {line["step"]: line[figure] for line in lines if figure in line}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("data"), 96, 32)[0]


@pytest.fixture(scope="module")
def gan(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("gan")
    assert (
        training("gan", "--data", pictures, "--runs", runs, "--images", "64", "--batch", "16", *GAN).wait()
        == 0
    )
    return next(runs.iterdir())


def test_two_processes_give_the_curve_of_one_with_twice_the_batch(
    pictures: Path, gan: Path, tmp_path: Path
) -> None:
    # The image discriminator and the replay pool look at what each process has. Without them the two runs differ by
    # rounding, which training amplifies; without shared batch norms or shared draws they are 20 % apart.
    common = ["encoder", "--gan", gan, "--data", pictures, "--channels", "8", "8", "16", "16", "--images", "480",
              "--rate", "5e-4", "--snapshot-steps", "10", "--image-weight", "0", "--code-pool", "0"]  # fmt: skip
    one, two = tmp_path / "one", tmp_path / "two"
    assert training(*common, "--runs", one, "--batch", "16").wait() == 0
    assert training(*common, "--runs", two, "--batch", "8", "--compute.devices", "2").wait() == 0
    curves = [curve(next(runs.iterdir()), "validation_mse") for runs in (one, two)]
    assert list(curves[0]) == list(curves[1]) == [10, 20, 30]
    np.testing.assert_allclose(list(curves[1].values()), list(curves[0].values()), rtol=0.03)


def test_a_killed_run_goes_on_along_the_same_curve(pictures: Path, tmp_path: Path) -> None:
    common = ["gan", "--data", pictures, "--batch", "8", "--snapshot-steps", "3", *GAN]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert training(*common, "--runs", whole, "--images", "480").wait() == 0
    victim = training(*common, "--runs", killed, "--images", "480")
    until = time.monotonic() + 120
    while not list(killed.glob("*/samples/0000006.png")):
        assert victim.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < until
        time.sleep(0.02)
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    (run,) = killed.iterdir()
    # Figures of steps beyond its last checkpoint.
    with (run / "figures.jsonl").open("a") as file:
        file.write('{"step": 57, "time": 0.0, "discriminator_loss": 9.0}\n{"step": 58, "ti')
    assert training(*common, "--images", "480", "--resume", run).wait() == 0
    undisturbed = next(whole.iterdir())
    assert curve(run, "discriminator_loss") == pytest.approx(
        curve(undisturbed, "discriminator_loss"), rel=1e-4
    )
    for name in ("generator", "image_discriminator"):
        a, b = (load_file(folder / "checkpoint" / f"{name}.safetensors") for folder in (undisturbed, run))
        for key in a:
            np.testing.assert_allclose(a[key], b[key], rtol=1e-4, atol=1e-5, err_msg=f"{name}.{key}")
