"""`indomain invert`: pictures to codes and reconstructions."""

from __future__ import annotations

import argparse
from pathlib import Path

from indomain import Client, Inversion
from indomain.cli import arguments as shared
from indomain.cli.bulk.plan import Job, plan
from indomain.cli.bulk.runner import run_jobs
from indomain.cli.pictures import (
    RESULT_SUFFIX,
    check_drawing,
    picture_of,
    save_code,
    save_picture,
    save_result,
)


def add(name: str, commands: shared.Subparsers) -> None:
    parser = commands.add_parser(
        name, parents=shared.inverting(many=True), help="pictures to codes (.npy) and reconstructions"
    )
    parser.add_argument(
        "items", nargs="*", metavar="PHOTO", help="files, folders, 'globs', or - for a list on standard input"
    )
    parser.add_argument(
        "--mask", type=Path, help="a picture that is white where the photographs are known: the rest is found"
    )
    shared.add_identity_score(parser)
    where = "a picture's file name, a name with .npz for all in one file, or a folder for several"
    shared.add_output(parser, where, "inverted/")


def run(client: Client, arguments: argparse.Namespace) -> bool:
    check_drawing("--mask", arguments.mask)
    jobs = plan(arguments, arguments.items, codes_out=True)
    options = shared.options_of(client.invert, arguments)

    def invert(job: Job) -> Inversion:
        result = client.invert(job.source, **options)
        if job.output.suffix.lower() == RESULT_SUFFIX:
            save_result(result, job.output)
            return result
        save_code(result.code, job.code_output)
        save_picture(picture_of(result), job.output)
        return result

    return run_jobs(client, jobs, invert, "Inverting", {}, arguments)
