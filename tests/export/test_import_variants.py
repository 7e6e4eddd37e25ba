"""Files as people have them: each imports to what its network draws, and says what was made or left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from export.__main__ import main
from export.graphs.folding import FoldedMapping, fold_synthesis
from tests.export import foreign_stylegan1
from tests.export.foreign_pickles import (
    Network,
    as_modules,
    pickled,
    stylegan1_variables,
    stylegan2_variables,
    tensorflow,
)
from tests.export.foreign_stylegan2 import State, nvidia, rosinality
from tests.export.foreign_variants import (
    LABELS,
    VARIANTS,
    as_nvidia_pickle,
    conditional,
    saved,
    tensorflow_stylegan1,
    tensorflow_stylegan2,
)
from training.networks.generator import Generator, GeneratorConfig
from training.run_folders.checkpoint import load_meta, load_network
from training.run_folders.json_files import read_config

TOLERANCE = 1e-4  # on pictures brought to [-1, 1]


def load(run: Path) -> Generator:
    """The generator of a run folder, as training and export load it."""
    generator = Generator(read_config(GeneratorConfig, load_meta(run, "gan")["generator"]))
    load_network(run, "generator", generator)
    return generator.eval()


@torch.no_grad()
def difference(generator: Generator, wanted: Tensor, z: Tensor) -> float:
    """The largest difference of pictures of z, as they are and folded for export, relative to the largest entry."""
    folded = fold_synthesis(generator.synthesis)(FoldedMapping(generator.mapping)(z))
    scale = wanted.abs().max()
    return max(float((found - wanted).abs().max() / scale) for found in (generator(z), folded))


@pytest.mark.parametrize("chosen", VARIANTS)
def test_pictures_are_those_of_the_format(
    tmp_path: Path, chosen: str, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(3)
    variant = VARIANTS[chosen]()
    file = variant.write(tmp_path)
    assert main(["import", str(file), "--to", str(tmp_path / "run"), *variant.arguments]) == 0
    said = capsys.readouterr().out
    assert variant.says in said
    assert all(note in said for note in load_meta(tmp_path / "run", "gan")["imported"]["notes"])
    z = torch.randn(10, variant.z_size)
    assert difference(load(tmp_path / "run"), variant.reference(z), z) < TOLERANCE


def test_up_convolutions_of_tensorflow_that_are_fused(tmp_path: Path) -> None:
    """From 128 pixels on, its StyleGAN has transposed convolutions with unflipped kernels."""
    torch.manual_seed(3)
    variant = tensorflow_stylegan1((6, 4, 4, 4, 4, 4))
    assert main(["import", str(variant.write(tmp_path)), "--to", str(tmp_path / "run")]) == 0
    z = torch.randn(4, foreign_stylegan1.Z)
    assert difference(load(tmp_path / "run"), variant.reference(z), z) < 1e-3


def test_tensorflow_gives_the_weights_of_the_converted_network(tmp_path: Path) -> None:
    """Bit for bit, except for styles' biases, which have 1 taken off and added again."""
    state = nvidia().state
    for name, write in (("theirs", tensorflow_stylegan2(state)), ("converted", saved({"G_ema": state}))):
        folder = tmp_path / name
        folder.mkdir()
        assert main(["import", str(write(folder)), "--to", str(folder / "run")]) == 0
    theirs, converted = (load(tmp_path / name / "run").state_dict() for name in ("theirs", "converted"))
    for name, wanted in converted.items():
        tolerance = 1e-6 if name.endswith("style.bias") else 0
        torch.testing.assert_close(theirs[name], wanted, rtol=0, atol=tolerance)


def test_noise_maps_are_made_the_same_again(tmp_path: Path) -> None:
    torch.manual_seed(0)
    variant = VARIANTS["rosinality without noise maps"]()
    file = variant.write(tmp_path)
    for name in ("a", "b"):
        torch.manual_seed(ord(name))
        assert main(["import", str(file), "--to", str(tmp_path / name)]) == 0
    a, b = (load(tmp_path / name).state_dict() for name in ("a", "b"))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert float(a["synthesis.styled.3.noise"].std()) == pytest.approx(1, abs=0.2)


