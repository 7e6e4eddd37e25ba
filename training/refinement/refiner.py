"""K optimisation steps as one module: the graph `B_refiner` is traced from it. `refinement.py` is its slow twin."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from training.refinement.measurement import Measurement
from training.refinement.objective import Objective, Target, Weights, to_float
from training.refinement.optimisers import Optimiser, State, per_sample


class RefinerStep(nn.Module):
    """One step of an optimiser, with the backward pass.

    It takes its tensors as flat arguments, so that it can be traced: the optimiser's state, `best_code`, `best_loss`,
    `target`, `mask`, and the settings by the order of their names.
    """

    def __init__(
        self, objective: Objective, optimiser: Optimiser, code_shape: tuple[int, int], names: Iterable[str]
    ) -> None:
        super().__init__()
        self.objective, self.optimiser, self.names = objective, optimiser, tuple(names)
        self.shapes = optimiser.shapes(code_shape)

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        """Give the next state, best_code, best_loss [N, 1], and the loss [N, 1] of the code that came in."""
        state = dict(zip(self.shapes, given, strict=False))
        best_code, best_loss, target, mask, *values = given[len(self.shapes) :]
        goal, weights, rate = self.goal(target, mask, values)
        state, best, loss = self.advance(state, (best_code, best_loss), goal, weights, rate)
        return (*state.values(), *best, loss)

    def goal(self, target: Tensor, mask: Tensor, values: Iterable[Tensor]) -> tuple[Target, Weights, Tensor]:
        """target uint8 [N, H, W, 3], mask float32 [N, H, W, 1], the settings' values [N, 1] -> the objective's target
        and weights, and the learning rate [N, 1]."""
        settings = {name: value[:, 0] for name, value in zip(self.names, values, strict=True)}
        image, places = to_float(target), mask.permute(0, 3, 1, 2)
        goal = self.objective.target(image, places, Measurement.of(settings))
        return goal, Weights.of(settings), settings["learning_rate"].unsqueeze(1)

    def advance(
        self, state: State, best: tuple[Tensor, Tensor], goal: Target, weights: Weights, rate: Tensor
    ) -> tuple[State, tuple[Tensor, Tensor], Tensor]:
        """One step: the next state, the best code and loss so far, and the loss [N, 1] before the step."""

        def total(code: Tensor) -> tuple[Tensor, Tensor]:
            loss = self.objective(code, goal, weights)
            # A sum: a mean would divide each gradient by the size of the batch.
            return loss.sum(), loss

        gradient, loss = torch.func.grad(total, has_aux=True)(state["code"])
        loss = loss.unsqueeze(1)
        best = better(best, (state["code"], loss))
        return self.optimiser.step(state, loss, gradient, rate), best, loss


def better(best: tuple[Tensor, Tensor], found: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """For each sample the code [N, L, 512] with the lower loss [N, 1]. NaN is never the best."""
    lower = found[1] < best[1]
    return torch.where(per_sample(lower, best[0]), found[0], best[0]), torch.where(lower, found[1], best[1])


class Refiner(nn.Module):
    """A chunk of K steps without state of its own: all that goes on to the next chunk is in its inputs and outputs.

    Every sample has its own state and settings, so that requests at different stages of different refinements share a
    batch. `loss[:, k]` is the loss of the code before step k. `best_code` is the best of these K codes; the code after
    the last step is judged by the next chunk.
    """

    def __init__(
        self,
        objective: Objective,
        optimiser: Optimiser,
        code_shape: tuple[int, int],
        chunk_steps: int,
        names: Iterable[str],
    ) -> None:
        super().__init__()
        self.one_step, self.chunk_steps = RefinerStep(objective, optimiser, code_shape, names), chunk_steps

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        """Do the chunk's steps.

        Takes the optimiser's state, target uint8 [N, H, W, 3], mask float32 [N, H, W, 1], and the settings by the order
        of their `names`, [N, 1] each. Gives the next state, loss [N, K], best_code [N, L, 512], best_loss [N, 1].
        """
        shapes = self.one_step.shapes
        state = dict(zip(shapes, given, strict=False))
        target, mask, *values = given[len(shapes) :]
        goal, weights, rate = self.one_step.goal(target, mask, values)
        best = (state["code"], torch.full_like(rate, torch.inf))
        losses: list[Tensor] = []
        for _ in range(self.chunk_steps):
            state, best, loss = self.one_step.advance(state, best, goal, weights, rate)
            losses.append(loss)
        return (*state.values(), torch.cat(losses, 1), *best)
