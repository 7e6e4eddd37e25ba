"""Domain-regularised optimisation of a code: the loss, two optimisers, K of their steps as a module, and a plain loop.

`RefinerStep` is what the graph `B_refiner` is traced from; `refine` is its slow twin, used for evaluation and in tests.
Source: Zhu et al., "In-Domain GAN Inversion for Real Image Editing" (ECCV 2020), equation 3.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

MASK_EPSILON = 1e-6  # an empty mask gives a loss of 0, not NaN


@dataclass(frozen=True)
class RefinementConfig:
    """Defaults of a refinement; a bundle's manifest carries them as `refine`."""

    optimiser: OptimiserName = "lbfgs"
    """L-BFGS, or Adam as in the paper."""
    steps: int = 25
    """Steps in all, each one loss and gradient."""
    quality_steps: dict[str, int] = field(default_factory=lambda: {"fast": 10, "balanced": 25, "best": 60})
    """Steps by what callers ask for when they do not want to think about steps."""
    chunk_steps: int = 5
    """Steps K of one call of the refiner graph; progress, deadlines and cancellation come between calls."""
    learning_rate: float = 0.03
    """Adam's rate; L-BFGS: root mean square of what the entries of a code move in the first step."""
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


State = dict[str, Tensor]
"""What passes from step to step, by name; every tensor's first axis is the sample, and no sample sees another's."""


