"""Which precision a processor trains faster in."""

from __future__ import annotations

import time
from functools import cache

import torch
from torch import nn

# Of the usual size in training: pictures, features, side.
_BATCH, _FEATURES, _SIDE = 4, 96, 64
_TRIALS = 3
# bfloat16 is coarser: it must save so much.
_WORTH = 0.95


@cache
def faster_in_bfloat16() -> bool:
    """Whether this processor trains faster in bfloat16 than in float32.

    One without instructions for bfloat16 does not. One with them may not either: with AVX512_BF16 and without AMX some
    are slower by a quarter. So a convolution is timed, forward and backward, in both; that takes half a second.
    """
    known = torch.cpu.get_capabilities()
    if not (known.get("avx512_bf16") or known.get("amx_bf16")):
        return False
    convolution = nn.Conv2d(_FEATURES, _FEATURES, 3, padding=1).to(memory_format=torch.channels_last)
    features = torch.zeros(_BATCH, _FEATURES, _SIDE, _SIDE).to(memory_format=torch.channels_last)
    features.requires_grad_()

    def seconds(bfloat16: bool) -> float:
        begun_s = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            found = convolution(features)
        found.float().sum().backward()
        return time.perf_counter() - begun_s

    # The first of each compiles kernels. Then in turn, as another program may disturb either.
    seconds(False), seconds(True)
    trials = [(seconds(False), seconds(True)) for _ in range(_TRIALS)]
    in_float32_s, in_bfloat16_s = (min(times) for times in zip(*trials, strict=True))
    return in_bfloat16_s < _WORTH * in_float32_s
