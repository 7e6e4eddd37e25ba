"""Scale, bias, noise and leaky ReLU after a convolution as one pass over its maps, for GPUs.

As separate operations they read and write the maps five times, and that takes longer than the convolution. StyleGAN's
authors fuse bias and activation for the same reason. The kernels are written in Triton, which PyTorch brings along for
GPUs; where it is missing the plain operations are used.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None

ELEMENTS = 4096  # of a map that one program handles: some places, all their channels at once


def plain(
    x: Tensor,
    bias: Tensor | None = None,
    slope: float = 1.0,
    scale: Tensor | None = None,
    noise: Tensor | None = None,
    limit: float = math.inf,
) -> Tensor:
    """min(leaky_relu(x * scale + bias + noise), limit), operation by operation.

    Maps x [N, C, H, W], bias [C], scale [N, C], noise [N or 1, 1, H, W]; computed in the type of x. A slope of 1 leaves
    negative numbers as they are.
    """
    offset = None if bias is None else bias[:, None, None].to(x.dtype)
    factor = None if scale is None else scale[:, :, None, None].to(x.dtype)
    if factor is not None and offset is not None:
        x = torch.addcmul(offset, x, factor)
    elif factor is not None:
        x = x * factor
    elif offset is not None:
        x = x + offset
    if noise is not None:
        x = x + noise.to(x.dtype)
    if slope == 0:
        return F.hardtanh(x, 0.0, limit)
    if slope != 1:
        x = F.leaky_relu(x, slope)
    return x if limit == math.inf else x.clamp(max=limit)


def fuses(x: Tensor) -> bool:
    """Whether `activate` is one pass over maps like `x`: on GPUs. Else a convolution adds its bias itself."""
    return triton is not None and x.is_cuda


def activate(
    x: Tensor,
    bias: Tensor | None = None,
    slope: float = 1.0,
    scale: Tensor | None = None,
    noise: Tensor | None = None,
    limit: float = math.inf,
) -> Tensor:
    """The same as `plain`, in one pass where it `fuses`."""
    if not fuses(x):
        return plain(x, bias, slope, scale, noise, limit)
    result: Tensor = FusedActivation.apply(x, bias, slope, scale, noise, limit)
    return result


class FusedActivation(torch.autograd.Function):
    """`plain` with a forward and a backward kernel. Gradients of gradients, as R1 takes them, use plain operations."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        x: Tensor,
        bias: Tensor | None,
        slope: float,
        scale: Tensor | None,
        noise: Tensor | None,
        limit: float,
    ) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        y = torch.empty_like(x)
        expanded = None if noise is None else noise.expand(len(x), -1, -1, -1).contiguous()
        n, c, h, w = x.shape
        width = triton.next_power_of_2(c)
        rows = max(ELEMENTS // width, 1)
        _forward[(n, triton.cdiv(h * w, rows))](
            x, y, x if bias is None else bias, x if scale is None else scale.contiguous(),
            x if expanded is None else expanded, h * w, c, slope, limit,
            BIASED=bias is not None, SCALED=scale is not None, NOISY=noise is not None, ROWS=rows, WIDTH=width,
        )  # fmt: skip
        ctx.slope, ctx.limit = slope, limit
        ctx.noise_shape = None if noise is None else noise.shape
        # The maps before are read again for the gradient of the scale only.
        ctx.save_for_backward(y, None if scale is None else x, scale, bias)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        y, x, scale, bias = ctx.saved_tensors
        if torch.is_grad_enabled():
            return _plain_backward(ctx, dy, y, scale, bias)
        dy = dy.contiguous(memory_format=torch.channels_last)
        n, c, h, w = y.shape
        width = triton.next_power_of_2(c)
        rows = max(ELEMENTS // width, 1)
        parts = triton.cdiv(h * w, rows)
        for_bias = bias is not None and ctx.needs_input_grad[1]
        dx = torch.empty_like(y)
        # What each program adds to the gradients of bias and scale.
        dbias = torch.empty(n, parts, c, device=y.device) if for_bias else None
        dscale = None if scale is None else torch.empty(n, parts, c, device=y.device)
        dnoise = torch.empty(n, 1, h, w, device=y.device) if ctx.noise_shape else None
        _backward[(n, parts)](
            dy, y, dx, y if x is None else x, y if scale is None else scale.contiguous(), y if dbias is None else dbias,
            y if dscale is None else dscale, y if dnoise is None else dnoise, h * w, c, ctx.slope, ctx.limit,
            BIASED=for_bias, SCALED=scale is not None, NOISY=dnoise is not None,
            BENT=ctx.slope != 1 or ctx.limit != math.inf, ROWS=rows, WIDTH=width,
        )  # fmt: skip
        return (
            dx,
            None if dbias is None else dbias.sum((0, 1)).to(bias.dtype),
            None,
            None if dscale is None else dscale.sum(1).to(scale.dtype),
            None if dnoise is None else dnoise.sum_to_size(ctx.noise_shape),
            None,
        )


def _plain_backward(
    ctx: Any, dy: Tensor, y: Tensor, scale: Tensor | None, bias: Tensor | None
) -> tuple[Tensor | None, ...]:
    """The gradients of maps and bias by operations that have gradients themselves."""
    if scale is not None or ctx.noise_shape:
        raise NotImplementedError("second derivatives are for activations without scale and noise")
    dx = dy * (torch.where(y > 0, 1.0, ctx.slope) * (y < ctx.limit)).to(dy.dtype)
    return dx, None if bias is None else dx.float().sum((0, 2, 3)).to(bias.dtype), None, None, None, None


if triton is not None:

    @triton.jit  # type: ignore[untyped-decorator]
    def _forward(  # type: ignore[no-untyped-def]
        x, y, bias, scale, noise, places, channels, slope, limit,
        BIASED: tl.constexpr, SCALED: tl.constexpr, NOISY: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
    ):  # fmt: skip
        """A program: `ROWS` places of picture `program_id(0)`, all channels; maps [N, places, channels]."""
        picture = tl.program_id(0).to(tl.int64)
        place = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
        channel = tl.arange(0, WIDTH)
        inside = (place < places)[:, None] & (channel < channels)[None, :]
        at = (picture * places + place)[:, None] * channels + channel[None, :]
        value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
        if SCALED:
            s = tl.load(scale + picture * channels + channel, mask=channel < channels, other=0.0)
            value = value * s.to(tl.float32)[None, :]
        if BIASED:
            b = tl.load(bias + channel, mask=channel < channels, other=0.0).to(tl.float32)
            value = value + b[None, :]
        if NOISY:
            e = tl.load(noise + picture * places + place, mask=place < places, other=0.0).to(tl.float32)
            value = value + e[:, None]
        value = tl.minimum(tl.where(value > 0, value, value * slope), limit)
        tl.store(y + at, value.to(y.dtype.element_ty), mask=inside)

    @triton.jit  # type: ignore[untyped-decorator]
    def _backward(  # type: ignore[no-untyped-def]
        dy, y, dx, x, scale, dbias, dscale, dnoise, places, channels, slope, limit,
        BIASED: tl.constexpr, SCALED: tl.constexpr, NOISY: tl.constexpr, BENT: tl.constexpr,
        ROWS: tl.constexpr, WIDTH: tl.constexpr,
    ):  # fmt: skip
        """As `_forward`. Without `BENT` the activation is the identity, and y is not read."""
        picture = tl.program_id(0).to(tl.int64)
        part = tl.program_id(1)
        place = part * ROWS + tl.arange(0, ROWS)
        channel = tl.arange(0, WIDTH)
        inside = (place < places)[:, None] & (channel < channels)[None, :]
        at = (picture * places + place)[:, None] * channels + channel[None, :]
        gradient = tl.load(dy + at, mask=inside, other=0.0).to(tl.float32)
        if BENT:
            value = tl.load(y + at, mask=inside, other=0.0).to(tl.float32)
            gradient = tl.where(value > 0, gradient, gradient * slope)
            gradient = tl.where(value < limit, gradient, 0.0)
        total = (picture * tl.num_programs(1) + part) * channels + channel
        if BIASED:
            tl.store(dbias + total, tl.sum(gradient, 0), mask=channel < channels)
        if NOISY:
            tl.store(dnoise + picture * places + place, tl.sum(gradient, 1), mask=place < places)
        if SCALED:
            before = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
            tl.store(dscale + total, tl.sum(gradient * before, 0), mask=channel < channels)
            s = tl.load(scale + picture * channels + channel, mask=channel < channels, other=0.0)
            gradient = gradient * s.to(tl.float32)[None, :]
        tl.store(dx + at, gradient.to(dx.dtype.element_ty), mask=inside)
