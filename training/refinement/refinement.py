"""A refinement as a plain loop, for evaluation and tests; its settings are those of the exported one too."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from training.networks.extra_rows.groups import GROUPS
from training.refinement.measurement import Measurement
from training.refinement.objective import Objective, Weights
from training.refinement.optimisers import OPTIMISERS, OptimiserName
from training.refinement.refiner import better
from training.refinement.searches import Search

SETTINGS = (
    "learning_rate",
    "pixel_weight",
    "perceptual_weight",
    "domain_weight",
    "grey",
    "downsampling",
    "identity_weight",
    "detail",
    "noise",
)
"""Inputs of the exported refiner, one value for each sample, in their order; a refiner may have only some."""


@dataclass(frozen=True)
class RefinementConfig:
    """Settings of a refinement. Those of a bundle are in its manifest as `refine`."""

    optimiser: OptimiserName = "lbfgs"
    """L-BFGS, or Adam as in the paper."""
    steps: int = 25
    """Number of steps; each takes one loss and gradient."""
    quality_steps: dict[str, int] = field(default_factory=lambda: {"fast": 10, "balanced": 25, "best": 60})
    """Number of steps for each quality that callers may ask for instead."""
    chunk_steps: int = 5
    """Steps K of one call of the refiner graph. Progress, deadlines and cancellation come between calls."""
    learning_rate: float = 0.03
    """Adam's rate; for L-BFGS the root mean square of the movement of a code's entries in the first step."""
    pixel_weight: float = 1.0
    """Weight of the mean squared error of pictures on [-1, 1]."""
    perceptual_weight: float = 0.5
    """Weight of the perceptual distance."""
    domain_weight: float = 0.5
    """Weight of mean((code - E(G(code)))^2), in units of the mean variance of sampled codes."""
    grey: bool | None = False
    """Whether only the grey values of pictures are compared; None for refiners that cannot."""
    downsampling: int | None = 1
    """Side of the squares of pixels of which only the means are compared; None for refiners that cannot."""
    identity_weight: float | None = None
    """Weight of the squared distance of the faces' descriptors; None for pipelines that do not know where faces are."""
    detail: bool | None = None
    """Whether detail is found beside the layers' vectors; None for pipelines that have none."""
    noise: bool | None = None
    """Whether noise maps are found, too; None for pipelines that have none."""

    @property
    def settings(self) -> dict[str, float]:
        """What the exported refiner takes for each sample, by its inputs' names."""
        return {name: float(getattr(self, name)) for name in SETTINGS if getattr(self, name) is not None}

    @property
    def weights(self) -> Weights:
        """The same for the objective."""
        switches = {name: 1.0 if (on := getattr(self, name)) is None else float(on) for name in GROUPS}
        identity = float(self.identity_weight or 0.0)
        return Weights(self.pixel_weight, self.perceptual_weight, self.domain_weight, identity, **switches)

    def measurement(self, like: Tensor) -> Measurement:
        """What of pictures is compared; on the device of `like`."""
        if not self.grey and self.downsampling in (None, 1):
            return Measurement()
        return Measurement.of({name: like.new_full((1,), value) for name, value in self.settings.items()})


@dataclass(frozen=True)
class Refinement:
    """The result of a refinement. `code` is the best that was seen: `best_loss` never exceeds `losses[:, 0]`."""

    code: Tensor
    """float [N, L, 512]"""
    best_loss: Tensor
    """float [N]"""
    losses: Tensor
    """float [N, steps + 1]: before each step, and after the last"""
    last_code: Tensor
    """float [N, L, 512]: the code after the last step"""


def refine(
    objective: Objective,
    start: Tensor | Search,
    image: Tensor,
    config: RefinementConfig,
    *,
    mask: Tensor | None = None,
) -> Refinement:
    """Refine codes towards pictures float [N, 3, H, W] in [-1, 1], each sample on its own.

    `start`: codes float [N, L, 512], or another search. `mask`: float [N, 1, H, W], weight of each place. After many
    steps codes differ from those of the exported graph, as sums in another order do: compare losses, or the first
    gradient.
    """
    search = start if isinstance(start, Search) else Search(start)
    with torch.no_grad():
        target = objective.target(image, mask, config.measurement(image))
    optimiser = OPTIMISERS[config.optimiser]
    variable = search.start.detach()
    shapes = optimiser.shapes(tuple(variable.shape[1:]))
    state = {name: variable.new_zeros(len(variable), *shape) for name, shape in shapes.items()}
    state["code"] = variable
    rate = variable.new_full((len(variable), 1), config.learning_rate)
    losses: list[Tensor] = []
    first = search.code(variable).detach()
    best = (first, first.new_full((len(first), 1), torch.inf))
    for k in range(config.steps + 1):
        variable = state["code"].requires_grad_(k < config.steps)
        with torch.set_grad_enabled(k < config.steps):
            code = search.code(variable)
            loss = (objective(code, target, config.weights) + search.prior(variable)).unsqueeze(1)
        losses.append(loss.detach())
        best = better(best, (code.detach(), losses[-1]))
        if k < config.steps:
            (gradient,) = torch.autograd.grad(loss.sum(), variable)
            with torch.no_grad():
                state = optimiser.step(state, losses[-1], gradient, rate)
                state["code"] = search.clip(state["code"])
    return Refinement(best[0], best[1][:, 0], torch.cat(losses, 1), code.detach())
