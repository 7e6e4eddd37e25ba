"""What each command does: calls of the client, files written, a report. How a report looks is in report.py."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from indomain import (
    Align,
    Client,
    Diffused,
    Edit,
    Edited,
    GatewayUnreachableError,
    IndomainError,
    InterpolationFrame,
    Inversion,
    Mixed,
    Sample,
)
from indomain.cli import bulk, parser, photos, report
from indomain.clients.outages import OutageTooLongError

__all__ = ["GatewayUnreachableError", "IndomainError", "OutageTooLongError", "run"]

# Seeds in one request; well under what any gateway takes, and large enough to fill a batch.
_SEEDS_A_CALL = 16


def run(arguments: argparse.Namespace) -> bool:
    """Runs the command of `arguments`; True where all of it succeeded."""
    command: Callable[[Client, argparse.Namespace], bool] = {
        "bundles": _bundles,
        "invert": _invert,
        "edit": _edit,
        "interpolate": _interpolate,
        "mix": _mix,
        "diffuse": _diffuse,
        "sample": _sample,
    }[arguments.command]
    with Client(
        arguments.server,
        timeout_s=arguments.timeout,
        tls=arguments.tls,
        root_certificates=arguments.root_certificates,
        client_certificate=arguments.client_certificate,
    ) as client:
        return command(client, arguments)


def _bundles(client: Client, arguments: argparse.Namespace) -> bool:
    info = client.info()
    if arguments.json:
        report.print_json(report.info_as_json(info))
    else:
        report.print_bundles(info)
    return True


def _invert(client: Client, arguments: argparse.Namespace) -> bool:
    plan = _plan(arguments.items, arguments, default_folder="inverted", codes_out=True)

    def invert(job: photos.Job) -> bulk.Outcome:
        result = client.invert(job.source, **_refinement(arguments))
        with photos.whole_file(job.code_output) as file:
            np.save(file, result.code)
        _save_picture(_picture(result), job.output)
        return result

    return bulk.run(client, plan, invert, "Inverting", {}, arguments)


def _edit(client: Client, arguments: argparse.Namespace) -> bool:
    items, strengths = parser.split_edits(arguments.items)
    if not strengths:
        raise parser.UsageError(
            "name at least one edit, as in smile=2; `indomain bundles` lists the directions"
        )
    plan = _plan(items, arguments, default_folder="edited", codes_in=True)
    edits = [Edit(direction, strength) for direction, strength in strengths.items()]

    def edit(job: photos.Job) -> bulk.Outcome:
        area = {"region": arguments.region, "mask": arguments.mask}
        result = client.edit(
            _source(job.source), *edits, keep=arguments.keep or (), **area, **_refinement(arguments)
        )
        _save_picture(_picture(result), job.output)
        return result

    return bulk.run(client, plan, edit, "Editing", strengths, arguments)


def _plan(
    items: Sequence[str], arguments: argparse.Namespace, *, default_folder: str, **codes: bool
) -> photos.Plan:
    naming = photos.Naming(
        recursive=arguments.recursive, root=arguments.root, full_names=arguments.full_names, **codes
    )
    return photos.plan(
        items, arguments.from_list, arguments.output, default_folder=default_folder, naming=naming
    )


def _source(path: Path) -> Any:
    """A code where the file has one, otherwise the picture's path."""
    return np.load(path, allow_pickle=False) if path.suffix.lower() == photos.CODE_SUFFIX else path


