"""Speed against the limit, each comparison interleaved in one process: same weights, same threads.

`make bench` prints one table: encode and decode in PyTorch eager against ONNX Runtime, one refinement step in three
ways, and a decode through the running gateway (gRPC, HTTP) against the bare ONNX Runtime session; then a photograph's
inversion through the gateway, for each quality.
"""

from __future__ import annotations

import base64
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import grpc
import httpx
import torch
from grpc_health.v1 import health_pb2
from torch import Tensor, nn

import indomain
from benchmarks.gateway import running_gateway
from benchmarks.graphs import Array, Graphs, markdown_table, shipped_checkpoint
from export.bundles.checkpoint import Pipeline, load_pipeline
from indomain.v1 import editing_pb2, editing_pb2_grpc
from training.losses.perceptual import LPIPSSq
from training.refinement.objective import Weights, to_float
from training.refinement.optimisers import Adam

Step = Callable[[], object]
_PORTRAIT = Path(__file__).resolve().parents[1] / "clients/python/examples/portrait.png"


@dataclass
class SpeedConfig:
    """Compare speeds; every ratio is within one run."""

    repository: Path = Path("model_repository")
    """Model repository."""
    bundle: str = ""
    """Bundle; the first one by default."""
    run: Path = field(default_factory=shipped_checkpoint)
    """The bundle's checkpoint, for PyTorch's side."""
    threads: int = 2
    """Threads of PyTorch and of ONNX Runtime."""
    rounds: int = 15
    """Times that each candidate is run, in turn with the others; the median counts."""
    requests: int = 300
    """Decodes through the gateway for each transport."""


def interleaved(candidates: Mapping[str, Step], rounds: int) -> dict[str, float]:
    """Median seconds of each candidate, run in turn so that a slow moment hits all of them alike."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for round_number in range(rounds + 2):  # the first two warm up
        for name, step in candidates.items():
            start = time.perf_counter()
            step()
            if round_number >= 2:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


class TorchSide:
    """A pipeline's networks in PyTorch, weights as the graphs have them, and the loops that people write."""

    def __init__(self, pipeline: Pipeline, perceptual: nn.Module, rate: float, weights: Weights) -> None:
        for network in (pipeline.generator, pipeline.encoder):
            for tensor in [*network.parameters(), *network.buffers()]:
                if tensor.is_floating_point():
                    tensor.data = tensor.data.half().float()
        self.synthesis = pipeline.generator.synthesis.eval()
        self.encoder = pipeline.encoder.eval()
        self.rate, self.weights = rate, weights
        self.objective = pipeline.objective(self.synthesis, self.encoder, perceptual)

    def adam(self, code: Array) -> tuple[Tensor, torch.optim.Optimizer]:
        """A code to optimise, and its optimiser."""
        variable = torch.from_numpy(code.copy()).requires_grad_()
        return variable, torch.optim.Adam([variable], self.rate, Adam.BETAS, Adam.EPSILON)

    def in_domain_step(self, code: Array, image: Array) -> Step:
        """As the in-domain paper's code does it: gradients for all weights, F(x) at every step."""
        variable, optimiser = self.adam(code)
        target = to_float(torch.from_numpy(image))

        def step() -> None:
            self.objective.requires_grad_(True)
            loss = self.objective(variable, self.objective.target(target), self.weights).sum()
            self.objective.zero_grad(set_to_none=True)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()

        return step

    def losses(self, code: Array, image: Array) -> Array:
        """The objective of codes, float32 [N]."""
        with torch.no_grad():
            goal = self.objective.target(to_float(torch.from_numpy(image)))
            return self.objective(torch.from_numpy(code), goal, self.weights).numpy()

    def tuned_step(self, code: Array, image: Array, note: Callable[[Array], object] = id) -> Step:
        """A well-written loop: frozen weights, the target's features cached, channels-last. `note` gets the losses."""
        variable, optimiser = self.adam(code)
        target = to_float(torch.from_numpy(image)).contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            goal = self.objective.target(target)

        def step() -> None:
            self.objective.requires_grad_(False)
            losses = self.objective(variable, goal, self.weights)
            (variable.grad,) = torch.autograd.grad(losses.sum(), variable)
            optimiser.step()
            note(losses.detach().numpy())

        return step


