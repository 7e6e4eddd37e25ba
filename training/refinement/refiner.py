"""K optimisation steps as one module: the graph `B_refiner` is traced from it. `refinement.py` is its slow twin."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.refinement.objective import Objective, Target, Weights, to_float
from training.refinement.optimisers import Optimiser, State, per_sample


class RefinerStep(nn.Module):
    """One step of an optimiser, with the backward pass.

    It takes its tensors as flat arguments, so that it can be traced: the optimiser's state, `best_code`, `best_loss`,
    `target`, `mask` and the four settings.
    """

    def __init__(self, objective: Objective, optimiser: Optimiser, code_shape: tuple[int, int]) -> None:
        super().__init__()
        self.objective, self.optimiser = objective, optimiser
        self.shapes = optimiser.shapes(code_shape)

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        """Give the next state, best_code, best_loss [N, 1], and the loss [N, 1] of the code that came in."""
        state = dict(zip(self.shapes, given, strict=False))
        best_code, best_loss, target, mask, rate, *weights = given[len(self.shapes) :]
        goal = self.goal(target, mask)
        state, best, loss = self.advance(
            state, (best_code, best_loss), goal, Weights(*(w[:, 0] for w in weights)), rate
        )
        return (*state.values(), *best, loss)

    def goal(self, target: Tensor, mask: Tensor) -> Target:
        """target uint8 [N, H, W, 3], mask float32 [N, H, W, 1] -> the objective's target."""
        return self.objective.target(to_float(target), mask.permute(0, 3, 1, 2))

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
        self, objective: Objective, optimiser: Optimiser, code_shape: tuple[int, int], chunk_steps: int
    ) -> None:
        super().__init__()
        self.one_step, self.chunk_steps = RefinerStep(objective, optimiser, code_shape), chunk_steps

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        """Do the chunk's steps.

        Takes the optimiser's state, target uint8 [N, H, W, 3], mask float32 [N, H, W, 1], learning_rate and the three
        weights, [N, 1] each. Gives the next state, loss [N, K], best_code [N, L, 512], best_loss [N, 1].
        """
        shapes = self.one_step.shapes
        state = dict(zip(shapes, given, strict=False))
        target, mask, rate, *weights = given[len(shapes) :]
        goal = self.one_step.goal(target, mask)
        best = (state["code"], torch.full_like(rate, torch.inf))
        losses: list[Tensor] = []
        for _ in range(self.chunk_steps):
            state, best, loss = self.one_step.advance(
                state, best, goal, Weights(*(w[:, 0] for w in weights)), rate
            )
            losses.append(loss)
        return (*state.values(), torch.cat(losses, 1), *best)
