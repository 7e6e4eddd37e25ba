"""The operators of ONNX in torch, as far as convolutional networks that give a picture a score have them.

They mean what https://onnx.ai/onnx/operators says, since opset 7. Nothing is trained: dropout and the statistics of
batches are as in inference.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


class OnnxError(ValueError):
    """The file holds no network that can be run here; the message says why, and what to do."""


@dataclass(frozen=True)
class Node:
    """One operator of a network: the names of its values, and its attributes."""

    kind: str
    inputs: tuple[str, ...]  # empty names: left out
    output: str
    attributes: dict[str, Any]
    opset: int

    def get(self, name: str, default: Any = None) -> Any:
        return self.attributes.get(name, default)

    def refuse(self, what: str) -> OnnxError:
        return OnnxError(f"{self.kind} with {what} is not supported; export the network without it")


Run = Callable[..., Tensor]
"""Runs a node on its inputs, None for those left out. Typed loosely, as each operator has its own."""


# --- windows ------------------------------------------------------------------------------------------


def _sizes(node: Node, kernel: Sequence[int]) -> tuple[list[int], list[int]]:
    """Strides and dilations."""
    ones = [1] * len(kernel)
    return list(node.get("strides") or ones), list(node.get("dilations") or ones)


def _padded(node: Node, x: Tensor, kernel: Sequence[int], value: float = 0.0) -> Tensor:
    """The input with its border, as `pads` or `auto_pad` want it."""
    before, after = _borders(node, x, kernel)
    # F.pad begins with the last axis.
    pads = [pad for pair in zip(reversed(before), reversed(after), strict=True) for pad in pair]
    return F.pad(x, pads, value=value) if any(pads) else x


def _borders(node: Node, x: Tensor, kernel: Sequence[int]) -> tuple[list[int], list[int]]:
    rank, how = len(kernel), node.get("auto_pad", "NOTSET")
    if how == "NOTSET":
        pads = list(node.get("pads") or [0] * 2 * rank)
        return pads[:rank], pads[rank:]
    if how == "VALID":
        return [0] * rank, [0] * rank
    strides, dilations = _sizes(node, kernel)
    missing = []
    for size, k, stride, dilation in zip(x.shape[2:], kernel, strides, dilations, strict=True):
        reach = (math.ceil(size / stride) - 1) * stride + dilation * (k - 1) + 1
        missing.append(max(0, reach - size))
    less, more = [pad // 2 for pad in missing], [pad - pad // 2 for pad in missing]
    return (less, more) if how == "SAME_UPPER" else (more, less)


def _conv(node: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    kernel = weight.shape[2:]
    strides, dilations = _sizes(node, kernel)
    convolve: Any = (F.conv1d, F.conv2d, F.conv3d)[len(kernel) - 1]
    padded = _padded(node, x, kernel)
    result: Tensor = convolve(padded, weight, bias, strides, 0, dilations, node.get("group", 1))
    return result


def _max_pool(node: Node, x: Tensor) -> Tensor:
    kernel = node.get("kernel_shape")
    strides, dilations = _sizes(node, kernel)
    pool: Any = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[len(kernel) - 1]
    padded = _padded(node, x, kernel, -math.inf)
    result: Tensor = pool(padded, kernel, strides, 0, dilations, bool(node.get("ceil_mode", 0)))
    return result


def _average_pool(node: Node, x: Tensor) -> Tensor:
    kernel = node.get("kernel_shape")
    strides, dilations = _sizes(node, kernel)
    if any(each != 1 for each in dilations):
        raise node.refuse("dilations")
    average: Any = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[len(kernel) - 1]

    def pool(values: Tensor) -> Tensor:
        result: Tensor = average(
            _padded(node, values, kernel), kernel, strides, 0, bool(node.get("ceil_mode", 0))
        )
        return result

    # Without the border in the count, what counts is the share of each window that lies on the input.
    return pool(x) if node.get("count_include_pad", 0) else pool(x) / pool(torch.ones_like(x))


# --- numbers ------------------------------------------------------------------------------------------


def _gemm(node: Node, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    product = (a.mT if node.get("transA", 0) else a) @ (b.mT if node.get("transB", 0) else b)
    product = node.get("alpha", 1.0) * product
    return product if c is None else product + node.get("beta", 1.0) * c


def _div(node: Node, a: Tensor, b: Tensor) -> Tensor:
    # Whole numbers, as in computed shapes, are divided as C does.
    return a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


def _clip(node: Node, x: Tensor, least: Tensor | None = None, most: Tensor | None = None) -> Tensor:
    lower, upper = (node.get("min"), node.get("max")) if node.opset < 11 else (least, most)
    return x if lower is None and upper is None else x.clamp(lower, upper)


def _hard_sigmoid(node: Node, x: Tensor) -> Tensor:
    return (node.get("alpha", 0.2) * x + node.get("beta", 0.5)).clamp(0, 1)


def _softmax(node: Node, x: Tensor) -> Tensor:
    if node.opset >= 13:
        return x.softmax(node.get("axis", -1))
    # Earlier, all axes from this one on were one.
    axis = node.get("axis", 1) % x.ndim
    return x.flatten(axis).softmax(-1).reshape(x.shape)


def _batch_normalization(
    node: Node, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, var: Tensor
) -> Tensor:
    if node.get("training_mode", 0):
        raise node.refuse("training_mode")
    return F.batch_norm(x, mean, var, scale, bias, training=False, eps=node.get("epsilon", 1e-5))


# --- shapes -------------------------------------------------------------------------------------------


def _axes(node: Node, axes: Tensor | None) -> list[int] | None:
    """The axes of an attribute, as earlier opsets have them, or of an input; None: none are named."""
    named = node.get("axes") if axes is None else axes.tolist()
    return None if named is None else list(named)


def _reshape(node: Node, x: Tensor, shape: Tensor) -> Tensor:
    sizes = shape.tolist()
    if not node.get("allowzero", 0):
        sizes = [x.shape[n] if size == 0 else size for n, size in enumerate(sizes)]
    return x.reshape(sizes)


def _flatten(node: Node, x: Tensor) -> Tensor:
    axis = node.get("axis", 1)
    axis = axis + x.ndim if axis < 0 else axis
    return x.reshape(math.prod(x.shape[:axis]), -1)


def _transpose(node: Node, x: Tensor) -> Tensor:
    return x.permute(node.get("perm") or list(reversed(range(x.ndim))))


def _squeeze(node: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
    named = _axes(node, axes)
    return x.squeeze() if named is None else x.squeeze(tuple(named))


def _unsqueeze(node: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
    named = _axes(node, axes) or []
    for axis in sorted(axis % (x.ndim + len(named)) for axis in named):
        x = x.unsqueeze(axis)
    return x


def _reduce_mean(node: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
    named = _axes(node, axes)
    if not named:
        if node.get("noop_with_empty_axes", 0):
            return x
        named = list(range(x.ndim))
    return x.mean(named, keepdim=bool(node.get("keepdims", 1)))


def _gather(node: Node, x: Tensor, indices: Tensor) -> Tensor:
    axis = node.get("axis", 0) % x.ndim
    taken = x.index_select(axis, indices.flatten() % x.shape[axis])
    return taken.reshape((*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]))


def _slice(
    node: Node,
    x: Tensor,
    starts: Tensor | None = None,
    ends: Tensor | None = None,
    axes: Tensor | None = None,
    steps: Tensor | None = None,
) -> Tensor:
    first, last = (
        list(node.get(name)) if given is None else given.tolist()
        for name, given in (("starts", starts), ("ends", ends))
    )
    named = _axes(node, axes) or list(range(len(first)))
    by = [1] * len(first) if steps is None else steps.tolist()
    if any(step < 1 for step in by):
        raise node.refuse("steps below 1")
    for axis, start, end, step in zip(named, first, last, by, strict=True):
        x = x[(slice(None),) * (axis % x.ndim) + (slice(start, end, step),)]
    return x


def _pad(
    node: Node, x: Tensor, pads: Tensor | None = None, value: Tensor | None = None, axes: Tensor | None = None
) -> Tensor:
    mode = node.get("mode", "constant")
    if mode not in ("constant", "reflect", "edge"):
        raise node.refuse(f"mode {mode}")
    sizes = list(node.get("pads")) if pads is None else pads.tolist()
    named = list(range(x.ndim)) if axes is None else axes.tolist()
    around = {axis % x.ndim: (sizes[n], sizes[n + len(named)]) for n, axis in enumerate(named)}
    padded = [axis for axis, pair in around.items() if any(pair)]
    if not padded:
        return x
    # F.pad begins with the last axis, and reflects the last ones only.
    flat = [pad for axis in range(x.ndim - 1, min(padded) - 1, -1) for pad in around.get(axis, (0, 0))]
    if mode == "constant":
        return F.pad(x, flat, value=float(node.get("value", 0.0) if value is None else value))
    return F.pad(x, flat, mode="reflect" if mode == "reflect" else "replicate")


def _resize(
    node: Node,
    x: Tensor,
    roi: Tensor | None = None,
    scales: Tensor | None = None,
    sizes: Tensor | None = None,
) -> Tensor:
    mode, places = node.get("mode", "nearest"), node.get("coordinate_transformation_mode", "half_pixel")
    nearest = mode == "nearest" and places == "asymmetric" and node.get("nearest_mode") == "floor"
    # With one pixel in a row pytorch_half_pixel differs from half_pixel, which is no resizing of pictures.
    linear = mode == "linear" and places in ("half_pixel", "pytorch_half_pixel", "align_corners")
    odd = [name for name in ("antialias", "axes", "exclude_outside") if node.get(name)]
    if odd or not (nearest or linear) or x.ndim != 4 or node.opset < 11:
        raise node.refuse(f"mode {mode}, {places} {' '.join(odd)}".rstrip())
    if sizes is not None and sizes.numel():
        wanted = sizes.tolist()
    else:
        assert scales is not None, "the checker wants one of the two"
        wanted = [math.floor(n * scale) for n, scale in zip(x.shape, scales.tolist(), strict=True)]
        # By other scales than those of the sizes, other places would be looked at.
        if any(
            abs(n * scale - size) > 1e-4
            for n, scale, size in zip(x.shape, scales.tolist(), wanted, strict=True)
        ):
            raise node.refuse("scales that give no whole sizes")
    if nearest:
        return F.interpolate(x, wanted[2:], mode="nearest")
    return F.interpolate(x, wanted[2:], mode="bilinear", align_corners=places == "align_corners")


def _constant(node: Node) -> Tensor:
    (name, value), *_ = node.attributes.items()
    if name == "value":
        return value  # type: ignore[no-any-return]
    if not name.startswith(("value_int", "value_float")):
        raise node.refuse(name)
    return torch.tensor(value, dtype=torch.int64 if name.startswith("value_int") else torch.float32)


def _cast(node: Node, x: Tensor) -> Tensor:
    kinds = {1: torch.float32, 6: torch.int32, 7: torch.int64, 9: torch.bool, 11: torch.float64}
    if node.get("to") not in kinds:
        raise node.refuse(f"type {node.get('to')}")
    return x.to(kinds[node.get("to")])


def _shape(node: Node, x: Tensor) -> Tensor:
    return torch.tensor(x.shape[node.get("start", 0) : node.get("end")], dtype=torch.int64)


OPERATORS: dict[str, Run] = {
    "Abs": lambda node, x: x.abs(),
    "Add": lambda node, a, b: a + b,
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_normalization,
    "Cast": _cast,
    "Clip": _clip,
    "Concat": lambda node, *parts: torch.cat(parts, node.get("axis")),
    "Constant": _constant,
    "Conv": _conv,
    "Div": _div,
    "Dropout": lambda node, x, *_: x,
    "Exp": lambda node, x: x.exp(),
    "Flatten": _flatten,
    "Gather": _gather,
    "Gemm": _gemm,
    "GlobalAveragePool": lambda node, x: x.mean(list(range(2, x.ndim)), keepdim=True),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": lambda node, x: F.hardswish(x),
    "Identity": lambda node, x: x,
    "LeakyRelu": lambda node, x: F.leaky_relu(x, node.get("alpha", 0.01)),
    "MatMul": lambda node, a, b: a @ b,
    "MaxPool": _max_pool,
    "Mul": lambda node, a, b: a * b,
    "Neg": lambda node, x: -x,
    "PRelu": lambda node, x, slope: torch.where(x < 0, slope * x, x),
    "Pad": _pad,
    "Pow": lambda node, x, power: x**power,
    "ReduceMean": _reduce_mean,
    "Relu": lambda node, x: x.relu(),
    "Reshape": _reshape,
    "Resize": _resize,
    "Shape": _shape,
    "Sigmoid": lambda node, x: x.sigmoid(),
    "Slice": _slice,
    "Softmax": _softmax,
    "Sqrt": lambda node, x: x.sqrt(),
    "Squeeze": _squeeze,
    "Sub": lambda node, a, b: a - b,
    "Tanh": lambda node, x: x.tanh(),
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
