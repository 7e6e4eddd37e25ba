"""Walks that change pictures as a transform does, and directions that raise an assessor's score."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn

from export.bundles.checkpoint import load_directions
from tests.export.run_folder import write_run
from tests.training.pictures import Repeated
from training.__main__ import main
from training.directions.assessors import (
    AssessorError,
    colourfulness,
    load_assessor,
    score_loss,
    sharpness,
    spread_of_scores,
)
from training.directions.journeys import Journey, Stop, Walk, draw, straight
from training.directions.transforms import TRANSFORMS, TransformName, luma, see
from training.directions.walks import WalkConfig, edit_loss, learn_network_walks, learn_walks
from training.losses.perceptual import LPIPSSq
from training.networks.generator import GeneratorConfig, sample_codes
from training.refinement.objective import masked_mean_square

PORTRAIT = Path(__file__).parents[2] / "clients/python/examples/portrait.png"
SIDE = 32
QUICK = ["--walk.steps", "20", "--hold.pictures", "2"]


class Palette(nn.Module):
    """An analytic generator: a code's first three entries are the colour of its picture, the fourth that of stripes."""

    config = GeneratorConfig(SIDE, (8, 8, 8, 8))
    mapping = Repeated(config.z_size, config.layers)

    def synthesis(self, codes: Tensor) -> Tensor:
        stripes = torch.arange(SIDE).remainder(2) - 0.5
        contrast = 0.2 * (codes[:, 0, 3] / 4).exp()[:, None, None, None]
        # Orange on the whole, so that there is a way to more colour.
        colour = (codes[:, 0, :3] / 4 + torch.tensor([0.5, 0.0, -0.5])).tanh()
        return colour[:, :, None, None] + contrast * stripes.expand(SIDE, SIDE)

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        return iter([nn.Parameter(torch.zeros(()))])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("walks") / "run")


@pytest.fixture(scope="module")
def portrait() -> Tensor:
    """float [1, 3, 256, 256] in [-1, 1]"""
    with Image.open(PORTRAIT) as picture:
        pixels = np.asarray(picture.convert("RGB").resize((256, 256)))
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1


@pytest.mark.parametrize("strength", [-2.0, 1.0, 2.0])
@pytest.mark.parametrize("name", TRANSFORMS)
def test_what_a_transform_does_is_read_off_its_picture(
    portrait: Tensor, name: TransformName, strength: float
) -> None:
    changed, mask = TRANSFORMS[name].apply(portrait, torch.tensor([strength]))
    found = TRANSFORMS[name].measure(see(portrait), see(changed))
    # Colours that were at an end of their range cannot go further.
    assert found == pytest.approx([strength], rel=0.25)
    undefined = name.startswith("shift") or name == "rotate" or (name == "zoom" and strength < 0)
    assert (float(mask.mean()) < 1) is undefined


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 2), st.sampled_from([-1, 1]), st.integers(0, 1000))
def test_a_shift_moves_pixels_and_masks_what_comes_in(steps: int, sign: int, seed: int) -> None:
    images = 2 * torch.rand(1, 3, 40, 40, generator=torch.Generator().manual_seed(seed)) - 1
    move = 2 * steps * sign  # pixels: 5 % of 40
    changed, mask = TRANSFORMS["shift-y"].apply(images, torch.tensor([float(steps * sign)]))
    rows = torch.arange(40)
    inside = (rows - move >= 0) & (rows - move < 40)
    torch.testing.assert_close(mask[0, 0, :, 0].bool(), inside)
    torch.testing.assert_close(changed[:, :, inside], images[:, :, rows[inside] - move], rtol=0, atol=1e-4)


def test_a_brightness_walk_is_brighter_at_every_step_and_moves_nothing_else() -> None:
    generator: Any = Palette()
    loss = edit_loss(TRANSFORMS["brightness"], LPIPSSq().eval(), 1.0, 0.0)
    (step,) = learn_walks(generator, [loss], WalkConfig(steps=80, batch=8, rate=0.02))
    code = torch.zeros(1, 8, 512)
    light = [float(luma(generator.synthesis(code + s * step)).mean()) for s in np.arange(-2, 2.1, 0.5)]
    assert (np.diff(light) > 0).all()
    # 5 % of the range from -1 to 1 for each.
    assert (light[-1] - light[0]) / 4 == pytest.approx(0.1, rel=0.2)
    assert not step[1:].any()
    assert not step[0, 4:].any()


