"""`make bench-serving`: what a gateway adds to its graphs, and what it bears. One run, every ratio within it.

Side by side stand the bare ONNX Runtime sessions (in this process), the gateway on its embedded back end and, where a
Triton server is named, that server asked directly and a gateway on it. Three kinds of request (edit of a code, edit of
a picture, inversion with refinement) come in two ways: from N callers who each wait for their answer, and open-loop at
70 % of what was reached, where latency counts from the moment that a request was due. Then refinements that arrive one
after another, and overload. What a gateway adds is measured apart, for one caller who blocks, in turn, beside a bare
gRPC call of as many bytes.

"CPU" is what the gateway's own process took of the processors for a request: graphs too, where they are embedded.

The load comes from this process: on few cores it takes its share from what is measured, the same for all.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import grpc
import numpy as np
import tyro
import uvloop
from tritonclient.grpc.aio import InferenceServerClient

from benchmarks.gateway import BARE_CALL, answer_with_bytes, running, running_gateway
from benchmarks.graphs import Array, Graphs, markdown_table
from benchmarks.load import Measured, in_turn, open_loop, unexpected, waiting_callers
from benchmarks.targets import (
    CHANNEL,
    KINDS,
    GatewayTarget,
    Kind,
    Targets,
    Work,
    side_by_side,
    triton_itself,
)
from benchmarks.triton import TritonConfig, serving
from indomain.v1 import editing_pb2 as pb
from serving.backends.engines.sessions import EngineName
from serving.bundle import Role, TensorSpec
from serving.grpc.interceptor import ERROR_DETAIL_KEY
from serving.jobs import EditStep


@dataclass
class ServingConfig:
    """Load a gateway and what lies under it; every ratio is within one run."""

    repository: Path = Path("model_repository")
    """Model repository."""
    bundle: str = ""
    """Bundle; the first one by default."""
    picture: Path = Path("clients/python/examples/portrait.png")
    """What is inverted."""
    threads: int = 2
    """Threads of each ONNX Runtime session, in every place."""
    engine: EngineName | Literal["auto"] = "auto"
    """What runs the gateway's graphs; the bare sessions are always ONNX Runtime's."""
    steps: int = 0
    """Refinement steps of an inversion; 0: those of one run of the refiner."""
    seconds: float = 6.0
    """Of load for each cell of the table."""
    callers: tuple[int, ...] = (1, 4, 16, 64)
    """How many wait for an answer at once."""
    triton: str = ""
    """gRPC address of a Triton server that serves the same repository; `start`: that of the tests. Empty: left out."""
    users: int = 8
    """Whose refinements arrive one after another."""
    apart_s: float = 0.1
    """Between one's arrival and the next's."""
    overloads: tuple[float, ...] = (2.0, 5.0)
    """Times of what the embedded gateway bears."""


async def compare(
    targets: Targets, config: ServingConfig
) -> tuple[list[list[str]], dict[tuple[str, Kind, int], Measured]]:
    """Every kind of request on every target, for each number of callers; targets in turn."""
    found: dict[tuple[str, Kind, int], Measured] = {}
    rows = []
    for kind in KINDS:
        for callers in config.callers:
            for name, open_target in targets.items():
                with open_target(callers) as target:
                    ask = partial(target.ask, kind)
                    await waiting_callers(ask, callers, config.seconds / 6)  # warms up
                    before_s = target.processor_s()
                    measured = await waiting_callers(ask, callers, config.seconds)
                    after_s = target.processor_s()
                    found[name, kind, callers] = measured
                    row = [kind, str(callers), name, f"{measured.a_second:.1f}"]
                    if before_s is None or after_s is None:
                        row.append("")
                    else:
                        row.append(f"{1000 * (after_s - before_s) / len(measured.latencies_s):.2f}")
                    row += [f"{measured.milliseconds(percent):.1f}" for percent in (50, 99)]
                    if not name.startswith("ONNX"):  # the sessions would hold up the clock of an open loop
                        loose = await open_loop(ask, 0.7 * measured.a_second, config.seconds, unexpected)
                        row += [f"{loose.milliseconds(percent):.1f}" for percent in (50, 99)]
                    else:
                        row += ["", ""]
                rows.append(row)
    return rows, found


async def overheads(targets: Targets, config: ServingConfig) -> list[list[str]]:
    """What gateways add to what lies under them, for one caller who blocks while it waits (Triton itself is asked for
    two graphs at once, which takes a client that does not); beside it, a call of as many bytes that does nothing."""
    rows = []
    for kind in KINDS:
        with ExitStack() as opened:
            asks = {
                name: partial(opened.enter_context(open_target(1)).ask, kind)
                for name, open_target in targets.items()
            }
            port = opened.enter_context(running(answer_with_bytes))
            channel = opened.enter_context(grpc.insecure_channel(f"127.0.0.1:{port}", CHANNEL))
            with targets["gateway"](1) as gateway:
                there, back = gateway.bytes_of(kind)
            asks["bare call"] = partial(
                bare_call, channel.unary_unary(BARE_CALL), back.to_bytes(4, "little") + bytes(there - 4)
            )
            await in_turn(asks, config.seconds / 6)  # warms up
            found = await in_turn(asks, config.seconds, least=30)
        call_ms = found["bare call"].milliseconds(50)
        for ours, under, bar_ms in (("gateway", "ONNX Runtime", 2.0), ("gateway on Triton", "Triton", 3.0)):
            if ours in found:
                ours_ms, under_ms = (found[name].milliseconds(50) for name in (ours, under))
                what = f"{kind}: {ours} over {under}"
                rows.append([what, f"{ours_ms:.2f} ms", f"{under_ms:.2f} ms", f"{ours_ms - under_ms:+.2f} ms",
                             f"{call_ms:.2f} ms", f"<= {bar_ms:g} ms"])  # fmt: skip
    return rows


async def bare_call(ask: Any, request: bytes) -> None:
    ask(request)


def batching_gains(found: dict[tuple[str, Kind, int], Measured], config: ServingConfig) -> list[list[str]]:
    """What many callers reach against one."""
    rows = []
    one, most = min(config.callers), max(n for n in config.callers if n <= 16)
    for kind in KINDS:
        many, single = (found["gateway", kind, n].a_second for n in (most, one))
        rows.append([f"{kind}: {most} callers over {one} (gateway, requests/s)", f"{many:.1f}", f"{single:.1f}",
                     f"{many / single:.2f}", ">= 1.3"])  # fmt: skip
    return rows


async def arriving_one_by_one(gateway: GatewayTarget, config: ServingConfig) -> list[str]:
    """Refinements of several users, each some time after the one before, against one after another: three times each,
    in turn, the medians count."""

    async def user(number: int) -> pb.InvertResponse:
        await asyncio.sleep(number * config.apart_s)
        answer: pb.InvertResponse = await gateway.stub.Invert(gateway.invert)
        return answer

    alone_s, together_s, furthest = [], [], 0.0
    for _ in range(3):
        begun_s = time.perf_counter()
        alone = [await gateway.stub.Invert(gateway.invert) for _ in range(config.users)]
        alone_s.append(time.perf_counter() - begun_s)
        begun_s = time.perf_counter()
        together = await asyncio.gather(*(user(number) for number in range(config.users)))
        together_s.append(time.perf_counter() - begun_s)
        for one, other in zip(together, alone, strict=True):
            furthest = max(furthest, float(np.abs(_code(one.code) - _code(other.code)).max()))
    what = f"{config.users} inversions {1000 * config.apart_s:.0f} ms apart, against one after another"
    ours_s, theirs_s = float(np.median(together_s)), float(np.median(alone_s))
    told = f"{ours_s / theirs_s:.2f} (codes differ by {furthest:.1e} at most)"
    return [what, f"{ours_s:.2f} s", f"{theirs_s:.2f} s", told, "<= 0.7"]


async def slider_beside_refinements(gateway: GatewayTarget, config: ServingConfig) -> list[str]:
    """Edits of a code, one after another as a slider asks for them: alone, and while others invert without a pause, in
    the bundle's own number of steps."""
    slider = partial(gateway.ask, "edit of a code")
    invert = pb.InvertRequest()
    invert.CopyFrom(gateway.invert)
    invert.refine.ClearField("steps")

    async def refining() -> None:
        while True:
            await gateway.stub.Invert(invert)

    alone = await waiting_callers(slider, 1, config.seconds)
    others = [asyncio.create_task(refining()) for _ in range(config.users)]
    try:
        await asyncio.sleep(1.0)
        beside = await waiting_callers(slider, 1, config.seconds)
    finally:
        for other in others:
            other.cancel()
        await asyncio.gather(*others, return_exceptions=True)
    ours_ms, theirs_ms = beside.milliseconds(95), alone.milliseconds(95)
    what = f"edit of a code, p95, while {config.users} refinements run, against alone"
    return [what, f"{ours_ms:.1f} ms", f"{theirs_ms:.1f} ms", f"{ours_ms / theirs_ms:.2f}", "<= 2"]