def network_rows(graphs: Graphs, side: TorchSide, rounds: int) -> list[list[str]]:
    """Encode, decode and one refinement step, at batches 1 and 8."""
    rows = []
    chunk = graphs.bundle.refine.chunk_steps
    for n in (1, 8):
        code = graphs.sample(n, seed=n)
        image = graphs.decode(code)
        code_tensor, image_tensor = torch.from_numpy(code), torch.from_numpy(image)
        inputs = graphs.refiner_inputs(graphs.encode(image), image)

        @torch.no_grad()
        def torch_encode(x: Tensor = image_tensor) -> Tensor:
            return side.encoder(to_float(x))

        @torch.no_grad()
        def torch_decode(w: Tensor = code_tensor) -> Tensor:
            return ((side.synthesis(w) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)

        def graph_encode(x: Array = image) -> Array:
            return graphs.encode(x)

        def graph_decode(w: Array = code) -> Array:
            return graphs.decode(w)

        def graph_chunk(feeds: dict[str, Array] = inputs) -> dict[str, Array]:
            return graphs.run("refiner", **feeds)

        encode = interleaved({"torch": torch_encode, "graph": graph_encode}, rounds)
        decode = interleaved({"torch": torch_decode, "graph": graph_decode}, rounds)
        for name, found in (("encode", encode), ("decode", decode)):
            rows.append(
                row(f"{name}, batch {n}: graph / PyTorch eager", found["graph"], found["torch"], "<= 1")
            )
        start = inputs["code"]
        steps = {
            "paper": side.in_domain_step(start, image), "tuned": side.tuned_step(start, image), "graph": graph_chunk,
        }  # fmt: skip
        found = interleaved(steps, rounds)
        a_step = found["graph"] / chunk
        rows.append(
            row(f"refine step, batch {n}: graph / in-domain manner", a_step, found["paper"], "<= 0.5")
        )
        rows.append(
            row(f"refine step, batch {n}: graph / tuned PyTorch loop", a_step, found["tuned"], "<= 1")
        )
    return rows


def row(what: str, ours: float, other: float, bar: str) -> list[str]:
    """One comparison of two times in seconds."""
    return [what, f"{1000 * ours:.2f} ms", f"{1000 * other:.2f} ms", f"{ours / other:.2f}", bar]


def gateway_rows(graphs: Graphs, config: SpeedConfig) -> list[list[str]]:
    """p50 of one decode through each transport, less that of the bare session; no picture coding on either side.

    Beside them an empty call, the transport's own floor: it too comes when the caches are full of weights.
    """
    code = graphs.sample(1)
    shape, content = list(code.shape[1:]), code[0].astype("<f4").tobytes()
    raw = editing_pb2.OutputOptions(format=editing_pb2.IMAGE_FORMAT_RAW)
    request = editing_pb2.DecodeRequest(codes=[editing_pb2.Code(data=content, shape=shape)], output=raw)
    body = {
        "codes": [{"data": base64.b64encode(content).decode(), "shape": shape}],
        "output": {"format": "raw"},
    }
    expected = graphs.decode(code)[0].tobytes()
    flags = ("--intra-op-threads", str(config.threads), "--engine", "onnxruntime")
    with (
        running_gateway(config.repository, *flags) as (grpc_address, http_address),
        grpc.insecure_channel(grpc_address) as channel,
        httpx.Client(base_url=http_address) as http,
    ):
        stub = editing_pb2_grpc.EditingStub(channel)

        def through_grpc() -> bytes:
            return stub.Decode(request).images[0].data

        def through_http() -> bytes:
            answer = http.post("/v1/decode", json=body, headers={"accept": "application/octet-stream"})
            return answer.raise_for_status().content

        assert through_grpc() == through_http() == expected, (
            "the gateway answers another picture than the session"
        )
        nothing = health_pb2.HealthCheckRequest()
        empty_call = channel.unary_unary(
            "/grpc.health.v1.Health/Check", health_pb2.HealthCheckRequest.SerializeToString, bytes
        )
        steps = {
            "session": lambda: graphs.decode(code), "gRPC": through_grpc,
            "session again": lambda: graphs.decode(code), "HTTP": through_http,
            "session once more": lambda: graphs.decode(code), "empty": lambda: empty_call(nothing),
        }  # fmt: skip
        found = interleaved(steps, config.requests)
    bare = statistics.median(time for name, time in found.items() if name.startswith("session"))
    floor = ["an empty call through gRPC (p50)", f"{1000 * found['empty']:.2f} ms", "", "", ""]
    return [
        [f"decode through {name}, less the bare session (p50)", f"{1000 * found[name]:.2f} ms", f"{1000 * bare:.2f} ms",
         f"+{1000 * (found[name] - bare):.2f} ms", bar]
        for name, bar in (("gRPC", "<= 3 ms"), ("HTTP", "<= 6 ms"))
    ] + [floor]  # fmt: skip


def inversion_rows(graphs: Graphs, config: SpeedConfig) -> list[list[str]]:
    """A photograph to its inversion's picture through gRPC, for each quality, on the engines that are chosen."""
    flags = ("--intra-op-threads", str(config.threads), "--bundles", graphs.bundle.name)
    steps = graphs.bundle.refine.quality_steps
    with running_gateway(config.repository, *flags) as (address, _), indomain.Client(address) as client:
        qualities = {name: partial(client.invert, _PORTRAIT, quality=name) for name in steps}
        found = interleaved(qualities, 5)
    bars = {"fast": "<= 600 ms", "best": "<= 1500 ms"}
    return [
        [f"invert, quality {name}: {steps[name]} steps", f"{1000 * seconds:.0f} ms", "", "",
         bars.get(name, "")]
        for name, seconds in found.items()
    ]  # fmt: skip


def main(config: SpeedConfig) -> None:
    """Print the table."""
    torch.set_num_threads(config.threads)
    graphs = Graphs(config.repository, config.bundle, threads=config.threads)
    defaults = graphs.bundle.refine
    identity = defaults.identity_weight or 0.0
    weights = Weights(defaults.pixel_weight, defaults.perceptual_weight, defaults.domain_weight, identity)
    side = TorchSide(load_pipeline(config.run), LPIPSSq(), defaults.learning_rate, weights)
    rows = network_rows(graphs, side, config.rounds)
    rows += gateway_rows(graphs, config)
    rows += inversion_rows(graphs, config)
    print(f"{graphs.bundle.name}, {config.threads} threads, medians of {config.rounds} interleaved rounds")
    print(markdown_table(["what", "ours", "against", "ratio", "bar"], rows))
