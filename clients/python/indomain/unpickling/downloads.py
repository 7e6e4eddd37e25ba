"""Files that are not the checkpoint they are named after: web pages, pointers, archives, and parts of a download."""

from __future__ import annotations

import re

from indomain.exceptions import InvalidFileError

HEAD = 1 << 16  # bytes of a file's start that are looked at
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
PAGES = (b"<!doctype", b"<html", b"<?xml", b"<head", b"<error")
OTHER_KINDS = {
    b"\x1f\x8b": "a gzip archive",
    b"BZh": "a bzip2 archive",
    b"\xfd7zXZ": "an xz archive",
    b"7z\xbc\xaf": "a 7-Zip archive",
    b"Rar!": "a RAR archive",
    b"\x28\xb5\x2f\xfd": "a Zstandard archive",
}


class DownloadError(InvalidFileError):
    """A file is not the one that was published: a web page, a pointer, an archive, a part of it, or empty."""


def refuse_other_kinds(head: bytes, size: int) -> None:
    """Raise DownloadError if a file's first bytes say that it is no checkpoint. `size`: bytes of the whole file."""
    if size == 0:
        raise DownloadError("it is empty; download it again")
    if head.count(0) == len(head) > 9:
        raise DownloadError(
            f"its first {len(head)} bytes are all zero: the download never filled it; download it again"
        )
    if head.lstrip(b"\xef\xbb\xbf \t\r\n")[:9].lower().startswith(PAGES):
        raise DownloadError(about_page(head))
    if head.startswith(LFS_POINTER):
        stated = re.search(rb"\nsize (\d{1,15})\n", head)
        of = f" of {int(stated[1])} bytes" if stated else ""
        raise DownloadError(
            f"it is a Git LFS pointer to a file{of}; run `git lfs pull` in its repository, or download the file itself"
        )
    for start, kind in OTHER_KINDS.items():
        if head.startswith(start):
            raise DownloadError(f"it is {kind}; unpack it, or download the file itself again")


def about_page(head: bytes) -> str:
    """The message about a web page in a checkpoint's place."""
    text = head.decode("utf-8", "replace")
    title = re.search(r"<title[^>]*>([^<]*)", text, re.IGNORECASE)
    named = f" with the title {' '.join(title[1].split())[:80]!r}" if title else ""
    if "google drive" in text.lower() or "drive.google.com" in text or "drive.usercontent.google.com" in text:
        why = (
            "exceeded" in text and "the file's download quota is used up"
        ) or "it wants a large download confirmed"
        return f"it is a web page of Google Drive{named}: {why}; open its link in a browser and download it again"
    return f"it is a web page{named}; open its link in a browser and download the file itself again"


def about_text(head: bytes) -> str | None:
    """The message about a file that is text, or None if it is not."""
    try:
        text = head[:200].decode("ascii")
    except UnicodeDecodeError:
        return None
    if not all(letter.isprintable() or letter.isspace() for letter in text):
        return None
    return f"it is text that starts with {text[:60]!r}; download it again"
