"""The arguments of `indomain` and what is wrong with them. Which files they mean is in photos.py."""

from __future__ import annotations

import argparse
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path

import indomain
from indomain.constants import DEFAULT_ADDRESS, DEFAULT_TIMEOUT_S

DEFAULT_JOBS = 16  # `make bench-bulk`: more of them gain nothing
DEFAULT_WAIT_S = 300.0

_EDIT = re.compile(r"(?P<direction>[A-Za-z_][\w.-]*)=(?P<strength>.*)", re.DOTALL)
_SEED_RANGE = re.compile(r"(\d+)(?:-(\d+))?")

_EDIT_EXAMPLES = """\
examples:
  indomain edit portrait.jpg smile=2 age=-1 -o happy.png
  indomain edit holiday/ smile=1.5 -o smiling/     (killed or stopped: the same command goes on)
  find . -name '*.jpg' | indomain edit - smile=1.5 -o smiling/
  indomain edit portrait.jpg age=1 --keep smile    (older, but the smile stays)
  indomain invert portrait.jpg -o portrait.png     (writes portrait.npy too)
  indomain edit group.jpg smile=1.5 --face 1 --paste -o group-smiles.jpg
  indomain edit portrait.npy yaw=1 -o turned.png   (a code: nothing to invert again)
"""


class UsageError(Exception):
    """Arguments that make no sense together; the text says what to write instead."""


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The arguments as a namespace with `command` and the command's own names; exits with 2 on nonsense."""
    parser = _parser()
    arguments, rest = parser.parse_known_args(argv)
    # argparse takes no positional arguments after an option: `edit a.jpg -o b.png smile=2` is meant all the same.
    late = [] if any(item.startswith("-") and item != "-" for item in rest) else rest
    if "items" in arguments and late:
        arguments.items += late
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return arguments


def split_edits(items: Sequence[str]) -> tuple[list[str], dict[str, float]]:
    """Separates `smile=2` from the pictures; a file of that very name counts as a picture."""
    photos: list[str] = []
    strengths: dict[str, float] = {}
    for item in items:
        match = _EDIT.fullmatch(item)
        if match is None or Path(item).exists():
            photos.append(item)
        else:
            strengths[match["direction"]] = _strength(item, match["strength"])
    return photos, strengths


def _strength(item: str, text: str) -> float:
    try:
        strength = float(text)
    except ValueError:
        strength = math.nan
    if not math.isfinite(strength):
        raise UsageError(f"`{item}`: the strength is a number, as in smile=2 or age=-1.5")
    return strength


def _seeds(text: str) -> list[int]:
    seeds: list[int] = []
    for part in text.split(","):
        match = _SEED_RANGE.fullmatch(part.strip())
        if match is None:
            raise argparse.ArgumentTypeError(f"'{text}' is not like 7, 1,2,3 or 0-15")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first or last - first >= 100_000:
            raise argparse.ArgumentTypeError(f"'{part}' is not a range from low to high")
        seeds += range(first, last + 1)
    return seeds


def _layers(text: str) -> list[int]:
    layers = _seeds(text)
    if max(layers) > 99:
        raise argparse.ArgumentTypeError(f"'{text}': no generator has so many layers")
    return layers


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _region(text: str) -> tuple[float, float, float, float]:
    try:
        left, top, right, bottom = (float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not LEFT,TOP,RIGHT,BOTTOM") from None
    return left, top, right, bottom


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"'{text}' is not a number above 0")
    return value


