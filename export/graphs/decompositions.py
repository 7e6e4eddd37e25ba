"""Traces a module that takes gradients into a flat graph of operators that ONNX has.

The rules write the backward operators of the networks' layers with forward operators, for the gradient of the *input*
only. Where a rule computes again what the forward pass has computed, `storage.tidy` merges the two.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.fx.experimental.proxy_tensor import make_fx

aten = torch.ops.aten
ONE_PLACE = torch.eye(9).reshape(9, 1, 3, 3)  # kernels that gather, or scatter, one place of a window
STEEP = 1e38  # times any number that is not subnormal, is beyond 1


class UnsupportedBackward(NotImplementedError):
    """A layer whose backward pass has no rule in this file; the message names what is missing."""


def need(condition: bool, what: str) -> None:
    """Raise UnsupportedBackward, which names the missing rule, unless the rule covers the case."""
    if not condition:
        raise UnsupportedBackward(f"no rule for {what}; write one in export/graphs/decompositions.py")


def convolution_backward(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor,
    bias_sizes: Sequence[int] | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    output_mask: Sequence[bool],
) -> tuple[Tensor | None, None, None]:
    """The gradient of a convolution's input.

    Of a transposed convolution it is a strided one; of one with stride 1 a convolution with the flipped kernel; of any
    other a transposed one.
    """
    need(not any(output_mask[1:]), "the gradient of a convolution's weight or bias")
    need(all(d == 1 for d in dilation), "a dilated convolution")
    if not output_mask[0]:
        return None, None, None
    if transposed:
        return F.conv2d(gradient, weight, None, list(stride), list(padding), 1, groups), None, None
    kernel = weight.shape[2:]
    if all(s == 1 for s in stride):
        depthwise = groups > 1
        need(not depthwise or weight.shape[0] == weight.shape[1] * groups == groups, "a grouped convolution")
        flipped = weight if tuple(kernel) == (1, 1) else weight.flip((2, 3))
        flipped = flipped if depthwise else flipped.transpose(0, 1)
        back = [k - 1 - p for k, p in zip(kernel, padding, strict=True)]
        return F.conv2d(gradient, flipped, None, 1, back, 1, groups), None, None
    rest = [
        int(size) - ((int(g) - 1) * s - 2 * p + k)
        for size, g, s, p, k in zip(x.shape[2:], gradient.shape[2:], stride, padding, kernel, strict=True)
    ]
    return F.conv_transpose2d(gradient, weight, None, list(stride), list(padding), rest, groups), None, None


def max_pool_backward(
    gradient: Tensor,
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
    indices: Tensor,
) -> Tensor:
    """The gradient of the input of two max-pools: VGG's and SqueezeNet's.

    VGG's is 2 x 2 with stride 2: each window's gradient goes to the place of its maximum. SqueezeNet's is 3 x 3 with
    stride 2, and its windows overlap: each place collects the gradients of all windows whose maximum it is.

    Where places tie, each gets the whole gradient; PyTorch picks the first. Behind a ReLU, as in both networks, only
    zeros tie in practice, and the ReLU's own backward pass stops their gradient.
    """
    settings = (tuple(kernel), tuple(stride) or tuple(kernel), tuple(padding))
    if settings == ((2, 2), (2, 2), (0, 0)) and x.shape[2] % 2 == x.shape[3] % 2 == 0:
        side = [int(x.shape[2]), int(x.shape[3])]
        won = x == aten.upsample_nearest2d.default(F.max_pool2d(x, 2), side)
        return aten.upsample_nearest2d.default(gradient, side) * won.to(gradient.dtype)
    need(settings == ((3, 3), (2, 2), (0, 0)), f"a max-pool of {kernel} / {stride}")
    pooled = F.max_pool2d(x, 3, 2, ceil_mode=ceil_mode)
    height, width = int(x.shape[2]), int(x.shape[3])
    rows, columns = int(pooled.shape[2]), int(pooled.shape[3])
    # Windows are gathered and scattered by convolutions whose kernels have a single one: these are far fewer and faster
    # operators than strided slices. In ceil mode windows reach over the edge; that part is cut off at the end.
    x = F.pad(x, (0, 2 * columns + 1 - width, 0, 2 * rows + 1 - height))
    windows = F.conv2d(x.flatten(0, 1).unsqueeze(1), ONE_PLACE, stride=2)  # [N C, 9, rows, columns]
    won = (windows == pooled.flatten(0, 1).unsqueeze(1)).to(gradient.dtype)
    scattered = F.conv_transpose2d(gradient.flatten(0, 1).unsqueeze(1) * won, ONE_PLACE, stride=2)
    return scattered.reshape(gradient.shape[0], -1, 2 * rows + 1, 2 * columns + 1)[:, :, :height, :width]


def avg_pool_backward(
    gradient: Tensor,
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
) -> Tensor:
    """The gradient of the input of the 2 x 2 average pool: each of the four places gets a quarter."""
    fits = tuple(kernel) == (2, 2) and tuple(stride) in ((), (2, 2)) and tuple(padding) == (0, 0)
    need(
        fits and divisor_override is None and x.shape[2] % 2 == x.shape[3] % 2 == 0,
        f"an average pool of {kernel}",
    )
    return aten.upsample_nearest2d.default(gradient * 0.25, [int(x.shape[2]), int(x.shape[3])])


def leaky_relu_backward(gradient: Tensor, x: Tensor, slope: float, is_result: bool) -> Tensor:
    """The gradient of a leaky ReLU's input.

    The sign is read from the activation's output, so that convolution and activation still fuse in the forward pass.
    The slope is a steep ramp, clipped, which is several times faster in ONNX Runtime than `where`.
    """
    y = x if is_result else F.leaky_relu(x, slope)
    return gradient * (y * STEEP).clamp(slope, 1.0)


def threshold_backward(gradient: Tensor, x: Tensor, threshold: float) -> Tensor:
    """The gradient of a ReLU's input."""
    return gradient * (x > threshold).to(gradient.dtype)


