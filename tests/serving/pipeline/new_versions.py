"""New versions of a bundle that come into a model repository, and callers who ask all the while."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from indomain.v1 import editing_pb2 as pb
from tests.serving.running_gateway import RunningGateway
from tests.serving.waiting import wait_for

eventually = partial(wait_for, timeout_s=60.0)
POLL_S = 0.1
OUTPUT = pb.OutputOptions(format=pb.IMAGE_FORMAT_RAW)
SAMPLE = pb.SampleRequest(seeds=[1], output=OUTPUT)


def sampled_picture(running: RunningGateway) -> bytes:
    """The picture of seed 1, as its bundle draws it."""
    return bytes(running.stub.Sample(SAMPLE, timeout=30).images[0].data)


@contextmanager
def under_load(running: RunningGateway, photo_png: bytes) -> Iterator[list[bytes]]:
    """Four callers sample and invert until the block ends; none may fail. Gives the pictures sampled so far."""
    stop, seen = threading.Event(), []
    invert = pb.InvertRequest(
        picture=pb.Picture(data=photo_png), refine=pb.RefineOptions(steps=20), output=OUTPUT
    )

    def sample() -> None:
        while not stop.is_set():
            seen.append(sampled_picture(running))

    def refine() -> None:
        while not stop.is_set():
            losses = running.stub.Invert(invert, timeout=60).losses
            assert losses.refine_loss_after <= losses.refine_loss_before

    with ThreadPoolExecutor(4) as pool:
        callers = [pool.submit(work) for work in (sample, refine, sample, refine)]
        try:
            yield seen
        finally:
            stop.set()
        for caller in callers:
            caller.result()


def reloads(running: RunningGateway, outcome: str) -> float:
    """How many exchanges of bundles ended with `outcome`: done or failed."""
    return running.metric("indomain_reloads_total", outcome=outcome)


def bring(version: Path, repository: Path) -> None:
    """Makes the repository equal to the folder `version`. The manifest comes last: gateways look for it."""
    (repository / "tiny16.json").unlink(missing_ok=True)
    shutil.copytree(version, repository, dirs_exist_ok=True, ignore=lambda *_: ["tiny16.json"])
    for graph in repository.glob("*/*/model.onnx"):
        if not (version / graph.relative_to(repository)).exists():
            graph.unlink()
    shutil.copy(version / "tiny16.json", repository / "tiny16.new")
    (repository / "tiny16.new").replace(repository / "tiny16.json")
