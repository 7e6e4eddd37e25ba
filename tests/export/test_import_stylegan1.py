"""Imported StyleGAN1 generators, and encoders, do what a slow reference of their formats does."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.gateway import running_gateway
from export.__main__ import main
from export.bundles.building import BundleConfig
from export.bundles.bundle import write_bundle
from export.bundles.checkpoint import load_pipeline
from export.graphs.encoder_folding import fold_encoder
from export.graphs.folding import FoldedMapping, fold_synthesis
from export.importing import ImportConfig, import_checkpoint
from export.parity.refiner import carried_on, refiner_inputs
from export.parity.sessions import open_session, run
from indomain.cli import main as indomain_cli
from tests.export import foreign_stylegan1
from tests.export.foreign_stylegan1 import Case, EncoderCase, generator, idinvert_encoder
from training.loops.inversion import train_encoder
from training.loops.inversion_config import InversionConfig
from training.networks.generator import Generator, GeneratorConfig
from training.optimisation.step import Compute
from training.refinement.refinement import RefinementConfig
from training.run_folders.checkpoint import CheckpointError, load_meta, load_network
from training.run_folders.json_files import read_config

PORTRAIT = Path(__file__).parents[2] / "clients/python/examples/portrait.png"

GENERATORS: dict[str, Callable[[], Case]] = {
    "idinvert": generator,
    "idinvert, fused above 64 px": lambda: generator((6, 4, 4, 4, 4, 4)),
    "GenForce": lambda: generator((6, 4, 4, 4, 4, 4), idinvert=False, repeat=True),
    "GenForce, w per layer": lambda: generator(idinvert=False),
}


def load(folder: Path) -> Generator:
    """The generator of a run folder, as training and export load it."""
    network = Generator(read_config(GeneratorConfig, load_meta(folder)["generator"]))
    load_network(folder, "generator", network)
    return network.eval()


@torch.no_grad()
@pytest.mark.parametrize("chosen", GENERATORS)
def test_pictures_are_those_of_the_format(tmp_path: Path, chosen: str) -> None:
    """Within 1e-3 over ten codes, also folded for export."""
    torch.manual_seed(1)
    case = GENERATORS[chosen]()
    content = case.state if "idinvert" in chosen else {"generator": {}, "generator_smooth": case.state}
    torch.save(content, tmp_path / "Towers.pth")
    assert main(["import", str(tmp_path / "Towers.pth"), "--to", str(tmp_path / "run")]) == 0
    meta = load_meta(tmp_path / "run", "gan")
    assert meta["generator"]["architecture"] == "stylegan1"
    assert meta["generator"]["per_layer_code"] == (chosen != "GenForce")
    ours, z = load(tmp_path / "run"), torch.randn(10, foreign_stylegan1.Z)
    wanted = case.reference(z)
    scale = wanted.abs().max()
    for found in (ours(z), fold_synthesis(ours.synthesis)(FoldedMapping(ours.mapping)(z))):
        torch.testing.assert_close(found / scale, wanted / scale, rtol=0, atol=1e-3)


def refused(tmp_path: Path, content: object) -> str:
    """The message."""
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(CheckpointError) as caught:
        import_checkpoint(ImportConfig(tmp_path / "a.pt", tmp_path / "run"))
    return str(caught.value)


@pytest.mark.parametrize("idinvert", [True, False])
def test_generators_that_do_not_fit(tmp_path: Path, idinvert: bool) -> None:
    torch.manual_seed(0)
    state = generator(idinvert=idinvert).state
    gone = [name for name in state if name.startswith("synthesis.layer") and name.endswith("bias")][2:4]
    short = {name: value for name, value in state.items() if name not in gone}
    message = refused(tmp_path, short | {"surprise.weight": torch.ones(1)})
    assert all(name in message for name in (*gone, "surprise.weight"))
    kernel = "synthesis.layer2.blur.kernel"
    assert kernel in refused(tmp_path, state | {kernel: state[kernel] * 2})
    noise = next(name for name in state if name.endswith("noise.noise"))
    assert f"{noise} (5,)" in refused(tmp_path, state | {noise: torch.ones(5)})
    assert "lod is not 0" in refused(tmp_path, state | {"synthesis.lod": torch.ones(())})
    assert "more layers" in refused(tmp_path, state | {"synthesis.output999999999.bias": torch.ones(3)})
    assert not (tmp_path / "run").exists()


# --- encoders --------------------------------------------------------------------------------------------------------


@dataclass
class Pair:
    """A generator and an encoder of idinvert's, imported one after the other into `run`."""

    run: Path
    generator: Case
    encoder: EncoderCase
    text: str


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    torch.manual_seed(3)
    return imported_pair(tmp_path_factory.mktemp("idinvert"), generator(), idinvert_encoder())


