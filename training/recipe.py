"""`python -m training recipe FILE`: runs the stages that a recipe file lists, one after another, in one process.

A recipe is TOML: a `[[stage]]` table for each command, with its settings; `[defaults.COMMAND]` holds what all
stages of a command have in common. Data and folders come from the command line, so that a recipe says how to train and
not where. What each stage has done is noted in the folder of runs: a recipe that was interrupted goes on in the stage
where it was.
"""

from __future__ import annotations

import json
import os
import shutil
import time
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, get_type_hints

import tyro
from pydantic import TypeAdapter, ValidationError

from training.directions.directions import DirectionsConfig, find_directions
from training.directions.factors import FactorsConfig, find_factors
from training.faces.alignment import AlignmentConfig, measure_alignment
from training.loops.gan import train_gan
from training.loops.gan_config import GanConfig
from training.loops.inversion import train_encoder
from training.loops.inversion_config import InversionConfig
from training.refinement.detail_basis import DetailBasisConfig, fit_detail
from training.refinement.noise_maps import NoiseMapsConfig, fit_noise
from training.run_folders.checkpoint import CheckpointError, checkpoint_folder, load_meta
from training.run_folders.json_files import write_json
from training.tuning.mapping_run import MappingConfig, fit_run

Settings = dict[str, Any]


class RecipeError(ValueError):
    """A recipe that cannot be run; the message names the file, the stage and the key."""


@dataclass
class RecipeConfig:
    """Run the stages of a recipe; go on with it where an earlier run was interrupted."""

    file: tyro.conf.Positional[Path]
    """Recipe, as training/recipes/faces64.toml."""
    data: Path
    """Folder or zip of training pictures."""
    runs: Path
    """Folder for the recipe's run folders."""
    attributes: Path | None = None
    """Csv of the training pictures, for the stage directions."""
    validation: Path | None = None
    """Folder or zip of held-out pictures, for encoders."""
    gan: Path | None = None
    """Run folder of a generator, for the encoders of a recipe that trains none before them."""
    images: int | None = None
    """Number of pictures to show in each stage that trains, in place of the recipe's own."""
    seconds: float | None = None
    """End in this time, with all written; the same command goes on later. Only stages that train watch the clock."""


@dataclass
class PresetsConfig:
    """Copy presets into an encoder's run folder."""

    run: Path
    """Run folder of an encoder."""
    file: Path
    """JSON of the presets, relative to the recipe."""


def copy_presets(config: PresetsConfig) -> Path:
    """Copy the file to `presets.json` of the run folder; return its path. Raises FileNotFoundError."""
    return Path(shutil.copyfile(config.file, config.run / "presets.json"))


@dataclass(frozen=True)
class Command:
    """A command that a stage may name."""

    config: type
    run: Callable[[Any], object]
    given: frozenset[str]
    """Fields of its config that the command line and earlier stages fill in."""


COMMANDS = {
    "gan": Command(GanConfig, train_gan, frozenset({"data", "runs", "resume"})),
    "encoder": Command(
        InversionConfig, train_encoder, frozenset({"gan", "data", "validation", "runs", "resume"})
    ),
    "mapping": Command(MappingConfig, fit_run, frozenset({"run", "data", "attributes", "runs"})),
    "directions": Command(DirectionsConfig, find_directions, frozenset({"run", "data", "attributes"})),
    "factors": Command(FactorsConfig, find_factors, frozenset({"run"})),
    "detail": Command(DetailBasisConfig, fit_detail, frozenset({"run", "data"})),
    "noise": Command(NoiseMapsConfig, fit_noise, frozenset({"run"})),
    "alignment": Command(AlignmentConfig, measure_alignment, frozenset({"run", "data"})),
    "presets": Command(PresetsConfig, copy_presets, frozenset({"run"})),
}
TRAINED = ("gan", "encoder")  # commands that can be interrupted
# What later stages take the run folder for that a command makes.
MADE = {"gan": "gan", "encoder": "encoder", "mapping": "encoder"}


@dataclass(frozen=True)
class Stage:
    """A stage of a recipe, checked."""

    title: str
    """For messages: "stage 2 (encoder)"."""
    command: str
    settings: Settings
    """Settings of the command by their names in its config; defaults are in."""
    goes_on: bool
    """Whether a GAN goes on from the one before, instead of starting anew."""
    folder: Path
    """Folder of the recipe, which paths in it are relative to."""


# --- reading a recipe --------------------------------------------------------------------------------------------


