"""Figures of quality: pixel errors, distances of sets of pictures, and the gap between inverted and sampled codes.

No loss is made of these.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from training.data.pictures import DataError
from training.networks.features import EfficientNetLite0
from training.networks.generator import Synthesis
from training.networks.stylegan1 import AdaINSynthesis
from training.run_folders.picture_grid import to_uint8

# --- pixels -------------------------------------------------------------------------------------------------

PEAK = 2.0  # range of a picture in [-1, 1]
MEAN_SQUARE_FLOOR = 1e-12  # keeps the PSNR of equal pictures finite


def mean_square(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared error [N] of pairs of pictures float [N, 3, H, W]."""
    return (a - b).square().flatten(1).mean(1)


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio [N] in dB of pairs of pictures float [N, 3, H, W] in [-1, 1]."""
    return 10 * torch.log10(PEAK**2 / mean_square(a, b).clamp_min(MEAN_SQUARE_FLOOR))


# --- Frechet distance ---------------------------------------------------------------------------------------


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Squared Frechet distance of Gaussians fitted to two sets of rows float [N, D] and [M, D], N, M > 1.

    |mean_a - mean_b|^2 + tr A + tr B - 2 tr (A B)^(1/2) with sample covariances A and B (Dowson and Landau, 1982; the
    formula of FID, Heusel et al., arXiv 1706.08500). tr (A B)^(1/2) is the sum of the singular values of X Y^T for
    centred rows X, Y with A = X^T X, B = Y^T Y, so that no root of a rank-deficient matrix is taken.

    Fewer rows bias it upwards: compare figures of equal N and M only. Where D exceeds N the bias is large, and rows
    that vary too little can even come out below the floor.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    x, y = _covariance_factor(a), _covariance_factor(b)
    overlap = np.linalg.svd(x @ y.T, compute_uv=False).sum()
    return float(
        np.square(a.mean(0) - b.mean(0)).sum() + np.square(x).sum() + np.square(y).sum() - 2 * overlap
    )


def _covariance_factor(rows: np.ndarray) -> np.ndarray:
    """X of min(N, D) rows, with X^T X the sample covariance of rows [N, D]."""
    if len(rows) < 2:
        raise ValueError(f"a covariance needs two rows or more, not {len(rows)}")
    centred = (rows - rows.mean(0)) / np.sqrt(len(rows) - 1)
    return np.asarray(np.linalg.qr(centred, mode="r")) if len(rows) > rows.shape[1] else centred


# The side that EfficientNet-Lite0 was trained on, pixels. With it a figure means the same at any resolution.
FEATURE_SIDE = 224


@torch.no_grad()
def efflite0_features(network: EfficientNetLite0, images: Tensor, batch: int = 32) -> np.ndarray:
    """Rows [N, 1280] for FD-EffLite0 (not the FID) of pictures float [N, 3, H, W] in [-1, 1].

    Pictures are resized to 224 pixels with antialiasing.
    """
    side = (FEATURE_SIDE, FEATURE_SIDE)
    rows = [
        network.pooled(F.interpolate(part.float(), size=side, mode="bilinear", antialias=True))
        for part in images.split(batch)
    ]
    return torch.cat(rows).cpu().numpy()


@torch.no_grad()
def inception_features(network: Callable[..., Tensor], images: Tensor, batch: int = 32) -> np.ndarray:
    """Rows float32 [N, 2048] for the FID itself, of pictures float [N, 3, H, W] in [-1, 1].

    `network` is the Inception-v3 of the FID paper as TorchScript. It takes uint8 and resizes by itself.
    """
    rows = [network(to_uint8(part), return_features=True) for part in images.split(batch)]
    return torch.cat(rows).cpu().numpy()


def load_inception(path: Path) -> Callable[..., Tensor]:
    """Load the network that `inception_features` takes. Raises DataError."""
    try:
        network = torch.jit.load(path, map_location="cpu").eval()
        inception_features(network, torch.zeros(1, 3, 32, 32))
        return network
    except (OSError, RuntimeError, ValueError) as error:
        raise DataError(
            f"{path} is not the FID's network as TorchScript; name inception-2015-12-05.pt as NVIDIA publishes it"
        ) from error


# --- sliced Wasserstein distance ----------------------------------------------------------------------------

PATCH = 7  # pixels
PATCHES = 128  # of each picture and level
PROJECTIONS = 512
COARSEST = 16  # pixels
BINOMIAL = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)


def sliced_wasserstein(a: Tensor, b: Tensor, seed: int = 0) -> dict[int, float]:
    """SWD x 1e3 of two sets of N pictures float [N, 3, H, W] in [-1, 1] for each pyramid level, by its side in pixels.

    Karras et al., arXiv 1710.10196, section 5: 7 x 7 patches of the levels of a Laplacian pyramid down to 16 pixels,
    normalised per colour channel, compared along random directions. The single figure of a paper's table is the mean of
    the levels. Patches lie at the same random places in a and b, so that equal sets are at 0. H is a power of two.
    """
    if a.shape != b.shape:
        raise ValueError(f"the sets must be of one shape, not {tuple(a.shape)} and {tuple(b.shape)}")
    random = torch.Generator().manual_seed(seed)
    distances = {}
    for level_a, level_b in zip(laplacian_pyramid(a), laplacian_pyramid(b), strict=True):
        corners = torch.randint(level_a.shape[2] - PATCH + 1, (len(a), PATCHES, 2), generator=random)
        directions = torch.randn(3 * PATCH**2, PROJECTIONS, generator=random)
        directions = (directions / directions.norm(dim=0)).to(a.device)
        x, y = (normalised_patches(level, corners.to(a.device)) for level in (level_a, level_b))
        total = sum(
            ((x @ part).sort(0).values - (y @ part).sort(0).values).abs().mean(0).sum().item()
            for part in directions.split(32, 1)
        )
        distances[level_a.shape[2]] = 1e3 * total / PROJECTIONS
    return distances


def laplacian_pyramid(images: Tensor) -> list[Tensor]:
    """Burt and Adelson's pyramid of pictures float [N, 3, H, H]: detail at sides H, H / 2 ... 32, the rest at 16."""
    levels = []
    while images.shape[2] > COARSEST:
        smaller = _blur(images)[:, :, ::2, ::2]
        between = torch.zeros_like(images)
        between[:, :, ::2, ::2] = 4 * smaller
        levels.append(images - _blur(between))
        images = smaller
    return [*levels, images]


