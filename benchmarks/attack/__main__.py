"""`make attack`, or `python -m benchmarks.attack`: attacks on a gateway, and a table of what each did."""

from __future__ import annotations

import json
import multiprocessing
import shlex
import sys
import tempfile
import time
import traceback
from dataclasses import asdict, dataclass, field
from pathlib import Path

import tyro

from benchmarks.attack import building, holding, rules
from benchmarks.attack.gateway import ATTACKS, Attack, Gateway, Outcome, Programs
from benchmarks.attack.watch import TIMEOUT_S, Watch

# The bars.
HEALTH_MAX_S = 0.25
MEMORY_MAX_MB = 400.0
MEMORY_BACK_S = 30.0
INNOCENT_RATIO = 2.0
SIGTERM_S = 5.0
# What allocators keep after work that is done counts as back.
_BACK_MB = 100.0
_REST_S = 4.0
# An attack that is shorter is judged over so long: the median of one edit says nothing.
_LEAST_S = 5.0

MODULES = (building, holding, rules)


@dataclass
class AttackConfig:
    """Attack a gateway, and print how it did: twenty attacks, in about ten minutes on two cores."""

    only: tuple[int, ...] = ()
    """Numbers of the attacks to run; left out: all."""
    repository: Path = Path("model_repository")
    """Model repository."""
    gateway: str = f"{shlex.quote(sys.executable)} -m serving"
    """Command line of the gateway, which is told its settings by the environment. Another checkout's:
    "env -C CHECKOUT PYTHONPATH=CHECKOUT:CHECKOUT/clients/python python -m serving"."""
    client: str = f"{shlex.quote(sys.executable)} -m indomain"
    """The SDK's command line, for the attack on it."""
    json: Path | None = None
    """File to write the figures to."""


@dataclass
class Row:
    """How a gateway did under one attack. Memory is above rest; the edits are those of an innocent caller.

    health and edits: during the attack, and at least for five seconds from its start.
    """

    number: int
    attack: str
    what: str
    criterion_met: bool
    rest_health_max_s: float
    rest_memory_mb: float
    rest_edit_p50_s: float
    health_max_s: float
    failed_probes: int
    memory_max_mb: float
    memory_after_mb: float
    memory_after_s: float
    edit_p50_ratio: float
    failed_edits: int
    sigterm_s: float | None = None
    misses: list[str] = field(default_factory=list)

    def judge(self) -> None:
        """Notes which bars are missed."""
        bars = {
            "its criterion": self.criterion_met,
            "health": self.health_max_s <= HEALTH_MAX_S and not self.failed_probes,
            "memory": self.memory_max_mb <= MEMORY_MAX_MB and self.memory_after_mb <= _BACK_MB,
            "innocents": self.edit_p50_ratio <= INNOCENT_RATIO and not self.failed_edits,
            "SIGTERM": self.sigterm_s is not None and self.sigterm_s <= SIGTERM_S,
        }
        self.misses = [name for name, met in bars.items() if not met]


def main(config: AttackConfig) -> int:
    """Gives the exit status: 0 where all attacks were held."""
    programs = Programs(config.gateway, config.client, config.repository)
    rows: list[Row] = []
    for attacks in _by_gateway([ATTACKS[number] for number in config.only or sorted(ATTACKS)]):
        rows += _attacked(programs, attacks)
    rows.sort(key=lambda row: row.number)
    print(_table(rows))
    rest = [f"{row.rest_health_max_s * 1000:.0f}" for row in rows]
    print(
        f"\nAt rest: health max {' '.join(rest)} ms before each attack; memory {rows[0].rest_memory_mb:.0f} MB; an "
        f"innocent's edit {rows[0].rest_edit_p50_s * 1000:.1f} ms. Bars: health {HEALTH_MAX_S * 1000:.0f} ms, memory "
        f"{MEMORY_MAX_MB:.0f} MB and back within {MEMORY_BACK_S:.0f} s, innocents {INNOCENT_RATIO:g} times their usual "
        f"time, SIGTERM {SIGTERM_S:g} s."
    )
    if config.json is not None:
        config.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    return int(any(row.misses for row in rows))


