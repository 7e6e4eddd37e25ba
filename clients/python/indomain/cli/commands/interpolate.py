"""`indomain interpolate`: pictures on the way from one to another."""

from __future__ import annotations

import argparse
from pathlib import Path

from indomain import Client, InterpolationFrame
from indomain.cli import arguments as shared
from indomain.cli import report
from indomain.cli.pictures import (
    check_sheet_name,
    code_reader,
    picture_of,
    save_animation,
    save_pictures,
    source_of,
)


def add(name: str, commands: shared.Subparsers) -> None:
    parser = commands.add_parser(
        name, parents=shared.inverting(), help="pictures on the way from one to another"
    )
    parser.add_argument("start", type=Path, metavar="START", help="a picture or a code (.npy, .npz, .pt)")
    parser.add_argument("end", type=Path, metavar="END", help="a picture or a code (.npy, .npz, .pt)")
    parser.add_argument(
        "-n",
        "--count",
        metavar="N",
        type=shared.count,
        default=8,
        help="number of pictures, with both ends (default: %(default)s)",
    )
    shared.add_path(
        parser,
        "the straight line between the codes, or the way on which the picture changes least, which is refined",
    )
    where = "a file: one sheet; a .gif: an animation; a folder: a file for each"
    shared.add_output(parser, where, "interpolation.png")


def run(client: Client, arguments: argparse.Namespace) -> bool:
    output: Path = arguments.output
    if output.suffix.lower() != ".gif":
        check_sheet_name(output, "; .gif is an animation")
    codes = code_reader(client, arguments.bundle)
    start, end = source_of(arguments.start, codes), source_of(arguments.end, codes)
    options = shared.options_of(client.interpolate, arguments)
    frames: list[InterpolationFrame] = []
    with report.progress("Interpolating", arguments.count) as advance:
        for frame in client.interpolate(start, end, arguments.count, **options):
            frames.append(frame)
            advance(1)
    images = [picture_of(frame) for frame in frames]
    if output.suffix.lower() == ".gif":
        save_animation(images, output)
        outputs = [output] * len(frames)
    else:
        outputs = save_pictures(images, output, [f"{frame.index:03d}.png" for frame in frames])
    if arguments.json:
        report.print_json(report.frames_as_json(frames, outputs))
    else:
        report.say(
            f"{len(frames)} pictures of {frames[0].bundle} in {output}, energy {frames[-1].energy:.4f}"
        )
    return True
