"""Figures of quality: closed forms, invariances, what each measure must notice; the face descriptor's reference."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import scipy.linalg
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file

from training.faces.identity import WEIGHTS, FaceDescriptor, face_chip, identity_similarity, read_package
from training.measures.metrics import (
    domain_gap,
    domain_gap_and_floor,
    efflite0_features,
    frechet_distance,
    laplacian_pyramid,
    mean_square,
    precision_recall,
    psnr,
    sliced_wasserstein,
    style_distance,
    two_sample_auc,
)
from training.measures.prior_coupling import couple, picture_metric
from training.networks.features import EfficientNetLite0
from training.networks.generator import Generator, GeneratorConfig

PORTRAIT = Path(__file__).parents[2] / "clients/python/examples/portrait.png"
REFERENCE = Path(__file__).with_name("portrait_descriptor.json")


def pictures(count: int, side: int, seed: int = 0) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 8, 8, generator=random) * 2 - 1
    return F.interpolate(coarse, size=(side, side), mode="bicubic").clamp(-1, 1)


# --- pixels ------------------------------------------------------------------------------------------


def test_pixel_errors_are_by_picture() -> None:
    a = torch.zeros(2, 3, 4, 4)
    b = torch.stack([torch.full((3, 4, 4), 0.2), torch.zeros(3, 4, 4)])
    torch.testing.assert_close(mean_square(a, b), torch.tensor([0.04, 0.0]))
    torch.testing.assert_close(psnr(a, b), torch.tensor([20.0, 126.0206]))


# --- Frechet distance --------------------------------------------------------------------------------


def reference_distance(a: np.ndarray, b: np.ndarray) -> float:
    A, B = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = scipy.linalg.sqrtm(A @ B).real
    return float(np.square(a.mean(0) - b.mean(0)).sum() + np.trace(A + B - 2 * root))


@pytest.mark.parametrize(("n", "m"), [(200, 150), (200, 8), (8, 8)])
def test_frechet_distance_equals_the_matrix_root(n: int, m: int) -> None:
    random = np.random.default_rng(0)
    mix = random.normal(size=(6, 6))
    a, b = random.normal(size=(n, 6)) @ mix, random.normal(size=(m, 6)) + 0.5
    assert frechet_distance(a, b) == pytest.approx(reference_distance(a, b), rel=1e-6)
    assert frechet_distance(b, a) == pytest.approx(frechet_distance(a, b))


def test_frechet_distance_with_fewer_rows_than_columns() -> None:
    """Columns of zeros, and a rotation into them, change nothing; sets of one line need no matrix root."""
    random = np.random.default_rng(0)
    a, b = random.normal(size=(9, 4)), 2 * random.normal(size=(7, 4)) + 1
    rotation = np.linalg.qr(random.normal(size=(40, 40)))[0][:4]
    assert frechet_distance(a @ rotation, b @ rotation) == pytest.approx(reference_distance(a, b), rel=1e-6)
    assert frechet_distance(a @ rotation, a @ rotation) == pytest.approx(0, abs=1e-9)
    x, y, line = random.normal(size=(5, 1)), random.normal(size=(6, 1)) * 3, rotation[:1]
    expected = (x.mean() - y.mean()) ** 2 + (x.std(ddof=1) - y.std(ddof=1)) ** 2
    assert frechet_distance(x @ line, y @ line) == pytest.approx(expected)


def test_frechet_distance_reaches_the_closed_form_of_gaussians() -> None:
    random = np.random.default_rng(0)
    deviation, shift = np.array([1.0, 2.0, 0.5]), np.array([1.0, 0.0, -1.0])
    a = random.normal(size=(100_000, 3))
    b = random.normal(size=(100_000, 3)) * deviation + shift
    expected = np.square(shift).sum() + np.square(deviation - 1).sum()
    assert frechet_distance(a, b) == pytest.approx(expected, rel=0.02)


def test_frechet_distance_of_one_row_is_refused() -> None:
    with pytest.raises(ValueError, match="two rows"):
        frechet_distance(np.zeros((1, 3)), np.zeros((5, 3)))


def test_fd_efflite0_grows_with_damage() -> None:
    network, clean = EfficientNetLite0(), pictures(6, 64)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))
    assert efflite0_features(network, clean[:2]).shape == (2, 1280)
    rows = [efflite0_features(network, (clean + s * noise).clamp(-1, 1)) for s in (0.0, 0.1, 0.4)]
    distances = [frechet_distance(rows[0], damaged) for damaged in rows]
    assert distances[0] == pytest.approx(0, abs=1e-6)
    assert 0 < distances[1] < distances[2]


# --- sliced Wasserstein distance ---------------------------------------------------------------------


def test_pyramid_adds_up_and_leaves_flat_pictures_at_the_coarsest_level() -> None:
    flat = laplacian_pyramid(torch.full((1, 3, 64, 64), 0.3))
    assert [level.shape[2] for level in flat] == [64, 32, 16]
    for level in flat[:-1]:
        torch.testing.assert_close(level, torch.zeros_like(level), rtol=0, atol=1e-6)
    torch.testing.assert_close(flat[-1], torch.full_like(flat[-1], 0.3))


def test_sliced_wasserstein_sees_damage_at_the_level_where_it_is() -> None:
    a, other = pictures(16, 32), pictures(16, 32, seed=5)
    textured = a + 0.2 * torch.randn(a.shape, generator=torch.Generator().manual_seed(1))
    assert set(sliced_wasserstein(a, a).values()) == {0.0}
    damage = sliced_wasserstein(textured, a)
    assert list(damage) == [32, 16]
    assert damage[32] > 3 * damage[16] > 0
    distance = sliced_wasserstein(a, other)
    assert distance == sliced_wasserstein(a, other)
    assert distance != sliced_wasserstein(a, other, seed=1)
    with pytest.raises(ValueError, match="one shape"):
        sliced_wasserstein(a, other[:8])


# --- codes -------------------------------------------------------------------------------------------


def test_precision_and_recall_of_sets_that_can_be_counted() -> None:
    reference = torch.arange(10.0)[:, None]
    assert precision_recall(reference, reference) == (1.0, 1.0)
    assert precision_recall(reference + 100, reference) == (0.0, 0.0)
    half = torch.tensor([[0.0], [0.1], [0.2], [0.3]])  # all near one end: precise, but most is not reached
    assert precision_recall(half, reference) == pytest.approx((1, 0.1))
    assert precision_recall(reference, half) == pytest.approx((0.1, 1))


@pytest.mark.parametrize("change", ["shift", "shrink", "leave"])
def test_two_sample_auc_notices(change: str) -> None:
    random = np.random.default_rng(0)
    basis = random.normal(size=(10, 60))
    a, b, c = (random.normal(size=(300, 10)) @ basis for _ in range(3))
    changed = {"shift": a + 2, "shrink": 0.6 * a, "leave": a + random.normal(size=a.shape)}[change]
    assert 0.4 < two_sample_auc(c, b) < 0.6
    assert two_sample_auc(changed, b) > 0.75


@pytest.mark.parametrize("architecture", ["stylegan2", "stylegan1"])
def test_style_distance_grows_as_codes_leave_the_sampled_ones(
    architecture: Literal["stylegan2", "stylegan1"],
) -> None:
    torch.manual_seed(0)
    synthesis = Generator(GeneratorConfig(8, (8, 8), code_size=16, architecture=architecture)).synthesis
    sampled, others = torch.randn(200, 4, 16), torch.randn(100, 4, 16)
    floor = style_distance(synthesis, others, sampled)
    near, far = (style_distance(synthesis, others + away, sampled) for away in (1.0, 4.0))
    assert 0 < floor < near < far
    mean = sampled.mean(0, keepdim=True)
    assert style_distance(synthesis, mean, mean.expand(2, -1, -1)) == pytest.approx(0, abs=1e-6)


def test_a_coupling_gives_the_wanted_spread_and_changes_pictures_least() -> None:
    torch.manual_seed(0)
    z = torch.randn(20_000, 4) * torch.tensor([3.0, 0.2, 1.0, 0.1]) + torch.tensor([1.0, 0.0, -2.0, 0.0])
    # Only the first two inputs are seen.
    metric = torch.diag(torch.tensor([1.0, 1.0, 0.0, 0.0]))
    random = torch.Generator().manual_seed(1)
    whole = couple(z, metric, 1.0, most_gain=3.0)(z, random)
    torch.testing.assert_close(whole.mean(0), torch.zeros(4), atol=0.05, rtol=0)
    torch.testing.assert_close(torch.cov(whole.T), torch.eye(4), atol=0.05, rtol=0)
    half = couple(z, metric, 0.5)(z, random)
    torch.testing.assert_close(torch.cov(half.T).diag(), (torch.cov(z.T).diag() + 1) / 2, atol=0.1, rtol=0.05)
    torch.testing.assert_close(couple(z, metric, 0.0)(z, random), z, atol=1e-2, rtol=1e-2)

    # Standardised with a rotation, codes have the wanted spread, too, and pictures change more.
    rotation = torch.linalg.qr(torch.randn(4, 4)).Q
    standard = (z - z.mean(0)) / z.std(0) @ rotation
    cost = [((moved - z) @ metric * (moved - z)).sum(1).mean() for moved in (whole, standard)]
    assert cost[0] < 0.8 * cost[1]


def test_the_metric_of_pictures_is_that_of_a_linear_generator() -> None:
    weight = torch.randn(12, 5)
    metric = picture_metric(lambda z: (z @ weight.T).unflatten(1, (3, 2, 2)), torch.randn(2, 5), batch=2)
    torch.testing.assert_close(metric, weight.T @ weight / 12, atol=1e-4, rtol=1e-4)


def test_domain_gap_finds_the_layer_that_is_off() -> None:
    random = torch.Generator().manual_seed(0)
    sampled, codes = torch.randn(400, 3, 8, generator=random), torch.randn(200, 3, 8, generator=random)
    codes[:, 1] = 0.3 * codes[:, 1] + 1
    gap, floor = domain_gap_and_floor(codes, sampled)
    assert gap.samples == floor.samples == 200
    assert gap.frechet_layers[1] > 10 * max(floor.frechet_layers)
    assert gap.frechet_layers[0] < 3 * max(floor.frechet_layers)
    assert gap.frechet > 2 * floor.frechet
    assert gap.auc > 0.9
    assert 0.4 < floor.auc < 0.6
    assert gap.recall < floor.recall
    assert gap == domain_gap(codes, sampled[:200])


def test_domain_gap_wants_equal_numbers() -> None:
    with pytest.raises(ValueError, match="as many"):
        domain_gap(torch.zeros(4, 2, 3), torch.zeros(5, 2, 3))
    with pytest.raises(ValueError, match="8 sampled"):
        domain_gap_and_floor(torch.zeros(4, 2, 3), torch.zeros(7, 2, 3))


# --- identity ----------------------------------------------------------------------------------------


def portrait() -> torch.Tensor:
    pixels = np.asarray(Image.open(PORTRAIT).convert("RGB"), np.float32)
    return torch.from_numpy(pixels).permute(2, 0, 1)[None] / 127.5 - 1


def test_descriptor_equals_the_package_it_is_ported_from() -> None:
    """The reference was computed by face-api's own FaceRecognitionNet (tfjs, cpu) on the same 150 x 150 pixels."""
    reference = torch.tensor(json.loads(REFERENCE.read_text()))
    with torch.no_grad():
        (descriptor,) = FaceDescriptor()(portrait()[:, :, 80:230, 53:203])
    torch.testing.assert_close(descriptor, reference, rtol=0, atol=5e-4)


