"""Pictures that are made to hold up whoever decodes them: refused in good time, or ended at the deadline and at a
budget, within a bounded memory, while others are served."""

from __future__ import annotations

import os
import re
import signal
import struct
import threading
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path

import grpc
import httpx
import numpy as np
import pytest
from PIL import Image

from indomain.v1 import editing_pb2 as pb
from indomain.v1 import editing_pb2_grpc
from serving.errors import InvalidPicture
from serving.jobs import EncodedPicture
from serving.photographs.formats import headers
from serving.photographs.formats.headers import read_header
from serving.photographs.formats.jpeg import MAX_SCANS
from serving.photographs.formats.limits import MAX_PARTS
from serving.photographs.formats.metadata import Metadata, answered_metadata, read_orientation
from tests.serving.pictures import (
    encoded,
    jpeg_of_scans,
    jpeg_with_segments,
    photograph,
    png_chunk,
    zero_png,
    zero_tiff,
)
from tests.serving.running_gateway import RunningGateway, start_process
from tests.serving.waiting import wait_for

NO_STEPS = pb.RefineOptions(steps=0)


def invert(gateway: RunningGateway, data: bytes, timeout: float = 60) -> pb.InvertResponse:
    return gateway.stub.Invert(request_for(data), timeout=timeout)


def request_for(data: bytes) -> pb.InvertRequest:
    return pb.InvertRequest(picture=pb.Picture(data=data), refine=NO_STEPS)


def refused(gateway: RunningGateway, data: bytes) -> pb.ErrorDetail:
    with pytest.raises(grpc.RpcError) as raised:
        invert(gateway, data)
    return pb.ErrorDetail.FromString(dict(raised.value.trailing_metadata())["indomain-error-bin"])


@cache
def slow_picture() -> bytes:
    """49 megapixels of 16-bit RGBA: seconds of inflating, and nothing in its header is unusual."""
    return zero_png(7000, 7000, bits=16, colour_type=6, row_filter=4)


def decoders_of(pid: int) -> set[int]:
    """The processes that decode for a gateway."""
    found = set()
    for thread in Path(f"/proc/{pid}/task").iterdir():
        # A thread, or a process, may end while it is looked at.
        with suppress(OSError):
            for child in (thread / "children").read_text().split():
                if b"serving.photographs.decoder" in Path(f"/proc/{child}/cmdline").read_bytes():
                    found.add(int(child))
    return found


# --- refused by what their bytes say --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (jpeg_of_scans(8000), f"more than {MAX_SCANS} scans"),
        (jpeg_with_segments(20_000), f"more than {MAX_PARTS} segments"),
        (zero_png(16, 16, extra=png_chunk(b"teSt", b"") * 20_000), f"more than {MAX_PARTS} chunks"),
        (
            zero_png(16, 16, extra=png_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(9))) * 65),
            "compressed texts",
        ),
        (zero_png(70_000, 16), "65535 a side"),
    ],
    ids=["scans", "segments", "chunks", "texts", "side"],
)
def test_what_no_camera_writes_is_refused_at_once(gateway: RunningGateway, data: bytes, said: str) -> None:
    begun_s = time.monotonic()
    detail = refused(gateway, data)
    assert detail.reason in ("invalid_picture", "picture_too_large")
    assert said in detail.message
    assert time.monotonic() - begun_s < 5.0


def test_few_scans_and_segments_are_read(gateway: RunningGateway) -> None:
    """Scans behind the picture's end do not count: telephones append films, in which anything may stand."""
    image = photograph(5, 64, 64)
    progressive = encoded(image, "JPEG", progressive=True, quality=95)
    for data in (
        jpeg_with_segments(2_000),
        jpeg_of_scans(20),
        progressive + b"\xff\xda\0\x08" * 500,
    ):
        assert invert(gateway, data).image.data
    plain = invert(gateway, progressive).code.data
    assert invert(gateway, progressive + b"\xff\xda\0\x08" * 500).code.data == plain


def test_a_header_is_read_in_milliseconds() -> None:
    """On the event loop: also where it has as many parts as it may have, and where there is only rubbish."""
    for data in (
        jpeg_with_segments(MAX_PARTS - 100),
        zero_png(16, 16, extra=png_chunk(b"teSt", b"") * (MAX_PARTS - 100)),
        b"\xff\xd8\xff" + b"\xff\0" * 8_000_000,
        b"\xff\xd8\xff\xe0\0\x02" + b"\xff" * 16_000_000,
        b"RIFF\0\0\0\0WEBPVP8X" + bytes(16_000_000),
        *(tiff_of_numbers(tag) for tag in (256, 258, 339)),
    ):
        begun_s = time.process_time()
        with suppress(InvalidPicture):
            read_header(EncodedPicture(data), 2**25, 2**26)
        assert time.process_time() - begun_s < 0.2


