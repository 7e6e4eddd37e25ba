"""Domain-regularised optimisation of a code: the loss, K Adam steps as modules, and a plain torch loop.

`RefinerStep` is what the graph `B_refiner` is traced from; `refine` is its slow twin, used for evaluation and in tests.
Source: Zhu et al., "In-Domain GAN Inversion for Real Image Editing" (ECCV 2020), equation 3.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

BETAS = (0.9, 0.999)
ADAM_EPSILON = 1e-8
MASK_EPSILON = 1e-6  # an empty mask gives a loss of 0, not NaN


@dataclass(frozen=True)
class RefinementConfig:
    """Defaults of a refinement; a bundle's manifest carries them as `refine`."""

    steps: int = 100
    """Adam steps in all."""
    chunk_steps: int = 5
    """Steps K of one call of the refiner graph; progress, deadlines and cancellation come between calls."""
    learning_rate: float = 0.03
    """Adam's rate."""
    pixel_weight: float = 1.0
    """Weight of the mean squared error of pictures on [-1, 1]."""
    perceptual_weight: float = 0.5
    """Weight of the perceptual distance."""
    domain_weight: float = 0.5
    """Weight of mean((code - E(G(code)))^2), in units of the mean variance of sampled codes."""


class Perceptual(Protocol):
    """A perceptual distance that splits into features, computed once for a target, and a distance of two of them."""

    def features(self, image: Tensor) -> list[Tensor]: ...

    def between(self, a: list[Tensor], b: list[Tensor], mask: Tensor | None = None) -> Tensor: ...


@dataclass(frozen=True)
class Target:
    """What a code is refined towards: all of it is computed once, not at every step."""

    image: Tensor  # float [N, 3, H, W] in [-1, 1]
    features: list[Tensor]
    mask: Tensor  # float [N, 1, H, W], weight of each place in the pixel and the perceptual term


@dataclass(frozen=True)
class Weights:
    """Weights of the three terms, one number for all samples or float [N] for each its own."""

    pixel: Tensor | float
    perceptual: Tensor | float
    domain: Tensor | float


class Objective(nn.Module):
    """Loss of a code against a target picture, frozen networks inside.

    `code_variance` is the mean variance of sampled codes' entries. It divides the domain term, so that its weight
    means the same for every bundle; the paper's term is the one with a variance of 1.
    """

    def __init__(
        self, synthesis: nn.Module, encoder: nn.Module, perceptual: nn.Module, code_variance: float
    ) -> None:
        super().__init__()
        self.synthesis, self.encoder, self.perceptual = synthesis, encoder, perceptual
        self.code_variance = code_variance

    def target(self, image: Tensor, mask: Tensor | None = None) -> Target:
        """image float [N, 3, H, W] in [-1, 1], mask float [N, 1, H, W], all ones if left out."""
        if mask is None:
            mask = torch.ones_like(image[:, :1])
        perceptual: Perceptual = self.perceptual  # type: ignore[assignment]
        return Target(image, perceptual.features(image), mask)

    def forward(self, code: Tensor, target: Target, weights: Weights) -> Tensor:
        """code float [N, L, 512] -> loss float [N]; no sample's loss depends on another sample."""
        perceptual: Perceptual = self.perceptual  # type: ignore[assignment]
        image = self.synthesis(code)
        loss = weights.pixel * masked_mean_square(image - target.image, target.mask)
        loss = loss + weights.perceptual * perceptual.between(
            perceptual.features(image), target.features, target.mask
        )
        if isinstance(weights.domain, float) and weights.domain == 0:  # an inversion that has no encoder
            return loss
        return loss + weights.domain * domain_regulariser(code, self.encoder(image), self.code_variance)


def masked_mean_square(error: Tensor, mask: Tensor) -> Tensor:
    """Mean of error^2, places weighed by the mask: float [N, C, H, W], float [N, 1, H, W] -> float [N]."""
    total = (error.square() * mask).sum((1, 2, 3))
    return total / (mask.sum((1, 2, 3)) * error.shape[1] + MASK_EPSILON)


def domain_regulariser(code: Tensor, encoded: Tensor, code_variance: float) -> Tensor:
    """mean((code - E(G(code)))^2) / variance of sampled codes: float [N, L, 512] twice -> float [N]."""
    return (code - encoded).square().mean((1, 2)) * (1 / code_variance)


