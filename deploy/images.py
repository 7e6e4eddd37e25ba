"""Pins the images of others by digest: `make images`, on a machine with docker that reaches their registries.

A tag can be moved to another image, a digest cannot. Dockerfile, docker-compose.yml and the chart's values name images
by tag. This asks each registry for the digest that the tag has now, and writes it beside the tag. Run it again to
follow a tag. It writes nothing unless every registry has answered.
"""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# How each file names an image: what comes before the digest, the digest if there is one, what comes after it.
_NAMED = {
    "Dockerfile": r"(?P<before>^ARG \w+_IMAGE=(?P<image>[^\s@]+))(?:@\S+)?(?P<after>)$",
    "docker-compose.yml": r"(?P<before>\$\{(?!GATEWAY_)\w+_IMAGE:-(?P<image>[^\s@}]+))(?:@[^\s}]+)?(?P<after>\})",
    "deploy/helm/values.yaml": (
        r"(?P<before>repository: (?P<image>\S+), tag: (?P<tag>[\w.-]+), digest: \")[^\"]*(?P<after>\")"
    ),
}


def digest_of(image: str) -> str:
    """The digest of `image` ("name:tag") for all its platforms. Raises RuntimeError if docker cannot tell."""
    command = ["docker", "buildx", "imagetools", "inspect", image, "--format", "{{json .Manifest}}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = next(iter(done.stderr.splitlines()), "failed and said nothing")
        raise RuntimeError(f"{image}: docker buildx: {reason}")
    digest = json.loads(done.stdout).get("digest", "")
    if not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
        raise RuntimeError(f"{image}: docker gave no digest, but {digest!r}")
    return str(digest)


def pin(root: Path) -> dict[str, str]:
    """Writes digests into the files under `root`. Returns them by image ("name:tag"). Raises RuntimeError, with no file
    changed, if one cannot be had."""
    digests: dict[str, str] = {}

    def pinned(named: re.Match[str]) -> str:
        tag = named.groupdict().get("tag")
        image = f"{named['image']}:{tag}" if tag else named["image"]
        if image not in digests:
            digests[image] = digest_of(image)
        return f"{named['before']}{'' if tag else '@'}{digests[image]}{named['after']}"

    texts = {
        name: re.sub(pattern, pinned, (root / name).read_text(encoding="utf-8"), flags=re.MULTILINE)
        for name, pattern in _NAMED.items()
    }
    for name, text in texts.items():
        (root / name).write_text(text, encoding="utf-8")
    return digests


if __name__ == "__main__":
    try:
        pinned_now = pin(ROOT)
    except (RuntimeError, OSError) as error:
        raise SystemExit(f"Nothing is pinned: {error}") from error
    for image, digest in pinned_now.items():
        print(f"{image}@{digest}")