class Optimiser(Protocol):
    """One step after another, each from the loss and gradient of `state["code"]`. All of its state but the code starts
    at zero, so whoever holds a state between two calls needs to know its names only."""

    def shapes(self, code: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """Shape of each part of the state, batch axis left out, from the code's."""
        ...

    def step(self, state: State, loss: Tensor, gradient: Tensor, rate: Tensor) -> State:
        """The next state; `state["code"]` is then what is to be judged next. loss, rate float [N, 1].

        A rate of 0, from the first step on, leaves the code where it is.
        """
        ...


class Adam:
    """Kingma & Ba, arXiv 1412.6980, algorithm 1."""

    BETAS = (0.9, 0.999)
    EPSILON = 1e-8

    def shapes(self, code: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """`step`: steps done."""
        return {"code": code, "first_moment": code, "second_moment": code, "step": (1,)}

    def step(self, state: State, loss: Tensor, gradient: Tensor, rate: Tensor) -> State:
        """`rate` is the most that an entry moves in a step, about."""
        step = state["step"] + 1
        first = self.BETAS[0] * state["first_moment"] + (1 - self.BETAS[0]) * gradient
        second = self.BETAS[1] * state["second_moment"] + (1 - self.BETAS[1]) * gradient * gradient
        scale = per_sample(rate / (1 - torch.pow(self.BETAS[0], step)), gradient)
        spread = per_sample(torch.rsqrt(1 - torch.pow(self.BETAS[1], step)), gradient)
        code = state["code"] - scale * first / (torch.sqrt(second) * spread + self.EPSILON)
        return {"code": code, "first_moment": first, "second_moment": second, "step": step}


class LBFGS:
    """Limited-memory BFGS, a sample each (Nocedal & Wright, "Numerical Optimization", 2nd edition, algorithm 7.4).

    One loss and gradient a step: a code that does not lower the loss enough (Armijo's rule) is dropped, and the next
    is tried a part of the way to it. There is no search within a step, so samples at any stage share a batch. Losses
    and gradients may come in bfloat16: what lies within their noise is not taken for a rise, or the search would stall
    there (Xie, Byrd, Nocedal, "Analysis of the BFGS method with errors", 2020). The best code is kept elsewhere.
    """

    HISTORY = 10
    ARMIJO = 1e-4
    NOISE = 5e-3  # of a loss, relative
    SHRINK = (0.1, 0.5)  # least and most of the way that is tried again
    CURVATURE = 1e-8  # least s.y / y.y of a pair that is remembered

    def shapes(self, code: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """`step`: codes judged; `accepted_*`: the best code and what is known of it; `*_changes`: the pairs s and y."""
        history = (self.HISTORY, *code)
        return {
            "code": code, "step": (1,), "accepted_code": code, "accepted_gradient": code, "accepted_loss": (1,),
            "code_changes": history, "gradient_changes": history,
        }  # fmt: skip

    def step(self, state: State, loss: Tensor, gradient: Tensor, rate: Tensor) -> State:
        """`rate` is the root mean square of what entries move in the first step; later ones find their own length."""
        code, g = state["code"].flatten(1), gradient.flatten(1)
        before, g_before = state["accepted_code"].flatten(1), state["accepted_gradient"].flatten(1)
        s, y = state["code_changes"].flatten(2), state["gradient_changes"].flatten(2)  # [N, HISTORY, D]
        first = state["step"] < 0.5
        tried, turned = code - before, g - g_before
        slope = dot(g_before, tried)
        most = state["accepted_loss"] * (1 + self.NOISE) + self.ARMIJO * slope
        enough = loss <= most  # False for NaN
        accepted = torch.logical_or(enough, first)
        curved = dot(tried, turned) > self.CURVATURE * dot(turned, turned)
        remember = torch.logical_and(torch.logical_and(enough, curved), torch.logical_not(first)).unsqueeze(2)
        s = torch.where(remember, torch.cat([s[:, 1:], tried.unsqueeze(1)], 1), s)
        y = torch.where(remember, torch.cat([y[:, 1:], turned.unsqueeze(1)], 1), y)

        now, g_now = torch.where(accepted, code, before), torch.where(accepted, g, g_before)
        loss_now = torch.where(accepted, loss, state["accepted_loss"])
        length = rate * math.sqrt(code.shape[1])
        onward = -self.precondition(g_now, s, y, length * torch.rsqrt(dot(g_now, g_now) + 1e-20))
        # back: to the minimum of the parabola through what is known of this line
        part = -slope / (2 * (loss - state["accepted_loss"] - slope))
        part = torch.where(part > self.SHRINK[0], part.clamp(max=self.SHRINK[1]), self.SHRINK[0])
        change = torch.where(accepted, onward, part * tried)
        shape = gradient.shape[1:]
        return {
            "code": (now + change).unflatten(1, shape),
            "step": state["step"] + 1,
            "accepted_code": now.unflatten(1, shape),
            "accepted_gradient": g_now.unflatten(1, shape),
            "accepted_loss": loss_now,
            "code_changes": s.unflatten(2, shape),
            "gradient_changes": y.unflatten(2, shape),
        }

    def precondition(self, gradient: Tensor, s: Tensor, y: Tensor, scale: Tensor) -> Tensor:
        """The inverse Hessian's estimate times a gradient float [N, D]; `scale` [N, 1] in its place before any pair."""
        products = (s * y).sum(2)  # [N, HISTORY]; 0 where there is no pair yet
        known = products > 0
        inverse = torch.where(known, 1 / products, torch.zeros_like(products)).unsqueeze(2)
        # the mean of the two usual lengths, s.y / y.y, which noise in y shortens, and s.s / s.y
        last = torch.where(
            known[:, -1:], torch.sqrt(dot(s[:, -1], s[:, -1]) / dot(y[:, -1], y[:, -1])), scale
        )
        pairs = list(zip(s.unbind(1), y.unbind(1), inverse.unbind(1), strict=True))
        q, weights = gradient, []
        for s_i, y_i, inverse_i in reversed(pairs):
            weights.append(inverse_i * dot(s_i, q))
            q = q - weights[-1] * y_i
        r = last * q
        for (s_i, y_i, inverse_i), weight in zip(pairs, reversed(weights), strict=True):
            r = r + s_i * (weight - inverse_i * dot(y_i, r))
        return r


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner products of rows: float [N, D] twice -> [N, 1]."""
    return (a * b).sum(1, keepdim=True)


def per_sample(value: Tensor, like: Tensor) -> Tensor:
    """float [N, 1] with as many axes as `like`."""
    return value.reshape(-1, *(1,) * (like.dim() - 1))


OptimiserName = Literal["adam", "lbfgs"]
OPTIMISERS: Mapping[OptimiserName, Optimiser] = {"adam": Adam(), "lbfgs": LBFGS()}


class RefinerStep(nn.Module):
    """One step of an optimiser, the backward pass included.

    Its tensors are flat arguments, so that it can be traced: the optimiser's state, `best_code`, `best_loss`, `target`,
    `mask` and the four settings.
    """

    def __init__(self, objective: Objective, optimiser: Optimiser, code_shape: tuple[int, int]) -> None:
        super().__init__()
        self.objective, self.optimiser = objective, optimiser
        self.shapes = optimiser.shapes(code_shape)

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        """-> the next state, best_code, best_loss [N, 1], and loss [N, 1] of the code that came in."""
        state = dict(zip(self.shapes, given, strict=False))
        best_code, best_loss, target, mask, rate, *weights = given[len(self.shapes) :]
        goal = self.goal(target, mask)
        state, best, loss = self.advance(
            state, (best_code, best_loss), goal, Weights(*(w[:, 0] for w in weights)), rate
        )
        return (*state.values(), *best, loss)

    def goal(self, target: Tensor, mask: Tensor) -> Target:
        """target uint8 [N, H, W, 3], mask float32 [N, H, W, 1] -> what the objective compares with."""
        return self.objective.target(to_float(target), mask.permute(0, 3, 1, 2))

    def advance(
        self, state: State, best: tuple[Tensor, Tensor], goal: Target, weights: Weights, rate: Tensor
    ) -> tuple[State, tuple[Tensor, Tensor], Tensor]:
        """The state and the best code and loss after one step, and the loss [N, 1] before it."""

        def total(code: Tensor) -> tuple[Tensor, Tensor]:
            loss = self.objective(code, goal, weights)
            return loss.sum(), loss  # a sum, not a mean: a mean would divide the gradient by the batch

        gradient, loss = torch.func.grad(total, has_aux=True)(state["code"])
        loss = loss.unsqueeze(1)
        best = better(best, (state["code"], loss))
        return self.optimiser.step(state, loss, gradient, rate), best, loss


def better(best: tuple[Tensor, Tensor], found: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Of each sample the code [N, L, 512] whose loss [N, 1] is lower; what is not a number is never the best."""
    lower = found[1] < best[1]
    return torch.where(per_sample(lower, best[0]), found[0], best[0]), torch.where(lower, found[1], best[1])


class Refiner(nn.Module):
    """A chunk of K steps; stateless: what goes on from chunk to chunk is in its inputs and outputs.

    Every sample carries its own state and settings, so requests at different stages of different refinements may share
    a batch. `loss[:, k]` is the loss before step k, of the code before step k; `best_code` is the best of these K
    codes, so the code after the last step is judged by the next chunk.
    """

    def __init__(
        self, objective: Objective, optimiser: Optimiser, code_shape: tuple[int, int], chunk_steps: int
    ) -> None:
        super().__init__()
        self.one_step, self.chunk_steps = RefinerStep(objective, optimiser, code_shape), chunk_steps

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        """The optimiser's state, target uint8 [N, H, W, 3], mask float32 [N, H, W, 1], learning_rate and the three
        weights, each [N, 1] -> the next state, loss [N, K], best_code [N, L, 512], best_loss [N, 1]."""
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
    """The same optimisation as a loop in PyTorch, every sample on its own.

    `start`: a code float [N, L, 512], or another search. image float [N, 3, H, W] in [-1, 1], mask float [N, 1, H, W].
    Codes after many steps differ from the graph's as much as they do between two orders of summation: compare losses,
    or the first gradient.
    """
    search = start if isinstance(start, Search) else Search(start)
    with torch.no_grad():
        target = objective.target(image, mask)
    weights = Weights(config.pixel_weight, config.perceptual_weight, config.domain_weight)
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
            loss = (objective(code, target, weights) + search.prior(variable)).unsqueeze(1)
        losses.append(loss.detach())
        best = better(best, (code.detach(), losses[-1]))
        if k < config.steps:
            (gradient,) = torch.autograd.grad(loss.sum(), variable)
            with torch.no_grad():
                state = optimiser.step(state, losses[-1], gradient, rate)
                state["code"] = search.clip(state["code"])
    return Refinement(best[0], best[1][:, 0], torch.cat(losses, 1), code.detach())