def small_power(x: Tensor, exponent: float) -> Tensor:
    """Powers of 1, 2 and 3 as products: ONNX Runtime's Pow is many times slower. Derivatives of squares have 1."""
    if exponent not in (1, 2, 3):
        return NotImplemented
    return x if exponent == 1 else x * x if exponent == 2 else x * x * x


def slice_backward(
    gradient: Tensor, sizes: Sequence[int], dim: int, start: int, end: int, step: int
) -> Tensor:
    """The gradient of a slice's input: zeros where something was cut away."""
    need(step == 1, "a strided slice")
    start = start + int(sizes[dim]) if start < 0 else start
    after = int(sizes[dim]) - start - int(gradient.shape[dim])
    return F.pad(gradient, [0, 0] * (gradient.dim() - 1 - dim) + [start, after])


def adaptive_avg_pool(x: Tensor, size: Sequence[int]) -> Tensor:
    """Adaptive average pooling, forward only, as one matrix for the rows and one for the columns."""
    rows, columns = (averaging_matrix(int(n), int(m)) for n, m in zip(x.shape[2:], size, strict=True))
    return rows @ (x @ columns.t())


def averaging_matrix(inputs: int, outputs: int) -> Tensor:
    """float32 [outputs, inputs] whose row i averages inputs floor(i n / m) to ceil((i + 1) n / m), as in PyTorch."""
    rows = []
    for i in range(outputs):
        start, end = i * inputs // outputs, -(-(i + 1) * inputs // outputs)
        rows.append([1 / (end - start) if start <= j < end else 0.0 for j in range(inputs)])
    return torch.tensor(rows)


def sum_in_one_order(
    x: Tensor, dims: Sequence[int] | None, keepdim: bool = False, *, dtype: torch.dtype | None = None
) -> Tensor:
    """Sum a sample in the same order whether it is alone or anywhere in a batch: an optimiser amplifies a last bit.

    ONNX Runtime's ReduceSum uses another order for the channels of a single picture, so they are summed by a
    convolution. It also uses another order for samples that do not begin at a multiple of 16 floats: they are padded.
    """
    dims = [] if dims is None else [int(dim) % x.dim() for dim in dims]
    if dtype is None and dims == [1] and x.dim() == 4:
        total = F.conv2d(x, torch.ones(1, int(x.shape[1]), 1, 1))
        return total if keepdim else total.squeeze(1)
    if dtype is None and dims == list(range(1, x.dim())) and (over := int(x[0].numel()) % 16):
        total = F.pad(x.flatten(1), (0, 16 - over)).sum(1)
        return total.reshape(-1, *(1,) * len(dims)) if keepdim else total
    return NotImplemented


def mean_in_one_order(
    x: Tensor, dims: Sequence[int] | None, keepdim: bool = False, *, dtype: torch.dtype | None = None
) -> Tensor:
    """The mean, by `sum_in_one_order`."""
    total = sum_in_one_order(x, dims, keepdim, dtype=dtype)
    if total is NotImplemented:
        return NotImplemented
    return total * (int(total[0].numel()) / int(x[0].numel()))


TABLE: dict[Any, Callable[..., Any]] = {
    aten.convolution_backward.default: convolution_backward,
    aten.max_pool2d_with_indices_backward.default: max_pool_backward,
    aten.avg_pool2d_backward.default: avg_pool_backward,
    aten.leaky_relu_backward.default: leaky_relu_backward,
    aten.threshold_backward.default: threshold_backward,
    aten.slice_backward.default: slice_backward,
    aten.pow.Tensor_Scalar: small_power,
    aten.sum.dim_IntList: sum_in_one_order,
    aten.mean.dim: mean_in_one_order,
    aten._adaptive_avg_pool2d.default: adaptive_avg_pool,
}


def trace(module: nn.Module, arguments: tuple[Tensor, ...]) -> fx.GraphModule:
    """Trace a module to a graph in which gradients are written out, for any batch size (the arguments' first axis).

    Tracing happens below autograd, so that a `torch.func.grad` in the module becomes ordinary operators. Raises
    UnsupportedBackward.
    """
    module.requires_grad_(False)
    with torch.no_grad():
        traced = make_fx(
            module, decomposition_table=TABLE, tracing_mode="symbolic", _allow_non_fake_inputs=True
        )(*arguments)
    traced.graph.eliminate_dead_code()
    traced.recompile()
    return traced
