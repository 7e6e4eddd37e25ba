"""Steps as CUDA graphs: all kernels of a step are launched at once, so that none waits for Python.

Whatever a captured step reads and writes keeps its place in memory: the batch is copied into fixed tensors, rates and
probabilities are tensors, and nothing in the step may wait for the device.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable

import torch
from torch import Tensor

Figures = dict[str, Tensor]


class CapturedStep:
    """A step that is a CUDA graph from its fourth time on; elsewhere than on a GPU it stays an ordinary call.

    Steps that differ in more than their batch, as those with a lazy penalty, are told apart by a key and get a graph
    each.
    """

    EAGER = 3
    """Steps of each key before it is captured: they make what is made once, as moments and cuDNN's choices."""

    def __init__(self, step: Callable[..., Figures], *, capture: bool) -> None:
        """`step` takes tensors of fixed shapes, and the key by name; it gives figures, scalars on the device."""
        self.step, self.capture = step, capture
        self.done: dict[Hashable, int] = {}
        self.inputs: dict[Hashable, tuple[Tensor, ...]] = {}
        self.graphs: dict[Hashable, tuple[torch.cuda.CUDAGraph, Figures]] = {}
        self.stream = torch.cuda.Stream() if capture else None

    def __call__(self, *inputs: Tensor, key: Hashable) -> Figures:
        """Do the step. A replayed step's figures are overwritten by the next one with the same key."""
        if not self.capture:
            return self.step(*inputs, key=key)
        if key not in self.graphs and self.done.get(key, 0) < self.EAGER:
            self.done[key] = self.done.get(key, 0) + 1
            return self._eagerly(*inputs, key=key)
        if key not in self.graphs:
            self._capture(inputs, key)
        for kept, new in zip(self.inputs[key], inputs, strict=True):
            kept.copy_(new, non_blocking=True)
        graph, figures = self.graphs[key]
        graph.replay()
        return figures

    def _eagerly(self, *inputs: Tensor, key: Hashable) -> Figures:
        """Run on a stream of its own, as PyTorch asks of what comes before a capture."""
        assert self.stream is not None
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            figures = self.step(*inputs, key=key)
        torch.cuda.current_stream().wait_stream(self.stream)
        return figures

    def _capture(self, inputs: tuple[Tensor, ...], key: Hashable) -> None:
        """Record the step without running it."""
        self.inputs[key] = tuple(tensor.clone() for tensor in inputs)
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        with torch.cuda.graph(graph):
            figures = self.step(*self.inputs[key], key=key)
        self.graphs[key] = (graph, figures)
