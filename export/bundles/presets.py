"""`python -m export presets`: several directions under one name, declared in a bundle's manifest. Needs no PyTorch.

A list in JSON, in a run folder (presets.json) or beside a bundle: `[{"name": "younger", "label": "Younger", "edits":
[{"direction": "age", "strength": -1.0}]}]`; an edit may also have `layers` and `keep`, as in a request.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from export.bundles.verification import Manifest, read_bundle


class _Edit(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    direction: str
    strength: float
    layers: tuple[int, ...] = ()
    keep: tuple[str, ...] = ()


class _Preset(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1)
    label: str = ""
    edits: tuple[_Edit, ...] = Field(min_length=1)


_PRESETS = TypeAdapter(tuple[_Preset, ...])


class PresetError(ValueError):
    """A preset that does not fit the bundle's directions; the message says which and why."""


@dataclass
class PresetsConfig:
    """Add presets to a bundle without exporting it again; those of the same names are replaced."""

    bundle: tyro.conf.Positional[Path]
    """The bundle's manifest, or a repository that holds one bundle."""
    presets: tyro.conf.Positional[Path | None] = None
    """JSON of the presets; leave it out to remove some only."""
    remove: tuple[str, ...] = ()
    """Names of presets to take out."""


def write_presets(config: PresetsConfig) -> str:
    """Change the manifest; return a line for each preset. Raises PresetError, FileNotFoundError, VerificationError."""
    manifest, _ = read_bundle(config.bundle)
    kept = {preset["name"]: preset for preset in manifest.get("presets", [])}
    unknown = sorted(set(config.remove) - kept.keys())
    if unknown:
        raise PresetError(
            f"there is no preset {', '.join(unknown)} to remove; there is {', '.join(kept) or 'none'}"
        )
    kept = {name: preset for name, preset in kept.items() if name not in config.remove}
    added = read_presets(config.presets, manifest["directions"]) if config.presets else []
    manifest["presets"] = [*(kept | {preset["name"]: preset for preset in added}).values()]
    folder = config.bundle if config.bundle.is_dir() else config.bundle.parent
    place = folder / f"{manifest['bundle']}.json"
    # Replaced in one step: a gateway that reads it meanwhile finds the old one or the new one.
    written = place.with_suffix(".json.new")
    written.write_text(json.dumps(manifest, indent=1) + "\n")
    written.replace(place)
    return "\n".join(line(preset) for preset in manifest["presets"]) or "no presets"


def read_presets(file: Path, directions: list[Manifest]) -> list[Manifest]:
    """Read presets as a manifest has them. Raises PresetError for what does not fit these directions."""
    try:
        presets = _PRESETS.validate_json(file.read_bytes())
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the list"
        raise PresetError(f"{file}: {where}: {first['msg']}") from None
    named = {direction["name"]: direction for direction in directions}
    names = [preset.name for preset in presets]
    for preset in presets:
        where = f"{file}: preset {preset.name!r}"
        if names.count(preset.name) > 1 or preset.name in named:
            raise PresetError(f"{where} needs a name that no direction and no other preset has")
        for edit in preset.edits:
            _check_edit(edit, named, where)
    return [
        preset.model_dump(exclude_defaults=True)
        | {"label": preset.label or preset.name.replace("_", " ").capitalize()}
        for preset in presets
    ]


def _check_edit(edit: _Edit, directions: dict[str, Manifest], where: str) -> None:
    unknown = sorted({edit.direction, *edit.keep} - directions.keys())
    if unknown:
        raise PresetError(
            f"{where}: no direction {', '.join(unknown)}; there is {', '.join(directions) or 'none'}"
        )
    direction = directions[edit.direction]
    low, high = direction["range"]
    if not low <= edit.strength <= high:
        raise PresetError(f"{where}: {edit.direction} goes from {low} to {high}, not to {edit.strength}")
    if edit.direction in edit.keep:
        raise PresetError(f"{where}: {edit.direction} cannot change and be kept")
    if not set(edit.layers) <= set(direction["layers"]):
        raise PresetError(
            f"{where}: {edit.direction} moves layers {direction['layers']}, not {list(edit.layers)}"
        )


def line(preset: dict[str, Any]) -> str:
    """Describe a preset on one line."""
    return f"{preset['name']}: " + ", ".join(f"{e['direction']} {e['strength']:+g}" for e in preset["edits"])