def tiff_of_numbers(tag: int) -> bytes:
    """A TIFF of which one tag is four million numbers."""
    count = 4_000_000
    rows = [(256, 4, 1, 16), (257, 4, 1, 16)] if tag != 256 else [(257, 4, 1, 16)]
    rows = sorted([*rows, (tag, 4, count, 100)])
    directory = struct.pack("<H", len(rows)) + b"".join(struct.pack("<HHII", *row) for row in rows) + bytes(4)
    return (b"II*\0" + struct.pack("<I", 8) + directory).ljust(100, b"\0") + struct.pack("<I", 16) * count


def test_previews_in_xmp_are_looked_for_in_milliseconds() -> None:
    """Also where there are none, but much that looks like the beginning of one."""
    for run in (b"a" * 599 + b"<", (b"b" * 49 + b" ") * 200 + b"<", b"a<"):
        begun_s = time.process_time()
        answered_metadata(Metadata(xmp=run * (4_000_000 // len(run))), 16, 16)
        answered_metadata(Metadata(xmp=run * (1_000_000 // len(run))), 16, 16)
        assert time.process_time() - begun_s < 0.3


def test_metadata_says_how_a_picture_lies_and_is_otherwise_left_alone() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert read_orientation(exif.tobytes(), b"") == 6
    assert read_orientation(b"", b'<x tiff:Orientation="8"/>') == 8
    for broken in (b"", b"II*\0", exif.tobytes()[:20], b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"):
        assert read_orientation(broken, b"") == 1


# --- ended ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def one_decoder(start_gateway: Callable[..., RunningGateway]) -> RunningGateway:
    return start_gateway(picture_processes=1)


def test_decoders_end_at_the_deadline_and_are_back(one_decoder: RunningGateway) -> None:
    gateway, slow, small = one_decoder, slow_picture(), encoded(photograph())
    large = encoded(photograph(1, 1600, 1200), "JPEG")
    before = invert(gateway, large).code.data
    first = decoders_of(os.getpid())
    for ended in (1, 2):
        calls = [gateway.stub.Invert.future(request_for(slow), timeout=0.5) for _ in range(3)]
        # Small pictures of others are decoded elsewhere.
        assert invert(gateway, small).image.data
        for call in calls:
            assert call.exception().code() is grpc.StatusCode.DEADLINE_EXCEEDED
        wait_for(
            lambda ended=ended: gateway.metric("indomain_decoders_ended_total", reason="request") >= ended
        )
        assert invert(gateway, large).code.data == before
    assert decoders_of(os.getpid()) != first


def test_decoders_end_when_a_picture_has_used_up_its_time(
    start_gateway: Callable[..., RunningGateway],
) -> None:
    gateway = start_gateway(picture_processes=1, max_picture_processor_s=0.3)
    detail = refused(gateway, slow_picture())
    assert (detail.reason, detail.stage) == ("picture_too_large", "align")
    assert "0.3 s of a processor" in detail.message
    assert gateway.metric("indomain_decoders_ended_total", reason="budget") == 1
    assert invert(gateway, encoded(photograph(1, 1600, 1200), "JPEG")).image.data


def test_a_decoder_that_dies_fails_its_own_picture_only(start_gateway: Callable[..., RunningGateway]) -> None:
    others = decoders_of(os.getpid())
    gateway, slow = start_gateway(picture_processes=1), slow_picture()
    assert invert(gateway, encoded(photograph(1, 1600, 1200), "JPEG")).image.data
    (pid,) = decoders_of(os.getpid()) - others
    call = gateway.stub.Invert.future(request_for(slow), timeout=60)
    time.sleep(0.3)
    os.kill(pid, signal.SIGSEGV)
    assert call.exception().code() is grpc.StatusCode.INVALID_ARGUMENT
    assert gateway.metric("indomain_decoders_ended_total", reason="crash") == 1
    assert invert(gateway, encoded(photograph(1, 1600, 1200), "JPEG")).image.data


@pytest.mark.fault
def test_sigterm_does_not_wait_for_decoders(
    tiny_repository: Path, record_property: Callable[[str, object], None]
) -> None:
    process, decoders = start_process(tiny_repository, "--grpc-port", "0", "--http-port", "0"), set()
    slow = request_for(slow_picture())
    try:
        assert process.stderr is not None
        ports = None
        for line in process.stderr:
            if ports := re.search(r"gRPC on 127.0.0.1:(\d+), HTTP on", line):
                break
        assert ports
        stub = editing_pb2_grpc.EditingStub(grpc.insecure_channel(f"127.0.0.1:{ports[1]}"))
        assert stub.Invert(request_for(encoded(photograph(1, 1600, 1200), "JPEG")), timeout=60).image.data
        decoders = decoders_of(process.pid)
        assert len(decoders) == 2
        # Stopped, they are as stuck as can be. Some requests have one, the others wait for one.
        for pid in decoders:
            os.kill(pid, signal.SIGSTOP)
        calls = [stub.Invert.future(slow, timeout=60) for _ in range(6)]
        time.sleep(1.0)
        process.send_signal(signal.SIGTERM)
        told_s = time.monotonic()
        drain = threading.Thread(target=process.communicate)
        drain.start()
        for call in calls:
            assert call.exception().code() is grpc.StatusCode.UNAVAILABLE
        assert process.wait(timeout=30) == 0
        seconds = time.monotonic() - told_s
        drain.join()
        assert seconds < 5.0
        assert not any(Path(f"/proc/{pid}").exists() for pid in decoders)
        record_property(
            "gateway SIGTERM while decoders are stuck", f"6 pictures in them, gone {seconds:.1f} s later"
        )
    finally:
        process.kill()
        process.wait()
        for pid in decoders:
            # What is stopped does not see that its gateway has gone.
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


# --- memory ---------------------------------------------------------------------------------------------------------


class Resident:
    """The most memory that a process and its decoders take while it is looked at, in MB above what they took before."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._rest_mb = self._mb()
        self._stop = threading.Event()
        self.peak_mb = 0.0
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Resident:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def now_mb(self) -> float:
        return self._mb() - self._rest_mb

    def _watch(self) -> None:
        while not self._stop.wait(0.01):
            self.peak_mb = max(self.peak_mb, self.now_mb)

    def _mb(self) -> float:
        pages = 0
        for pid in (self._pid, *decoders_of(self._pid)):
            with suppress(OSError, IndexError):
                pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


@pytest.mark.slow
@pytest.mark.parametrize(
    ("bits", "colour_type"), [(16, 0), (8, 6), (16, 6)], ids=["grey of 16 bits", "rgba", "rgba of 16 bits"]
)
def test_bombs_take_bounded_memory_and_give_it_back(
    start_gateway: Callable[..., RunningGateway], bits: int, colour_type: int
) -> None:
    gateway, bomb = start_gateway(), zero_png(7000, 7000, bits=bits, colour_type=colour_type)
    assert invert(gateway, encoded(photograph(1, 1600, 1200), "JPEG")).image.data
    for count in (1, 6):
        with Resident(os.getpid()) as resident:
            calls = [gateway.stub.Invert.future(request_for(bomb), timeout=300) for _ in range(count)]
            served = httpx.get(f"{gateway.url}/healthz")
            assert invert(gateway, encoded(photograph())).image.data
            assert all(call.result().image.data for call in calls)
            assert resident.peak_mb < 400
            wait_for(lambda resident=resident: resident.now_mb < 60)
        assert served.status_code == 200


def test_a_file_that_lies_about_its_size_takes_no_more_memory(
    start_gateway: Callable[..., RunningGateway],
) -> None:
    """An AVIF whose frame is larger than it says, and a TIFF whose one strip of zeros inflates to 300 MB."""
    gateway = start_gateway(picture_processes=1)
    assert invert(gateway, encoded(photograph(1, 1600, 1200), "JPEG")).image.data
    avif = encoded(np.zeros((5000, 5000, 3), np.uint8), "AVIF", speed=10)
    said, real = struct.pack(">II", 100, 100), struct.pack(">II", 5000, 5000)
    assert real in avif
    for data in (avif.replace(real, said), zero_tiff(100, 100, strip_bytes=300_000_000)):
        with Resident(os.getpid()) as resident, suppress(grpc.RpcError):
            invert(gateway, data)
        assert resident.peak_mb < 150
    assert invert(gateway, encoded(photograph(1, 1600, 1200), "JPEG")).image.data


def test_pictures_that_need_more_than_there_is_are_refused_and_others_wait(
    start_gateway: Callable[..., RunningGateway],
) -> None:
    gateway = start_gateway(max_decoded_bytes=30_000_000)
    fits, too_large = (encoded(photograph(2, width, 2000), "JPEG") for width in (2000, 2400))
    detail = refused(gateway, too_large)
    assert (detail.reason, detail.stage) == ("picture_too_large", "align")
    assert "of memory, the limit is 30 MB" in detail.message
    calls = [gateway.stub.Invert.future(request_for(fits), timeout=60) for _ in range(4)]
    assert len({call.result().code.data for call in calls}) == 1


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_a_process_gives_what_a_thread_gives(
    gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch, format: str
) -> None:
    data = encoded(photograph(7, 90, 70), format)
    in_thread = invert(gateway, data)
    monkeypatch.setattr(headers, "QUICK_PIXELS", 0)
    in_process = invert(gateway, data)
    assert in_process.code.data == in_thread.code.data
    assert in_process.image == in_thread.image