def _by_gateway(attacks: list[Attack]) -> list[list[Attack]]:
    """Harmless attacks on gateways of one set-up share one; every other attack has its own."""
    alone = [[attack] for attack in attacks if not attack.harmless]
    harmless = [attack for attack in attacks if attack.harmless]
    set_ups = dict.fromkeys(attack.set_up for attack in harmless)
    return alone + [[attack for attack in harmless if attack.set_up == set_up] for set_up in set_ups]


def _attacked(programs: Programs, attacks: list[Attack]) -> list[Row]:
    """Starts a gateway, attacks it, and ends it; the time that this takes counts for all of the attacks."""
    with (
        tempfile.TemporaryDirectory() as folder,
        Gateway(programs, attacks[0].set_up, Path(folder)) as gateway,
    ):
        rows = [_one(gateway, attack) for attack in attacks]
        for attack in attacks:
            if attack.parting is not None:
                attack.parting(gateway)
        sigterm_s = gateway.end()
        for row in rows:
            row.sigterm_s = sigterm_s
            row.judge()
            print(f"{row.number}. {row.attack}: {_held(row)}", file=sys.stderr, flush=True)
    return rows


def _one(gateway: Gateway, attack: Attack) -> Row:
    watch = Watch(gateway)
    try:
        rest_s = time.monotonic()
        time.sleep(_REST_S)
        rest_mb = gateway.resident_mb
        begin_s = time.monotonic()
        outcome = _outcome(gateway, attack)
        end_s = time.monotonic()
        judged_until_s = max(end_s, begin_s + _LEAST_S)
        time.sleep(max(0.0, judged_until_s - time.monotonic()))
        while (after_mb := gateway.resident_mb - rest_mb) > _BACK_MB:
            if time.monotonic() > end_s + MEMORY_BACK_S:
                break
            time.sleep(0.25)
        after_s = time.monotonic() - end_s
        seen = watch.end()
    except BaseException:
        watch.kill()
        raise
    rest, during = seen.between(rest_s, begin_s), seen.between(begin_s, judged_until_s)
    return Row(
        attack.number,
        attack.name,
        outcome.what,
        outcome.held,
        rest_health_max_s=rest.health_max_s,
        rest_memory_mb=rest_mb,
        rest_edit_p50_s=rest.edit_p50_s,
        health_max_s=during.health_max_s,
        failed_probes=during.failed_probes,
        # also what is built of the last of it, afterwards
        memory_max_mb=seen.between(begin_s, end_s + MEMORY_BACK_S).memory_max_mb - rest_mb,
        memory_after_mb=after_mb,
        memory_after_s=after_s,
        edit_p50_ratio=during.edit_p50_s / rest.edit_p50_s,
        failed_edits=during.failed_edits,
    )


def _outcome(gateway: Gateway, attack: Attack) -> Outcome:
    """An attack that fails itself is no attack that was held."""
    try:
        return attack.run(gateway)
    except Exception as error:
        traceback.print_exc()
        return Outcome(f"the attack failed: {type(error).__name__}", False)


def _table(rows: list[Row]) -> str:
    header = [
        "#",
        "attack",
        "what happened",
        "health max",
        "memory above rest: max, after",
        "innocents' p50",
        "SIGTERM",
        "held",
    ]
    lines = [header, ["---"] * len(header)]
    for row in rows:
        lines.append(
            [
                str(row.number),
                row.attack,
                row.what,
                _seconds(row.health_max_s) + _failed(row.failed_probes),
                f"{row.memory_max_mb:.0f} MB, {row.memory_after_mb:.0f} after {row.memory_after_s:.0f} s",
                f"{row.edit_p50_ratio:.1f} x" + _failed(row.failed_edits),
                "killed" if row.sigterm_s is None else f"{row.sigterm_s:.1f} s",
                _held(row),
            ]
        )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _held(row: Row) -> str:
    return f"no: {', '.join(row.misses)}" if row.misses else "yes"


def _seconds(seconds: float) -> str:
    if seconds >= TIMEOUT_S:
        return f"over {TIMEOUT_S:.0f} s"
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _failed(count: int) -> str:
    return f", {count} failed" if count else ""


if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    sys.exit(main(tyro.cli(AttackConfig, prog="python -m benchmarks.attack")))