def to_float(image: Tensor) -> Tensor:
    """uint8 [N, H, W, 3] -> float32 [N, 3, H, W] in [-1, 1]. Cast first: TensorRT does nothing else to bytes."""
    return image.float().permute(0, 3, 1, 2) * (1 / 127.5) - 1


class RefinerState(NamedTuple):
    """What passes from step to step, every sample its own. Codes and moments float32 [N, L, 512], the rest [N, 1]."""

    code: Tensor
    first_moment: Tensor
    second_moment: Tensor
    step: Tensor  # steps already done
    best_code: Tensor
    best_loss: Tensor


class RefinerStep(nn.Module):
    """One Adam step (Kingma & Ba, arXiv 1412.6980, algorithm 1), the backward pass included.

    Its tensors are flat arguments in the order of `RefinerState` and of `Refiner.forward`, so that it can be traced.
    """

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        self.objective = objective

    def forward(
        self,
        code: Tensor,
        first_moment: Tensor,
        second_moment: Tensor,
        step: Tensor,
        best_code: Tensor,
        best_loss: Tensor,
        target: Tensor,
        mask: Tensor,
        learning_rate: Tensor,
        pixel_weight: Tensor,
        perceptual_weight: Tensor,
        domain_weight: Tensor,
    ) -> tuple[Tensor, ...]:
        """-> the six of the next state, and loss [N, 1] of the code that came in."""
        state = RefinerState(code, first_moment, second_moment, step, best_code, best_loss)
        weights = Weights(pixel_weight[:, 0], perceptual_weight[:, 0], domain_weight[:, 0])
        state, loss = self.advance(state, self.goal(target, mask), weights, learning_rate)
        return (*state, loss)

    def goal(self, target: Tensor, mask: Tensor) -> Target:
        """target uint8 [N, H, W, 3], mask float32 [N, H, W, 1] -> what the objective compares with."""
        return self.objective.target(to_float(target), mask.permute(0, 3, 1, 2))

    def advance(
        self, state: RefinerState, goal: Target, weights: Weights, learning_rate: Tensor
    ) -> tuple[RefinerState, Tensor]:
        """The state after one step, and the loss [N, 1] before it."""

        def total(code: Tensor) -> tuple[Tensor, Tensor]:
            loss = self.objective(code, goal, weights)
            return loss.sum(), loss  # a sum, not a mean: a mean would divide the gradient by the batch

        gradient, loss = torch.func.grad(total, has_aux=True)(state.code)
        loss = loss.unsqueeze(1)
        better = loss < state.best_loss  # False for NaN: what is not a number is never the best
        best_code = torch.where(better.unsqueeze(2), state.code, state.best_code)
        best_loss = torch.where(better, loss, state.best_loss)
        step = state.step + 1
        first = BETAS[0] * state.first_moment + (1 - BETAS[0]) * gradient
        second = BETAS[1] * state.second_moment + (1 - BETAS[1]) * gradient * gradient
        rate = (learning_rate / (1 - torch.pow(BETAS[0], step))).unsqueeze(2)
        spread = torch.rsqrt(1 - torch.pow(BETAS[1], step)).unsqueeze(2)
        code = state.code - rate * first / (torch.sqrt(second) * spread + ADAM_EPSILON)
        return RefinerState(code, first, second, step, best_code, best_loss), loss


class Refiner(nn.Module):
    """A chunk of K Adam steps; stateless: what goes on from chunk to chunk is in its inputs and outputs.

    Every sample carries its own step and settings, so requests at different stages of different refinements may share
    a batch. `loss[:, k]` is the loss before step k, of the code before step k; `best_code` is the best of these K
    codes, so the code after the last step is judged by the next chunk.
    """

    def __init__(self, objective: Objective, chunk_steps: int) -> None:
        super().__init__()
        self.one_step, self.chunk_steps = RefinerStep(objective), chunk_steps

    def forward(
        self,
        code: Tensor,  # float32 [N, L, 512], as the moments
        first_moment: Tensor,
        second_moment: Tensor,
        step: Tensor,  # float32 [N, 1], as the settings below: steps already done
        target: Tensor,  # uint8 [N, H, W, 3]
        mask: Tensor,  # float32 [N, H, W, 1]
        learning_rate: Tensor,
        pixel_weight: Tensor,
        perceptual_weight: Tensor,
        domain_weight: Tensor,
    ) -> tuple[Tensor, ...]:
        """-> next_code, next_first_moment, next_second_moment, next_step, loss [N, K], best_code, best_loss [N, 1]."""
        goal = self.one_step.goal(target, mask)
        weights = Weights(pixel_weight[:, 0], perceptual_weight[:, 0], domain_weight[:, 0])
        state = RefinerState(code, first_moment, second_moment, step, code, torch.full_like(step, torch.inf))
        losses: list[Tensor] = []
        for _ in range(self.chunk_steps):
            state, loss = self.one_step.advance(state, goal, weights, learning_rate)
            losses.append(loss)
        return (*state[:4], torch.cat(losses, 1), *state[4:])


