"""Which files the arguments mean, and where their results go. No picture is read here."""

from __future__ import annotations

import argparse
import codecs
import glob
import os
import stat
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from indomain.cli.arguments import UsageError
from indomain.cli.pictures import (
    CODE_SUFFIX,
    CODE_SUFFIXES,
    PICTURE_SUFFIXES,
    RESULT_SUFFIX,
    check_picture_name,
    is_picture,
    is_picture_file,
    why_not_read,
)

STANDARD_INPUT: Final = "-"
_NO_FILE: Final = "neither a file nor a folder"
_NOT_ENTERED: Final = "a folder: --recursive takes its pictures"


@dataclass(frozen=True, slots=True)
class Job:
    """One picture (or code, .npy) and the file that its result is written to. `with_code`: the result's code is written
    beside it."""

    source: Path
    output: Path
    with_code: bool = False

    @property
    def code_output(self) -> Path:
        return self.output.with_suffix(CODE_SUFFIX)

    @property
    def outputs(self) -> tuple[Path, ...]:
        alone = not self.with_code or self.output.suffix.lower() == RESULT_SUFFIX
        return (self.output,) if alone else (self.output, self.code_output)


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A file of a folder or glob that no job is made of, and why."""

    path: Path
    why: str


@dataclass(frozen=True)
class Plan:
    """Jobs in a stable order; none overwrites a source or another job's result. `folder` is where all results go; None
    for a single picture. `left_out`: the other files that the arguments name, but for hidden ones and results."""

    jobs: tuple[Job, ...]
    folder: Path | None
    left_out: tuple[LeftOut, ...] = ()


def plan(
    arguments: argparse.Namespace, items: Sequence[str], *, codes_in: bool = False, codes_out: bool = False
) -> Plan:
    """Finds the files that were named, and names a result for each.

    Args:
        arguments: of a command with those of `many_pictures`. `output` is a file where there is one source, otherwise
            a folder. `root`: results get the paths below the output that their pictures have below this folder; None:
            the paths that they have in the folder, or below the fixed part of the glob, that named them.
        items: files, folders and globs; `-` is a list on standard input.
        codes_in: .npy files are sources too.
        codes_out: codes are written too.

    Raises:
        UsageError: a file is missing, a folder is empty, two results would have the same name, or the output does not
            fit.
    """
    output: Path = arguments.output
    lists = [*arguments.from_list, *(item for item in items if item == STANDARD_INPUT)]
    items = [item for item in items if item != STANDARD_INPUT]
    # By absolute path: the source, and its path below the output.
    found: dict[str, tuple[Path, Path]] = {}
    left_out: list[LeftOut] = []
    for item in items:
        sources = _expand(item, left_out, recursive=arguments.recursive, codes_in=codes_in, below=output)
        for source, place in sources:
            found.setdefault(os.path.abspath(source), (source, place))
    for name in lists:
        for source in _listed(name, left_out):
            found.setdefault(os.path.abspath(source), (source, Path(source.name)))
    if not found:
        raise UsageError("name at least one picture, folder or glob")
    if output.suffix and not output.is_dir():
        named_once = len(found) == 1 and not lists and not any(Path(item).is_dir() for item in items)
        if output.suffix.lower() in PICTURE_SUFFIXES and not named_once:
            raise UsageError(
                f"{output} is one file; results of a folder, a list or several pictures need a folder: name it with -o"
            )
        if named_once:
            if not (codes_out and output.suffix.lower() == RESULT_SUFFIX):
                check_picture_name(output, "; .npz takes code and picture in one file" if codes_out else "")
            ((source, _),) = found.values()
            jobs: tuple[Job, ...] = (Job(source, output, codes_out),)
            _check_sources(jobs)
            return Plan(jobs, None, tuple(left_out))
    jobs = tuple(_job(source, place, arguments, codes_out) for source, place in found.values())
    _check_sources(jobs)
    _check_names(jobs)
    single = not lists and len(items) == 1 and Path(items[0]).is_file()
    return Plan(jobs, None if single else output, tuple(left_out))


# --- finding sources ---------------------------------------------------------------------------------


def _expand(
    item: str, left_out: list[LeftOut], *, recursive: bool, codes_in: bool, below: Path
) -> Iterator[tuple[Path, Path]]:
    """The pictures of a folder or glob, or the file itself, each with its path below the output.

    Files in the folder `below`, where results are written, do not count. Other files are added to `left_out`.
    """
    path = Path(item)
    if path.is_dir():
        if path.resolve() == below.resolve():
            raise UsageError(
                f"results would be written among the pictures of {item}; name another output with -o"
            )
        # Codes in a folder are left out: `invert` wrote them beside its reconstructions.
        there = [file for file in _files_in(path, left_out, recursive) if not _is_below(file, below)]
        files = list(_pictures(there, left_out))
        if not files:
            hint = "" if recursive else "; with --recursive folders within it count too"
            raise UsageError(f"{item} has no picture among its {len(there)} files{hint}")
        yield from ((file, file.relative_to(path)) for file in files)
    elif path.exists():
        yield path, Path(path.name)
    else:
        top = _fixed_part(path)
        named = [Path(name) for name in sorted(glob.glob(item, recursive=True))]
        files = [file for file in named if not file.is_dir() and not _is_below(file, below)]
        files = list(_pictures(files, left_out, codes_in=codes_in))
        if not files:
            raise UsageError(
                f"{item}: {'a link that leads nowhere' if path.is_symlink() else 'no such file'}"
            )
        yield from ((file, file.relative_to(top)) for file in files)


def _files_in(folder: Path, left_out: list[LeftOut], recursive: bool) -> Iterator[Path]:
    """Files, sorted by name, but for those in folders that cannot be listed, or are not entered: they are left out.

    Files and folders that begin with a dot do not count.
    """

    def cannot_list(error: OSError) -> None:
        left_out.append(LeftOut(Path(error.filename), error.strerror or "it cannot be listed"))

    for parent, folders, names in os.walk(folder, onerror=cannot_list):
        inner = [Path(parent, name) for name in sorted(folders) if not name.startswith(".")]
        folders[:] = [path.name for path in inner if recursive and not path.is_symlink()]
        # A link may lead back to where it lies.
        left_out += [
            LeftOut(path, "a link to a folder: name the folder itself" if recursive else _NOT_ENTERED)
            for path in inner
            if path.name not in folders
        ]
        yield from (Path(parent, name) for name in sorted(names) if not name.startswith("."))


def _pictures(files: Iterable[Path], left_out: list[LeftOut], *, codes_in: bool = False) -> Iterator[Path]:
    """The pictures among files; with `codes_in` codes count too. The others are added to `left_out`."""
    for file in files:
        is_code = file.suffix.lower() in CODE_SUFFIXES
        try:
            if not stat.S_ISREG(file.stat().st_mode):
                left_out.append(LeftOut(file, _NO_FILE))
            elif is_code and not codes_in:
                left_out.append(LeftOut(file, "a code, not a picture: name the file itself to edit it"))
            elif is_code or is_picture_file(file):
                yield file
            else:
                left_out.append(LeftOut(file, why_not_read(file)))
        except OSError as error:
            left_out.append(LeftOut(file, error.strerror or str(error)))


def _fixed_part(pattern: Path) -> Path:
    """The folders of a glob before its first wildcard."""
    fixed: list[str] = []
    for part in pattern.parent.parts:
        if glob.has_magic(part):
            break
        fixed.append(part)
    return Path(*fixed)


def _is_below(file: Path, folder: Path) -> bool:
    return Path(os.path.abspath(file)).is_relative_to(os.path.abspath(folder))


def _listed(name: str, left_out: list[LeftOut]) -> Iterator[Path]:
    """Files of a list, one a line, or separated by NUL as `find -print0` writes them. They need not exist: each that
    is missing fails later, by itself. What is no file is added to `left_out`."""
    data = sys.stdin.buffer.read() if name == STANDARD_INPUT else Path(name).read_bytes()
    if is_picture(data[:64]):
        named = "standard input (/dev/stdin names it)" if name == STANDARD_INPUT else name
        raise UsageError(f"{named} is a picture, and - and --from-list take a list of names")
    # Programs of Windows begin texts with a mark, and write UTF-16, of which every second byte may be 0.
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        data = data.decode("utf-16").encode()
    data = data.removeprefix(codecs.BOM_UTF8)
    separated = data.split(b"\0") if b"\0" in data else data.splitlines()
    for entry in separated:
        if entry.strip():
            file = Path(os.fsdecode(entry))
            if file.is_dir():
                raise UsageError(f"{file} is a folder; a list names files: find {file} -type f")
            if file.exists() and not file.is_file():
                # To read a pipe could take for ever.
                left_out.append(LeftOut(file, _NO_FILE))
            else:
                yield file


# --- naming results --------------------------------------------------------------------------------


def _job(source: Path, place: Path, arguments: argparse.Namespace, with_code: bool) -> Job:
    if arguments.root is not None:
        if not _is_below(source, arguments.root):
            raise UsageError(f"{source} does not lie in {arguments.root}, which --root names")
        place = Path(os.path.relpath(source, arguments.root))
    name = place.name if arguments.full_names else place.stem
    return Job(source, arguments.output / place.with_name(f"{name}.png"), with_code)


def _check_sources(jobs: Sequence[Job]) -> None:
    # Cached: ten thousand files are often in few folders.
    real_folder = cache(os.path.realpath)
    sources = {(real_folder(job.source.parent), job.source.name) for job in jobs}
    for job in jobs:
        if any((real_folder(output.parent), output.name) in sources for output in job.outputs):
            raise UsageError(f"{job.output} would be written over its source; name another output with -o")


def _check_names(jobs: Sequence[Job]) -> None:
    first_of: dict[Path, Path] = {}
    for job in jobs:
        first = first_of.setdefault(job.output, job.source)
        if first is not job.source:
            apart = first.parent != job.source.parent
            top = os.path.commonpath([os.path.abspath(first.parent), os.path.abspath(job.source.parent)])
            kept = f"--full-names keeps {job.source.suffix}"
            advice = f"--root {os.path.relpath(top)} keeps their folders" if apart else kept
            raise UsageError(f"{first} and {job.source} would both be written to {job.output}; {advice}")