def test_a_network_walk_goes_further_with_each_step_and_nearer_than_a_line() -> None:
    """The miniature's colours bend as tanh does: a step of one size for all codes is too small for the bright ones."""
    generator: Any = Palette()

    def loss(before: Tensor, after: Tensor, strengths: Tensor) -> Tensor:
        wanted, mask = TRANSFORMS["brightness"].apply(before, strengths)
        return masked_mean_square(after - wanted, mask)

    config = WalkConfig(steps=200, batch=8, rate=0.05)
    (step,) = learn_walks(generator, [loss], config)
    (network,) = learn_network_walks(generator, [loss], config)
    codes = sample_codes(generator, 64, seed=9)
    before = draw(generator.synthesis, codes)

    def light(walk: Walk, strength: float) -> float:
        return float(luma(draw(generator.synthesis, walk(codes, strength))).mean())

    told = [light(network.walk, s) for s in np.arange(-3, 3.1, 0.5)]
    assert (np.diff(told) > 0).all()
    # Two steps of one are one step of two, but for rounding.
    twice = network.walk(network.walk(codes, 1.0), 1.0)
    torch.testing.assert_close(twice, network.walk(codes, 2.0), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(network.walk(codes, 0.0), codes, rtol=1e-5, atol=1e-5)

    def missed(walk: Walk) -> float:
        losses = [
            loss(before, generator.synthesis(walk(codes, s)), torch.full((len(codes),), s)).mean()
            for s in (-2.0, -1.0, 1.0, 2.0)
        ]
        return float(torch.stack(losses).mean())

    assert missed(network.walk) < 0.9 * missed(straight(step))


@pytest.mark.parametrize("name", ["sharpness", "colourfulness"])
def test_a_score_rises_by_the_amount_along_its_direction(name: str) -> None:
    generator: Any = Palette()
    assessor = load_assessor(name)
    amount = spread_of_scores(generator, assessor, name) / 2
    config = WalkConfig(steps=150, batch=16, rate=0.02)
    (step,) = learn_walks(generator, [score_loss(assessor, amount)], config)
    codes = sample_codes(generator, 256, seed=9)
    scores = [float(assessor(draw(generator.synthesis, codes + s * step)).mean()) for s in (-1.0, 0.0, 1.0)]
    assert scores[0] < scores[1] < scores[2]
    assert (scores[2] - scores[0]) / 2 / amount == pytest.approx(1, abs=0.5)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.floats(0.01, 1))
def test_colourfulness_is_that_of_the_paper(seed: int, contrast: float) -> None:
    images = contrast * (2 * torch.rand(2, 3, 9, 7, generator=torch.Generator().manual_seed(seed)) - 1)
    pixels = ((images.double() + 1) * 127.5).numpy()
    rg, yb = pixels[:, 0] - pixels[:, 1], (pixels[:, 0] + pixels[:, 1]) / 2 - pixels[:, 2]
    spread = np.hypot(rg.std((1, 2)), yb.std((1, 2)))
    wanted = spread + 0.3 * np.hypot(rg.mean((1, 2)), yb.mean((1, 2)))
    np.testing.assert_allclose(colourfulness(images).numpy(), wanted, rtol=1e-3, atol=2e-3)


def test_formulas_have_gradients_on_pictures_without_colour_or_detail() -> None:
    for assessor in (sharpness, colourfulness):
        flat = torch.zeros(2, 3, 16, 16, requires_grad=True)
        assessor(flat).sum().backward()
        assert flat.grad is not None
        assert flat.grad.isfinite().all()
    assert float(sharpness(torch.zeros(1, 3, 16, 16))) == 0
    loss = score_loss(sharpness, 1.0)
    assert loss(torch.zeros(1, 3, 16, 16), torch.zeros(1, 3, 16, 16), torch.tensor([2.0])) == 4


def test_a_range_ends_before_codes_or_faces_break() -> None:
    faces = {-3.0: 1.0, -2.0: 0.5, -1.0: 1.0, 1.0: 1.0, 2.0: 0.96, 3.0: 1.0}
    stops = [Stop(s, np.array([2 * s, math.nan]), share) for s, share in faces.items()]
    journey = Journey(stops, lambda strength: 0.6 - 0.25 * strength)  # 0.02 at 2.32
    assert journey.range(0.02, 0.95) == (-1, 2.25)
    assert journey.range(0.02, 0.0) == (-3, 2.25)
    assert journey.range(0.5, 0.97) == (-1, 0.25)
    assert journey.slope() == pytest.approx((2, 1))
    faceless = Journey([Stop(s, np.array([math.nan]), None) for s in faces], lambda strength: 1.0)
    assert faceless.range(0.02, 1.0) == (-3, 3)
    assert faceless.slope() is None


