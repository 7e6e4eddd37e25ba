"""The benchmark of the training runs in miniature."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from benchmarks.training import TrainingSpeedConfig, main
from training.networks import layers
from training.networks.generator import GeneratorConfig
from training.optimisation import precision, step
from training.optimisation.precision import faster_in_bfloat16
from training.optimisation.step import Compute


def test_every_way_is_measured_and_profiled(capsys: pytest.CaptureFixture[str]) -> None:
    usual = layers.on_phases
    shape = GeneratorConfig(resolution=16, channels=(8, 8, 4), z_size=16, code_size=16, mapping_depth=2)
    compute = Compute(accelerator="cpu", precision="32-true")
    main(TrainingSpeedConfig(shape, ("stylegan2",), batch=4, steps=1, profile=True, compute=compute))
    shown = capsys.readouterr().out
    assert "TFLOP/s" in shown
    assert "Self CPU" in shown
    rows = [line.split(" | ") for line in shown.splitlines() if line.startswith("| stylegan2")]
    assert [row[1] for row in rows] == ["plain", "on phases"]
    assert all(float(row[2]) > 0 and float(row[3]) > 0 for row in rows)
    assert layers.on_phases is usual


@pytest.mark.parametrize(("faster", "chosen"), [(False, "32-true"), (True, "bf16-mixed")])
def test_a_processor_computes_in_what_is_faster(
    monkeypatch: pytest.MonkeyPatch, faster: bool, chosen: str
) -> None:
    monkeypatch.setattr(step, "faster_in_bfloat16", lambda: faster)
    assert Compute(accelerator="cpu").chosen_precision == chosen
    assert Compute(accelerator="cpu", precision="bf16-mixed").chosen_precision == "bf16-mixed"
    assert Compute(accelerator="cpu", precision="32-true").chosen_precision == "32-true"


def test_a_processor_without_bfloat16_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    monkeypatch.setattr(torch, "autocast", None)
    assert not faster_in_bfloat16.__wrapped__()


@pytest.mark.parametrize(("bfloat16_s", "faster"), [(0.5, True), (0.99, False), (2.0, False)])
def test_bfloat16_must_save_a_twentieth(
    monkeypatch: pytest.MonkeyPatch, bfloat16_s: float, faster: bool
) -> None:
    """Where a trial in float32 takes a second."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    passed_s = [0.0]
    usual = torch.autocast

    def slowly(device: str, dtype: torch.dtype, *, enabled: bool) -> torch.autocast:
        passed_s[0] += bfloat16_s if enabled else 1.0
        return usual(device, dtype, enabled=enabled)

    monkeypatch.setattr(torch, "autocast", slowly)
    monkeypatch.setattr(precision, "time", SimpleNamespace(perf_counter=lambda: passed_s[0]))
    assert faster_in_bfloat16.__wrapped__() == faster
