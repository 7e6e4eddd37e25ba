"""`indomain bundles`: what the gateway serves."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from indomain import Client
from indomain.cli import arguments as shared
from indomain.cli import report


def add(name: str, commands: shared.Subparsers) -> None:
    commands.add_parser(
        name, parents=[shared.connection()], help="list bundles with their directions and ranges"
    )


def run(client: Client, arguments: argparse.Namespace) -> bool:
    info = client.info()
    if arguments.json:
        report.print_json(asdict(info))
    else:
        report.print_bundles(info)
    return True
