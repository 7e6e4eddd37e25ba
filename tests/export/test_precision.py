"""Bundles that compute in 16 bits, and weights beside the graph, as strangers and the gateway find them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import TensorProto
from torch import nn

from export.__main__ import main
from export.bundles import building, bundle
from export.bundles.building import BundleConfig
from export.bundles.bundle import write_bundle
from export.bundles.progress import progress_bar
from export.graphs import storage
from export.graphs.folding import FoldedSynthesis
from export.graphs.graphs import to_onnx
from export.graphs.precision import Precision, lower, picture_psnr
from export.parity.tolerances import ParityError, Tolerances
from serving.errors import BundleInvalid
from serving.repository.reader import read_bundle
from tests.export.conftest import REFINE, Exported
from training.networks.encoder import Encoder
from training.networks.generator import Generator, GeneratorConfig
from training.run_folders.checkpoint import load_meta, save_checkpoint

ROLES = ("encoder", "generator", "mapping", "critic", "refiner")
ELEMENTS: dict[str, int] = {"float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}
SIXTEEN: tuple[Precision, ...] = ("float16", "bfloat16")
CODES = 16


@pytest.fixture(scope="module", params=SIXTEEN)
def lowered(
    request: pytest.FixtureRequest, exported: Exported, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str]:
    """A repository with encoder and generator in 16 bits, every graph's weights beside it; the rest as exported."""
    precision = request.param

    def export_what_differs(graph, name):
        if graph.precision != "float32":
            return to_onnx(graph, name)
        return ir.load(exported.repository / name / "1" / "model.onnx")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bundle, "to_onnx", export_what_differs)
        patch.setattr(storage, "EXTERNAL_DATA_BYTES", 0)
        to = tmp_path_factory.mktemp(precision) / "repository"
        config = BundleConfig(
            exported.run, to, precision=precision, precision_codes=CODES, refine=REFINE, sampled_codes=2000
        )
        assert "psnr_db" in write_bundle(config)
    return to, precision


def test_manifest_and_graph_say_what_it_computes_in(lowered: tuple[Path, str]) -> None:
    repository, precision = lowered
    manifest = json.loads((repository / "tiny.json").read_text())
    assert (manifest["parity"]["precision"], manifest["parity"]["precision_codes"]) == (precision, CODES)
    for role in ROLES:
        sixteen = role in ("encoder", "generator")
        assert manifest["graphs"][role]["precision"] == (precision if sixteen else "float32")
        model = onnx.load(repository / manifest["graphs"][role]["file"])
        values = onnx.shape_inference.infer_shapes(model).graph
        kinds = {v.name: v.type.tensor_type.elem_type for v in (*values.value_info, *values.input)}
        kinds |= {tensor.name: tensor.data_type for tensor in values.initializer}
        convolved = {
            kinds[name] for n in values.node if n.op_type in ("Conv", "ConvTranspose") for name in n.input[:2]
        }
        rooted = {kinds[n.output[0]] for n in values.node if n.op_type in ("Sqrt", "Reciprocal")}
        if sixteen:
            assert manifest["parity"][role]["psnr_db"] >= Tolerances().psnr_db
            assert ELEMENTS[precision] in convolved
        else:
            assert convolved <= {TensorProto.FLOAT}
        assert rooted <= {TensorProto.FLOAT}  # demodulation


