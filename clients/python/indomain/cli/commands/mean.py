"""`indomain mean`: the mean of several pictures' codes."""

from __future__ import annotations

import argparse
from pathlib import Path

from indomain import Client
from indomain.cli import arguments as shared
from indomain.cli import report
from indomain.cli.pictures import check_picture_name, code_reader, save_with_code, source_of


def add(name: str, commands: shared.Subparsers) -> None:
    parser = commands.add_parser(
        name,
        parents=shared.inverting(),
        help="the mean of several pictures' codes, and its distance from each",
    )
    parser.add_argument(
        "sources", type=Path, nargs="+", metavar="SOURCE", help="pictures or codes (.npy, .npz, .pt)"
    )
    shared.add_path(
        parser,
        "the mean of the codes' numbers, or the code from which the ways to all of them are shortest, refined",
    )
    shared.add_output(parser, "a picture's file name", "mean.png")


def run(client: Client, arguments: argparse.Namespace) -> bool:
    check_picture_name(arguments.output)
    codes = code_reader(client, arguments.bundle)
    sources = [source_of(source, codes) for source in arguments.sources]
    result = client.mean(sources, **shared.options_of(client.mean, arguments))
    save_with_code(result, arguments.output)
    report.print_result(result, arguments.output, as_json=arguments.json)
    return True
