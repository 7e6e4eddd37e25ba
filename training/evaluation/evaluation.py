"""`python -m training evaluate RUN...`: encoders and inversions side by side, on pictures that they have not seen.

Encoders of one method and different seeds are averaged, with their spread. Writes `evaluation.json`, `evaluation.md`
and pictures.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from training.data.pictures import load_pictures
from training.evaluation import figures
from training.evaluation.encoders import judge_encoder
from training.evaluation.inversions import inversions, judge_inversions
from training.evaluation.judge import EvaluationConfig, Figures, Judge, decode
from training.evaluation.report import as_markdown, method_name, preference
from training.evaluation.samples import judge_domain_score, judge_generator, samples
from training.losses.perceptual import LPIPSSq
from training.networks.generator import sample_codes
from training.run_folders.json_files import write_json
from training.run_folders.trained_inversion import TrainedInversion, load_inversion


def mean_and_spread(several: list[Figures]) -> dict[str, tuple[float, float]]:
    """Mean and standard deviation of each figure over runs of one method."""
    return {
        name: (float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0)
        for name in several[0]
        if (values := [found[name] for found in several if name in found])
    }


def evaluate(config: EvaluationConfig) -> Path:
    """Measure and draw everything; return the path of the tables. Raises CheckpointError, DataError."""
    config.output.mkdir(parents=True, exist_ok=True)
    runs = [load_inversion(path) for path in config.runs]
    judge = Judge(config, runs[0].generator.config.resolution)
    encoders: list[dict[str, Any]] = []
    by_method: dict[str, list[Figures]] = {}
    pictures: dict[str, Tensor] = {}
    codes_of: dict[str, Tensor] = {}
    for path, run in zip(config.runs, runs, strict=True):
        name = method_name(run.meta)
        found, codes, made = judge_encoder(judge, run)
        print(
            f"{path}: {name}, MSE {found['mse']:.4f}, code FD {found['code_fd']:.1f}, AUC {found['auc']:.3f}",
            flush=True,
        )
        encoders.append(
            {
                "run": str(path),
                "method": name,
                "seed": run.meta.get("seed", 0),
                "code_weight": run.meta.get("loss_weights", {}).get("code_weight", 0.0),
                "figures": found,
            }
        )
        if name not in pictures:
            pictures[name], codes_of[name] = made, run.latent_discriminator.standardise(codes)
        by_method.setdefault(name, []).append(found)
        # Written after each encoder, as these are hours of work.
        write_json(config.output / "evaluation.json", {"encoders": encoders})
    chosen = min(runs, key=lambda run: preference(method_name(run.meta)))
    optimised, refined = judge_inversions(judge, chosen)
    scores = judge_domain_score(judge, chosen)
    summary = {name: mean_and_spread(found) for name, found in by_method.items()}
    results = {
        "config": asdict(config),
        "pictures": len(judge.pictures),
        "encoders": encoders,
        "methods": summary,
        "inversions": optimised,
        "domain_score": {name: float(values.mean()) for name, values in scores.items()},
        "generator": judge_generator(judge, chosen),
    }
    write_json(config.output / "evaluation.json", results)
    photographs = {"photograph": judge.images}
    figures.pictures(config.output / "encoders.png", photographs | pictures)
    figures.pictures(config.output / "inversions.png", photographs | refined)
    if config.shown:
        first_of = {method_name(run.meta): run for run in reversed(runs)}
        draw_shown(config, {name: first_of[name] for name in pictures}, chosen)
    figures.pictures(config.output / "samples.png", samples(chosen), rows=4)
    sampled = chosen.latent_discriminator.standardise(sample_codes(chosen.generator, len(judge.images)))
    figures.code_map(config.output / "codes.png", sampled, codes_of)
    figures.gap_against_error(config.output / "gap.png", encoders)
    figures.reliability(config.output / "domain_score.png", scores)
    table = config.output / "evaluation.md"
    table.write_text(as_markdown(results))
    return table


def draw_shown(config: EvaluationConfig, runs: dict[str, TrainedInversion], chosen: TrainedInversion) -> None:
    """Draw the pictures that may be shown: by each encoder, and by each inversion of the chosen one."""
    assert config.shown
    shown = load_pictures(config.shown, chosen.generator.config.resolution)
    images = shown.batch(torch.arange(len(shown)), mirror=False)
    sets = {"photograph": images}
    with torch.no_grad():
        sets |= {name: decode(run, run.encoder(images)) for name, run in runs.items()}
    figures.columns(config.output / "encoders-shown.png", sets)
    by_optimisation = inversions(chosen, LPIPSSq().eval(), images, config.steps)
    sets = {"photograph": images} | {name: decode(chosen, codes) for name, codes, _ in by_optimisation}
    figures.columns(config.output / "inversions-shown.png", sets)
