"""`make bench-engines`: every graph of a bundle on every engine here, what the gateway chooses, and how soon it starts.

Times are of one picture alone, in turn on all engines, whose answers are compared with ONNX Runtime's first. Starts are
of `python -m serving` until it is ready: with an empty folder of choices and compiled models, and with the full one.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import tyro

from benchmarks.gateway import running_gateway
from benchmarks.graphs import markdown_table
from benchmarks.speed import interleaved
from serving.backends.embedded import available_processors
from serving.backends.engines.choice import candidates, open_graph, probe
from serving.backends.engines.choice_cache import ChoiceCache
from serving.backends.engines.sessions import EngineName, EngineUnfit, Session
from serving.bundle import Bundle, Role
from serving.repository.reader import read_bundles


@dataclass
class EnginesConfig:
    """Compare the engines of a gateway in this process."""

    repository: Path = Path("model_repository")
    """Model repository."""
    bundle: str = ""
    """Bundle; the first one by default."""
    threads: int = 0
    """Threads of every engine; 0: one for each processor, as the gateway has."""
    rounds: int = 9
    """Times that each graph is run, in turn on the engines; the median counts."""
    starts: bool = True
    """Also start the gateway, twice."""


def main(config: EnginesConfig) -> None:
    """Print the tables."""
    bundle = next(iter(read_bundles(config.repository, (config.bundle,) if config.bundle else ()).values()))
    threads = config.threads or available_processors()
    with tempfile.TemporaryDirectory() as folder:
        cache = ChoiceCache(Path(folder) / "engines.json")
        rows = [row(bundle, role, threads, config.rounds, cache) for role in bundle.graphs]
    print(f"{bundle.name}, {threads} threads: milliseconds a picture (of ONNX Runtime's)")
    print(markdown_table(["graph", *candidates(), "chosen", "batches of up to"], rows), flush=True)
    if config.starts:
        print(starts_line(config.repository))


def row(bundle: Bundle, role: Role, threads: int, rounds: int, cache: ChoiceCache) -> list[str]:
    """One graph on every engine. A refiner's picture is one chunk of its steps."""
    feeds = {name: value[:1] for name, value in probe(bundle, role).items()}
    sessions: dict[EngineName, Session] = {}
    complaints: dict[EngineName, str] = {}
    for engine in candidates():
        try:
            sessions[engine] = open_graph(bundle, role, threads, engine, None).session
        except EngineUnfit as unfit:
            complaints[engine] = str(unfit)
    seconds = interleaved({name: partial(session.run, feeds) for name, session in sessions.items()}, rounds)
    limit = seconds["onnxruntime"]
    cells = [
        f"{1e3 * seconds[name]:.2f} ({seconds[name] / limit:.2f})" if name in seconds else complaints[name]
        for name in candidates()
    ]
    sessions.clear()
    chosen = open_graph(bundle, role, threads, None, cache)
    return [role, *cells, chosen.engine, str(chosen.batch)]


def starts_line(repository: Path) -> str:
    """Seconds from the command to a gateway that is ready, without and with what an earlier start has kept."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(2):
            begun_s = time.perf_counter()
            with running_gateway(repository, "--engine-cache", str(Path(folder) / "engines.json")):
                found.append(time.perf_counter() - begun_s)
    return f"start-up: {found[0]:.1f} s, with what the first start kept {found[1]:.1f} s"


if __name__ == "__main__":
    main(tyro.cli(EnginesConfig, prog="python -m benchmarks.engines"))
