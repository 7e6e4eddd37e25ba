"""The refiner's graph against autograd, per sample, towards its target; and its one-step graph unrolled."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from export.parity import first_gradient, loss_gradient, open_session, refiner_inputs, relative_lengths, run
from tests.export.conftest import REFINE, Exported


@pytest.fixture(scope="module")
def session(exported: Exported):
    return open_session(exported.repository / "tiny_refiner/1/model.onnx")


@pytest.fixture(scope="module")
def samples(exported: Exported):
    """Codes, and pictures of other codes."""
    z = torch.randn(9, 512, generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        codes = exported.built.graphs["mapping"].module(z)
        pictures = exported.built.graphs["generator"].module(codes)
    return codes[:8].numpy(), pictures[1:].numpy()


def test_gradient_is_autograds(exported: Exported, session, samples) -> None:
    codes, targets = samples
    for n in (1, 4):
        inputs = refiner_inputs(codes[:n], targets[:n], REFINE)
        found = first_gradient(session, inputs, REFINE.chunk_steps)
        wanted = loss_gradient(exported.built.objective, codes[:n], targets[:n], REFINE)
        assert np.median(relative_lengths(found, wanted)) < 1e-4


def test_chunk_is_the_modules(exported: Exported, session, samples) -> None:
    """Every output, with settings that differ from sample to sample, in the middle of a refinement."""
    codes, targets = samples
    rng = np.random.default_rng(0)
    inputs = refiner_inputs(codes[:3], targets[:3], REFINE)
    inputs["mask"] = rng.random((3, 32, 32, 1), np.float32)
    inputs["step"] = np.array([[0], [7], [50]], np.float32)
    inputs["first_moment"] = (1e-3 * rng.standard_normal(codes[:3].shape)).astype(np.float32)
    inputs["second_moment"] = np.full_like(codes[:3], 1e-6)
    inputs["learning_rate"] = np.array([[0.01], [0.0], [0.02]], np.float32)
    inputs["domain_weight"] = np.array([[2.0], [0.0], [0.5]], np.float32)
    found = run(session, inputs)
    refiner = exported.built.graphs["refiner"].module
    wanted = refiner(*(torch.from_numpy(value) for value in inputs.values()))
    for (name, array), tensor in zip(found.items(), wanted, strict=True):
        np.testing.assert_allclose(array, tensor.detach().numpy(), rtol=2e-3, atol=2e-4, err_msg=name)
    np.testing.assert_array_equal(found["next_step"], inputs["step"] + REFINE.chunk_steps)
    np.testing.assert_array_equal(found["next_code"][1], codes[1])  # a rate of 0 freezes a sample


def test_best_is_the_best_of_the_chunk(session, samples) -> None:
    codes, targets = samples
    inputs = refiner_inputs(codes, targets, REFINE)
    outputs = run(session, inputs)
    np.testing.assert_array_equal(outputs["best_loss"][:, 0], outputs["loss"].min(1))
    first = outputs["loss"].argmin(1) == 0
    np.testing.assert_array_equal(outputs["best_code"][first], codes[first])


def test_next_chunk_goes_on_where_the_first_ended(session, samples) -> None:
    """Two chunks by hand lower the loss that one has left, and the code between them is judged by the second."""
    codes, targets = samples
    inputs = refiner_inputs(codes, targets, REFINE)
    first = run(session, inputs)
    carried = {name: first[f"next_{name}"] for name in ("code", "first_moment", "second_moment", "step")}
    second = run(session, inputs | carried)
    assert (second["loss"][:, -1] < first["loss"][:, 0]).all()


def test_empty_mask_leaves_the_domain_term(session, samples) -> None:
    codes, targets = samples
    inputs = refiner_inputs(codes[:2], targets[:2], REFINE)
    inputs["mask"] = np.zeros_like(inputs["mask"])
    blind = run(session, inputs)
    other = run(session, inputs | {"target": targets[2:4]})
    assert np.isfinite(blind["loss"]).all()
    np.testing.assert_array_equal(blind["loss"], other["loss"])
