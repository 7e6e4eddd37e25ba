"""A real gRPC server that answers as a test tells it to, for what a healthy gateway never does. No pipeline here."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event
from typing import Any, NoReturn

import grpc
import numpy as np

from indomain.v1 import editing_pb2 as pb
from indomain.v1 import editing_pb2_grpc
from indomain.wire.codes import code_to_wire
from indomain.wire.pictures import picture_to_wire

LAYERS, SIZE = 4, 8


@dataclass
class Failure:
    """How to fail: with the gateway's detail, or as gRPC itself fails (`reason` None)."""

    code: grpc.StatusCode
    reason: str | None = None
    message: str = "it went wrong"
    stage: str = ""
    retryable: bool = False
    retry_after_s: float = 0.0


class ScriptedGateway(editing_pb2_grpc.EditingServicer):
    """Fails as long as `failures` has one (OK: not this time), then answers with fixed pictures and codes."""

    def __init__(self) -> None:
        self.failures: deque[Failure] = deque()
        self.requests: list[Any] = []
        self.request_ids: list[str] = []
        # The request id of answers; None: that of the request.
        self.wrong_id: str | None = None
        self.address = ""
        self.bundle = "tiny"
        self.edit_space = ""  # whose codes edits answer
        self.stop_reason = pb.STOP_REASON_CONVERGED  # of edits
        self.delay_s = 0.0  # before each answer
        self.edit_delay_s = 0.0  # before those of Edit, too
        self.released = Event()  # set: nobody waits any more
        self.picture = np.full((SIZE, SIZE, 3), 200, np.uint8)
        self.code = np.arange(LAYERS * 512, dtype=np.float32).reshape(LAYERS, 512)

    def ListBundles(self, request: Any, context: grpc.ServicerContext) -> Any:
        self._begin(request, context)
        smile = pb.Direction(
            name="smile",
            label="Smile",
            layers=[0, 1, 2],
            range_min=-3,
            range_max=3,
            held_out=pb.HeldOut(metric="r", value=0.9),
        )
        bundle = pb.Bundle(
            name=self.bundle,
            resolution=SIZE,
            layers=LAYERS,
            code_size=512,
            directions=[smile],
            refine=pb.RefineDefaults(steps=100, chunk_steps=5, quality_steps={"fast": 10}),
        )
        limits = pb.Limits(max_codes=64)
        return pb.ListBundlesResponse(
            bundles=[bundle], limits=limits, server_version="0.1.0", request_id=self.answered_id(context)
        )

    def Invert(self, request: Any, context: grpc.ServicerContext) -> Any:
        self._begin(request, context)
        if request.picture.data == b"not a picture":
            self._fail(context, Failure(grpc.StatusCode.INVALID_ARGUMENT, "invalid_picture", "not a picture"))
        answer = pb.InvertResponse(
            bundle="tiny",
            code=code_to_wire(self.code),
            image=picture_to_wire(self.picture),
            domain_score=0.5,
            losses=pb.Losses(
                pixel_mse_before=0.2, pixel_mse_after=0.1, steps_done=100, stop_reason="STOP_REASON_CONVERGED"
            ),
            timings=[
                pb.StageTiming(stage="encode", seconds=0.5),
                pb.StageTiming(stage="encode", seconds=0.25),
            ],
            request_id=self.answered_id(context),
        )
        if request.output.include_start:
            answer.start.CopyFrom(picture_to_wire(self.picture))
        return answer

    def Edit(self, request: Any, context: grpc.ServicerContext) -> Any:
        self._begin(request, context)
        self.released.wait(self.edit_delay_s)
        if request.picture.data == b"poison":
            self._fail(context, Failure(grpc.StatusCode.UNAVAILABLE))
        for step in request.edits:
            if step.direction != "smile":
                unknown = f"tiny has no direction {step.direction}; it has: smile"
                self._fail(context, Failure(grpc.StatusCode.NOT_FOUND, "unknown_direction", unknown))
        answer = pb.EditResponse(
            bundle="tiny",
            code=code_to_wire(self.code + 1),
            source_code=code_to_wire(self.code),
            image=picture_to_wire(self.picture),
            domain_score=0.4,
            request_id=self.answered_id(context),
        )
        answer.code.space = self.edit_space
        if request.HasField("picture"):
            answer.losses.CopyFrom(pb.Losses(steps_done=100, stop_reason=self.stop_reason))
        return answer

    def Decode(self, request: Any, context: grpc.ServicerContext) -> Any:
        self._begin(request, context)
        count = sum(code.shape[0] if len(code.shape) == 3 else 1 for code in request.codes)
        return pb.DecodeResponse(
            bundle="tiny",
            images=[picture_to_wire(self.picture)] * count,
            request_id=self.answered_id(context),
        )

    def Sample(self, request: Any, context: grpc.ServicerContext) -> Any:
        self._begin(request, context)
        count = len(request.seeds)
        return pb.SampleResponse(
            bundle="tiny",
            codes=[code_to_wire(self.code)] * count,
            images=[picture_to_wire(self.picture)] * count,
            request_id=self.answered_id(context),
        )

    def answered_id(self, context: grpc.ServicerContext) -> str:
        """The request id for an answer: that of the request, or what a test wants in its place."""
        asked = str(dict(context.invocation_metadata())["x-request-id"])
        return asked if self.wrong_id is None else self.wrong_id

    def _begin(self, request: Any, context: grpc.ServicerContext) -> None:
        metadata = dict(context.invocation_metadata())
        self.requests.append(request)
        self.request_ids.append(str(metadata["x-request-id"]))
        self.released.wait(self.delay_s)
        failure = self.failures.popleft() if self.failures else None
        if failure is not None and failure.code is not grpc.StatusCode.OK:
            self._fail(context, failure)

    def _fail(self, context: grpc.ServicerContext, failure: Failure) -> NoReturn:
        if failure.reason is not None:
            detail = pb.ErrorDetail(
                reason=failure.reason,
                message=failure.message,
                stage=failure.stage,
                retryable=failure.retryable,
                retry_after_s=failure.retry_after_s,
                request_id=self.answered_id(context),
            )
            context.set_trailing_metadata((("indomain-error-bin", detail.SerializeToString()),))
        context.abort(failure.code, failure.message)


@contextmanager
def serving_on(port: int = 0) -> Iterator[ScriptedGateway]:
    """The scripted gateway on loopback; port 0 takes a free one."""
    gateway = ScriptedGateway()
    server = grpc.server(ThreadPoolExecutor(4))
    editing_pb2_grpc.add_EditingServicer_to_server(gateway, server)
    gateway.address = f"127.0.0.1:{server.add_insecure_port(f'127.0.0.1:{port}')}"
    server.start()
    try:
        yield gateway
    finally:
        stopped = server.stop(0)  # first: nobody who waits shall be answered
        gateway.released.set()
        stopped.wait()
