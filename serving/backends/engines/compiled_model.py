"""What an engine compiled of a graph, kept as a file for the next start."""

from __future__ import annotations

import hashlib
import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CompiledModel:
    """A file with what an engine compiled of a graph: to open it takes a quarter of the time. The newest of each model
    and engine is kept.

    Beside it lies its SHA-256, as a damaged one could give wrong answers. One that cannot be read or written costs the
    time to compile, and nothing else.
    """

    file: Path
    model: str
    engine: str

    def found(self) -> Path | None:
        """The file, if it is there and whole."""
        try:
            with self.file.open("rb") as opened:
                whole = hashlib.file_digest(opened, "sha256").hexdigest() == self._sum.read_text()
        except OSError:
            return None
        return self.file if whole else None

    def keep(self, data: bytes) -> None:
        """Keeps what was compiled for the next start."""
        try:
            write_whole(self.file, data)
            write_whole(self._sum, hashlib.sha256(data).hexdigest().encode())
            for former in self.file.parent.glob(f"{self.model}.{self.engine}.*"):
                if former not in (self.file, self._sum):
                    former.unlink()
        except OSError as error:
            _log.debug("what %s compiled is not kept: %s", self.engine, error)

    @property
    def _sum(self) -> Path:
        return self.file.with_name(f"{self.file.name}.sha256")


def write_whole(file: Path, data: bytes) -> None:
    """Writes a file whole or not at all: another gateway may read it meanwhile. Raises OSError."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        fresh = Path(folder) / file.name
        fresh.write_bytes(data)
        fresh.replace(file)