def test_identity_is_kept_by_a_blur_and_a_mirror() -> None:
    network, face = FaceDescriptor(), portrait()
    assert face_chip(face).shape == (1, 3, 150, 150)
    blurred = F.interpolate(face, size=(64, 64), mode="bilinear", antialias=True)
    with torch.no_grad():
        own, mirrored, small = (network(face_chip(x)) for x in (face, face.flip(3), blurred))
    for other in (mirrored, small):
        similarity = identity_similarity(own, other)
        assert 0 < similarity.distance < 0.4
        assert similarity.same_share == similarity.found_share == 1


def test_identity_similarity_gives_what_others_reach() -> None:
    a, b = torch.tensor([[0.0], [1.0], [1.5]]), torch.tensor([[0.1], [1.0], [0.7]])
    similarity = identity_similarity(a, b)
    assert similarity.distance == pytest.approx((0.1 + 0 + 0.8) / 3)
    assert similarity.same_share == pytest.approx(2 / 3)
    assert similarity.found_share == pytest.approx(2 / 3)
    assert similarity.others_distance == pytest.approx((1 + 0.7 + 0.9 + 0.3 + 1.4 + 0.5) / 6)
    assert similarity.others_same_share == pytest.approx(2 / 6)


def test_package_is_read_as_its_manifest_says(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    entries = [
        {"name": "a", "shape": [2, 1], "dtype": "float32", "quantization": {"dtype": "uint8", "scale": 0.5, "min": -1}},
        {"name": "b", "shape": [2], "dtype": "float32"},
    ]  # fmt: skip
    manifest = json.dumps([{"weights": entries, "paths": ["x.bin"]}])
    (tmp_path / "model/face_recognition_model-weights_manifest.json").write_text(manifest)
    (tmp_path / "model/x.bin").write_bytes(bytes([3, 255]) + np.array([0.25, 4], "<f4").tobytes())
    tensors = read_package(tmp_path)
    assert tensors["a"].tolist() == [[3], [255]]
    assert tensors["range/a"].tolist() == [0.5, -1]
    assert tensors["b"].tolist() == [0.25, 4]


def test_stored_descriptor_weights_stay_small() -> None:
    stored = load_file(WEIGHTS)
    assert sum(x.numel() * x.element_size() for x in stored.values()) < 6_000_000