def _code(code: pb.Code) -> Array:
    return np.frombuffer(code.data, "<f4")


async def overload(gateway: GatewayTarget, times: Iterable[float], seconds: float) -> list[list[str]]:
    """More than the gateway bears: what it still does, and how it refuses the rest. Asked for are many samples at
    once: dear to the gateway and cheap to ask for, so that this process takes little of what is measured."""

    async def ask() -> None:
        await gateway.stub.Sample(gateway.sample, timeout=30.0)

    peak = (await waiting_callers(ask, 16, seconds)).a_second
    return [await overloaded(ask, more, peak, seconds) for more in times]


async def overloaded(
    ask: Callable[[], Awaitable[object]], times: float, peak: float, seconds: float
) -> list[str]:
    """A row of the table."""
    refused_s: list[float] = []
    untold = failed = 0

    def on_error(after_s: float, error: Exception) -> None:
        nonlocal untold, failed
        assert isinstance(error, grpc.aio.AioRpcError)
        if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
            failed += 1
            return
        refused_s.append(after_s)
        trailing = dict(error.trailing_metadata() or ())
        detail = pb.ErrorDetail.FromString(bytes(trailing[ERROR_DETAIL_KEY]))  # type: ignore[arg-type]
        untold += detail.retry_after_s <= 0.0

    measured = await open_loop(ask, times * peak, seconds, on_error)
    refusal_ms = 1000 * float(np.percentile(refused_s, 99)) if refused_s else 0.0
    return [
        f"{times:g} x", f"{measured.a_second:.1f}", f"{peak:.1f}", f"{measured.a_second / peak:.2f}",
        f"{measured.milliseconds(99):.0f} ms", str(len(refused_s)), f"{refusal_ms:.1f} ms", str(untold), str(failed),
    ]  # fmt: skip


