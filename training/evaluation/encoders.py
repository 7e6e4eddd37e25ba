"""Figures of one encoder: reconstructions, the domain gap of its codes, and edits along boundaries among them."""

from __future__ import annotations

import time

import numpy as np
import torch
from sklearn.metrics import average_precision_score
from torch import Tensor

from training.data.labels import is_binary, known
from training.data.pictures import Pictures
from training.directions.directions import (
    DOMAIN_FLOOR,
    READ,
    CodeSpace,
    encode,
    fit_boundary,
    native_step,
)
from training.evaluation.inversions import objective_of
from training.evaluation.judge import Figures, Judge, decode
from training.faces.identity import identity_similarity
from training.measures.metrics import (
    domain_gap_and_floor,
    frechet_distance,
    sliced_wasserstein,
    style_distance,
)
from training.networks.generator import sample_codes
from training.refinement.refinement import RefinementConfig, refine
from training.run_folders.trained_inversion import TrainedInversion

SWD_PICTURES = 256  # few, as their patches are sorted along hundreds of directions


def judge_encoder(judge: Judge, run: TrainedInversion) -> tuple[Figures, Tensor, Tensor]:
    """One encoder's figures, its codes float [N, L, 512] of the held-out pictures, and their reconstructions."""
    started = time.perf_counter()
    codes = encode(run.encoder, judge.pictures)
    seconds = (time.perf_counter() - started) / len(codes)
    made = decode(run, codes)
    found = judge.reconstructions(made)
    for name, space in judge.spaces.items():
        found[name] = frechet_distance(space(made), judge.features[name])
    few = slice(SWD_PICTURES)
    found["swd"] = float(np.mean(list(sliced_wasserstein(made[few], judge.images[few]).values())))
    standard = run.latent_discriminator.standardise
    sampled = sample_codes(run.generator, 2 * len(codes))
    gap, floor = domain_gap_and_floor(standard(codes), standard(sampled))
    for prefix, some in (("", codes), ("floor_", sampled[: len(codes)])):
        found[f"{prefix}style_distance"] = style_distance(
            run.generator.synthesis, some, sampled[len(codes) :]
        )
    for prefix, measured in (("", gap), ("floor_", floor)):
        found |= {
            f"{prefix}code_fd": measured.frechet,
            f"{prefix}code_fd_layer": float(np.mean(measured.frechet_layers)),
            f"{prefix}auc": measured.auc,
            f"{prefix}precision": measured.precision,
            f"{prefix}recall": measured.recall,
        }
    if judge.config.refined:
        found |= judge_refined(judge, run, codes[: judge.config.refined])
    if judge.train is not None:
        found |= judge_edits(judge, judge.train, run, codes)
    return found | {"seconds": seconds}, codes, made


def judge_refined(judge: Judge, run: TrainedInversion, codes: Tensor) -> Figures:
    """What is left after refinement that starts from the first held-out pictures' codes, float [N, L, 512]."""
    config = RefinementConfig(steps=judge.config.steps)
    result = refine(objective_of(run, judge.perceptual), codes, judge.images[: len(codes)], config)
    found = judge.reconstructions(decode(run, result.code))
    return {f"refined_{name}": found[name] for name in ("mse", "lpips_sq", "identity_distance")}


def judge_edits(judge: Judge, train: Pictures, run: TrainedInversion, codes: Tensor) -> Figures:
    """Fit boundaries on this encoder's codes; measure their average precision, and edits at both ends of their range.

    Moved and drift are in standard deviations among real people: how far an edit moves its own attribute, and all
    others. `codes` are the held-out pictures', float [N, L, 512].
    """
    names, discriminator = judge.config.attributes, run.latent_discriminator
    train = train.first(judge.config.boundaries_from)
    train_codes = encode(run.encoder, train)
    standard = discriminator.standardise(train_codes).flatten(1).numpy()
    normals = {name: fit_boundary(standard, train.attributes[name], 3e3, 0.1)[0] for name in names}
    found: Figures = {}
    if judge.pictures.attributes:
        held_out = discriminator.standardise(codes).flatten(1).numpy()
        precisions = []
        for name in names:
            truth = judge.pictures.attributes[name]
            rows = known(truth)
            positive = truth[rows] > (0.5 if is_binary(truth) else np.median(truth[rows]))
            precisions.append(average_precision_score(positive, held_out[rows] @ normals[name]))
        found["boundary_ap"] = float(np.mean(precisions))
    shown = codes[: judge.config.edited]
    start = decode(run, shown)
    before, same = judge.reader.read(start), judge.describe(start)
    spread = {name: np.nanstd(train.attributes[name]) for name in names}
    space = CodeSpace(run)
    success, moved, drift, kept = [], [], [], []
    for name in names:
        others = [normals[other] for other in names if other != name]
        step = native_step(standard, normals[name], others)
        moved_by = torch.from_numpy(step).reshape(discriminator.mean.shape) * discriminator.deviation
        direction = space.direction(
            name, moved_by, list(range(len(discriminator.mean))), train_codes[:READ], DOMAIN_FLOOR
        )
        for strength in direction.range:
            edited = decode(run, shown + strength * direction.scale * direction.vector)
            after = judge.reader.read(edited)
            success.append(((after[name] - before[name]) * np.sign(strength) > 0).mean())
            moved.append((after[name] - before[name]).mean() * np.sign(strength) / spread[name])
            drift.append(np.mean([abs(after[o] - before[o]).mean() / spread[o] for o in names if o != name]))
            kept.append(identity_similarity(judge.describe(edited), same).distance)
    return found | {
        "edit_success": float(np.mean(success)),
        "edit_moved": float(np.mean(moved)),
        "edit_drift": float(np.mean(drift)),
        "edit_drift_ratio": float(np.mean(drift) / max(np.mean(moved), 1e-6)),
        "edit_identity_distance": float(np.mean(kept)),
    }
