"""Which files the arguments mean, and where the results go. Files, folders and globs; no picture is read here."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from indomain.cli.parser import UsageError

PICTURE_SUFFIXES: Final = frozenset({".png", ".jpg", ".jpeg", ".webp"})
CODE_SUFFIX: Final = ".npy"


@dataclass(frozen=True)
class Job:
    """One picture (or code, .npy) and the file that its result is written to."""

    source: Path
    output: Path


def plan(items: Sequence[str], output: Path | None, *, default_folder: str, codes: bool) -> list[Job]:
    """One job a file, in a stable order, none writing over a source or over another's result.

    Args:
        items: files, folders (their pictures, not those of folders within) and globs.
        output: a file where there is one source, else a folder.
        default_folder: where results go if `output` is None.
        codes: whether .npy files are sources too.

    Raises:
        UsageError: a file is missing, a folder is empty, or the output does not fit.
    """
    sources = _expand(items, codes=codes)
    if not sources:
        raise UsageError("name at least one picture, folder or glob")
    single = len(sources) == 1 and not any(Path(item).is_dir() for item in items)
    if output is not None and single and output.suffix and not output.is_dir():
        if output.suffix.lower() not in PICTURE_SUFFIXES:
            raise UsageError(f"{output}: the result is written as .png, .jpg or .webp")
        jobs = [Job(sources[0], output)]
    else:
        if output is not None and output.suffix.lower() in PICTURE_SUFFIXES and not output.is_dir():
            raise UsageError(f"{output} is one file, but there are {len(sources)} pictures; name a folder")
        jobs = _into_folder(sources, output or Path(default_folder))
    taken = {source.resolve() for source in sources}
    for job in jobs:
        if job.output.resolve() in taken:
            raise UsageError(f"{job.output} would be written over its source; name another output with -o")
    return jobs


def _expand(items: Sequence[str], *, codes: bool) -> list[Path]:
    suffixes = PICTURE_SUFFIXES | ({CODE_SUFFIX} if codes else set())
    sources: dict[Path, None] = {}  # a set that keeps the order
    for item in items:
        path = Path(item)
        if path.is_dir():
            # A folder's codes are left out: they lie beside the reconstructions that `invert` wrote.
            found = sorted(file for file in path.iterdir() if file.suffix.lower() in PICTURE_SUFFIXES)
            if not found:
                raise UsageError(f"{item} has no .png, .jpg, .jpeg or .webp file")
        elif path.exists():
            found = [path]
        else:
            found = [Path(file) for file in sorted(glob.glob(item)) if Path(file).suffix.lower() in suffixes]
            if not found:
                raise UsageError(f"{item}: no such file")
        sources.update(dict.fromkeys(found))
    return list(sources)


def _into_folder(sources: Sequence[Path], folder: Path) -> list[Job]:
    used: set[str] = set()
    jobs = []
    for source in sources:
        stem, number = source.stem, 1
        while stem in used:  # a/me.jpg and b/me.jpg
            number += 1
            stem = f"{source.stem}-{number}"
        used.add(stem)
        jobs.append(Job(source, folder / f"{stem}.png"))
    return jobs
