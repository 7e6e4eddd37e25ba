"""Inversions by optimisation, measured on the first held-out pictures."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from training.evaluation.judge import Figures, Judge, decode
from training.evaluation.samples import inversions_of_samples
from training.losses.perceptual import LPIPSSq
from training.measures.domain_score import domain_scores
from training.refinement.objective import Objective
from training.refinement.refinement import Refinement, RefinementConfig, refine
from training.refinement.searches import Search, image2stylegan, single_w, z_with_clipping, z_with_prior
from training.run_folders.trained_inversion import TrainedInversion


def searches(run: TrainedInversion, count: int) -> dict[str, tuple[Search, float]]:
    """The inversions without an encoder, and Adam's rate for each."""
    mean = run.latent_discriminator.mean
    z, *labels = run.generator.mapping.draw(count, torch.Generator().manual_seed(0))

    def mapping(z: Tensor) -> Tensor:
        return run.generator.mapping(z, *labels)

    return {
        "Image2StyleGAN": (image2stylegan(mean, count), 0.03),
        "W only": (single_w(mean, count), 0.03),
        "z with prior": (z_with_prior(mapping, z), 0.1),
        "z with stochastic clipping": (z_with_clipping(mapping, z.clamp(-2, 2)), 0.1),
    }


def objective_of(run: TrainedInversion, perceptual: LPIPSSq) -> Objective:
    """What refinement minimises with this run's networks."""
    variance = float(run.latent_discriminator.deviation.square().mean())
    return Objective(run.generator.synthesis, run.encoder, perceptual, variance)


def inversions(
    run: TrainedInversion, perceptual: LPIPSSq, images: Tensor, steps: int
) -> Iterator[tuple[str, Tensor, Figures]]:
    """Invert pictures float [N, 3, H, W] by every method: yield its name, its codes float [N, L, 512], its figures.

    The inversions without an encoder get four times `steps`, and are compared with the loss that the domain-regularised
    optimisation reached, without its domain term.
    """
    with torch.no_grad():
        codes = run.encoder(images)
    yield "encoder", codes, {"steps": 0.0}
    objective = objective_of(run, perceptual)

    def timed(start: Tensor | Search, config: RefinementConfig) -> tuple[Refinement, Figures]:
        started = time.perf_counter()
        result = refine(objective, start, images, config)
        seconds = (time.perf_counter() - started) / len(images)
        return result, {"seconds": seconds, "steps": float(config.steps)}

    ours, figures_of_ours = timed(codes, RefinementConfig(steps=steps))
    yield "domain-regularised optimisation", ours.code, figures_of_ours
    plain = RefinementConfig(steps=0, domain_weight=0.0)
    goal = refine(objective, ours.code, images, plain).losses  # [N, 1]
    free = RefinementConfig(optimiser="adam", steps=4 * steps, domain_weight=0.0)
    for name, (search, rate) in searches(run, len(images)).items():
        result, found = timed(search, replace(free, learning_rate=rate))
        reached = result.losses <= goal
        first = torch.where(reached.any(1), reached.float().argmax(1), torch.inf)
        found["steps_to_equal_loss"] = float(first.median())
        found["reached_equal_loss"] = float(reached.any(1).float().mean())
        yield name, result.code, found


def judge_inversions(judge: Judge, run: TrainedInversion) -> tuple[dict[str, Figures], dict[str, Tensor]]:
    """Figures and pictures float [N, 3, H, W] of every method, on the first held-out pictures; of none without any."""
    if judge.config.optimised == 0:
        return {}, {}
    among = inversions_of_samples(run)
    found: dict[str, Figures] = {}
    made: dict[str, Tensor] = {}
    images = judge.images[: judge.config.optimised]
    for name, codes, figures_of_it in inversions(run, judge.perceptual, images, judge.config.steps):
        made[name] = decode(run, codes)
        score = float(domain_scores(run.latent_discriminator, codes, among).mean())
        found[name] = judge.reconstructions(made[name]) | {"domain_score": score} | figures_of_it
    return found, made
