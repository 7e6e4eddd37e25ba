"""The fused activation gives what the plain operations give: values, gradients, and gradients of gradients.

Its kernels run on GPUs. Elsewhere Triton's interpreter runs them, where Triton is installed.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from training.kernels.fused_activation import FusedActivation, activate, fuses, plain, triton

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = torch.device("cpu" if INTERPRETED else "cuda")
runs = pytest.mark.skipif(
    triton is None or not (INTERPRETED or torch.cuda.is_available()), reason="needs Triton and a GPU"
)
CASES = {
    "discriminator": (48, {"bias"}, 0.2, math.inf),
    "generator": (96, {"bias", "scale", "noise"}, 0.2, math.inf),
    "features": (144, {"bias"}, 0.0, 6.0),
    "modulation": (5, {"scale"}, 1.0, math.inf),
    "fixed noise": (16, {"one noise"}, 0.2, math.inf),
}


@runs
@pytest.mark.parametrize("case", list(CASES))
def test_values_and_gradients_are_those_of_the_plain_operations(case: str) -> None:
    channels, given, slope, limit = CASES[case]
    torch.manual_seed(0)
    x = torch.randn(3, channels, 8, 6, device=DEVICE).requires_grad_()
    shapes = {"bias": (channels,), "scale": (3, channels), "noise": (3, 1, 8, 6), "one noise": (1, 1, 8, 6)}
    made = {name: torch.randn(shapes[name], device=DEVICE).requires_grad_() for name in sorted(given)}
    bias, scale, noise = made.get("bias"), made.get("scale"), made.get("noise", made.get("one noise"))
    results: list[list[Tensor]] = []
    for value in (
        plain(x, bias, slope, scale, noise, limit),
        FusedActivation.apply(x, bias, slope, scale, noise, limit),
    ):
        weight = torch.arange(value.numel(), device=DEVICE).reshape(value.shape).cos()
        results.append([value, *torch.autograd.grad((value * weight).sum(), [x, *made.values()])])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-4)


@runs
def test_the_gradient_has_a_gradient_as_r1_needs() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 8, 4, 4, device=DEVICE).requires_grad_()
    bias = torch.randn(8, device=DEVICE).requires_grad_()
    results = []
    for value in (plain(x, bias, 0.2), FusedActivation.apply(x, bias, 0.2, None, None, math.inf)):
        (first,) = torch.autograd.grad(value.square().sum(), x, create_graph=True)
        results.append(torch.autograd.grad(first.square().sum(), (x, bias)))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-4)


def test_triton_interprets_the_kernels_where_there_is_no_gpu() -> None:
    if triton is None or torch.cuda.is_available() or INTERPRETED:
        pytest.skip("needs Triton, and no GPU")
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert "6 passed" in done.stdout


def test_on_a_cpu_it_is_the_plain_operations() -> None:
    x, scale = torch.randn(2, 3, 4, 4), torch.randn(2, 3)
    assert not fuses(x)
    expected = torch.nn.functional.leaky_relu(x * scale[:, :, None, None] + torch.ones(3, 1, 1), 0.2)
    torch.testing.assert_close(activate(x, torch.ones(3), 0.2, scale=scale), expected)
    torch.testing.assert_close(activate(x * 9, slope=0.0, limit=6.0), torch.nn.functional.relu6(x * 9))
    torch.testing.assert_close(activate(x, scale=scale), x * scale[:, :, None, None])
