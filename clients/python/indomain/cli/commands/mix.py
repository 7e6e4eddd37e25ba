"""`indomain mix`: layers of one picture's code in another's."""

from __future__ import annotations

import argparse
from pathlib import Path

from indomain import Client
from indomain.cli import arguments as shared
from indomain.cli import report
from indomain.cli.pictures import check_drawing, check_picture_name, code_reader, save_with_code, source_of


def add(name: str, commands: shared.Subparsers) -> None:
    parser = commands.add_parser(
        name, parents=shared.inverting(), help="put layers of one picture's code into another's"
    )
    parser.add_argument("base", type=Path, metavar="BASE", help="a picture or a code (.npy, .npz, .pt)")
    parser.add_argument(
        "style",
        type=Path,
        metavar="STYLE",
        help="a picture or a code (.npy, .npz, .pt), whose layers are taken",
    )
    parser.add_argument(
        "--layers",
        type=shared.layers,
        required=True,
        help="6, 4,5,6 or 6-9; low ones hold pose and shape, high ones colours",
    )
    parser.add_argument("--strength", type=float, help="0 keeps the base, 1 replaces its layers (default: 1)")
    shared.add_area(
        parser,
        region="fractions of the sides, 0.2,0.3,0.8,0.9: only there the style shows (default: everywhere)",
        mask="a picture that is white where the style shows",
    )
    shared.add_identity_score(parser)
    shared.add_output(parser, "a picture's file name", "mixed.png")


def run(client: Client, arguments: argparse.Namespace) -> bool:
    check_picture_name(arguments.output)
    check_drawing("--mask", arguments.mask)
    codes = code_reader(client, arguments.bundle)
    base, style = source_of(arguments.base, codes), source_of(arguments.style, codes)
    options = shared.options_of(client.mix, arguments)
    result = client.mix(base, style, arguments.layers, arguments.strength, **options)
    save_with_code(result, arguments.output)
    report.print_result(result, arguments.output, as_json=arguments.json)
    return True
