"""The manifest of a bundle, `B.json` in the model repository: its fields, and how it is read.

The parts that the running gateway needs, too, are types of serving/bundle.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from serving.bundle import (
    DetailCodes,
    FaceTemplate,
    FileEntry,
    GraphSpec,
    HeldOut,
    IdentityLogistic,
    Label,
    ManifestPart,
    NoiseMaps,
    RefineDefaults,
    Role,
)
from serving.errors import BundleInvalid

MANIFEST_FORMAT = 1


class DirectionEntry(ManifestPart):
    """A direction; its vector is a tensor `direction/<name>`."""

    name: str = Field(min_length=1)
    label: str = ""
    layers: tuple[int, ...]
    range: tuple[float, float]
    scale: float = Field(gt=0)
    held_out: HeldOut | None = None
    conditioned_on: tuple[str, ...] = ()


class PresetEdit(ManifestPart):
    """One edit of a preset."""

    direction: str
    strength: float = Field(allow_inf_nan=False)
    layers: tuple[int, ...] = ()
    keep: tuple[str, ...] = ()


class PresetEntry(ManifestPart):
    """A preset: several edits under one name."""

    name: str = Field(min_length=1)
    label: str = ""
    edits: tuple[PresetEdit, ...] = Field(min_length=1)


class Manifest(ManifestPart):
    """All fields of `B.json`."""

    format: int
    bundle: str
    resolution: int = Field(ge=4)
    layers: int = Field(ge=1)
    code_size: int = Field(ge=1)
    detail: DetailCodes | None = None
    noise: NoiseMaps | None = None
    graphs: dict[Role, GraphSpec]
    tensors: FileEntry
    directions: tuple[DirectionEntry, ...] = ()
    presets: tuple[PresetEntry, ...] = ()
    labels: tuple[Label, ...] = ()
    refine: RefineDefaults
    alignment: Literal["face", "centre-crop"] = "centre-crop"
    face: FaceTemplate | None = None
    identity: IdentityLogistic | None = None
    data: str = ""
    licence: str = ""
    limits: str = ""


def read_manifest(repository: Path, name: str) -> Manifest:
    """Reads the manifest of a bundle. Raises BundleInvalid with the field that is wrong."""
    try:
        raw = json.loads((repository / f"{name}.json").read_bytes())
    except OSError:
        raise BundleInvalid(f"Bundle {name}: {name}.json cannot be read from the model repository.") from None
    except ValueError as error:
        raise BundleInvalid(f"Bundle {name}: {name}.json is not JSON ({error}); export it again.") from None
    found = raw.get("format") if isinstance(raw, dict) else None
    if found != MANIFEST_FORMAT:
        raise BundleInvalid(
            f"Bundle {name}: manifest format {found!r}, this gateway reads {MANIFEST_FORMAT}; export it again."
        )
    try:
        manifest = Manifest.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BundleInvalid(f"Bundle {name}: {where}: {first['msg']} ({name}.json).") from None
    if manifest.bundle != name:
        raise BundleInvalid(
            f"Bundle {name}: its manifest says it is {manifest.bundle!r}; rename one of the two."
        )
    _check_names(manifest)
    for group in ("detail", "noise"):
        missing = [whole for whole in (manifest, manifest.refine) if getattr(whole, group) is None]
        if len(missing) == 1:
            has, lacks = (f"refine.{group}", group) if missing == [manifest] else (group, f"refine.{group}")
            raise BundleInvalid(
                f"Bundle {name}: {name}.json has {has} and no {lacks}; it takes both, or neither; export it again."
            )
    return manifest


def _check_names(manifest: Manifest) -> None:
    """Raises BundleInvalid if two directions or presets share a name."""
    names = [direction.name for direction in manifest.directions]
    names += [preset.name for preset in manifest.presets]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise BundleInvalid(
            f"Bundle {manifest.bundle}: {', '.join(map(repr, twice))} names more than one direction or preset; "
            "rename all but one."
        )