@dataclass(frozen=True)
class Search:
    """What an optimisation varies, how that makes a code, and what keeps it probable.

    The inversions that need no encoder differ in this alone; `image2stylegan`, `single_w`, `z_with_prior` and
    `z_with_clipping` are theirs.
    """

    start: Tensor  # float [N, ...]
    code: Callable[[Tensor], Tensor] = lambda x: x  # variable -> float [N, L, 512]
    prior: Callable[[Tensor], Tensor] = lambda x: x.new_zeros(len(x))  # added to the loss: float [N]
    clip: Callable[[Tensor], Tensor] = lambda x: x  # applied after each step


def image2stylegan(mean_code: Tensor, count: int) -> Search:
    """All of W+, from the mean code float [L, 512] (Abdal et al., arXiv 1904.03189). No domain term."""
    return Search(mean_code.expand(count, -1, -1))


def single_w(mean_code: Tensor, count: int) -> Search:
    """One shift of 512 numbers for all layers: where a mapping repeats one w, that is W itself."""
    return Search(mean_code.new_zeros(count, 1, mean_code.shape[1]), code=lambda shift: mean_code + shift)


def z_with_prior(mapping: nn.Module, z: Tensor, weight: float = 0.01) -> Search:
    """z float [N, 512] under its Gaussian prior (Creswell & Bharath, arXiv 1611.05644, section III-B)."""
    return Search(z, code=mapping, prior=lambda z: weight * z.square().mean(1))


def z_with_clipping(mapping: nn.Module, z: Tensor, bound: float = 2.0) -> Search:
    """Stochastic clipping: entries of z that leave +-bound are drawn anew (Lipton & Tripathi, arXiv 1702.04782)."""

    def redraw(z: Tensor) -> Tensor:
        return torch.where(z.abs() > bound, bound * (2 * torch.rand_like(z) - 1), z)

    return Search(z, code=mapping, clip=redraw)


@dataclass(frozen=True)
class Refinement:
    """`code` is the best that was seen, so `best_loss` never exceeds `losses[:, 0]`."""

    code: Tensor  # float [N, L, 512]
    best_loss: Tensor  # float [N]
    losses: Tensor  # float [N, steps + 1]: before each step, and after the last
    last_code: Tensor  # float [N, L, 512]


def refine(
    objective: Objective,
    start: Tensor | Search,
    image: Tensor,
    config: RefinementConfig,
    *,
    mask: Tensor | None = None,
) -> Refinement:
    """The same optimisation with autograd and `torch.optim.Adam`, every sample on its own.

    `start`: a code float [N, L, 512], or another search. image float [N, 3, H, W] in [-1, 1], mask float [N, 1, H, W].
    Codes after many steps differ from the graph's as much as they do between two orders of summation: compare losses,
    or the first gradient.
    """
    search = start if isinstance(start, Search) else Search(start)
    with torch.no_grad():
        target = objective.target(image, mask)
    weights = Weights(config.pixel_weight, config.perceptual_weight, config.domain_weight)
    variable = search.start.detach().clone().requires_grad_()
    adam = torch.optim.Adam([variable], config.learning_rate, BETAS, ADAM_EPSILON)
    losses: list[Tensor] = []
    best_code = search.code(variable).detach().clone()
    best_loss = torch.full_like(best_code[:, 0, 0], torch.inf)
    for k in range(config.steps + 1):
        with torch.set_grad_enabled(k < config.steps):
            code = search.code(variable)
            loss = objective(code, target, weights) + search.prior(variable)
        losses.append(loss.detach())
        better = losses[-1] < best_loss  # False for NaN: what is not a number is never the best
        best_code[better] = code.detach()[better]
        best_loss[better] = losses[-1][better]
        if k < config.steps:
            (variable.grad,) = torch.autograd.grad(loss.sum(), variable)
            adam.step()
            with torch.no_grad():
                variable.copy_(search.clip(variable))
    return Refinement(best_code, best_loss, torch.stack(losses, 1), code.detach())