def read_recipe(file: Path) -> list[Stage]:
    """Read and check a recipe. Raises RecipeError, FileNotFoundError."""
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{file} is not TOML: {error}") from None
    refuse_unknown(content, {"defaults", "stage"}, str(file))
    defaults, tables = content.get("defaults", {}), content.get("stage", [])
    refuse_unknown(defaults, COMMANDS, f"{file}: defaults")
    if not isinstance(tables, list) or not tables:
        raise RecipeError(f"{file} lists no stages; write each as a [[stage]] table")
    return [read_stage(table, defaults, file, number) for number, table in enumerate(tables, 1)]


def read_stage(table: Settings, defaults: Mapping[str, Settings], file: Path, number: int) -> Stage:
    """Check one [[stage]] table. Raises RecipeError."""
    name = table.get("command")
    if name not in COMMANDS:
        known = ", ".join(COMMANDS)
        raise RecipeError(f"{file}: stage {number}: unknown command {name!r}; there are {known}")
    title = f"stage {number} ({name})"
    goes_on = table.get("goes_on", False)
    if goes_on and name != "gan":
        raise RecipeError(f"{file}: {title}: goes_on is for the command gan")
    own = {key: value for key, value in table.items() if key not in ("command", "goes_on")}
    settings = merged(defaults.get(name, {}), own)
    where = f"{file}: {title}"
    command = COMMANDS[name]
    given = sorted(settings.keys() & command.given)
    if given:
        raise RecipeError(f"{where}: {', '.join(given)} comes from the command line, not from a recipe")
    refuse_unknown_settings(settings, command.config, where)
    stage = Stage(title, name, settings, bool(goes_on), file.parent)
    make_config(stage, dict.fromkeys(command.given - {"resume", "validation"}, Path("-")), where)
    return stage


def merged(defaults: Settings, own: Settings) -> Settings:
    """A stage's settings over the defaults; nested tables are merged likewise."""
    both = {
        key: merged(defaults[key], value)
        for key, value in own.items()
        if isinstance(value, dict) and isinstance(defaults.get(key), dict)
    }
    return {**defaults, **own, **both}


def refuse_unknown(table: Mapping[str, Any], known: Any, where: str) -> None:
    """Raise RecipeError for keys that are not known."""
    unknown = sorted(set(table) - set(known))
    if unknown:
        raise RecipeError(f"{where}: unknown {', '.join(unknown)}; there are {', '.join(sorted(known))}")


def refuse_unknown_settings(settings: Mapping[str, Any], config: type, where: str) -> None:
    """Raise RecipeError for settings that a config, or a config within it, does not have."""
    hints = get_type_hints(config)
    refuse_unknown(settings, {field.name for field in fields(config)}, where)
    for key, value in settings.items():
        if isinstance(value, dict) and is_dataclass(hints[key]):
            refuse_unknown_settings(value, hints[key], f"{where}: {key}")  # type: ignore[arg-type]


def make_config(stage: Stage, given: Settings, where: str) -> Any:
    """The config of a stage's command. Raises RecipeError that names what does not fit."""
    settings = stage.settings | given
    if stage.command == "presets" and isinstance(settings.get("file"), str):
        settings["file"] = stage.folder / settings["file"]
    try:
        return TypeAdapter(COMMANDS[stage.command].config).validate_python(settings)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        raise RecipeError(f"{where}: {key or 'settings'}: {first['msg']}") from None


# --- running it --------------------------------------------------------------------------------------------------


class Journal:
    """What each stage of a recipe has done so far, in a JSON file among the run folders."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.entries: list[Settings] = json.loads(file.read_text()) if file.is_file() else []

    def entry(self, number: int, stage: Stage) -> Settings | None:
        """The entry of an earlier run of this stage. Raises RecipeError where the recipe was another one then."""
        if number >= len(self.entries):
            return None
        entry = self.entries[number]
        if (entry["command"], entry["settings"]) != (stage.command, stage.settings):
            raise RecipeError(
                f"{self.file}: {stage.title} was begun with other settings; name another folder of runs"
            )
        return entry

    def write(self, number: int, entry: Settings) -> None:
        """Note a stage's entry, the last one so far."""
        self.entries[number:] = [entry]
        fresh = self.file.with_suffix(".new")
        write_json(fresh, self.entries)
        fresh.replace(self.file)


