"""Recipes: what is refused, a miniature from end to end, and one that is interrupted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from tests.training.pictures import write_pictures
from training import recipe
from training.__main__ import main
from training.loops import fit
from training.recipe import RecipeConfig, RecipeError, read_recipe, run_recipe
from training.run_folders.checkpoint import load_meta

RECIPES = sorted((Path(__file__).parents[2] / "training/recipes").glob("*.toml"))
MINIATURE = """
[defaults.gan]
name = "discs"
batch = 8
coverage_weight = 5
encoder_channels = [8, 8, 8, 8]
snapshot_steps = 1
generator.resolution = 32
generator.channels = [16, 16, 8, 8]
generator.z_size = 32
generator.code_size = 32
generator.mapping_depth = 2
compute.accelerator = "cpu"
compute.precision = "32-true"

[[stage]]
command = "gan"
images = 16
discriminator = "stylegan2"

[[stage]]
command = "gan"
goes_on = true
images = 32
fit_mapping = true
discriminator = "stylegan2"

[[stage]]
command = "encoder"
channels = [8, 8, 8, 8]
images = 32
batch = 8
snapshot_steps = 1
compute.accelerator = "cpu"
compute.precision = "32-true"

[[stage]]
command = "directions"
names = ["warm"]

[[stage]]
command = "presets"
file = "presets.json"
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_pictures(tmp_path_factory.mktemp("data"), 96, 32)


def write_recipe(folder: Path, text: str = MINIATURE) -> Path:
    file = folder / "miniature.toml"
    file.write_text(text)
    (folder / "presets.json").write_text('[{"name": "warmer", "edits": []}]')
    return file


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_recipes_that_lie_here_are_valid(file: Path) -> None:
    """And the files of presets that they name exist."""
    stages = read_recipe(file)
    assert stages
    presets = [stage.folder / stage.settings["file"] for stage in stages if stage.command == "presets"]
    assert all(json.loads(path.read_text(encoding="utf-8")) for path in presets)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[stage]]\ncommand = 'gan'\nimagse = 3\n", r"stage 1 \(gan\): unknown imagse; there are .*images"),
        (
            "[[stage]]\ncommand = 'gan'\ngenerator.widths = [3]\n",
            r"stage 1 \(gan\): generator: unknown widths",
        ),
        ("[[stage]]\ncommand = 'gan'\n\n[[stage]]\ncommand = 'bake'\n", "stage 2: unknown command 'bake'"),
        ("[[stage]]\ncommand = 'gan'\nimages = 'many'\n", r"stage 1 \(gan\): images: .*integer"),
        ("[[stage]]\ncommand = 'gan'\ndata = 'faces.zip'\n", "data comes from the command line"),
        ("[[stage]]\ncommand = 'presets'\n", r"stage 1 \(presets\): file: .*required"),
        ("[[stage]]\ncommand = 'encoder'\ngoes_on = true\n", "goes_on is for the command gan"),
        ("[defaults.bake]\nimages = 3\n", "defaults: unknown bake"),
        ("title = 'faces'\n", "unknown title"),
        ("", "lists no stages"),
        ("[[stage\n", "is not TOML"),
    ],
)
def test_what_a_recipe_has_wrong_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        read_recipe(write_recipe(tmp_path, text))


