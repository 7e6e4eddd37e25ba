"""`indomain sample`: pictures generated from seeds."""

from __future__ import annotations

import argparse
from typing import Final

from indomain import Client, Sample
from indomain.cli import arguments as shared
from indomain.cli import report
from indomain.cli.pictures import check_sheet_name, save_pictures

# Seeds in one request: fewer than any gateway's limit, and enough to fill a batch.
_SEEDS_A_CALL: Final = 16


def add(name: str, commands: shared.Subparsers) -> None:
    parser = commands.add_parser(
        name, parents=[shared.connection(), shared.bundle()], help="generate pictures from seeds"
    )
    parser.add_argument(
        "--seeds", type=shared.seeds, default=list(range(16)), help="7, 1,2,3 or 0-15 (default: 0-15)"
    )
    parser.add_argument(
        "--truncation", type=float, help="0: the mean picture; 1: as varied as the training data"
    )
    shared.add_label(parser, "labels that the pictures are to have; the others are drawn")
    where = "a file: one sheet; a folder: a file for each seed"
    shared.add_output(parser, where, "samples.png")


def run(client: Client, arguments: argparse.Namespace) -> bool:
    check_sheet_name(arguments.output)
    seeds: list[int] = arguments.seeds
    samples: list[Sample] = []
    with report.progress("Sampling", len(seeds)) as advance:
        for start in range(0, len(seeds), _SEEDS_A_CALL):
            part = seeds[start : start + _SEEDS_A_CALL]
            samples += client.sample(
                part, arguments.truncation, label=arguments.label, bundle=arguments.bundle
            )
            advance(len(part))
    images = [sample.image for sample in samples]
    outputs = save_pictures(images, arguments.output, [f"seed{sample.seed:06d}.png" for sample in samples])
    if arguments.json:
        report.print_json(report.samples_as_json(samples, outputs))
    else:
        report.say(f"{len(samples)} pictures of {samples[0].bundle} in {arguments.output}")
    return True
