"""`make demo`: edits a real photograph through the gateway and draws the results on one sheet.

Starts the gateway, inverts the portrait, edits it both ways along every direction, writes demo/edits.png, prints the
time of each stage and stops the gateway.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from PIL import Image, ImageDraw, ImageFont

import indomain

ROOT = Path(__file__).resolve().parents[3]
PORTRAIT = Path(__file__).with_name("portrait.png")

STAGES = ("align", "queue", "encode", "refine", "edit", "decode", "image")

START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 15.0

# Pixels of one picture on the sheet: pictures of small bundles are enlarged.
CELL = 192
GAP = 12
MARGIN = 28
# Height of a line of text.
LINE = 22
INK, PALE = (28, 28, 32), (120, 120, 128)


class DemoError(Exception):
    """The demo cannot go on; the text says why and what to do."""


@dataclass(frozen=True)
class DirectionPair:
    """The portrait at both ends of a direction's range."""

    direction: indomain.Direction
    strengths: tuple[float, float]
    low: indomain.Edited
    high: indomain.Edited


@dataclass(frozen=True)
class Results:
    bundle: indomain.Bundle
    inversion: indomain.Inversion
    pairs: Sequence[DirectionPair]


# --- gateway -----------------------------------------------------------------------------------------


@contextlib.contextmanager
def running_gateway(repository: Path) -> Iterator[str]:
    """Starts `python -m serving` on free ports, yields its gRPC address once it is healthy, stops it after."""
    if not any(repository.glob("*.json")):
        raise DemoError(
            f"{repository} holds no bundle. Train and export one (see README.md), or name another folder: "
            "make demo REPOSITORY=..."
        )
    grpc_port, http_port = free_ports(2)
    environment = {
        **os.environ,
        "ORT_DISABLE_TELEMETRY": "1",
        "INDOMAIN_MODEL_REPOSITORY": str(repository),
        "INDOMAIN_HOST": "127.0.0.1",
        "INDOMAIN_GRPC_PORT": str(grpc_port),
        "INDOMAIN_HTTP_PORT": str(http_port),
    }
    with tempfile.TemporaryFile() as log:
        gateway = subprocess.Popen(
            [sys.executable, "-m", "serving"], cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            address = f"127.0.0.1:{grpc_port}"
            wait_until_healthy(gateway, address, log)
            yield address
        finally:
            stop(gateway)


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on now. All are held until the last is found, so that none comes twice."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [int(sock.getsockname()[1]) for sock in sockets]


def wait_until_healthy(gateway: subprocess.Popen[bytes], address: str, log: IO[bytes]) -> None:
    """Asks grpc.health.v1 until it says SERVING."""
    deadline_s = time.monotonic() + START_TIMEOUT_S
    with grpc.insecure_channel(address, options=[("grpc.max_reconnect_backoff_ms", 200)]) as channel:
        # The types of the stub do not have its methods.
        health: Any = health_pb2_grpc.HealthStub(channel)
        while time.monotonic() < deadline_s:
            if gateway.poll() is not None:
                raise DemoError(f"The gateway stopped at once (exit {gateway.returncode}):\n{tail(log)}")
            with contextlib.suppress(grpc.RpcError):
                answer = health.Check(health_pb2.HealthCheckRequest(), timeout=2.0)
                if answer.status == health_pb2.HealthCheckResponse.SERVING:
                    return
            time.sleep(0.05)
    raise DemoError(f"The gateway was not ready after {START_TIMEOUT_S:.0f} s:\n{tail(log)}")


def tail(log: IO[bytes], lines: int = 20) -> str:
    log.seek(0)
    return "\n".join(log.read().decode(errors="replace").splitlines()[-lines:])


def stop(gateway: subprocess.Popen[bytes]) -> None:
    """Sends SIGTERM, as an orchestrator does; SIGKILL if the gateway does not stop in time."""
    if gateway.poll() is None:
        gateway.send_signal(signal.SIGTERM)
        try:
            gateway.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            gateway.kill()
            gateway.wait()


# --- requests ----------------------------------------------------------------------------------------


def invert_and_edit(client: indomain.Client, picture: Path, steps: int | None) -> Results:
    """Inverts the picture, then edits its code both ways along each direction of the default bundle."""
    bundle = client.bundles()[0]
    inversion = client.invert(
        picture, bundle=bundle.name, steps=steps, include_aligned=True, include_start=True
    )
    pairs = []
    for direction in bundle.directions.values():
        strengths = direction.range
        low, high = (
            client.edit(inversion, indomain.Edit(direction.name, strength)) for strength in strengths
        )
        pairs.append(DirectionPair(direction, strengths, low, high))
    return Results(bundle, inversion, pairs)


# --- picture -----------------------------------------------------------------------------------------


def draw_sheet(results: Results) -> Image.Image:
    """Draws input, encoder's and refined picture in a row; below, a column for each direction, low above high."""
    inversion, losses = results.inversion, results.inversion.losses
    columns = max(len(results.pairs), 3)
    width = 2 * MARGIN + columns * CELL + (columns - 1) * GAP
    top_height = 2 * LINE + CELL
    edits_height = GAP + 7 * LINE // 2 + 2 * CELL + GAP // 2 if results.pairs else 0
    sheet = Image.new("RGB", (width, 2 * MARGIN + top_height + edits_height), "white")
    draw = ImageDraw.Draw(sheet)

    def column_x(column: int) -> int:
        return MARGIN + column * (CELL + GAP)

    # invert_and_edit asked for both.
    assert inversion.aligned is not None
    assert inversion.start is not None
    row = (
        ("input", f"{results.bundle.resolution} x {results.bundle.resolution}", inversion.aligned),
        ("encoder", f"mse {losses.pixel_mse_before:.4f}", inversion.start),
        (f"refined, {losses.steps_done} steps", f"mse {losses.pixel_mse_after:.4f}", inversion.image),
    )
    for column, (title, note, image) in enumerate(row):
        text(draw, column_x(column), MARGIN, title, INK, 17)
        text(draw, column_x(column), MARGIN + LINE, note, PALE, 13)
        sheet.paste(enlarged(image), (column_x(column), MARGIN + 2 * LINE))

    y = MARGIN + top_height + GAP
    for column, pair in enumerate(results.pairs):
        low, high = pair.strengths
        x = column_x(column)
        text(draw, x, y + LINE // 2, pair.direction.label or pair.direction.name, INK, 17)
        text(draw, x, y + LINE // 2 + LINE, f"at {low:+.1f}", PALE, 13)
        sheet.paste(enlarged(pair.low.image), (x, y + 5 * LINE // 2))
        text(draw, x, y + 5 * LINE // 2 + CELL + GAP // 2, f"at {high:+.1f}", PALE, 13)
        sheet.paste(enlarged(pair.high.image), (x, y + 7 * LINE // 2 + CELL + GAP // 2))
    return sheet


def enlarged(image: Image.Image) -> Image.Image:
    return image.resize((CELL, CELL), Image.Resampling.BICUBIC)


def text(draw: ImageDraw.ImageDraw, x: int, y: int, words: str, ink: tuple[int, int, int], size: int) -> None:
    draw.text((x, y), words, fill=ink, font=ImageFont.load_default(size))


# --- report ------------------------------------------------------------------------------------------


def print_times(results: Results) -> None:
    """Prints the time of each stage, of the inversion and on average of an edit."""
    inversion = results.inversion
    edits = [edited for pair in results.pairs for edited in (pair.low, pair.high)]
    timed = {*inversion.stage_seconds, *(stage for edit in edits for stage in edit.stage_seconds)}
    stages = [*(stage for stage in STAGES if stage in timed), *sorted(timed - set(STAGES))]
    print(f"\n{'stage':<10}{'inversion':>14}{'an edit':>14}")
    for stage in stages:
        inversion_s = inversion.stage_seconds.get(stage)
        edit_s = [edit.stage_seconds[stage] for edit in edits if stage in edit.stage_seconds]
        print(f"{stage:<10}{milliseconds(inversion_s):>14}{milliseconds(mean(edit_s)):>14}")
    edit_totals_s = [sum(edit.stage_seconds.values()) for edit in edits]
    total_s = sum(inversion.stage_seconds.values())
    print(f"{'total':<10}{milliseconds(total_s):>14}{milliseconds(mean(edit_totals_s)):>14}")


def mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1000 * seconds:.1f} ms"


def main() -> int:
    parser = argparse.ArgumentParser(description="A photograph through the gateway: invert, refine, edit.")
    parser.add_argument("--repository", type=Path, default=ROOT / "model_repository")
    parser.add_argument("--picture", type=Path, default=PORTRAIT)
    parser.add_argument("--output", type=Path, default=ROOT / "demo" / "edits.png")
    parser.add_argument("--steps", type=int, help="refinement steps (default: the bundle's)")
    arguments = parser.parse_args()
    started_s = time.perf_counter()
    try:
        with running_gateway(arguments.repository.resolve()) as address:
            print(f"gateway    ready on {address} after {time.perf_counter() - started_s:.1f} s")
            with indomain.Client(address) as client:
                results = invert_and_edit(client, arguments.picture, arguments.steps)
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        draw_sheet(results).save(arguments.output)
    except DemoError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except (indomain.IndomainError, OSError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    losses = results.inversion.losses
    print(f"bundle     {results.bundle.name}, {len(results.pairs)} directions")
    print(
        f"inversion  mse {losses.pixel_mse_before:.4f} -> {losses.pixel_mse_after:.4f} "
        f"in {losses.steps_done} steps, domain score {results.inversion.domain_score:.2f}"
    )
    print_times(results)
    print(f"\nwrote {arguments.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
