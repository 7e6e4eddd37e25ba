"""What the generator's own samples say: domain scores among them, and their distance to the training pictures."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from training.evaluation.judge import Figures, Judge, decode
from training.measures.domain_score import calibration_count, domain_scores, invert_samples
from training.measures.metrics import frechet_distance
from training.networks.generator import sample_codes
from training.run_folders.trained_inversion import TrainedInversion

TRUNCATION = 0.7  # the default of the gateway's `Sample` too
SCORE_SAMPLES = 2_000  # calibrate domain scores, up to 128 pixels


@torch.no_grad()
def judge_domain_score(judge: Judge, run: TrainedInversion) -> dict[str, np.ndarray]:
    """Domain scores [N] by group: of new sampled pictures, of held-out faces, of pictures that are no faces."""
    among = inversions_of_samples(run)
    groups = {"held-out faces": judge.images, **no_faces(judge.images)}
    codes = {"sampled pictures, drawn anew": inversions_of_samples(run, seed=2)}
    codes |= {
        name: torch.cat([run.encoder(part) for part in images.split(64)]) for name, images in groups.items()
    }
    return {name: domain_scores(run.latent_discriminator, found, among) for name, found in codes.items()}


def inversions_of_samples(run: TrainedInversion, seed: int = 1) -> Tensor:
    """E(G(w)) of sampled w float32 [M, L, 512], M as domain scores are calibrated on."""
    count = calibration_count(SCORE_SAMPLES, run.generator.config.resolution)
    return invert_samples(sample_codes(run.generator, count, seed), run.generator.synthesis, run.encoder)


def no_faces(images: Tensor) -> dict[str, Tensor]:
    """Pictures float [N, 3, H, W] with the colours and textures of the given ones that show no face, by title."""
    side = images.shape[3]
    block = side // 8
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    blocks = F.unfold(images, block, stride=block)[:, :, order]
    corner = images[:, :, : side // 4, : side // 4]
    return {
        "shuffled blocks": F.fold(blocks, (side, side), block, stride=block),
        "background textures": F.interpolate(corner, (side, side), mode="bicubic").clamp(-1, 1),
    }


def judge_generator(judge: Judge, run: TrainedInversion) -> Figures:
    """Frechet distances to the training pictures: of samples, and of the held-out pictures as the floor."""
    if judge.train is None or judge.config.samples == 0:
        return {}
    found = {"samples": float(judge.config.samples)}
    codes = sample_codes(run.generator, judge.config.samples).split(64)
    everything = torch.arange(len(judge.train)).split(64)
    for name, space in judge.spaces.items():
        train = np.concatenate([space(judge.train.batch(part, mirror=False)) for part in everything])
        sampled = np.concatenate([space(decode(run, part)) for part in codes])
        held_out = judge.features[name]
        found |= {
            f"{name}_samples": frechet_distance(sampled, train),
            f"{name}_held_out": frechet_distance(held_out, train),
            # The distance falls with the number of samples: here there are as few as held-out pictures.
            f"{name}_as_many_samples": frechet_distance(sampled[: len(held_out)], train),
        }
    return found


def samples(run: TrainedInversion, count: int = 48) -> dict[str, Tensor]:
    """Pictures float [N, 3, H, W] of sampled codes, by title: as they are, and truncated towards the mean code."""
    mean, codes = run.latent_discriminator.mean, sample_codes(run.generator, count)
    return {
        f"samples, truncation {psi:g}": decode(run, mean + psi * (codes - mean)) for psi in (1.0, TRUNCATION)
    }