def imported_pair(folder: Path, drawn: Case, encoder: EncoderCase) -> Pair:
    """Both files through the importer, one after the other."""
    torch.save(drawn.state, folder / "styleganinv_generator.pth")
    torch.save(encoder.content, folder / "styleganinv_encoder.pth")
    for part in ("generator", "encoder"):
        file = folder / f"styleganinv_{part}.pth"
        text = import_checkpoint(ImportConfig(file, folder / "run", name="faces"))
    return Pair(folder / "run", drawn, encoder, text)


def test_an_encoder_completes_its_generators_run(pair: Pair) -> None:
    assert "python -m training encoder --gan" in pair.text
    pipeline, image = load_pipeline(pair.run), torch.rand(3, 3, 32, 32) * 2 - 1
    wanted = pair.encoder.reference(image)
    for found in (pipeline.encoder(image), fold_encoder(pipeline.encoder)(image)):
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)
    assert pipeline.meta["imported_encoder"]["family"] == "idinvert encoder"
    assert pipeline.meta["imported"]["file"] == "styleganinv_generator.pth"
    assert pipeline.latent_discriminator.view == "joint"
    code = pipeline.generator.mapping(torch.randn(500, foreign_stylegan1.Z))
    noise = torch.randn_like(code) * pipeline.latent_discriminator.deviation
    native, near, far = (
        pipeline.latent_discriminator(code + strength * noise).median() for strength in (0.0, 0.1, 1.0)
    )
    assert native >= near > far


def test_encoders_that_do_not_fit(tmp_path: Path, pair: Pair) -> None:
    case = pair.encoder
    again = ImportConfig(pair.run.parent / "styleganinv_encoder.pth", pair.run)
    with pytest.raises(CheckpointError, match="run folder, and a run of kind gan"):
        import_checkpoint(again)
    torch.save(generator().state, tmp_path / "a.pt")
    import_checkpoint(ImportConfig(tmp_path / "a.pt", tmp_path / "run2"))
    short = {name: value for name, value in case.content.items() if name != "block1.wscale2.bias"}
    for content, says in (
        (short | {"surprise": torch.ones(1)}, r"missing \[block1.wscale2.bias\], unknown \[surprise\]"),
        (idinvert_encoder((4, 6, 8), 6).content, "16 px and gives codes 6 x 12"),
        (case.content | {"block3.conv2.weight": torch.ones(8, 5, 3, 3)}, "block3.conv2.weight"),
        (case.content | {"block3.conv2.weight": torch.empty(1 << 40, 0, 3, 3)}, "wider than"),
        (case.content | {"block99.conv2.weight": torch.ones(1)}, "more layers"),
        (case.content | {"block4.fc.weight": torch.ones(7, 2)}, "codes of 7 numbers"),
    ):
        torch.save(content, tmp_path / "e.pt")
        with pytest.raises(CheckpointError, match=says):
            import_checkpoint(ImportConfig(tmp_path / "e.pt", tmp_path / "run2"))
    assert load_meta(tmp_path / "run2", "gan")["name"] == "a"
    meta = tmp_path / "run2/checkpoint/checkpoint.json"
    meta.write_text(meta.read_text().replace('"discriminator": "none"', '"discriminator": "stylegan2"'))
    with pytest.raises(CheckpointError, match="was trained here"):  # whose discriminator must not be lost
        import_checkpoint(ImportConfig(pair.run.parent / "styleganinv_encoder.pth", tmp_path / "run2"))


