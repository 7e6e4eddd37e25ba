"""Adam for every network in training, and how the rates rise and fall over a run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that share a rate."""

    parameters: Sequence[nn.Parameter]
    rate: float
    betas: tuple[float, float]


def adam(groups: Iterable[ParameterGroup]) -> torch.optim.Adam:
    """Make Adam. On a GPU it is one fused kernel, with rates and step counts on the device.

    So a step can be captured as a CUDA graph, and rates still change between its replays.
    """
    made: list[dict[str, Any]] = []
    for group in groups:
        parameters = list(group.parameters)
        device = parameters[0].device
        on_gpu = device.type == "cuda"
        made.append({
            "params": parameters,
            "lr": torch.tensor(group.rate, device=device) if on_gpu else group.rate,
            "betas": group.betas,
            "fused": on_gpu or None,
            "capturable": on_gpu,
            "full_rate": group.rate,
        })  # fmt: skip
    return torch.optim.Adam(made)


def set_rates(optimisers: Iterable[torch.optim.Optimizer], factor: float) -> None:
    """Set every group's rate to `factor` times the rate that it was made with."""
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            rate = group["full_rate"] * factor
            if isinstance(group["lr"], torch.Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate


def warm_up(seen: int, since: int | None, images: int) -> float:
    """Factor of the rates that rises linearly to 1 within `images` pictures.

    It begins at `since`, the number of pictures at which the optimisers started without moments. None is for runs that
    need no warm-up.
    """
    if since is None or images <= 0:
        return 1.0
    # The first step is not without effect.
    return min(max((seen - since) / images, 0.01), 1.0)


def decay(done: float, last: float) -> float:
    """Factor of the rates that falls linearly from 1 to 0 over the share `last` at the end of a run.

    `done` is the share of the run that is over, 0..1. Without a last share the factor stays 1.
    """
    return min((1 - done) / last, 1.0) if last > 0 else 1.0
