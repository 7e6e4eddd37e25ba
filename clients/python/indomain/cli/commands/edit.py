"""`indomain edit`: pictures moved along directions."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Sequence
from pathlib import Path

from indomain import Client, Edit, Edited
from indomain.cli import arguments as shared
from indomain.cli.bulk.plan import Job, plan
from indomain.cli.bulk.runner import run_jobs
from indomain.cli.pictures import check_drawing, code_reader, picture_of, save_picture, source_of

EXAMPLES = """\
examples:
  indomain edit portrait.jpg smile=1 age=-1 -o happy.png
  indomain edit holiday/ smile=1 -o smiling/     (killed or stopped: the same command goes on)
  find . -name '*.jpg' | indomain edit - smile=1 -o smiling/
  indomain edit portrait.jpg age=1 --keep smile    (older, but the smile stays)
  indomain invert portrait.jpg -o portrait.png     (writes portrait.npy too)
  indomain edit group.jpg smile=1 --face all --paste -o group-smiles.jpg   (or --face 1, --face 0,2)
  indomain edit portrait.jpg --strokes lips.png -o red.png   (a PNG with transparency: its colours are followed)
  indomain edit portrait.jpg --label smiling=1     (of a bundle whose generator was trained with labels)
  indomain edit portrait.npy yaw=1 -o turned.png   (a code: nothing to invert again; .npz, and .pt of others, too)
"""

_EDIT = re.compile(r"(?P<direction>[A-Za-z_][\w.-]*)=(?P<strength>.*)", re.DOTALL)


def add(name: str, commands: shared.Subparsers) -> None:
    parser = commands.add_parser(
        name,
        parents=shared.inverting(many=True),
        help="move pictures along directions",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "items",
        nargs="*",
        metavar="PHOTO|DIRECTION=STRENGTH",
        help="files, folders, 'globs', codes (.npy, .npz, .pt) or - for a list; and the edits",
    )
    shared.add_output(parser, "a picture's file name, or a folder for several", "edited/")
    # Flags of options of Client.edit, under their names: run() passes them on.
    parser.add_argument(
        "--keep", type=shared.names, metavar="NAME[,NAME]", help="directions whose meaning must not change"
    )
    parser.add_argument(
        "--within-range", action="store_true", help="cut each strength to the range of its direction"
    )
    shared.add_identity_score(parser)
    shared.add_label(parser, "labels that the picture is to have; the others stay")
    shared.add_area(
        parser,
        region="fractions of the sides, 0.2,0.3,0.8,0.9: only there the picture changes (default: everywhere)",
        mask="a picture that is white where the picture changes",
    )
    parser.add_argument(
        "--strokes",
        type=Path,
        help="a picture with transparency, whose colours the edited picture is to follow",
    )


def run(client: Client, arguments: argparse.Namespace) -> bool:
    items, strengths = _split_edits(arguments.items)
    if not strengths and arguments.strokes is None and not arguments.label:
        raise shared.UsageError(
            "name at least one edit, as in smile=1, or give --label or --strokes; `indomain bundles` lists directions "
            "and labels"
        )
    check_drawing("--mask", arguments.mask)
    check_drawing("--strokes", arguments.strokes)
    if not isinstance(arguments.face, int | None) and not arguments.paste:
        raise shared.UsageError("several faces come back in one photograph: add --paste")
    jobs = plan(arguments, items, codes_in=True)
    codes = code_reader(client, arguments.bundle)
    edits = [Edit(direction, strength) for direction, strength in strengths.items()]
    options = shared.options_of(client.edit, arguments)

    def edit(job: Job) -> Edited:
        result = client.edit(source_of(job.source, codes), *edits, **options)
        save_picture(picture_of(result), job.output)
        return result

    return run_jobs(client, jobs, edit, "Editing", strengths, arguments)


def _split_edits(items: Sequence[str]) -> tuple[list[str], dict[str, float]]:
    """Separates edits, as `smile=1`, from pictures. An item that is the name of a file is a picture."""
    pictures: list[str] = []
    strengths: dict[str, float] = {}
    for item in items:
        match = _EDIT.fullmatch(item)
        if match is None or Path(item).exists():
            pictures.append(item)
        elif match["direction"] in strengths:
            raise shared.UsageError(f"`{item}`: {match['direction']} is given twice; give it once")
        else:
            strengths[match["direction"]] = _strength(item, match["strength"])
    return pictures, strengths


def _strength(item: str, text: str) -> float:
    try:
        strength = float(text)
    except ValueError:
        strength = math.nan
    if not math.isfinite(strength):
        raise shared.UsageError(f"`{item}`: the strength is a number, as in smile=1 or age=-0.5")
    return strength