def run_recipe(config: RecipeConfig) -> Path:
    """Run what is left of a recipe; return the run folder that its last stages were about.

    Raises RecipeError, and what the commands raise.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise RecipeError("a recipe runs in one process; run its stages by themselves under torchrun")
    stages = read_recipe(config.file)
    if config.images is not None:
        stages = [with_images(stage, config.images) for stage in stages]
    config.runs.mkdir(parents=True, exist_ok=True)
    journal = Journal(config.runs / f"{config.file.stem}.recipe.json")
    newest: dict[str, Path] = {"gan": config.gan} if config.gan else {}
    until = None if config.seconds is None else time.monotonic() + config.seconds
    for number, stage in enumerate(stages):
        entry = journal.entry(number, stage)
        if entry and entry["done"]:
            print(f"{stage.title}: done before, in {entry['folder']}")
        else:
            entry = run_stage(stage, config, newest, entry, partial(journal.write, number), until)
        if stage.command in MADE:
            newest[MADE[stage.command]] = Path(entry["folder"])
        if not entry["done"]:
            print(f"{stage.title}: the time is up; the same command goes on here")
            break
    return newest.get("encoder") or newest.get("gan") or config.runs


def with_images(stage: Stage, images: int) -> Stage:
    """The stage with that number of pictures, if it trains."""
    settings = stage.settings | ({"images": images} if stage.command in TRAINED else {})
    return replace(stage, settings=settings)


def run_stage(
    stage: Stage,
    config: RecipeConfig,
    newest: Mapping[str, Path],
    interrupted: Settings | None,
    note: Callable[[Settings], None],
    until: float | None,
) -> Settings:
    """Run one stage, or go on with it; return its entry, which is not done where the time was up before.

    `note` writes an entry to the journal. `until` is the end of the time, in seconds of the monotonic clock.
    """
    where = f"{config.file}: {stage.title}"
    given = given_fields(stage, config, newest, where)
    entry = interrupted or {
        "command": stage.command,
        "settings": stage.settings,
        "before": sorted(folder.name for folder in config.runs.iterdir() if folder.is_dir()),
        "step": load_meta(given["resume"])["step"] if stage.goes_on else 0,
        "folder": None,
        "done": False,
    }
    note(entry)
    made = make_config(stage, given, where)
    if interrupted and stage.command in TRAINED:
        go_on_from_checkpoint(made, stage, entry, config.runs)
    print(f"{stage.title}: begins" + (f", goes on in {made.resume}" if getattr(made, "resume", None) else ""))
    trains = stage.command in TRAINED
    if trains and until is not None:
        made.seconds = max(until - time.monotonic(), 0.0)
    result = COMMANDS[stage.command].run(made)
    done = not trains or load_meta(Path(str(result)))["images_seen"] >= made.images
    entry = entry | {"folder": str(result if stage.command in MADE else given["run"]), "done": done}
    note(entry)
    return entry


def given_fields(stage: Stage, config: RecipeConfig, newest: Mapping[str, Path], where: str) -> Settings:
    """What the command line and earlier stages give to a stage. Raises RecipeError for what is missing."""
    found: dict[str, Path | None] = {
        "data": config.data,
        "attributes": config.attributes,
        "validation": config.validation,
        "runs": config.runs,
        "gan": newest.get("gan"),
        "run": newest.get("encoder"),
        "resume": newest.get("gan") if stage.goes_on else None,
    }
    needed = COMMANDS[stage.command].given - {"resume", "validation"}
    needed |= {"resume"} if stage.goes_on else set()
    sources = {
        "attributes": "name them with --attributes",
        "gan": "train one in a stage before, or name one with --gan",
        "run": "it needs an encoder's stage before it",
        "resume": "it needs a stage gan before it",
    }
    for name in sorted(needed):
        if found[name] is None:
            raise RecipeError(f"{where}: no {name}: {sources[name]}")
    return {name: found[name] for name in COMMANDS[stage.command].given}


def go_on_from_checkpoint(made: Any, stage: Stage, entry: Settings, runs: Path) -> None:
    """Let an interrupted stage resume its own run folder, if it had come to a first checkpoint."""
    if stage.goes_on:
        # Once a checkpoint of this stage is written, its mapping is fitted already.
        if load_meta(made.resume)["step"] > entry["step"]:
            made.fit_mapping = False
        return
    begun = [
        folder for folder in sorted(runs.iterdir()) if folder.is_dir() and folder.name not in entry["before"]
    ]
    for folder in reversed(begun):
        try:
            checkpoint_folder(folder)
        except CheckpointError:
            continue
        made.resume = folder
        return