def test_an_imported_encoder_trains_on(tmp_path: Path, pair: Pair) -> None:
    """From its own weights, whatever widths are asked for."""
    config = InversionConfig(
        pair.run, runs=tmp_path, images=4, batch=4, rate=0.0,
        compute=Compute(accelerator="cpu", precision="32-true"),
    )  # fmt: skip
    trained = load_pipeline(train_encoder(config))
    assert trained.encoder.config.architecture == "idinvert"
    before = load_pipeline(pair.run).encoder
    assert torch.equal(trained.encoder.fc.weight, before.fc.weight)


@pytest.mark.slow
def test_an_imported_pair_becomes_a_bundle(tmp_path: Path, pair: Pair) -> None:
    """Its graphs draw the reference's pictures and refine towards a target, and the gateway edits with them."""
    # a random encoder's codes are far from its input: their term must not drown the others
    refine = RefinementConfig(steps=4, chunk_steps=2, learning_rate=0.1, domain_weight=0.05)
    repository = complete_bundle(tmp_path, pair, refine)

    def graph(role: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return run(open_session(repository / f"faces_{role}/1/model.onnx"), inputs)

    z = torch.randn(2, foreign_stylegan1.Z)
    code = graph("mapping", {"z": z.numpy()})["code"]
    image = graph("generator", {"code": code})["image"]
    wanted = ((pair.generator.reference(z).permute(0, 2, 3, 1) + 1) * 127.5).numpy()
    assert np.abs(image - wanted).max() < 8  # of 255; weights are rounded to float16
    assert graph("encoder", {"image": image})["code"].shape == code.shape
    inputs = refiner_inputs(code, image[::-1].copy(), refine)
    first = graph("refiner", inputs)
    second = graph("refiner", carried_on(inputs, first))
    assert (second["best_loss"] < first["loss"][:, :1]).all()
    edit_through_the_gateway(repository, 32)


@pytest.mark.slow
def test_networks_of_the_papers_size_are_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """256 pixels, 165 million parameters in the encoder: minutes, and gigabytes; it prints how many."""
    for constant, value in (("CODE", 512), ("Z", 512), ("DEPTH", 8)):
        monkeypatch.setattr(foreign_stylegan1, constant, value)
    torch.manual_seed(3)
    encoder = idinvert_encoder((64, 128, 256, 512, 1024, 1024, 1024), 14)
    full = imported_pair(tmp_path, generator((512, 512, 512, 512, 256, 128, 64)), encoder)
    refine = RefinementConfig(steps=2, chunk_steps=2, domain_weight=0.05)
    begun_s = time.monotonic()
    repository = complete_bundle(tmp_path, full, refine)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # Linux counts in KiB
    size = sum(file.stat().st_size for file in repository.rglob("*") if file.is_file())
    print(f"bundle: {time.monotonic() - begun_s:.0f} s, peak {peak:.1f} GB, {size / 1e6:.0f} MB")
    edit_through_the_gateway(repository, 256)


def complete_bundle(folder: Path, pair: Pair, refine: RefinementConfig) -> Path:
    """A repository of the pair's bundle, with a boundary as idinvert saves them for a direction."""
    content = {"boundary": np.ones((1, foreign_stylegan1.CODE)), "meta_data": {"manipulate_layers": [0, 1]}}
    np.save(folder / "smile.npy", content, allow_pickle=True)  # type: ignore[arg-type]
    assert main(["import", str(folder / "smile.npy"), "--to", str(pair.run)]) == 0
    write_bundle(BundleConfig(pair.run, folder / "repository", refine=refine, sampled_codes=500))
    return folder / "repository"


def edit_through_the_gateway(repository: Path, side: int) -> None:
    """As people do: a photograph, on the command line."""
    out = repository / "out.png"
    with running_gateway(repository) as (address, _):
        arguments = ["edit", str(PORTRAIT), "smile=1", "-o", str(out), "--server", address]
        assert indomain_cli([*arguments, "--timeout", "600"]) == 0
    with Image.open(out) as edited:
        assert edited.size == (side, side)
        assert np.asarray(edited).std() > 1
