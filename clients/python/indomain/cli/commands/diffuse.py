"""`indomain diffuse`: a region of one picture in another."""

from __future__ import annotations

import argparse
from pathlib import Path

from indomain import Client
from indomain.cli import arguments as shared
from indomain.cli import report
from indomain.cli.pictures import check_drawing, check_picture_name, save_with_code


def add(name: str, commands: shared.Subparsers) -> None:
    parser = commands.add_parser(
        name,
        parents=shared.inverting(),
        help="put a region of one picture into another, so that the rest follows",
    )
    parser.add_argument("target", type=Path, metavar="TARGET", help="the picture whose region is kept")
    parser.add_argument("context", type=Path, metavar="CONTEXT", help="the picture that it is put into")
    shared.add_area(
        parser,
        region="fractions of the sides, 0.2,0.3,0.8,0.9 (default: the middle of a face)",
        mask="a picture that is white where the target is kept",
    )
    shared.add_identity_score(parser)
    shared.add_output(parser, "a picture's file name", "diffused.png")


def run(client: Client, arguments: argparse.Namespace) -> bool:
    check_picture_name(arguments.output)
    check_drawing("--mask", arguments.mask)
    options = shared.options_of(client.diffuse, arguments)
    result = client.diffuse(arguments.target, arguments.context, **options)
    save_with_code(result, arguments.output)
    report.print_result(result, arguments.output, as_json=arguments.json)
    return True