def _blur(images: Tensor) -> Tensor:
    kernel = images.new_tensor(BINOMIAL).expand(images.shape[1], 1, 1, -1)
    x = F.pad(images, (2, 2, 2, 2), mode="reflect")
    x = F.conv2d(x, kernel, groups=images.shape[1])
    return F.conv2d(x, kernel.transpose(2, 3), groups=images.shape[1])


def normalised_patches(level: Tensor, corners: Tensor) -> Tensor:
    """Patches at corners int [N, P, 2] of a level [N, 3, H, W], channels of mean 0, deviation 1: [N * P, 147]."""
    steps = torch.arange(PATCH, device=level.device)
    rows = corners[..., 0, None, None] + steps[:, None]  # [N, P, 7, 1]
    columns = corners[..., 1, None, None] + steps  # [N, P, 1, 7]
    picture = torch.arange(len(level), device=level.device)[:, None, None, None]
    patches = level.permute(0, 2, 3, 1)[picture, rows, columns].flatten(0, 1)  # [N * P, 7, 7, 3]
    mean, deviation = patches.mean((0, 1, 2)), patches.std((0, 1, 2)).clamp_min(1e-8)
    return ((patches - mean) / deviation).flatten(1)


# --- domain gap of codes ------------------------------------------------------------------------------------

NEIGHBOURS = 3
COMPONENTS = 128  # principal components that the two-sample classifier sees
INVERSE_PENALTY = 0.01  # C of the logistic regression


@dataclass(frozen=True)
class DomainGap:
    """How far codes are from native ones, by four measures that are independent of our networks."""

    samples: int
    """Number of codes on each side; every figure here depends on it."""
    frechet: float
    """Frechet distance of whole codes; 0 is perfect."""
    frechet_layers: tuple[float, ...]
    """Frechet distance of each layer's vectors, coarse to fine."""
    auc: float
    """Area under the ROC curve of a two-sample classifier on held-out codes; 0.5 is perfect, 1 the worst."""
    precision: float
    """Share of the codes that lie in the manifold of the native ones."""
    recall: float
    """Share of the native codes that lie in the manifold of the codes."""


