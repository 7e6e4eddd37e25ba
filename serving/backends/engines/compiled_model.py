"""What an engine compiled of a graph, kept as a file for the next start."""

from __future__ import annotations

import hashlib
import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path

_log = logging.getLogger(__name__)

_SHA256_BYTES = 32


@dataclass(frozen=True)
class CompiledModel:
    """A file with what an engine compiled of a graph: to read it takes a quarter of the time. The newest of each model
    and engine is kept.

    It begins with its SHA-256, as a damaged one could give wrong answers. One that cannot be read or written costs the
    time to compile, and nothing else.
    """

    file: Path
    model: str
    engine: str

    def read(self) -> bytes | None:
        """What was compiled; None where that is not known."""
        try:
            found = self.file.read_bytes()
        except OSError:
            return None
        told, data = found[:_SHA256_BYTES], found[_SHA256_BYTES:]
        return data if told == hashlib.sha256(data).digest() else None

    def write(self, data: bytes) -> None:
        """Keeps it for the next start."""
        try:
            write_whole(self.file, hashlib.sha256(data).digest() + data)
            for former in self.file.parent.glob(f"{self.model}.{self.engine}.*"):
                if former != self.file:
                    former.unlink()
        except OSError as error:
            _log.debug("what %s compiled is not kept: %s", self.engine, error)


def write_whole(file: Path, data: bytes) -> None:
    """Writes a file whole or not at all: another gateway may read it meanwhile. Raises OSError."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        fresh = Path(folder) / file.name
        fresh.write_bytes(data)
        fresh.replace(file)
