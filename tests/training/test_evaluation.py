"""`python -m training evaluate` as a user runs it, and the inversions that it compares."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from tests.export.run_folder import write_run
from tests.training.pictures import write_pictures
from training.__main__ import main
from training.data.pictures import DataError, load_pictures
from training.evaluation.report import method_name
from training.loops.inversion_config import InversionConfig
from training.measures.metrics import load_inception
from training.refinement.objective import Objective
from training.refinement.refinement import RefinementConfig, refine
from training.refinement.searches import Search, image2stylegan, single_w, z_with_clipping, z_with_prior
from training.run_folders.trained_inversion import load_inversion

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
PICTURES = (
    "encoders.png", "inversions.png", "samples.png", "codes.png", "gap.png", "domain_score.png",
    "encoders-shown.png", "inversions-shown.png",
)  # fmt: skip
PORTRAITS = Path(__file__).parents[2] / "clients/python/examples"


class Inception(nn.Module):
    """Stands in for the FID's network, which is not ours to ship: the same door, with colours for features."""

    def forward(self, images: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        assert return_features
        assert images.dtype == torch.uint8
        return images.float().mean((2, 3))


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path], Path]:
    folder = tmp_path_factory.mktemp("evaluation")
    pictures, attributes = write_pictures(folder, 40, 32)
    runs = [
        write_run(folder / "in-domain0", code_weight=0.0),
        write_run(folder / "forced", code_weight=0.1),
        write_run(folder / "in-domain1", code_weight=0.0, seed=1),
    ]
    data = [
        "--data",
        pictures,
        "--data-attributes",
        attributes,
        "--train",
        pictures,
        "--train-attributes",
        attributes,
    ]
    torch.jit.script(Inception()).save(folder / "inception.pt")
    sizes = ["--optimised", 4, "--refined", 4, "--steps", 3, "--edited", 6, "--samples", 48]
    sizes += ["--inception", folder / "inception.pt", "--shown", PORTRAITS]
    arguments = [*runs, *data, *sizes, "--attributes", "tilt", "warm", "--output", folder / "out"]
    assert main(["evaluate", *map(str, arguments)]) == 0
    return folder / "out", runs, pictures


def test_encoders_are_measured_without_inversions_by_optimisation(
    evaluated: tuple[Path, list[Path], Path], tmp_path: Path
) -> None:
    output, runs, pictures = evaluated
    arguments = [runs[0], "--data", pictures, "--optimised", 0, "--samples", 0, "--output", tmp_path / "out"]
    assert main(["evaluate", *map(str, arguments)]) == 0
    alone, beside = (
        json.loads((folder / "evaluation.json").read_text()) for folder in (tmp_path / "out", output)
    )
    assert alone["inversions"] == {}
    assert alone["encoders"][0]["figures"]["auc"] == beside["encoders"][0]["figures"]["auc"]


def test_encoders_are_grouped_by_method_and_measured(evaluated: tuple[Path, list[Path], Path]) -> None:
    output, runs, pictures = evaluated
    results = json.loads((output / "evaluation.json").read_text())
    assert [e["method"] for e in results["encoders"]] == ["in-domain", "force-in-domain", "in-domain"]
    methods = results["methods"]
    assert methods["in-domain"]["mse"][1] > 0  # two seeds have a spread
    assert methods["force-in-domain"]["mse"][1] == 0
    run = load_inversion(runs[1])
    images = load_pictures(pictures, 32).batch(torch.arange(40), mirror=False)
    made = run.generator.synthesis(run.encoder(images)).clamp(-1, 1)
    assert methods["force-in-domain"]["mse"][0] == pytest.approx(
        float((made - images).square().mean()), rel=1e-4
    )
    # The chosen encoder's codes, refined on the same pictures.
    ours = results["inversions"]["domain-regularised optimisation"]
    for name in ("mse", "lpips_sq", "identity_distance"):
        assert methods["force-in-domain"][f"refined_{name}"][0] == pytest.approx(ours[name], rel=0.02)
    assert methods["force-in-domain"]["refined_mse"][0] < methods["force-in-domain"]["mse"][0]
    for found in methods.values():
        assert found["auc"][0] > 0.9  # random encoders are far from the mapping
        assert 0.2 < found["floor_auc"][0] < 0.8
        assert 0 <= found["edit_success"][0] <= 1
        assert 0 < found["boundary_ap"][0] <= 1


def test_tables_and_pictures_are_written(evaluated: tuple[Path, list[Path], Path]) -> None:
    output = evaluated[0]
    results = json.loads((output / "evaluation.json").read_text())
    for name in PICTURES:
        with Image.open(output / name) as picture:
            assert min(picture.size) > 100, name
    table = (output / "evaluation.md").read_text()
    for name in ("in-domain (2)", "sampled codes (floor)", "Image2StyleGAN", "z with stochastic clipping"):
        assert f"| {name} |" in table
    assert results["domain_score"]["sampled pictures, drawn anew"] == pytest.approx(0.5, abs=0.05)
    assert results["inversions"]["domain-regularised optimisation"]["steps"] == 3
    assert results["inversions"]["Image2StyleGAN"]["steps"] == 12
    assert results["generator"]["samples"] == 48
    # The held-out pictures are the training pictures here.
    assert results["generator"]["fid_held_out"] == pytest.approx(0, abs=1e-3)
    assert results["generator"]["fid_samples"] > 1
    assert "| FID |" in table


