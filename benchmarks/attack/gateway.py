"""The gateway under attack: a process of its own with its log, its keys and what the attackers hold open on it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Protocol

HOST = "127.0.0.1"
OWNERS = ("innocent", "other", "hog", "limited", "leaving")
_READY = re.compile(r"gRPC on \S+?:(\d+), HTTP on \S+?:(\d+)")
_START_S = 180.0
_END_S = 45.0


@dataclass(frozen=True)
class SetUp:
    """How a gateway is started: with keys, with a log pipe that can be left unread, with few file descriptors."""

    keyed: bool = False
    log_pipe: bool = False
    max_descriptors: int | None = None


@dataclass(frozen=True)
class Outcome:
    """What an attack saw, in a few words, and whether the gateway met the attack's own criterion."""

    what: str
    held: bool


@dataclass(frozen=True)
class Attack:
    """`parting`, if any, is sent once more right before SIGTERM. Attacks that are `harmless` share a gateway."""

    number: int
    name: str
    set_up: SetUp
    harmless: bool
    run: Callable[[Gateway], Outcome]
    parting: Callable[[Gateway], None] | None


ATTACKS: dict[int, Attack] = {}


def attack(
    number: int,
    name: str,
    *,
    keyed: bool = False,
    log_pipe: bool = False,
    max_descriptors: int | None = None,
    harmless: bool = False,
    parting: Callable[[Gateway], None] | None = None,
) -> Callable[[Callable[[Gateway], Outcome]], Callable[[Gateway], Outcome]]:
    """Puts a function into the table of attacks."""

    def add(run: Callable[[Gateway], Outcome]) -> Callable[[Gateway], Outcome]:
        set_up = SetUp(keyed, log_pipe, max_descriptors)
        ATTACKS[number] = Attack(number, name, set_up, harmless, run, parting)
        return run

    return add


@dataclass(frozen=True)
class Programs:
    """The command lines of the gateway and of the SDK's command line, and the gateway's model repository."""

    gateway: str
    client: str
    repository: Path


class Closeable(Protocol):
    def close(self) -> object: ...


class Gateway:
    """A gateway process on free ports. Use it in a `with`: what is left of it at the end is killed.

    Raises RuntimeError where it does not start.
    """

    def __init__(self, programs: Programs, set_up: SetUp, folder: Path) -> None:
        self.programs = programs
        self.set_up = set_up
        self._log = folder / "gateway.log"
        self._keys_file = folder / "keys.toml"
        self._tokens = {owner: f"indomain_{owner}_{os.urandom(16).hex()}" for owner in OWNERS}
        self._held: list[Closeable] = []
        self._log_reader: subprocess.Popen[bytes] | None = None
        self._write_keys(OWNERS)

    def __enter__(self) -> Gateway:
        with self._log.open("wb") as log:
            if self.set_up.log_pipe:
                self._log_reader = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=log)
                stderr = self._log_reader.stdin
            else:
                stderr = log
            self.process = subprocess.Popen(
                self._command(), env=self._environment(), stdout=subprocess.DEVNULL, stderr=stderr
            )
        try:
            self.grpc_port, self.http_port = self._wait_until_ready()
            self._learn()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._close_held()
        for process in (self.process, self._log_reader):
            if process is not None:
                process.kill()
                process.wait()

    def end(self) -> float | None:
        """Sends SIGTERM. Gives the seconds until the process has ended, None if it had to be killed."""
        begun_s = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(_END_S)
            return time.monotonic() - begun_s
        return None

    def hold(self, connection: Closeable) -> None:
        """Keeps a connection open until the gateway has ended."""
        self._held.append(connection)

    def bearer(self, owner: str) -> dict[str, str]:
        """The header with the key of one of OWNERS; none where the gateway has no keys."""
        return {"authorization": f"Bearer {self._tokens[owner]}"} if self.set_up.keyed else {}

    def take_out_key(self, owner: str) -> None:
        self._write_keys(tuple(name for name in OWNERS if name != owner))

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def stop_reading_log(self) -> None:
        """From now on nobody reads the pipe that the log is written to."""
        assert self._log_reader is not None
        self._log_reader.send_signal(signal.SIGSTOP)

    @property
    def resident_mb(self) -> float:
        return resident_mb(processes(self.process.pid))

    def _learn(self) -> None:
        """Asks for what attackers need to know, while the gateway still answers."""
        bundle = self._get("/v1/bundles")["bundles"][0]
        self.directions: list[str] = [direction["name"] for direction in bundle["directions"]]
        schemas = self._get("/openapi.json")["components"]["schemas"]
        session = schemas.get("EditSessionRequest", {}).get("properties", {})
        # A session's message holds its edit in a field `edit`; in releases before it had all of the edit's own fields.
        self.nests_session_edits = "edit" in session

    def _get(self, path: str) -> Any:
        connection = HTTPConnection(HOST, self.http_port, timeout=10)
        try:
            connection.request("GET", path, headers=self.bearer("innocent"))
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()

    def _command(self) -> list[str]:
        command = shlex.split(self.programs.gateway)
        if self.set_up.max_descriptors is not None:
            return ["prlimit", f"--nofile={self.set_up.max_descriptors}", *command]
        return command

    def _environment(self) -> dict[str, str]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("INDOMAIN_")}
        environment |= {
            "ORT_DISABLE_TELEMETRY": "1",
            "INDOMAIN_HOST": HOST,
            "INDOMAIN_GRPC_PORT": "0",
            "INDOMAIN_HTTP_PORT": "0",
            "INDOMAIN_MODEL_REPOSITORY": str(self.programs.repository.resolve()),
            # a graph's run leaves a core to whatever else the gateway has to do
            "INDOMAIN_INTRA_OP_THREADS": "1",
        }
        if self.set_up.keyed:
            environment["INDOMAIN_KEYS_FILE"] = str(self._keys_file)
        return environment

    def _wait_until_ready(self) -> tuple[int, int]:
        give_up_s = time.monotonic() + _START_S
        while time.monotonic() < give_up_s:
            if found := _READY.search(self.log()):
                return int(found[1]), int(found[2])
            if self.process.poll() is not None:
                raise RuntimeError(
                    f"the gateway ended with status {self.process.returncode}: {self.log()[-2000:]}"
                )
            time.sleep(0.1)
        raise RuntimeError(f"the gateway was not ready after {_START_S:g} s: {self.log()[-2000:]}")

    def _write_keys(self, owners: tuple[str, ...]) -> None:
        tables = []
        for owner in owners:
            digest = hashlib.sha256(self._tokens[owner].encode()).hexdigest()
            rate = "requests_per_s = 1.0\n" if owner == "limited" else ""
            tables.append(f'[[key]]\nowner = "{owner}"\nsha256 = "{digest}"\n{rate}')
        # renamed into place, so that no half of it is ever read
        part = self._keys_file.with_suffix(".part")
        part.write_text("\n".join(tables))
        part.replace(self._keys_file)

    def _close_held(self) -> None:
        for connection in self._held:
            with contextlib.suppress(OSError):
                connection.close()
        self._held.clear()


def processes(pid: int) -> list[int]:
    """A process and all that descend from it."""
    found = [pid]
    for parent in found:
        with contextlib.suppress(OSError):
            for thread in Path(f"/proc/{parent}/task").iterdir():
                with contextlib.suppress(OSError):
                    found += [int(child) for child in (thread / "children").read_text().split()]
    return found


def resident_mb(pids: list[int]) -> float:
    """Resident memory in MB. Pages that processes share count once for each of them."""
    pages = 0
    for pid in pids:
        with contextlib.suppress(OSError, IndexError):
            pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
