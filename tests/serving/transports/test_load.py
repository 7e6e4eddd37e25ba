"""Many clients at once, mixed requests: no error, each answer belongs to its own request, memory stays flat.

Seconds are short in the ordinary suite; `pytest -m slow` (or INDOMAIN_LOAD_SECONDS) gives it a minute.
"""

from __future__ import annotations

import asyncio
import io
import os
import time
from collections import Counter
from pathlib import Path

import grpc
import httpx
import numpy as np
import pytest
from PIL import Image

from indomain.v1 import editing_pb2 as pb
from indomain.v1 import editing_pb2_grpc
from serving.gateway import Gateway
from tests import shipped
from tests.serving.pictures import encoded, photograph
from tests.serving.running_gateway import settings_for

CLIENTS, SUBJECTS, STEPS = 64, 12, 6
RAW = pb.OutputOptions(format=pb.IMAGE_FORMAT_RAW)
SMILE = [pb.EditStep(direction="smile", strength=2.0)]


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def raw(picture: pb.Picture) -> np.ndarray:
    return np.frombuffer(picture.data, np.uint8).astype(np.int16)


class Subject:
    """One seed and one photograph, with the answers they get when nobody else asks."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.invert = pb.InvertRequest(
            picture=pb.Picture(data=encoded(photograph(100 + number))),
            align=pb.AlignOptions(alignment=pb.ALIGNMENT_CENTRE_CROP),
            refine=pb.RefineOptions(steps=STEPS),
            output=RAW,
        )

    async def learn(self, stub: editing_pb2_grpc.EditingAsyncStub) -> None:
        self.sampled = await stub.Sample(pb.SampleRequest(seeds=[self.number], output=RAW))
        self.inverted = await stub.Invert(self.invert)
        self.edited = await stub.Edit(pb.EditRequest(code=self.sampled.codes[0], edits=SMILE, output=RAW))

    async def ask(self, kind: int, stub: editing_pb2_grpc.EditingAsyncStub, http: httpx.AsyncClient) -> str:
        """One request of a kind; fails if the answer is not this subject's."""
        if kind == 0:
            self.compare((await stub.Invert(self.invert, timeout=60)).image, self.inverted.image)
            return "invert"
        if kind == 1:
            edit = pb.EditRequest(code=self.sampled.codes[0], edits=SMILE, output=RAW)
            self.compare((await stub.Edit(edit, timeout=60)).image, self.edited.image)
            return "edit"
        if kind == 2:
            decode = pb.DecodeRequest(codes=[self.sampled.codes[0], self.edited.code], output=RAW)
            answer = await stub.Decode(decode, timeout=60)
            self.compare(answer.images[0], self.sampled.images[0])
            self.compare(answer.images[1], self.edited.image)
            return "decode"
        body = {"seeds": [self.number], "output": {"format": "png"}}
        answer = await http.post("/v1/sample", json=body, headers={"accept": "image/png"})
        assert answer.status_code == 200, answer.text
        image = np.asarray(Image.open(io.BytesIO(answer.content)))
        self.compare(pb.Picture(data=image.tobytes()), self.sampled.images[0])
        return "sample"

    def compare(self, got: pb.Picture, expected: pb.Picture) -> None:
        # Other batch sizes add up in another order: a few grey levels after refinement, never another picture.
        assert np.abs(raw(got) - raw(expected)).mean() < 1.0, (
            f"the answer of subject {self.number} is another's"
        )


async def load(repository: Path, seconds: float) -> None:
    gateway = Gateway(settings_for(repository))
    await gateway.start()
    counts: Counter[str] = Counter()
    async with (
        grpc.aio.insecure_channel(f"127.0.0.1:{gateway.grpc_port}") as channel,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{gateway.http_port}", timeout=60) as http,
    ):
        stub: editing_pb2_grpc.EditingAsyncStub = editing_pb2_grpc.EditingStub(channel)
        subjects = [Subject(number) for number in range(SUBJECTS)]
        for subject in subjects:
            await subject.learn(stub)
        assert len({subject.sampled.images[0].data for subject in subjects}) == SUBJECTS
        end_s = time.monotonic() + seconds

        async def client(number: int) -> None:
            turn = number
            while time.monotonic() < end_s:
                counts[await subjects[turn % SUBJECTS].ask((turn // 3) % 4, stub, http)] += 1
                turn += 7

        settled: list[int] = []

        async def watch_memory() -> None:
            await asyncio.sleep(seconds / 2)  # caches and arenas have grown to their size by then
            settled.append(resident_bytes())

        await asyncio.gather(watch_memory(), *(client(number) for number in range(CLIENTS)))
        grown_bytes = resident_bytes() - settled[0]
    value = gateway.metrics.registry.get_sample_value
    (bundle,) = gateway.pipeline.bundles
    runs = value("indomain_batch_size_count", {"graph": f"{bundle}_refiner"}) or 0
    samples = value("indomain_batch_size_sum", {"graph": f"{bundle}_refiner"}) or 0
    await gateway.stop()
    print(
        f"{sum(counts.values()) / seconds:.0f} requests/s {dict(counts)}, refiner batches of "
        f"{samples / runs:.1f} on average, memory grew by {grown_bytes / 2**20:.1f} MiB in the second half"
    )
    assert set(counts) == {"invert", "edit", "decode", "sample"}
    assert samples / runs > 1.1  # how many more depends on what else the machine does
    assert grown_bytes < 24 * 2**20
    assert gateway.pipeline.in_flight == 0


async def test_mixed_load_for_a_moment(tiny_repository: Path) -> None:
    await load(tiny_repository, seconds=5.0)


@pytest.mark.slow
@pytest.mark.parametrize("bundle", ["tiny", "shipped"])
async def test_mixed_load_for_a_minute(tiny_repository: Path, bundle: str) -> None:
    repository = shipped.REPOSITORY if bundle == "shipped" else tiny_repository
    await load(repository, seconds=float(os.environ.get("INDOMAIN_LOAD_SECONDS", "60")))