def test_inversions_search_where_they_say(evaluated: tuple[Path, list[Path], Path]) -> None:
    run = load_inversion(evaluated[1][0])

    class Pixels(nn.Module):
        def features(self, image: torch.Tensor) -> list[torch.Tensor]:
            return [image]

        def between(
            self, a: list[torch.Tensor], b: list[torch.Tensor], mask: torch.Tensor | None
        ) -> torch.Tensor:
            return (a[0] - b[0]).square().mean((1, 2, 3))

    objective = Objective(run.generator.synthesis, run.encoder, Pixels(), 1.0)
    mapping, mean = run.generator.mapping, run.latent_discriminator.mean
    z = torch.randn(2, 512, generator=torch.Generator().manual_seed(0))
    target = run.generator.synthesis(mapping(z.flip(0)))
    config = RefinementConfig("adam", steps=12, learning_rate=0.05, domain_weight=0.0)

    def found(search: Search) -> torch.Tensor:
        result = refine(objective, search, target, config)
        assert (result.best_loss < result.losses[:, 0]).all()
        return result.code

    found(image2stylegan(mean, 2))
    shift = found(single_w(mean, 2)) - mean
    torch.testing.assert_close(shift, shift[:, :1].expand_as(shift))
    seen: list[torch.Tensor] = []
    clipped = z_with_clipping(mapping, z.clamp(-0.5, 0.5), bound=0.5)
    found(Search(clipped.start, clipped.code, clip=lambda x: seen.append(clipped.clip(x)) or seen[-1]))  # type: ignore[func-returns-value]
    assert max(float(x.abs().max()) for x in seen) <= 0.5
    heavy = z_with_prior(mapping, z, weight=100.0)
    lengths = [float(search.prior(z).sum()) for search in (heavy, z_with_prior(mapping, z, weight=1.0))]
    assert lengths[0] == pytest.approx(100 * lengths[1])
    assert np.isfinite(found(heavy).numpy()).all()


def test_runs_of_another_kind_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pictures, _ = write_pictures(tmp_path, 4, 32)
    assert main(["evaluate", str(tmp_path), "--data", str(pictures)]) == 2
    assert "holds no checkpoint" in capsys.readouterr().err


def test_a_file_that_is_no_torchscript_is_named(tmp_path: Path) -> None:
    (tmp_path / "weights.pth").write_bytes(b"not a network")
    with pytest.raises(DataError, match=r"weights\.pth.*inception-2015-12-05"):
        load_inception(tmp_path / "weights.pth")


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "force-in-domain"),
        ({"code_cycle_weight": 0.0}, "force-in-domain, no code cycle"),
        (
            {"code_cycle_weight": 0.05, "code_weight": 0.02},
            "force-in-domain, code weight 0.02, code cycle 0.05",
        ),
        (
            {"latent_discriminator_view": "joint", "code_pool": 0},
            "force-in-domain, joint discriminator, replay pool 0",
        ),
        (
            {"r1_gamma": 1.0, "latent_discriminator_rate": 2e-4},
            "force-in-domain, discriminator rate 0.0002, R1 1",
        ),
        ({"per_layer_code": False}, "force-in-domain, native discriminator"),
        ({"per_layer_code": False, "latent_discriminator_view": "layer"}, "force-in-domain"),
        ({"code_weight": 0.0, "code_cycle_weight": 0.0}, "in-domain"),
        ({"pixel_weight": 0.0}, "traditional"),
        ({"activation": False, "r1_gamma": 1.0}, "force-in-domain, R1 1, linear end"),
        ({"activation": False, "code_weight": 0.0, "code_cycle_weight": 0.0}, "in-domain, linear end"),
    ],
)
def test_a_methods_name_says_what_was_changed(changes: dict[str, Any], name: str) -> None:
    usual = InversionConfig(Path())
    given = (
        {
            key: getattr(usual, key)
            for key in (
                "pixel_weight",
                "code_weight",
                "code_cycle_weight",
                "r1_gamma",
                "code_pool",
                "latent_discriminator_rate",
            )
        }
        | {"latent_discriminator_view": "native", "per_layer_code": True, "activation": True}
        | changes
    )
    weights = {key: given[key] for key in given if key.endswith("_weight")}
    meta = {
        "loss_weights": weights, "latent_discriminator": given,
        "latent_discriminator_view": given["latent_discriminator_view"],
        "generator": {"per_layer_code": given["per_layer_code"]},
        "encoder": {"activation": given["activation"]},
    }  # fmt: skip
    assert method_name(meta) == name
    assert method_name(meta | {"mapping_pictures": 40}).endswith(", fitted mapping")
    assert method_name(meta | {"imported_encoder": {"family": "idinvert encoder"}}) == "idinvert encoder"
