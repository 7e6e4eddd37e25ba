"""The refiner's graph against autograd, per sample, towards its target; and its one-step graph unrolled."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from export.bundles.bundle import write_bundle
from export.parity.differences import relative_lengths
from export.parity.refiner import (
    carried_on,
    check_follows_target,
    first_gradient,
    loss_gradient,
    refiner_inputs,
)
from export.parity.sessions import open_session, run
from export.parity.tolerances import ParityError
from serving.repository.reader import read_bundle
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
    """Every output, with settings and stages that differ from sample to sample."""
    codes, targets = samples
    rng = np.random.default_rng(0)
    inputs = refiner_inputs(codes[:3], targets[:3], REFINE)
    begun = carried_on(inputs, run(session, inputs))
    inputs = {name: np.concatenate([value[:1], begun[name][1:]]) for name, value in inputs.items()}
    inputs["mask"] = rng.random((3, 32, 32, 1), np.float32)
    inputs["learning_rate"] = np.array([[0.01], [0.0], [0.02]], np.float32)
    inputs["domain_weight"] = np.array([[2.0], [0.0], [0.5]], np.float32)
    found = run(session, inputs)
    refiner = exported.built.graphs["refiner"].module
    wanted = refiner(*(torch.from_numpy(value) for value in inputs.values()))
    for (name, array), tensor in zip(found.items(), wanted, strict=True):
        np.testing.assert_allclose(array, tensor.detach().numpy(), rtol=2e-3, atol=2e-4, err_msg=name)
    np.testing.assert_array_equal(found["next_step"], inputs["step"] + REFINE.chunk_steps)


def test_company_changes_no_bit(session, samples) -> None:
    """What a last bit grows to in some steps of L-BFGS can be seen in a picture."""
    codes, targets = samples

    def refined(chosen: list[int]):
        inputs = refiner_inputs(codes[chosen], targets[chosen], REFINE)
        for _ in range(5):
            outputs = run(session, inputs)
            inputs = carried_on(inputs, outputs)
        return outputs["best_code"]

    together, others = refined(list(range(8))), refined([5, 2, 7])
    for n in range(8):
        np.testing.assert_array_equal(refined([n])[0], together[n])
    np.testing.assert_array_equal(others, together[[5, 2, 7]])


def test_a_rate_of_nothing_freezes_a_sample(session, samples) -> None:
    codes, targets = samples
    inputs = refiner_inputs(codes[:2], targets[:2], REFINE)
    inputs["learning_rate"][0] = 0
    after = run(session, inputs)["next_code"]
    np.testing.assert_array_equal(after[0], codes[0])
    assert np.abs(after[1] - codes[1]).max() > 1e-3


@pytest.mark.slow
def test_adam_can_be_chosen(exported: Exported, tmp_path: Path) -> None:
    """The paper's optimiser has a state of its own, and passes the same checks when the bundle is written."""
    write_bundle(replace(exported.config, to=tmp_path, refine=replace(REFINE, optimiser="adam")))
    state = read_bundle(tmp_path, "tiny").graphs["refiner"].state
    assert {part.name for part in state} == {"code", "first_moment", "second_moment", "step"}


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
    second = run(session, carried_on(inputs, first))
    assert (second["loss"][:, -1] < first["loss"][:, 0]).all()


def test_empty_mask_leaves_the_domain_term(session, samples) -> None:
    codes, targets = samples
    inputs = refiner_inputs(codes[:2], targets[:2], REFINE)
    inputs["mask"] = np.zeros_like(inputs["mask"])
    blind = run(session, inputs)
    other = run(session, inputs | {"target": targets[2:4]})
    assert np.isfinite(blind["loss"]).all()
    np.testing.assert_array_equal(blind["loss"], other["loss"])


def test_a_start_that_fits_already_need_not_fall(exported: Exported, session, samples) -> None:
    """As with a generator that draws one picture from all codes."""
    codes, targets = samples
    generator = open_session(exported.repository / "tiny_generator/1/model.onnx")
    own = run(generator, {"code": codes[:1]})["image"]
    fits = np.concatenate([own, targets[1:2]])
    assert check_follows_target(session, codes[:1], fits, REFINE)["loss_left"] < 1
    still = replace(REFINE, learning_rate=0.0)
    with pytest.raises(ParityError, match="do not fall"):
        check_follows_target(session, codes[:1], fits, still)


def test_a_target_that_was_baked_in_is_refused(exported: Exported, session, samples, tmp_path: Path) -> None:
    """As when tracing took the gradient for a constant: every sample is refined towards one picture."""
    codes, targets = samples
    assert check_follows_target(session, codes[:1], targets[:2], REFINE)["loss_left"] < 1
    model = onnx.load(exported.repository / "tiny_refiner/1/model.onnx")
    for node in model.graph.node:
        node.input[:] = ["first_target" if name == "target" else name for name in node.input]
    first = onnx.helper.make_tensor("first", onnx.TensorProto.INT64, [2], [0, 0])
    model.graph.initializer.append(first)
    model.graph.node.insert(0, onnx.helper.make_node("Gather", ["target", "first"], ["first_target"]))
    onnx.save(model, tmp_path / "baked.onnx")
    with pytest.raises(ParityError, match="does not follow its target"):
        check_follows_target(open_session(tmp_path / "baked.onnx"), codes[:1], targets[:2], REFINE)