def test_stages_run_in_their_order_and_only_once(
    data: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures, attributes = data
    arguments = [
        "recipe",
        write_recipe(tmp_path),
        "--data",
        pictures,
        "--attributes",
        attributes,
        "--runs",
        tmp_path / "runs",
    ]
    assert main([str(argument) for argument in arguments]) == 0
    gan, encoder = tmp_path / "runs/00000-gan-discs", tmp_path / "runs/00001-inversion-discs"
    assert capsys.readouterr().out.splitlines()[-1] == str(encoder)
    assert (load_meta(gan)["images_seen"], load_meta(gan)["generator"]["mapping_depth"]) == (32, 1)
    assert load_meta(encoder)["gan_images_seen"] == 32
    assert [entry["name"] for entry in json.loads((encoder / "directions.json").read_text())] == ["warm"]
    assert (encoder / "presets.json").read_text() == (tmp_path / "presets.json").read_text()
    assert main([str(argument) for argument in arguments]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum("done before" in line for line in lines) == 5
    changed = write_recipe(tmp_path, MINIATURE.replace("images = 16", "images = 24"))
    with pytest.raises(RecipeError, match=r"stage 1 \(gan\) was begun with other settings"):
        run_recipe(RecipeConfig(changed, pictures, tmp_path / "runs", attributes))


@pytest.mark.parametrize("stage", ["first gan", "second gan", "encoder"])
def test_an_interrupted_recipe_goes_on_in_its_stage(
    data: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    """Stopped after the first checkpoint of a stage, it ends with the weights of an undisturbed one."""
    text = MINIATURE[: MINIATURE.index('[[stage]]\ncommand = "directions"')]
    file = write_recipe(tmp_path, text)
    whole = run_recipe(RecipeConfig(file, data[0], tmp_path / "whole"))
    saves = {"first gan": 1, "second gan": 3, "encoder": 5}[stage]
    done = 0
    original = fit.save_snapshot

    def stop_after(*arguments: object) -> None:
        nonlocal done
        original(*arguments)  # type: ignore[arg-type]
        done += 1
        if done == saves:
            raise KeyboardInterrupt

    monkeypatch.setattr(fit, "save_snapshot", stop_after)
    with pytest.raises(KeyboardInterrupt):
        run_recipe(RecipeConfig(file, data[0], tmp_path / "stopped"))
    monkeypatch.setattr(fit, "save_snapshot", original)
    ended = run_recipe(RecipeConfig(file, data[0], tmp_path / "stopped"))
    assert ended.name == whole.name == "00001-inversion-discs"
    for name in ("generator", "encoder", "latent_discriminator"):
        a, b = (load_file(run / "checkpoint" / f"{name}.safetensors") for run in (whole, ended))
        for key in a:
            assert (a[key] == b[key]).all(), f"{name}: {key}"


def test_what_is_missing_from_the_command_line_is_named(data: tuple[Path, Path], tmp_path: Path) -> None:
    encoder = write_recipe(tmp_path, "[[stage]]\ncommand = 'encoder'\n")
    with pytest.raises(RecipeError, match=r"stage 1 \(encoder\): no gan: .*--gan"):
        run_recipe(RecipeConfig(encoder, data[0], tmp_path / "runs"))
    directions = write_recipe(tmp_path, "[[stage]]\ncommand = 'directions'\n")
    with pytest.raises(RecipeError, match="no attributes: name them with --attributes"):
        run_recipe(RecipeConfig(directions, data[0], tmp_path / "runs"))


def test_a_recipe_refuses_to_run_in_several_processes(
    data: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RecipeError, match="torchrun"):
        run_recipe(RecipeConfig(write_recipe(tmp_path), data[0], tmp_path / "runs"))


def test_every_command_of_a_recipe_has_the_fields_that_are_given_to_it() -> None:
    for command in recipe.COMMANDS.values():
        assert command.given <= set(command.config.__dataclass_fields__)


def test_a_recipe_ends_by_the_clock_and_the_same_command_goes_on(
    data: tuple[Path, Path], tmp_path: Path
) -> None:
    file = write_recipe(tmp_path, MINIATURE[: MINIATURE.index('[[stage]]\ncommand = "encoder"')])
    config = RecipeConfig(file, data[0], tmp_path / "runs", seconds=0.0)
    # Without time each call does one step of 8 pictures.
    seen = []
    for _ in range(4):
        run_recipe(config)
        (run,) = (tmp_path / "runs").glob("*-gan-*")
        seen.append(load_meta(run)["images_seen"])
    assert seen == [8, 24, 32, 32]
    done = [entry["done"] for entry in json.loads((tmp_path / "runs/miniature.recipe.json").read_text())]
    assert done == [True, True]
