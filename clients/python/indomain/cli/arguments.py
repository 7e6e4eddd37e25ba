"""Values and groups of arguments that several commands share."""

from __future__ import annotations

import argparse
import inspect
import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeAlias

from indomain import Align, Refine
from indomain.constants import DEFAULT_ADDRESS, DEFAULT_TIMEOUT_S

# More jobs gain nothing: `make bench-bulk`.
DEFAULT_JOBS = 16
DEFAULT_WAIT_S = 300.0

_SEED_RANGE = re.compile(r"(\d+)(?:-(\d+))?")

Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


class UsageError(Exception):
    """Arguments that make no sense together; the text says what to write instead."""


def options_of(call: Callable[..., Any], arguments: argparse.Namespace) -> dict[str, Any]:
    """The options of a call of the SDK that the command line gives.

    A flag that has the name of an option is passed on by itself: a new option of an edit needs only its flag.

    Args:
        call: a method of `Client`; its keyword-only parameters are its options.
        arguments: of a command with the arguments of `inversion_options`.
    """
    given = vars(arguments) | {
        "include_pasted": arguments.paste,
        "align": Align(arguments.align, arguments.face),
        "refine": Refine(**refine) if (refine := refine_flags(arguments)) else None,
    }
    parameters = inspect.signature(call).parameters.values()
    options = [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]
    return {name: given[name] for name in options if given.get(name) is not None}


def refine_flags(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options of `Refine` that the command line gives, by their names."""
    names = ("detail", "noise", "identity_weight", "grey", "downsampling")
    return {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}


# --- values ------------------------------------------------------------------------------------------


def faces(text: str) -> int | list[int] | Literal["all"]:
    """`1`, `0,2` or `all`."""
    if text == "all":
        return "all"
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not like 1, 0,2 or all") from None
    return numbers[0] if len(numbers) == 1 else numbers


def seeds(text: str) -> list[int]:
    """`7`, `1,2,3` or `0-15`."""
    found: list[int] = []
    for part in text.split(","):
        match = _SEED_RANGE.fullmatch(part.strip())
        if match is None:
            raise argparse.ArgumentTypeError(f"'{text}' is not like 7, 1,2,3 or 0-15")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first or last - first >= 100_000:
            raise argparse.ArgumentTypeError(f"'{part}' is not a range from low to high")
        found += range(first, last + 1)
    return found


def layers(text: str) -> list[int]:
    """`6`, `4,5,6` or `6-9`."""
    found = seeds(text)
    if max(found) > 99:
        raise argparse.ArgumentTypeError(f"'{text}': no generator has so many layers")
    return found


def names(text: str) -> list[str]:
    """`smile,age`."""
    return [name.strip() for name in text.split(",") if name.strip()]


def labels(text: str) -> dict[str, float]:
    """`smiling=1,male=0`."""
    found: dict[str, float] = {}
    for part in names(text):
        name, _, value = part.partition("=")
        try:
            found[name.strip()] = float(value)
        except ValueError:
            raise argparse.ArgumentTypeError(f"'{part}' is not like smiling=1") from None
    return found


def positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"'{text}' is not a number above 0")
    return value


def count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number above 0")
    return int(text)


def _region(text: str) -> tuple[float, float, float, float]:
    try:
        left, top, right, bottom = (float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not LEFT,TOP,RIGHT,BOTTOM") from None
    return left, top, right, bottom


def _not_negative(text: str) -> float:
    return 0.0 if text.strip() == "0" else positive(text)


# --- groups ------------------------------------------------------------------------------------------


def connection() -> argparse.ArgumentParser:
    """How the gateway is reached, and what is printed."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument(
        "--server",
        metavar="ADDRESS",
        default=os.environ.get("INDOMAIN_SERVER") or DEFAULT_ADDRESS,
        help="the gateway's gRPC address, HOST:PORT; or its URL, http://HOST:PORT; or :embedded: to run the pipeline "
        "in this process, where the application is installed (default: $INDOMAIN_SERVER, or %(default)s)",
    )
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=positive,
        default=DEFAULT_TIMEOUT_S,
        help="for each picture (default: %(default)s)",
    )
    parser.add_argument("--tls", action="store_true", help="encrypt; giving a certificate implies it")
    parser.add_argument(
        "--root-certificates",
        metavar="FILE",
        default=os.environ.get("INDOMAIN_ROOT_CERTIFICATES"),
        help="PEM file to check the gateway's certificate against (default: $INDOMAIN_ROOT_CERTIFICATES, or the "
        "system's)",
    )
    parser.add_argument(
        "--client-certificate",
        nargs=2,
        metavar=("FILE", "KEY"),
        help="PEM files, for a gateway that requires a certificate",
    )
    parser.add_argument("--json", action="store_true", help="print JSON on standard output, for programs")
    return parser


def bundle() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--bundle", metavar="NAME", default="", help="default: the gateway's own")
    return parser