def test_verified_by_whoever_can_run_it(
    lowered: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    repository, precision = lowered
    assert main(["verify", str(repository)]) == 0
    lines = {line.split()[1]: line for line in capsys.readouterr().out.splitlines()}
    for role in ROLES:
        not_run = precision == "bfloat16" and role in ("encoder", "generator")
        assert ("not run" if not_run else "sample as stored") in lines[role]


def test_weights_beside_the_graph_are_vouched_for(
    lowered: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    repository = Path(shutil.copytree(lowered[0], tmp_path / "repository"))
    graph = read_bundle(repository, "tiny").graphs["generator"]
    assert graph.external_data is not None
    data = repository / graph.external_data.file
    # Triton and ONNX Runtime look for it there.
    assert data == repository / "tiny_generator" / "1" / "model.onnx.data"
    assert data.stat().st_size > (repository / graph.file).stat().st_size
    content = bytearray(data.read_bytes())
    content[0] ^= 1
    data.write_bytes(content)
    with pytest.raises(BundleInvalid, match=r"model\.onnx\.data is not the file"):
        read_bundle(repository, "tiny")
    data.unlink()
    with pytest.raises(BundleInvalid, match=r"model\.onnx\.data cannot be read"):
        read_bundle(repository, "tiny")
    assert main(["verify", str(repository)]) == 3
    assert "generator: model.onnx.data is missing" in capsys.readouterr().err


def test_diff_names_the_precision(
    exported: Exported, lowered: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["diff", str(exported.repository), str(lowered[0])]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("graph generator"))
    assert "precision" in line


@torch.no_grad()
def overflowing_run(exported: Exported, folder: Path) -> Path:
    """The tiny run with one feature map above the largest float16, which the next layer ignores."""
    pipeline = exported.pipeline
    generator = Generator(pipeline.generator.config)
    generator.load_state_dict(pipeline.generator.state_dict())
    generator.synthesis.styled[1].bias[0] = 1e5
    generator.synthesis.styled[2].conv.weight[:, 0] = 0
    networks = {
        "generator": generator, "encoder": pipeline.encoder, "latent_discriminator": pipeline.latent_discriminator,
    }  # fmt: skip
    save_checkpoint(folder / "checkpoint", load_meta(exported.run, "inversion"), networks, {})
    return folder


def test_a_generator_that_overflows_is_refused_with_the_figure(
    exported: Exported, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, to = overflowing_run(exported, tmp_path / "run"), tmp_path / "repository"
    options = ["--precision", "float16", "--precision-codes", "4", "--sampled-codes", "100"]
    assert main(["bundle", str(run), "--to", str(to), *options]) == 3
    error = capsys.readouterr().err
    assert "generator: PSNR of float16 against float32 nan dB; at least 40 needed" in error
    assert {path.name for path in tmp_path.iterdir()} == {"run"}


def test_less_than_40_db_is_refused_with_the_figure(
    exported: Exported, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def coarse(network: nn.Module, precision: Precision) -> nn.Module:
        network = lower(network, precision)
        for tensor in network.parameters() if isinstance(network, Encoder) else network.buffers():
            tensor.data = tensor.data.to(torch.float8_e5m2).to(tensor.dtype)  # two bits of mantissa
        return network

    monkeypatch.setattr(building, "lower", coarse)
    config = BundleConfig(
        exported.run, tmp_path / "to", precision="float16", precision_codes=4, sampled_codes=100
    )
    with pytest.raises(ParityError, match=r"generator: PSNR of float16 against float32 [123]\d\.\d dB"):
        write_bundle(config)
    assert not list(tmp_path.iterdir())


@torch.no_grad()
@pytest.mark.parametrize("precision", SIXTEEN)
def test_large_styles_do_not_overflow(precision: Precision) -> None:
    """Demodulation cancels a style's size, but only after the convolution has summed it."""
    torch.manual_seed(0)
    generator = Generator(GeneratorConfig(resolution=16, channels=(32, 16, 8), mapping_depth=2))
    for layer in generator.synthesis.styled:
        layer.conv.style.bias.fill_(3e4)
    synthesis = FoldedSynthesis(generator.synthesis).eval()
    codes = generator.mapping(torch.randn(8, 512)).split(4)
    assert picture_psnr(lower(synthesis, precision), synthesis, codes)["psnr_db"] > Tolerances().psnr_db


def test_progress_shows_on_terminals_only(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with progress_bar(2) as announce:
        announce("exporting the generator")
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    with progress_bar(2) as announce:
        announce("exporting the generator")
        announce("checking the generator")
    assert "checking the generator" in capsys.readouterr().err
