"""The command line of `indomain`: all commands together, and reading it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import indomain
from indomain.cli.commands import bundles, diffuse, edit, interpolate, invert, mean, mix, sample

COMMANDS = {
    "bundles": bundles,
    "invert": invert,
    "edit": edit,
    "interpolate": interpolate,
    "mix": mix,
    "mean": mean,
    "diffuse": diffuse,
    "sample": sample,
}


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The arguments as a namespace, with `command` and what that command declares. Exits with 2 on wrong usage."""
    parser = _parser()
    arguments, rest = parser.parse_known_args(argv)
    # argparse takes no positional arguments after an option, but `edit a.jpg -o b.png smile=1` is clear enough.
    late = [] if any(item.startswith("-") and item != "-" for item in rest) else rest
    if "items" in arguments and late:
        arguments.items += late
    elif rest:
        files = [item for item in rest if Path(item).exists()]
        hint = f" (a file's name that begins with - is written ./{files[0]})" if files else ""
        parser.error(f"unrecognized arguments: {' '.join(rest)}{hint}")
    return arguments


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="indomain",
        description="Invert, edit and sample pictures through an Indomain gateway. "
        "An API key is taken from $INDOMAIN_API_KEY.",
        epilog=edit.EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"indomain {indomain.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        command.add(name, commands)
    return parser
