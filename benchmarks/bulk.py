"""`make bench-bulk`: `indomain edit FOLDER` beside one request after another, in pictures a second and one run.

The pictures are the gateway's own samples. One request after another is a loop over `Client.edit` that waits for each
answer and saves it; the command keeps several under way, so that the gateway puts them into one batch, and writes a
journal besides. The command's process shares the processors with the gateway.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import tyro

from benchmarks.gateway import running_gateway
from benchmarks.graphs import markdown_table
from indomain import Client, Edit


@dataclass
class BulkConfig:
    """Edit a folder of pictures, one after another and several at a time."""

    repository: Path = Path("model_repository")
    """Model repository."""
    pictures: int = 400
    """In the folder."""
    jobs: tuple[int, ...] = (1, 4, 8, 16, 32)
    """Pictures under way at a time."""
    steps: int = 0
    """Refinement steps; 0: the encoder's code as it is."""
    edit: str = "smile=1"
    """What is done to each."""
    rounds: int = 2
    """Through all ways, in turn; the best of each counts."""


def main(config: BulkConfig) -> None:
    with (
        running_gateway(config.repository) as (address, _),
        tempfile.TemporaryDirectory(prefix="bulk-") as folder,
        Client(address) as client,
    ):
        photos = _samples(client, Path(folder, "photos"), config.pictures)
        found: dict[str, list[float]] = {}
        for n in range(config.rounds):
            found.setdefault("one request after another", []).append(
                _one_after_another(client, photos, Path(folder, f"single{n}"), config)
            )
            for jobs in config.jobs:
                rate = _command(address, photos, Path(folder, f"jobs{jobs}-{n}"), jobs, config)
                found.setdefault(f"`indomain edit`, --jobs {jobs}", []).append(rate)
    single = max(found["one request after another"])
    rows = [[way, f"{max(rates):.1f}", f"{max(rates) / single:.2f}"] for way, rates in found.items()]
    print(f"{config.pictures} pictures, {config.steps} refinement steps, best of {config.rounds}\n")
    print(markdown_table(["way", "pictures/s", "ratio"], rows))


def _samples(client: Client, folder: Path, count: int) -> Path:
    folder.mkdir()
    for start in range(0, count, 16):
        for sample in client.sample(range(start, min(count, start + 16))):
            sample.image.save(folder / f"{sample.seed:05d}.png")
    return folder


def _one_after_another(client: Client, photos: Path, folder: Path, config: BulkConfig) -> float:
    folder.mkdir()
    direction, _, strength = config.edit.partition("=")
    edit = Edit(direction, float(strength))
    paths = sorted(photos.iterdir())
    begun_s = time.perf_counter()
    for path in paths:
        edited = client.edit(path, edit, steps=config.steps)
        edited.image.save(folder / path.name)
    return len(paths) / (time.perf_counter() - begun_s)


def _command(address: str, photos: Path, folder: Path, jobs: int, config: BulkConfig) -> float:
    """As the command itself counts: from when it knows what to do to the last line of its journal."""
    command = [sys.executable, "-m", "indomain", "edit", str(photos), config.edit, "-o", str(folder)]
    options = ["--steps", str(config.steps), "--jobs", str(jobs), "--server", address, "--json"]
    done = subprocess.run([*command, *options], stdout=subprocess.PIPE, check=True)
    summary = json.loads(done.stdout.splitlines()[-1])
    assert summary["done"] == config.pictures
    return float(summary["done"] / summary["seconds"])


if __name__ == "__main__":
    main(tyro.cli(BulkConfig))
