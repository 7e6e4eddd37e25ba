"""What is loaded side by side, all asked for the same: bare ONNX Runtime sessions, gateways, a Triton server itself."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from inspect import isawaitable
from typing import Any, Literal, Protocol
from urllib.request import urlopen

import grpc
import numpy as np
from tritonclient.grpc import InferInput
from tritonclient.grpc.aio import InferenceServerClient
from tritonclient.utils import np_to_triton_dtype

from benchmarks.graphs import Array, Graphs
from indomain.v1 import editing_pb2 as pb
from indomain.v1 import editing_pb2_grpc
from serving.bundle import Bundle, Role, first_inputs
from serving.jobs import EditStep, EncodedPicture, RefineOptions
from serving.photographs.pictures import centre_square
from serving.pipeline.edits import apply_edits
from serving.pipeline.refinement import RefineSettings

Kind = Literal["edit of a code", "edit of a picture", "inversion"]
KINDS: tuple[Kind, ...] = ("edit of a code", "edit of a picture", "inversion")
CHANNEL = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


@dataclass
class Work:
    """The requests, and what their answers must be."""

    bundle: Bundle
    code: Array  # [L, 512]
    picture: bytes
    edits: tuple[EditStep, ...]
    steps: int


class Target(Protocol):
    """Something that does the work."""

    async def ask(self, kind: Kind) -> Array:
        """The picture answered, uint8 [H, W, 3]."""

    def processor_s(self) -> float | None:
        """What its process has taken of processors; None where it is not told apart."""


Targets = dict[str, Callable[[int], AbstractContextManager[Any]]]
"""By name: opens a target for so many callers."""


class GraphTarget:
    """Does by hand what the gateway does, on something that runs graphs: as many runs, of the same inputs."""

    def __init__(
        self, work: Work, run: Callable[[Role, dict[str, Array]], Awaitable[dict[str, Array]]]
    ) -> None:
        self._work = work
        self._run = run

    async def ask(self, kind: Kind) -> Array:
        work = self._work
        if kind == "edit of a code":
            return await self._decode([apply_edits(work.code, work.edits, work.bundle)])
        picture = EncodedPicture(work.picture)
        aligned, _ = centre_square(picture, work.bundle.resolution, max_bytes=2**31, max_pixels=2**31)
        start = (await self._run("encoder", {"image": aligned[None]}))["code"][0]
        if kind == "edit of a picture":
            return await self._decode([start, apply_edits(start, work.edits, work.bundle)])
        return await self._decode([start, await self._refine(start, aligned)])

    def processor_s(self) -> None:
        return None

    async def _decode(self, codes: list[Array]) -> Array:
        decoded, _ = await asyncio.gather(
            self._run("generator", {"code": np.stack(codes)}), self._run("critic", {"code": codes[-1][None]})
        )
        return decoded["image"][-1]

    async def _refine(self, start: Array, aligned: Array) -> Array:
        bundle, best, best_loss = self._work.bundle, start, np.inf
        options = RefineOptions(steps=self._work.steps)
        settings = RefineSettings.resolve(options, bundle.refine, self._work.steps)
        state = first_inputs(bundle, start[None], aligned[None], settings)
        for _ in range(0, self._work.steps, bundle.refine.chunk_steps):
            outputs = await self._run("refiner", state)
            if outputs["best_loss"][0, 0] < best_loss:
                best, best_loss = outputs["best_code"][0], outputs["best_loss"][0, 0]
            for part in bundle.graphs["refiner"].state:
                state[part.name] = outputs[f"next_{part.name}"]
        return best


class GatewayTarget:
    """A gateway over gRPC; over HTTP it is asked for its metrics."""

    def __init__(self, work: Work, channel: grpc.aio.Channel | grpc.Channel, url: str) -> None:
        self._metrics = f"{url}/metrics"
        self.stub: Any = editing_pb2_grpc.EditingStub(channel)
        raw = pb.OutputOptions(format=pb.IMAGE_FORMAT_RAW)
        code = pb.Code(data=work.code.astype("<f4").tobytes(), shape=work.code.shape)
        picture = pb.Picture(data=work.picture)
        steps = [pb.EditStep(direction=edit.direction, strength=edit.strength) for edit in work.edits]
        unrefined = pb.RefineOptions(steps=0)
        # a detector's run would have nothing beside it
        align = pb.AlignOptions(alignment=pb.ALIGNMENT_CENTRE_CROP)
        self.invert = pb.InvertRequest(
            picture=picture,
            align=align,
            refine=pb.RefineOptions(steps=work.steps),
            output=raw,
            bundle=work.bundle.name,
        )
        self.sample = pb.SampleRequest(seeds=range(32), output=raw, bundle=work.bundle.name)
        self._requests: dict[Kind, tuple[Callable[..., Any], Any]] = {
            "edit of a code": (
                self.stub.Edit, pb.EditRequest(code=code, edits=steps, output=raw, bundle=work.bundle.name),
            ),
            "edit of a picture": (
                self.stub.Edit,
                pb.EditRequest(
                    picture=picture,
                    align=align,
                    edits=steps,
                    output=raw,
                    refine=unrefined,
                    bundle=work.bundle.name,
                ),
            ),
            "inversion": (self.stub.Invert, self.invert),
        }  # fmt: skip

    async def ask(self, kind: Kind, timeout_s: float = 120.0) -> Array:
        method, request = self._requests[kind]
        answer = method(request, timeout=timeout_s)
        image = (await answer if isawaitable(answer) else answer).image
        return np.frombuffer(image.data, np.uint8).reshape(image.height, image.width, 3)

    def bytes_of(self, kind: Kind) -> tuple[int, int]:
        """Of the request, and of its answer. On a blocking channel."""
        method, request = self._requests[kind]
        return request.ByteSize(), method(request).ByteSize()

    def processor_s(self) -> float:
        with urlopen(self._metrics) as answer:
            lines = answer.read().decode().splitlines()
        (value,) = (line.split()[1] for line in lines if line.startswith("process_cpu_seconds_total "))
        return float(value)


@contextmanager
def bare_sessions(work: Work, graphs: Graphs, callers: int) -> Iterator[GraphTarget]:
    """One caller runs the sessions itself; several have a thread each, as a simple server would."""
    with ThreadPoolExecutor(callers) as threads:

        async def run(role: Role, inputs: dict[str, Array]) -> dict[str, Array]:
            if callers == 1:
                return graphs.run(role, **inputs)
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(threads, lambda: graphs.run(role, **inputs))

        yield GraphTarget(work, run)


def triton_itself(work: Work, client: InferenceServerClient) -> GraphTarget:
    async def run(role: Role, inputs: dict[str, Array]) -> dict[str, Array]:
        tensors = []
        for spec in work.bundle.graphs[role].inputs:
            value = inputs[spec.name]
            tensor = InferInput(spec.name, list(value.shape), np_to_triton_dtype(value.dtype))
            tensor.set_data_from_numpy(value)
            tensors.append(tensor)
        graph = work.bundle.graphs[role]
        result = await client.infer(graph.model, tensors)
        return {spec.name: result.as_numpy(spec.name) for spec in graph.outputs}

    return GraphTarget(work, run)


def side_by_side(
    work: Work, graphs: Graphs, gateways: dict[str, GatewayTarget], triton: GraphTarget | None
) -> Targets:
    targets: Targets = {
        "ONNX Runtime": lambda callers: bare_sessions(work, graphs, callers),
        "gateway": lambda callers: nullcontext(gateways["gateway"]),
    }
    if triton is not None:
        targets["Triton"] = lambda callers: nullcontext(triton)
        targets["gateway on Triton"] = lambda callers: nullcontext(gateways["gateway on Triton"])
    return targets