def traffic(work: Work) -> list[list[str]]:
    """Bytes of tensors between a gateway and Triton for one request of each kind, by the shapes in the manifest."""
    refining = -(-work.steps // work.bundle.refine.chunk_steps)
    samples: dict[Kind, dict[Role, int]] = {
        "edit of a code": {"generator": 1, "critic": 1},
        "edit of a picture": {"encoder": 1, "generator": 2, "critic": 1},
        "inversion": {"encoder": 1, "refiner": refining, "generator": 2, "critic": 1},
    }

    def size(specs: Iterable[TensorSpec]) -> int:
        return sum(math.prod(spec.shape[1:]) * np.dtype(spec.dtype).itemsize for spec in specs)

    rows = []
    for kind, counts in samples.items():
        graphs = {role: work.bundle.graphs[role] for role in counts}
        there = sum(count * size(graphs[role].inputs) for role, count in counts.items())
        back = sum(count * size(graphs[role].outputs) for role, count in counts.items())
        rows.append([kind, f"{there:,}", f"{back:,}"])
    return rows


async def run(config: ServingConfig) -> None:
    graphs = Graphs(config.repository, config.bundle, threads=config.threads)
    bundle = graphs.bundle
    steps = config.steps or bundle.refine.chunk_steps
    direction = next(iter(bundle.directions))
    code = graphs.sample(1)[0]
    work = Work(bundle, code, config.picture.read_bytes(), (EditStep(direction, 2.0),), steps)
    flags = ["--bundles", bundle.name, "--intra-op-threads", str(config.threads)]
    flags += ["--refine-min-improvement-ratio", "0", "--engine", config.engine]
    # 16 samples of 32 pictures wait at once where the peak of an overload is found
    flags += ["--max-refine-steps", str(max(500, steps)), "--max-queue-samples", "512"]

    with ExitStack() as processes:
        opened = processes.enter_context
        addresses = {"gateway": opened(running_gateway(config.repository, *flags))}
        triton = (
            opened(serving(TritonConfig(config.repository))) if config.triton == "start" else config.triton
        )
        if triton:
            triton_flags = [*flags, "--backend", "triton", "--triton-addresses", triton]
            addresses["gateway on Triton"] = opened(running_gateway(config.repository, *triton_flags))
        async with AsyncExitStack() as clients:
            asked_directly = None
            if triton:
                client = await clients.enter_async_context(InferenceServerClient(triton))
                asked_directly = triton_itself(work, client)
            gateways = {
                name: GatewayTarget(
                    work,
                    await clients.enter_async_context(grpc.aio.insecure_channel(address, CHANNEL)),
                    url,
                )
                for name, (address, url) in addresses.items()
            }
            blocking = {
                name: GatewayTarget(work, opened(grpc.insecure_channel(address, CHANNEL)), url)
                for name, (address, url) in addresses.items()
            }
            targets = side_by_side(work, graphs, gateways, asked_directly)
            await check_agreement(targets)
            rows, found = await compare(targets, config)
            promised = batching_gains(found, config)
            promised.append(await arriving_one_by_one(gateways["gateway"], config))
            promised.append(await slider_beside_refinements(gateways["gateway"], config))
            loads = await overload(gateways["gateway"], config.overloads, config.seconds)
            added = await overheads(side_by_side(work, graphs, blocking, asked_directly), config)
    print(f"{bundle.name}, {config.threads} threads, {config.seconds:g} s a cell, {steps} refinement steps\n")
    header = [
        "request",
        "callers",
        "on",
        "requests/s",
        "CPU ms",
        "p50 ms",
        "p99 ms",
        "open p50 ms",
        "open p99 ms",
    ]
    print(markdown_table(header, rows))
    print("\n" + markdown_table(["request", "bytes to Triton", "bytes from Triton"], traffic(work)))
    header = ["one caller, in turn", "p50", "against", "added", "a bare call of as many bytes", "bar"]
    print("\n" + markdown_table(header, added))
    print("\n" + markdown_table(["what", "ours", "against", "ratio", "bar"], promised))
    header = [
        "load",
        "done/s",
        "peak/s",
        "goodput",
        "p99",
        "refused",
        "refusal p99",
        "without a time",
        "failed or hung",
    ]
    print("\n" + markdown_table(header, loads))


async def check_agreement(targets: Targets) -> None:
    """Raises RuntimeError where a target answers another picture: its time would say nothing.

    Steps of a refinement enlarge the last bits in which one engine differs from another.
    """
    for kind in KINDS:
        answers = {}
        for name, open_target in targets.items():
            with open_target(1) as target:
                answers[name] = (await target.ask(kind)).astype(np.int16)
        first, *others = answers.values()
        for name, other in zip(list(answers)[1:], others, strict=True):
            if np.abs(first - other).mean() > (5.0 if kind == "inversion" else 1.0):
                raise RuntimeError(f"{name} answers another picture than {next(iter(answers))}: {kind}")


if __name__ == "__main__":
    uvloop.run(run(tyro.cli(ServingConfig)))  # as the gateway asks Triton