def _interpolate(client: Client, arguments: argparse.Namespace) -> bool:
    output: Path = arguments.output
    found: list[InterpolationFrame] = []
    with report.progress("Interpolating", arguments.count) as advance:
        start, end = _source(arguments.start), _source(arguments.end)
        for picture in client.interpolate(start, end, arguments.count, **_refinement(arguments)):
            found.append(picture)
            advance(1)
    images = [_picture(picture) for picture in found]
    outputs = [output] * len(images)
    if output.suffix.lower() == ".gif":
        output.parent.mkdir(parents=True, exist_ok=True)
        there_and_back = images + images[-2:0:-1]
        there_and_back[0].save(output, save_all=True, append_images=there_and_back[1:], duration=80, loop=0)
    elif output.suffix.lower() in photos.PICTURE_SUFFIXES:
        _save_picture(_sheet(images), output)
    else:
        outputs = [output / f"{picture.index:03d}.png" for picture in found]
        for image, path in zip(images, outputs, strict=True):
            _save_picture(image, path)
    if arguments.json:
        report.print_json(report.between_as_json(found, outputs))
    else:
        report.say(f"{len(found)} pictures of {found[0].bundle} in {output}")
    return True


def _mix(client: Client, arguments: argparse.Namespace) -> bool:
    base, style = _source(arguments.base), _source(arguments.style)
    result = client.mix(base, style, arguments.layers, arguments.strength, **_refinement(arguments))
    return _save_result(result, arguments)


def _diffuse(client: Client, arguments: argparse.Namespace) -> bool:
    result = client.diffuse(
        arguments.target,
        arguments.context,
        region=arguments.region,
        mask=arguments.mask,
        **_refinement(arguments),
    )
    return _save_result(result, arguments)


def _save_result(result: Mixed | Diffused, arguments: argparse.Namespace) -> bool:
    output: Path = arguments.output
    if output.suffix.lower() not in photos.PICTURE_SUFFIXES:
        raise parser.UsageError(f"{output}: the result is written as .png, .jpg or .webp")
    _save_picture(_picture(result), output)
    np.save(output.with_suffix(photos.CODE_SUFFIX), result.code)
    if arguments.json:
        report.print_json(report.result_as_json(result, output))
    else:
        report.say(f"{output} (domain score {result.domain_score:.2f}), its code beside it")
    return True


def _sample(client: Client, arguments: argparse.Namespace) -> bool:
    seeds: list[int] = arguments.seeds
    samples: list[Sample] = []
    with report.progress("Sampling", len(seeds)) as advance:
        for start in range(0, len(seeds), _SEEDS_A_CALL):
            part = seeds[start : start + _SEEDS_A_CALL]
            samples += client.sample(part, arguments.truncation, bundle=arguments.bundle)
            advance(len(part))
    output: Path = arguments.output
    if output.suffix.lower() in photos.PICTURE_SUFFIXES:
        _save_picture(_sheet([sample.image for sample in samples]), output)
        outputs = [output] * len(samples)
    else:
        outputs = [output / f"seed{sample.seed:06d}.png" for sample in samples]
        for sample, path in zip(samples, outputs, strict=True):
            _save_picture(sample.image, path)
    if arguments.json:
        report.print_json(report.samples_as_json(samples, outputs))
    else:
        report.say(f"{len(samples)} pictures of {samples[0].bundle} in {output}")
    return True


def _refinement(arguments: argparse.Namespace) -> dict[str, Any]:
    return {
        "bundle": arguments.bundle,
        "steps": arguments.steps,
        "quality": arguments.quality,
        "include_pasted": arguments.paste,
        "pasting": arguments.pasting,
        "align": Align(arguments.align, arguments.face),
    }


def _picture(result: Inversion | Edited | InterpolationFrame | Mixed | Diffused) -> Image.Image:
    """What is written: the photograph with the result in its place, where that was asked for."""
    return result.image if result.pasted is None else result.pasted


def _save_picture(image: Image.Image, path: Path) -> None:
    suffix = path.suffix.lower()
    with photos.whole_file(path) as file:
        image.save(
            file, Image.registered_extensions()[suffix], quality=95
        )  # PNG has no quality and ignores it


def _sheet(images: Sequence[Image.Image]) -> Image.Image:
    """All pictures on one, as close to a square as they go."""
    columns = math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    width, height = images[0].size
    sheet = Image.new("RGB", (columns * width, rows * height), "white")
    for index, image in enumerate(images):
        sheet.paste(image, (index % columns * width, index // columns * height))
    return sheet