def test_walks_join_a_runs_directions(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sheet = tmp_path / "sheet.png"
    arguments = [
        "steer",
        str(run),
        "--transforms",
        "zoom",
        "red",
        *QUICK,
        "--picture",
        str(sheet),
        "--network",
    ]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    # Both walks by the same figures; the network's is no direction.
    assert "| Red (5 % of its range) | " in out
    assert "| Red (5 % of its range), by a network | " in out
    # The miniature draws no faces, so zoom has no slope; red has.
    assert "| Zoom (10 % larger) | - | - |" in out
    entries, vectors, _ = load_directions(run, (8, 512))  # checks length, layers and shape
    by_name = {entry["name"]: entry for entry in entries}
    assert {"smile", "age", "steer-zoom", "steer-red"} == by_name.keys() == vectors.keys()
    zoom, red = by_name["steer-zoom"], by_name["steer-red"]
    assert red["label"] == "Red (5 % of its range)"
    assert zoom["held_out"] is None
    assert red["held_out"]["metric"] == "slope"
    # Few steps: it moves the right way, not yet by all that it says.
    assert red["held_out"]["value"] > 0.02
    assert -3 <= red["range"][0] < 0 < red["range"][1] <= 3
    with Image.open(sheet) as picture:
        assert picture.size == (10 * SIDE, 2 * SIDE)


# --- what is refused ----------------------------------------------------------------------------------


class PerPixel(nn.Module):
    def forward(self, pictures: Tensor) -> Tensor:
        return pictures.mean(1)


class Pair(nn.Module):
    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        return pictures.mean((1, 2, 3)), pictures.amax((1, 2, 3))


class Steps(nn.Module):
    def forward(self, pictures: Tensor) -> Tensor:
        return (pictures.mean((1, 2, 3)) > 0.5).float()


class Constant(nn.Module):
    def forward(self, pictures: Tensor) -> Tensor:
        return 0 * pictures.mean((1, 2, 3))


class WrongSide(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3 * 20 * 20, 1)

    def forward(self, pictures: Tensor) -> Tensor:
        return self.linear(pictures.flatten(1))


@pytest.mark.parametrize(
    ("network", "says"),
    [
        (PerPixel(), "it must give one value a picture"),
        (Pair(), "gives tuple for"),
        (Steps(), "has no gradient"),
        (Constant(), "tells pictures from this generator not apart"),
        (WrongSide(), "--side names the pixels"),
    ],
)
def test_networks_that_are_no_assessors_are_refused(tmp_path: Path, network: nn.Module, says: str) -> None:
    file = tmp_path / "network.pt"
    torch.jit.script(network).save(str(file))
    generator: Any = Palette()
    with pytest.raises(AssessorError, match=says):
        spread_of_scores(generator, load_assessor(str(file)), str(file))


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        (
            "score.onnx",
            b"\x08\x07",
            "is no valid ONNX file; export it again; or give the network as TorchScript",
        ),
        ("score.onnx", b"not a network", "is no valid ONNX file"),
        ("score.pt", b"not a network", "is no TorchScript file; make one with"),
        ("score.pt", b"", "is no TorchScript file; make one with"),
        ("weights.pt", None, "is no TorchScript file; make one with"),
        ("beauty", "missing", "neither a file nor one of sharpness, colourfulness"),
    ],
)
def test_files_that_are_no_assessors_are_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: object, says: str
) -> None:
    file = tmp_path / name
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content is None:
        torch.save({"weight": torch.zeros(3)}, file)
    assert main(["analyze", str(run), "--assessor", str(file)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert says in error


def test_a_network_of_another_side_works_with_side(run: Path, tmp_path: Path) -> None:
    file = tmp_path / "my score.pt"
    torch.manual_seed(0)
    torch.jit.script(WrongSide()).save(str(file))
    assert (
        main(["analyze", str(run), "--assessor", str(file), "--side", "20", "--amount", "0.5", *QUICK]) == 0
    )
    entry = json.loads((run / "directions.json").read_text())[-1]
    assert (entry["name"], entry["label"]) == ("analyze-my-score", "My score (+0.5)")


@pytest.mark.parametrize(
    "bad",
    [
        ["steer", "--walk.steps", "0"],
        ["steer", "--hold.pictures", "-1"],
        ["steer", "--walk.reach", "nan"],
        ["steer", "--transforms"],
        ["analyze", "--assessor", "sharpness", "--amount", "-1"],
    ],
)
def test_settings_that_cannot_be_are_refused(
    run: Path, capsys: pytest.CaptureFixture[str], bad: list[str]
) -> None:
    assert main([bad[0], str(run), *bad[1:]]) == 2
    assert capsys.readouterr().err.startswith("error: ")
