"""Imported generators draw what a slow reference of each format draws, and files that do not fit are errors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from export.__main__ import main
from export.bundles.checkpoint import load_pipeline
from export.foreign_files import read_checkpoint
from export.graphs.folding import FoldedMapping, FoldedSynthesis
from export.importing import ImportConfig, import_checkpoint
from tests.export.foreign_pickles import Module, as_modules, pickled
from tests.export.foreign_stylegan2 import (
    FORMATS,
    Z,
    nvidia,
    rosinality,
)
from training.loops.inversion import train_encoder
from training.loops.inversion_config import InversionConfig
from training.networks.generator import Generator, GeneratorConfig
from training.optimisation.step import Compute
from training.run_folders.checkpoint import CheckpointError, load_meta, load_network
from training.run_folders.json_files import read_config

# --- parity ----------------------------------------------------------------------------------------------------------


def load(run: Path) -> Generator:
    """The generator of a run folder, as training and export load it."""
    generator = Generator(read_config(GeneratorConfig, load_meta(run, "gan")["generator"]))
    load_network(run, "generator", generator)
    return generator.eval()


@torch.no_grad()
def assert_same_pictures(run: Path, reference: Callable[[Tensor], Tensor]) -> None:
    """Within 1e-3 over ten codes, also folded for export; pictures of random weights are brought to about [-1, 1]."""
    generator, z = load(run), torch.randn(10, Z)
    wanted = reference(z)
    scale = wanted.abs().max()
    for found in (generator(z), FoldedSynthesis(generator.synthesis)(FoldedMapping(generator.mapping)(z))):
        torch.testing.assert_close(found / scale, wanted / scale, rtol=0, atol=1e-4)


@pytest.mark.parametrize("family", FORMATS)
def test_pictures_are_those_of_the_format(tmp_path: Path, family: str) -> None:
    torch.manual_seed(1)
    case = FORMATS[family]()
    torch.save(case.content, tmp_path / "My Faces.pt")
    text = import_checkpoint(ImportConfig(tmp_path / "My Faces.pt", tmp_path / "run"))
    assert "python -m training encoder" in text
    meta = load_meta(tmp_path / "run", "gan")
    assert (meta["name"], meta["discriminator"]) == ("my-faces", "none")
    assert meta["imported"]["file"] == "My Faces.pt"
    assert meta["generator"]["per_layer_code"] == (family == "genforce, w per layer")
    assert_same_pictures(tmp_path / "run", case.reference)


# --- NVIDIA's pickles ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.01, 1.0])
def test_nvidia_pickles(tmp_path: Path, rate: float) -> None:
    """Whole networks with source code, which is not run; another learning rate multiplier of the mapping."""
    torch.manual_seed(2)
    case = nvidia(rate)
    source = f"open({str(tmp_path / 'marker')!r}, 'w')\nclass Net: pass\n"
    network = as_modules(case.state, source, bias_gain=rate, conv_clamp=1e9, activation="lrelu")
    content = {"G": network, "D": Module(source), "G_ema": network, "training_set_kwargs": {"path": "a.zip"}}
    (tmp_path / "a.pkl").write_bytes(pickled(content | {"augment_pipe": None}))
    import_checkpoint(ImportConfig(tmp_path / "a.pkl", tmp_path / "run"))
    assert not (tmp_path / "marker").exists()
    assert_same_pictures(tmp_path / "run", case.reference)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"conv_clamp": 0.5}, "clamps them at 0.5"),
        ({"architecture": "resnet"}, "not StyleGAN2's with skips"),
        ({"activation": "relu"}, "not StyleGAN2's with skips"),
        ({"bias_gain": "x"}, "not numbers"),
    ],
)
def test_nvidia_variants_that_ours_is_not(tmp_path: Path, fields: dict[str, Any], says: str) -> None:
    content = {"G_ema": as_modules(nvidia().state, "", **fields)}
    (tmp_path / "a.pkl").write_bytes(pickled(content))
    with pytest.raises(CheckpointError, match=says):
        import_checkpoint(ImportConfig(tmp_path / "a.pkl", tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_stylegan3_and_modules_without_end(tmp_path: Path) -> None:
    state = {"mapping.fc0.weight": torch.ones(2, 2), "synthesis.L0_36_512.weight": torch.ones(2, 2)}
    deep = nvidia().state | {f"synthesis.{'b4.' * 20}weight": torch.ones(1)}
    for content, says in ((state, "not of the StyleGAN2 type"), (deep, "without end")):
        (tmp_path / "a.pkl").write_bytes(pickled({"G_ema": as_modules(content, "")}))
        with pytest.raises(CheckpointError, match=says):
            import_checkpoint(ImportConfig(tmp_path / "a.pkl", tmp_path / "run"))


# --- files that do not fit -------------------------------------------------------------------------------------------


def refused(tmp_path: Path, content: Any) -> str:
    """The message."""
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(CheckpointError) as caught:
        import_checkpoint(ImportConfig(tmp_path / "a.pt", tmp_path / "run"))
    assert not (tmp_path / "run").exists()
    return str(caught.value)


@pytest.mark.parametrize("family", FORMATS)
def test_every_unknown_and_missing_name_is_listed(tmp_path: Path, family: str) -> None:
    torch.manual_seed(0)
    case = FORMATS[family]()
    names = [n for n in case.state if not n.endswith(("kernel", "resample_filter", "w_avg"))]
    gone = [name for name in names if name.endswith("bias")][:2]
    state = {key: value for key, value in case.state.items() if key not in gone} | {
        "surprise.weight": torch.ones(1)
    }
    message = refused(tmp_path, state)
    assert all(name in message for name in (*gone, "surprise.weight"))


@pytest.mark.parametrize("family", FORMATS)
def test_other_filters_and_shapes_are_refused(tmp_path: Path, family: str) -> None:
    torch.manual_seed(0)
    state = FORMATS[family]().state
    name = next(key for key in state if key.endswith(("kernel", "resample_filter")))
    message = refused(tmp_path, state | {name: state[name].flip(-1) + torch.arange(4.0)})
    assert name in message
    name = next(key for key in state if "noise" in key and state[key].ndim > 1)
    assert f"{name} (5,)" in refused(tmp_path, state | {name: torch.ones(5)})


@pytest.mark.parametrize(
    "content",
    [
        {"weights": torch.ones(2)},
        [torch.ones(2)],
        torch.ones(2),
        {"g_ema": {}},
        {"g_ema": {1: 2, "conv1.conv.modulation.weight": torch.ones(2)}},
        {"state_dict": {"decoder.input.input": torch.ones(1, 2, 4, 4)}},
        {"generator_smooth": {"synthesis.early_layer.const": torch.ones(1, 2, 4, 4)}},
        {"G_ema": {"synthesis.b4.conv1.affine.weight": torch.ones(2, 2)}},
    ],
)
def test_files_of_no_known_family(tmp_path: Path, content: Any) -> None:
    assert "a.pt was not imported" in refused(tmp_path, content)


def test_names_that_pretend_to_be_large(tmp_path: Path) -> None:
    """Neither a number of layers nor an empty tensor's width makes a large network."""
    torch.manual_seed(0)
    state = rosinality().state
    assert "more layers" in refused(tmp_path, state | {"to_rgbs.999999999.bias": torch.ones(3)})
    wide = torch.empty(1, 1 << 40, 0, 3, 3)
    assert "wider than" in refused(tmp_path, state | {"convs.1.conv.weight": wide})


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    torch.save(rosinality().content, tmp_path / "a.pt")
    arguments = ["import", str(tmp_path / "a.pt"), "--to", str(tmp_path / "run"), "--name", "faces32"]
    assert main(arguments) == 0
    assert "32 px" in capsys.readouterr().out
    assert load_meta(tmp_path / "run", "gan")["name"] == "faces32"
    assert main(arguments) == 2
    assert "holds a checkpoint already" in capsys.readouterr().err
    assert main(["import", str(tmp_path / "none.pt"), "--to", str(tmp_path / "other")]) == 2
    assert read_checkpoint(tmp_path / "run/checkpoint/generator.safetensors")


def test_an_encoder_trains_for_an_imported_generator(tmp_path: Path) -> None:
    """Against a fresh image discriminator; the run that comes out is one that the export takes."""
    torch.manual_seed(0)
    torch.save(rosinality().content, tmp_path / "a.pt")
    import_checkpoint(ImportConfig(tmp_path / "a.pt", tmp_path / "gan"))
    config = InversionConfig(  # no pictures: its own samples
        tmp_path / "gan", runs=tmp_path, channels=(4, 4, 4, 4), images=8, batch=4,
        compute=Compute(accelerator="cpu", precision="32-true"),
    )  # fmt: skip
    pipeline = load_pipeline(train_encoder(config))
    assert pipeline.meta["discriminator"] == "projected"
    assert pipeline.latent_discriminator.view == "layer"  # its mapping repeats one w
    wanted = load(tmp_path / "gan").state_dict()
    assert all(torch.equal(value, wanted[name]) for name, value in pipeline.generator.state_dict().items())