def _not_negative(text: str) -> float:
    return 0.0 if text.strip() == "0" else _positive(text)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number above 0")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="indomain",
        description="Invert, edit and sample pictures through an Indomain gateway. "
        "An API key is taken from $INDOMAIN_API_KEY.",
        epilog=_EDIT_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"indomain {indomain.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--server",
        metavar="ADDRESS",
        default=os.environ.get("INDOMAIN_SERVER", DEFAULT_ADDRESS),
        help="the gateway's gRPC, HOST:PORT; its URL, http://HOST:PORT; or :embedded: for none, where the "
        "application is installed (default: $INDOMAIN_SERVER, or %(default)s)",
    )
    common.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=_positive,
        default=DEFAULT_TIMEOUT_S,
        help="for each picture (default: %(default)s)",
    )
    common.add_argument("--tls", action="store_true", help="encrypt; any certificate implies it")
    common.add_argument(
        "--root-certificates",
        metavar="FILE",
        default=os.environ.get("INDOMAIN_ROOT_CERTIFICATES"),
        help="PEM, to check the gateway's against (default: $INDOMAIN_ROOT_CERTIFICATES, or the usual ones)",
    )
    common.add_argument(
        "--client-certificate",
        nargs=2,
        metavar=("FILE", "KEY"),
        help="PEM, for a gateway that wants one",
    )
    common.add_argument("--json", action="store_true", help="print JSON on standard output, for programs")

    bundle = argparse.ArgumentParser(add_help=False)
    bundle.add_argument("--bundle", metavar="NAME", default="", help="default: the gateway's own")

    refinement = argparse.ArgumentParser(add_help=False)
    effort = refinement.add_mutually_exclusive_group()
    effort.add_argument("--quality", metavar="NAME", help="of the refinement: fast, balanced or best")
    effort.add_argument(
        "--steps", metavar="N", type=int, help="refinement steps; 0: the encoder's code as it is"
    )
    placing = refinement.add_argument_group("photographs")
    placing.add_argument(
        "--paste",
        action="store_true",
        help="write the whole photograph with the result in its place (default: the aligned picture alone)",
    )
    placing.add_argument(
        "--pasting",
        choices=("change", "replace"),
        help="with --paste: add what was edited to the photograph, or take the generator's face",
    )
    placing.add_argument("--face", metavar="N", type=int, help="which of several, 0 the largest (default)")
    placing.add_argument(
        "--align",
        choices=("face", "centre-crop"),
        help="bring a face into place, or take the middle (default: as the bundle does)",
    )
    photos = argparse.ArgumentParser(add_help=False, parents=[refinement])
    _add_bulk(photos)

    commands.add_parser(
        "bundles", parents=[common], help="what the gateway serves, with directions and ranges"
    )

    invert = commands.add_parser(
        "invert", parents=[common, bundle, photos], help="pictures to codes (.npy) and reconstructions"
    )
    invert.add_argument(
        "items", nargs="*", metavar="PHOTO", help="files, folders, 'globs', or - for a list on standard input"
    )
    invert.add_argument(
        "-o",
        "--output",
        type=Path,
        help="a picture's file name, or a folder for several (default: inverted/)",
    )

    edit = commands.add_parser(
        "edit",
        parents=[common, bundle, photos],
        help="move pictures along directions",
        epilog=_EDIT_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    edit.add_argument(
        "items",
        nargs="*",
        metavar="PHOTO|DIRECTION=STRENGTH",
        help="files, folders, 'globs', codes (.npy) or - for a list, and what to do with them",
    )
    edit.add_argument(
        "--keep",
        type=_names,
        metavar="NAME[,NAME]",
        help="directions whose meaning must not change",
    )
    edit_area = edit.add_mutually_exclusive_group()
    edit_area.add_argument(
        "--region",
        type=_region,
        metavar="L,T,R,B",
        help="parts of the sides, 0.2,0.3,0.8,0.9: only there the picture changes (default: everywhere)",
    )
    edit_area.add_argument("--mask", type=Path, help="a picture that is white where it changes")
    edit.add_argument(
        "-o", "--output", type=Path, help="a picture's file name, or a folder for several (default: edited/)"
    )

    interpolate = commands.add_parser(
        "interpolate", parents=[common, bundle, refinement], help="pictures on the way from one to another"
    )
    interpolate.add_argument("start", type=Path, metavar="START", help="a picture or a code (.npy)")
    interpolate.add_argument("end", type=Path, metavar="END", help="likewise")
    interpolate.add_argument(
        "-n",
        "--count",
        metavar="N",
        type=_count,
        default=8,
        help="pictures, with both (default: %(default)s)",
    )
    interpolate.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("interpolation.png"),
        help="a file: one sheet; a .gif: moving; a folder: a file for each (default: %(default)s)",
    )

    mix = commands.add_parser(
        "mix", parents=[common, bundle, refinement], help="put layers of one picture's code into another's"
    )
    mix.add_argument("base", type=Path, metavar="BASE", help="a picture or a code (.npy)")
    mix.add_argument("style", type=Path, metavar="STYLE", help="likewise; its layers are taken")
    mix.add_argument(
        "--layers",
        type=_layers,
        required=True,
        help="6, 4,5,6 or 6-9; low ones hold pose and shape, high ones colours",
    )
    mix.add_argument("--strength", type=float, help="how much of them, 0 to 1 (default: all)")
    mix.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("mixed.png"),
        help="a picture's file name (default: %(default)s)",
    )

    diffuse = commands.add_parser(
        "diffuse",
        parents=[common, bundle, refinement],
        help="put a region of one picture into another, so that the rest follows",
    )
    diffuse.add_argument("target", type=Path, metavar="TARGET", help="the picture whose region is kept")
    diffuse.add_argument("context", type=Path, metavar="CONTEXT", help="the picture that it is put into")
    area = diffuse.add_mutually_exclusive_group()
    area.add_argument(
        "--region",
        type=_region,
        metavar="L,T,R,B",
        help="parts of the sides, 0.2,0.3,0.8,0.9 (default: the middle of a face)",
    )
    area.add_argument("--mask", type=Path, help="a picture that is white where the target is kept")
    diffuse.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("diffused.png"),
        help="a picture's file name (default: %(default)s)",
    )

    sample = commands.add_parser(
        "sample", parents=[common, bundle], help="pictures that the generator makes up"
    )
    sample.add_argument(
        "--seeds", type=_seeds, default=list(range(16)), help="7, 1,2,3 or 0-15 (default: 0-15)"
    )
    sample.add_argument("--truncation", type=float, help="0: the mean picture; 1: as varied as the data")
    sample.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("samples.png"),
        help="a file: one sheet; a folder: a file for each seed (default: %(default)s)",
    )
    return parser


def _add_bulk(photos: argparse.ArgumentParser) -> None:
    """What concerns many pictures."""
    group = photos.add_argument_group("many pictures", "The same command again goes on where it was stopped.")
    group.add_argument(
        "--jobs", metavar="N", type=_count, default=DEFAULT_JOBS, help="at once (default: %(default)s)"
    )
    group.add_argument(
        "-r",
        "--recursive",
        action="store_true",
        help="folders with the folders in them, which the results mirror",
    )
    group.add_argument(
        "--from-list",
        metavar="FILE",
        action="append",
        default=[],
        help="pictures named in a file, one a line or with NUL between; -: standard input, as the argument - does",
    )
    group.add_argument(
        "--root", metavar="FOLDER", type=Path, help="results mirror what lies below this folder"
    )
    group.add_argument("--full-names", action="store_true", help="a.jpg.png for a.jpg, beside one for a.png")
    group.add_argument("--retry-failed", action="store_true", help="try those again that failed before")
    group.add_argument("--restart", action="store_true", help="forget what was done, and write over it")
    group.add_argument(
        "--wait",
        metavar="SECONDS",
        type=_not_negative,
        default=DEFAULT_WAIT_S,
        help="for a gateway that goes away or is full meanwhile (default: %(default)s)",
    )