def refused(tmp_path: Path, write: Any, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The message about a file that is not imported."""
    assert main(["import", str(write(tmp_path)), "--to", str(tmp_path / "run"), *arguments]) == 2
    assert not (tmp_path / "run").exists()
    return capsys.readouterr().err


def test_a_part_of_the_noise_maps_is_no_sound_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = rosinality().state
    del state["noises.noise_2"]
    assert "missing [noises.noise_2]" in refused(tmp_path, saved(state), capsys)


def test_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Another label is another network; a missing or a wrong one is an error that says which there are."""
    torch.manual_seed(0)
    variant = conditional(as_nvidia_pickle, "")
    for arguments in ((), ("--label", str(LABELS)), ("--label", "-1")):
        said = refused(tmp_path, variant.write, capsys, *arguments)
        assert f"conditional on {LABELS} classes; choose one with --label 0 to {LABELS - 1}" in said
    plain = saved(rosinality().content)
    assert "leave out --label" in refused(tmp_path, plain, capsys, "--label", "0")
    file = variant.write(tmp_path)
    for label in ("0", "3"):
        assert main(["import", str(file), "--to", str(tmp_path / label), "--label", label]) == 0
    z = torch.randn(1, 10)
    assert not torch.allclose(load(tmp_path / "0")(z), load(tmp_path / "3")(z), atol=0.1)


def alias_free(kernel: int, *more: str) -> State:
    state = {
        "mapping.fc0.weight": torch.ones(2, 2),
        "synthesis.input.freqs": torch.ones(2, 2),
        "synthesis.L0_36_512.weight": torch.ones(2, 2, kernel, kernel),
    }
    return state | dict.fromkeys(more, torch.ones(2, 2))


@pytest.mark.parametrize(
    ("state", "says"),
    [
        (alias_free(3), "StyleGAN3-t generator, not of the StyleGAN2 type"),
        (alias_free(1), "StyleGAN3-r generator with radially symmetric filters"),
        (alias_free(3, "mapping.embed.weight", "mapping.embed.bias"), "StyleGAN3-t"),
        (alias_free(3, "mapping.embed.weight", "mapping.embed_proj.weight"), "StyleGAN-XL"),
        (alias_free(3, "mapping.embed.weight"), "StyleGAN-XL"),
    ],
)
@pytest.mark.parametrize("whole", [False, True])
def test_networks_of_other_kinds_are_refused_by_name(
    tmp_path: Path, state: State, says: str, whole: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    def write(folder: Path) -> Path:
        file = folder / "a.pkl"
        file.write_bytes(pickled({"G_ema": as_modules(state, "") if whole else state}))
        return file

    said = refused(tmp_path, write, capsys)
    assert says in said
    assert "training/networks" in said


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"architecture": "resnet"}, "architecture='resnet'"),
        ({"resample_kernel": [1, 2, 1]}, "resample_kernel=[1, 2, 1]"),
        ({"nonlinearity": "relu"}, "nonlinearity='relu'"),
        ({"mapping_lrmul": "x"}, "not numbers"),
    ],
)
def test_tensorflow_networks_that_ours_is_not(
    tmp_path: Path, change: dict[str, Any], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    own, mapping, synthesis = stylegan2_variables(nvidia().state)
    content = tensorflow(4, own, mapping, synthesis, **change)

    def write(folder: Path) -> Path:
        (folder / "a.pkl").write_bytes(content)
        return folder / "a.pkl"

    assert says in refused(tmp_path, write, capsys)


def test_tensorflow_files_of_other_kinds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own, mapping, synthesis = stylegan2_variables(nvidia().state)
    first = stylegan1_variables(foreign_stylegan1.generator(idinvert=False, repeat=True).state)
    empty = Network(4, {}, {}, {})
    mapping_of_labels = mapping | {"LabelConcat/weight": np.ones((3, 10), np.float32)}
    surprise = synthesis | {"8x8/Skip/weight": np.ones((1, 1, 2, 2), np.float32)}
    fewer = {name: value for name, value in synthesis.items() if name != "8x8/Conv1/bias"}
    for content, says in (
        (pickled((empty,) * 4), "idinvert's TensorFlow file"),
        (pickled((empty,) * 3), "neither StyleGAN's nor StyleGAN2's"),
        (tensorflow(4, own, mapping_of_labels, synthesis), "normalised together"),
        (tensorflow(4, own, mapping, surprise), "unknown [synthesis/8x8/Skip/weight]"),
        (tensorflow(4, own, mapping, fewer), "missing [synthesis.b8.conv1.bias]"),
        (tensorflow(3, *first, fused_scale=True), "fused_scale=True"),
        (tensorflow(3, first[0], first[1], first[2] | {"lod": np.float32(2)}), "growing has not ended"),
    ):
        assert says in refused(tmp_path, lambda folder, content=content: write_bytes(folder, content), capsys)


def write_bytes(folder: Path, content: bytes) -> Path:
    (folder / "a.pkl").write_bytes(content)
    return folder / "a.pkl"


def test_several_networks_of_equal_rank_are_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = rosinality().state
    both = {f"{name}.{key}": value for name in ("G_A", "G_B") for key, value in state.items()}
    said = refused(tmp_path, saved({"state_dict": both}), capsys)
    assert "several networks: state_dict.G_A., state_dict.G_B." in said
    twice = {f"module.{key}": value for key, value in state.items()} | state
    assert "without module. and _orig_mod." in refused(tmp_path, saved(twice), capsys)


def test_channels_that_are_no_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "draws 2 maps" in refused(tmp_path, saved(nvidia(drawn=2).state), capsys)


def test_the_documents_have_a_row_for_each_file() -> None:
    text = (Path(__file__).parents[2] / "docs/export.md").read_text()
    for name, make in VARIANTS.items():
        assert f"| {name} | {make().keys} | " in text