def inversion_options() -> argparse.ArgumentParser:
    """How photographs are aligned and inverted, and whether results are pasted into them."""
    parser = argparse.ArgumentParser(add_help=False)
    effort = parser.add_mutually_exclusive_group()
    effort.add_argument("--quality", metavar="NAME", help="of the refinement: fast, balanced or best")
    effort.add_argument(
        "--steps", metavar="N", type=int, help="refinement steps; 0: the encoder's code as it is"
    )
    parser.add_argument(
        "--detail",
        action=argparse.BooleanOptionalAction,
        help="find what the code's layers cannot say, too (default: where the bundle has it)",
    )
    parser.add_argument(
        "--noise",
        action=argparse.BooleanOptionalAction,
        help="find noise maps, too (default: where the bundle has them)",
    )
    parser.add_argument(
        "--identity-weight",
        metavar="W",
        type=float,
        help="of the term that keeps it the same person (default: the bundle's)",
    )
    parser.add_argument(
        "--grey", action="store_true", default=None, help="the picture has no colours: find some"
    )
    parser.add_argument(
        "--downsampling",
        metavar="N",
        type=int,
        choices=(2, 4, 8, 16),
        help="the aligned picture is known in squares of N pixels only: find what is finer",
    )
    photographs = parser.add_argument_group("photographs")
    photographs.add_argument(
        "--paste",
        action="store_true",
        help="write the whole photograph with the result in its place (default: the aligned picture alone)",
    )
    photographs.add_argument(
        "--pasting",
        choices=("change", "replace"),
        help="with --paste: add the edit's change to the photograph, or put the generator's face there",
    )
    photographs.add_argument(
        "--strip",
        action="store_true",
        dest="strip_metadata",
        help="with --paste: drop the photograph's metadata (EXIF, XMP) and its colour profile; it is then in sRGB",
    )
    photographs.add_argument(
        "--face",
        metavar="N[,N]|all",
        type=faces,
        help="which of several faces, 0 the largest (default); for an edit with --paste several, or all",
    )
    photographs.add_argument(
        "--align",
        choices=("face", "centre-crop"),
        help="align a face, or take the centre (default: as the bundle was trained)",
    )
    return parser


def many_pictures() -> argparse.ArgumentParser:
    """How a run of many pictures goes about it."""
    parser = argparse.ArgumentParser(add_help=False)
    group = parser.add_argument_group("many pictures", "The same command again goes on where it was stopped.")
    group.add_argument(
        "--jobs",
        metavar="N",
        type=count,
        default=DEFAULT_JOBS,
        help="pictures sent at once (default: %(default)s)",
    )
    group.add_argument(
        "-r", "--recursive", action="store_true", help="also the folders within a folder; results mirror them"
    )
    group.add_argument(
        "--from-list",
        metavar="FILE",
        action="append",
        default=[],
        help="a file that names pictures, one a line or separated by NUL; -: standard input, as the argument - does",
    )
    group.add_argument(
        "--root", metavar="FOLDER", type=Path, help="results mirror the folders below this one"
    )
    group.add_argument(
        "--full-names", action="store_true", help="write a.jpg.png for a.jpg, so that a.png is another result"
    )
    group.add_argument("--retry-failed", action="store_true", help="try pictures again that failed before")
    group.add_argument("--restart", action="store_true", help="forget what was done, and overwrite it")
    group.add_argument(
        "--wait",
        metavar="SECONDS",
        type=_not_negative,
        default=DEFAULT_WAIT_S,
        help="how long to wait for a gateway that is away or full (default: %(default)s)",
    )
    return parser


def inverting(*, many: bool = False) -> list[argparse.ArgumentParser]:
    """The groups of a command that inverts pictures; `many`: of one that takes folders of them."""
    return [connection(), bundle(), inversion_options(), *([many_pictures()] if many else [])]


def add_output(parser: argparse.ArgumentParser, meaning: str, default: str) -> None:
    """`-o`: where the results go."""
    help_text = f"{meaning} (default: {default})"
    parser.add_argument("-o", "--output", type=Path, default=Path(default), help=help_text)


def add_label(parser: argparse.ArgumentParser, meaning: str) -> None:
    """`--label`: the labels of a bundle that has some, and what becomes of the others."""
    parser.add_argument("--label", type=labels, metavar="NAME=0..1[,...]", help=meaning)


def add_identity_score(parser: argparse.ArgumentParser) -> None:
    """`--identity-score`, of commands whose results can be compared with a photograph."""
    parser.add_argument(
        "--identity-score",
        action="store_true",
        dest="include_identity_score",
        help="also tell how likely the result and the photograph show one person, where the bundle can",
    )


def add_path(parser: argparse.ArgumentParser, meaning: str) -> None:
    """`--path`: what it means for the command, the straight line first."""
    parser.add_argument("--path", choices=("linear", "geodesic"), help=f"{meaning} (default: linear)")


def add_area(parser: argparse.ArgumentParser, *, region: str, mask: str) -> None:
    """`--region` or `--mask`; the texts say what they mean for the command."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--region", type=_region, metavar="L,T,R,B", help=region)
    group.add_argument("--mask", type=Path, help=mask)