def domain_gap(codes: Tensor, native: Tensor, seed: int = 0) -> DomainGap:
    """The gap between codes, as E(x), and native ones, as mapping(z) without truncation: float [N, L, 512] each.

    Both are standardised with mean and deviation of sampled codes (`code_statistics`) in every coordinate.
    """
    if codes.shape != native.shape:
        raise ValueError(
            f"both sides need as many codes of one shape, not {tuple(codes.shape)}, {tuple(native.shape)}"
        )
    a, b = codes.double().cpu().numpy(), native.double().cpu().numpy()
    precision, recall = precision_recall(codes.flatten(1), native.flatten(1))
    return DomainGap(
        samples=len(codes),
        frechet=frechet_distance(a.reshape(len(a), -1), b.reshape(len(b), -1)),
        frechet_layers=tuple(frechet_distance(a[:, layer], b[:, layer]) for layer in range(a.shape[1])),
        auc=two_sample_auc(a.reshape(len(a), -1), b.reshape(len(b), -1), seed),
        precision=precision,
        recall=recall,
    )


def domain_gap_and_floor(codes: Tensor, sampled: Tensor, seed: int = 0) -> tuple[DomainGap, DomainGap]:
    """The gap of codes float [N, L, 512], and its floor for N samples: the gap of N freshly sampled codes.

    `sampled` float [M, L, 512], M at least 2 N: the first N are the native side of both, the next N the fresh ones.
    """
    N = len(codes)
    if len(sampled) < 2 * N:
        raise ValueError(f"{N} codes need {2 * N} sampled ones for the gap and its floor, not {len(sampled)}")
    native, anew = sampled[:N], sampled[N : 2 * N]
    return domain_gap(codes, native, seed), domain_gap(anew, native, seed)


@torch.no_grad()
def style_distance(synthesis: Synthesis | AdaINSynthesis, codes: Tensor, sampled: Tensor) -> float:
    """Mean cosine distance over all layers between the styles of codes float [N, L, 512] and the mean direction of the
    styles of sampled codes float [M, L, 512].

    The Normalized Style Space Cosine Distance of LSAP (arXiv 2209.12746). Sampled codes have one too: compare with it.
    """
    distances = []
    for layer in range(codes.shape[1]):
        for affine in synthesis.affines(layer):
            anchor = F.normalize(F.normalize(affine(sampled[:, layer]), dim=1).mean(0), dim=0)
            distances.append(1 - (F.normalize(affine(codes[:, layer]), dim=1) @ anchor).mean())
    return torch.stack(distances).mean().item()


def two_sample_auc(a: np.ndarray, b: np.ndarray, seed: int = 0) -> float:
    """Mean AUC of two classifiers that tell rows of a from rows of b, float [N, D] each.

    Each is trained on one half and judges the other. Logistic regression (Lopez-Paz and Oquab, arXiv 1610.06545) on
    principal components, their squares and the distance to the components' subspace, all fitted on the training half.
    A linear classifier of the components alone would notice neither codes that shrink towards the mean nor codes that
    leave the native subspace evenly.
    """
    rows, label = np.concatenate([a, b]), np.repeat([1, 0], [len(a), len(b)])
    halves = StratifiedKFold(2, shuffle=True, random_state=seed).split(rows, label)
    return float(np.mean([_held_out_auc(rows, label, train, test, seed) for train, test in halves]))


def _held_out_auc(
    rows: np.ndarray, label: np.ndarray, train: np.ndarray, test: np.ndarray, seed: int
) -> float:
    scaler = StandardScaler().fit(rows[train])
    components = min(COMPONENTS, rows.shape[1], len(train) // 4)
    pca = PCA(components, random_state=seed).fit(scaler.transform(rows[train]))

    def features(part: np.ndarray) -> np.ndarray:
        x = scaler.transform(part)
        c = pca.transform(x)
        outside = np.square(x).sum(1, keepdims=True) - np.square(c).sum(1, keepdims=True)
        return np.concatenate([c, np.square(c), np.sqrt(outside.clip(min=0))], 1)

    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=INVERSE_PENALTY, max_iter=1000))
    classifier.fit(features(rows[train]), label[train])
    return float(roc_auc_score(label[test], classifier.decision_function(features(rows[test]))))


def precision_recall(a: Tensor, b: Tensor, neighbours: int = NEIGHBOURS) -> tuple[float, float]:
    """Precision and recall of rows a against the reference b, float [N, D] and [M, D], up to a few thousand of each.

    Kynkaanniemi et al., arXiv 1904.06991: a set's manifold is the union of balls around its rows, each reaching to the
    row's k-th nearest neighbour. Precision: share of a in b's manifold; recall: share of b in a's.
    """
    across = torch.cdist(a, b)
    # One more neighbour, as each row is its own nearest.
    radius_a, radius_b = (torch.cdist(x, x).kthvalue(neighbours + 1, dim=1).values for x in (a, b))
    precision = (across <= radius_b).any(1).float().mean().item()
    recall = (across <= radius_a[:, None]).any(0).float().mean().item()
    return precision, recall
