"""Adam and L-BFGS as one step after another of tensors, so that a refinement can be exported as a graph."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, Protocol

import torch
from torch import Tensor

State = dict[str, Tensor]
"""An optimiser's state by name. The first axis of each tensor is the sample; samples do not depend on each other."""


class Optimiser(Protocol):
    """An optimiser that makes one step at a time, from the loss and the gradient of `state["code"]`.

    All of its state but the code starts at zero: whoever keeps a state between two calls needs its names only.
    """

    def shapes(self, code: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """Shape of each part of the state, without the batch axis, from the shape of the code."""
        ...

    def step(self, state: State, loss: Tensor, gradient: Tensor, rate: Tensor) -> State:
        """The next state, whose `code` is to be judged next. loss and rate are float [N, 1].

        With a rate of 0 in all steps the code stays where it is.
        """
        ...


class Adam:
    """Kingma & Ba, arXiv 1412.6980, algorithm 1."""

    BETAS = (0.9, 0.999)
    EPSILON = 1e-8

    def shapes(self, code: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """`step` counts the steps done."""
        return {"code": code, "first_moment": code, "second_moment": code, "step": (1,)}

    def step(self, state: State, loss: Tensor, gradient: Tensor, rate: Tensor) -> State:
        """One step; `rate` is about the farthest that an entry moves."""
        step = state["step"] + 1
        first = self.BETAS[0] * state["first_moment"] + (1 - self.BETAS[0]) * gradient
        second = self.BETAS[1] * state["second_moment"] + (1 - self.BETAS[1]) * gradient * gradient
        scale = per_sample(rate / (1 - torch.pow(self.BETAS[0], step)), gradient)
        spread = per_sample(torch.rsqrt(1 - torch.pow(self.BETAS[1], step)), gradient)
        code = state["code"] - scale * first / (torch.sqrt(second) * spread + self.EPSILON)
        return {"code": code, "first_moment": first, "second_moment": second, "step": step}


class LBFGS:
    """Limited-memory BFGS for each sample (Nocedal & Wright, "Numerical Optimization", 2nd edition, algorithm 7.4).

    A step takes one loss and gradient. A code that does not lower the loss enough (Armijo's rule) is dropped, and the
    next code lies a part of the way to it. There is no search within a step, so that samples at any stage share a
    batch. Losses and gradients may be computed in bfloat16: a rise within their noise does not count as one, or the
    search would stall there (Xie, Byrd, Nocedal, "Analysis of the BFGS method with errors", 2020). The caller keeps the
    best code.
    """

    HISTORY = 10
    ARMIJO = 1e-4
    NOISE = 5e-3  # relative noise of a loss
    SHRINK = (0.1, 0.5)  # least and largest share of the way after a code that was dropped
    CURVATURE = 1e-8  # least s.y / y.y of a pair that is remembered

    def shapes(self, code: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """`step`: codes judged; `accepted_*`: the last accepted code, its loss, gradient; `*_changes`: pairs s, y."""
        history = (self.HISTORY, *code)
        return {
            "code": code, "step": (1,), "accepted_code": code, "accepted_gradient": code, "accepted_loss": (1,),
            "code_changes": history, "gradient_changes": history,
        }  # fmt: skip

    def step(self, state: State, loss: Tensor, gradient: Tensor, rate: Tensor) -> State:
        """One step. `rate` is the root mean square of the movement in the first one; others find their own length."""
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
        # After a dropped code: go to the minimum of the parabola through the known values on this line.
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
        """The estimate of the inverse Hessian times a gradient float [N, D]; times `scale` [N, 1] before any pair."""
        # [N, HISTORY], 0 where there is no pair yet.
        products = (s * y).sum(2)
        known = products > 0
        inverse = torch.where(known, 1 / products, torch.zeros_like(products)).unsqueeze(2)
        # The geometric mean of the two usual lengths: s.y / y.y, which noise in y shortens, and s.s / s.y.
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
    """Inner products [N, 1] of rows float [N, D]."""
    return (a * b).sum(1, keepdim=True)


def per_sample(value: Tensor, like: Tensor) -> Tensor:
    """Reshape float [N, 1] to as many axes as `like` has."""
    return value.reshape(-1, *(1,) * (like.dim() - 1))


OptimiserName = Literal["adam", "lbfgs"]
OPTIMISERS: Mapping[OptimiserName, Optimiser] = {"adam": Adam(), "lbfgs": LBFGS()}
