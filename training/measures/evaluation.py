"""`python -m training evaluate RUN...`: encoders and inversions side by side, on pictures that they have not seen.

Encoders of one method and different seeds are averaged, with their spread. Writes `evaluation.json`,
`evaluation.md` and the pictures beside it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from sklearn.metrics import average_precision_score
from torch import Tensor

from training.data.pictures import Pictures, load_pictures
from training.directions.attributes import AttributeReader, is_binary
from training.directions.directions import (
    DOMAIN_FLOOR,
    READ,
    CodeSpace,
    encode,
    fit_boundary,
    native_step,
)
from training.loops.inversion import InversionConfig, TrainedInversion, load_inversion, usual_view
from training.loops.runs import write_json
from training.losses.perceptual import LPIPSSq
from training.measures import figures
from training.measures.domain_score import calibration_count, domain_scores, invert_samples
from training.measures.identity import FaceDescriptor, face_chip, identity_similarity
from training.measures.metrics import (
    domain_gap_and_floor,
    efflite0_features,
    frechet_distance,
    inception_features,
    load_inception,
    mean_square,
    psnr,
    sliced_wasserstein,
)
from training.networks.features import EfficientNetLite0
from training.networks.generator import sample_codes
from training.refinement import (
    Objective,
    Refinement,
    RefinementConfig,
    Search,
    image2stylegan,
    refine,
    single_w,
    z_with_clipping,
    z_with_prior,
)

Figures = dict[str, float]
TRUNCATION = 0.7  # as `Sample` has it
SCORE_SAMPLES = 2_000  # that domain scores are among, up to 128 pixels
SWD_PICTURES = 256  # its patches are sorted along hundreds of directions


@dataclass
class EvaluationConfig:
    """Compare encoders, and inversions by optimisation, on held-out pictures."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Run folders of encoders for one generator; inversions by optimisation are measured on the first."""
    data: Path
    """Folder or zip of held-out pictures."""
    train: Path | None = None
    """Pictures that boundaries and the attribute reader are fitted on; without them nothing is edited."""
    train_attributes: Path | None = None
    """Their csv."""
    data_attributes: Path | None = None
    """The held-out pictures' csv, for the average precision of boundaries."""
    attributes: tuple[str, ...] = ("smile", "age", "male", "yaw")
    """Attributes to edit and to judge by."""
    output: Path = Path("evaluation")
    """Folder to write."""
    shown: Path | None = None
    """Folder of pictures that may be shown to others: every method's reconstructions of them are drawn too."""
    optimised: int = 32
    """Held-out pictures that inversions by optimisation are measured on."""
    steps: int = 100
    """Steps of the domain-regularised optimisation; the inversions without an encoder get four times as many."""
    edited: int = 200
    """Held-out pictures to edit."""
    boundaries_from: int = 4_000
    """Training pictures that boundaries are fitted on, the first ones."""
    samples: int = 10_000
    """Samples whose FD-EffLite0 to the training pictures is measured, beside that of held-out pictures."""
    inception: Path | None = None
    """TorchScript file of the FID's own Inception-v3 (inception-2015-12-05.pt, published by NVIDIA): with it the FID is
    measured beside FD-EffLite0."""


def method_name(meta: dict[str, Any]) -> str:
    """The method that an encoder's loss weights make, and how its settings differ from the usual ones."""
    if "imported_encoder" in meta:
        return str(meta["imported_encoder"]["family"])
    usual = InversionConfig
    weights, critic = meta["loss_weights"], meta["code_critic"]
    code, cycle, view = weights["code_weight"], weights["code_cycle_weight"], meta["code_critic_view"]
    end = {"linear end": not meta["encoder"].get("activation", False)}
    if weights["pixel_weight"] == 0:
        return joined("traditional", end)
    if code == 0:
        return joined("in-domain", {"with code cycle": cycle > 0} | end)
    changed = {
        f"code weight {code:g}": code != usual.code_weight,
        f"code cycle {cycle:g}" if cycle > 0 else "no code cycle": cycle != usual.code_cycle_weight,
        f"{view} critic": view != usual_view(meta["generator"]),
        f"critic rate {critic['code_critic_rate']:g}": critic["code_critic_rate"] != usual.code_critic_rate,
        f"R1 {critic['r1_gamma']:g}": critic["r1_gamma"] != usual.r1_gamma,
        f"replay pool {critic['code_pool']}": critic["code_pool"] != usual.code_pool,
    }
    return joined("force-in-domain", changed | end)


def joined(method: str, changed: dict[str, bool]) -> str:
    """A method's name and what is so of what may be changed."""
    return ", ".join([method, *(name for name, is_so in changed.items() if is_so)])


def preference(method: str) -> int:
    """Which encoder refinement and domain score are shown with: ours as it is, then ours otherwise, then any."""
    return 0 if method == "force-in-domain" else 1 if method.startswith("force-in-domain") else 2


class Judge:
    """What every method is judged by: held-out pictures, their features, and independent networks."""

    def __init__(self, config: EvaluationConfig, resolution: int) -> None:
        self.config = config
        self.pictures = load_pictures(config.data, resolution, config.data_attributes)
        self.images = self.pictures.batch(torch.arange(len(self.pictures)), mirror=False)
        self.perceptual, self.faces = LPIPSSq().eval(), FaceDescriptor()
        self.spaces: dict[str, Callable[[Tensor], np.ndarray]] = {
            "fd_efflite0": partial(efflite0_features, EfficientNetLite0())
        }
        if config.inception:
            self.spaces["fid"] = partial(inception_features, load_inception(config.inception))
        self.features = {name: space(self.images) for name, space in self.spaces.items()}
        self.descriptors = self.describe(self.images)
        self.train: Pictures | None = None
        if config.train and config.train_attributes:
            self.train = load_pictures(config.train, resolution, config.train_attributes)
            self.reader = AttributeReader.train(self.train, list(config.attributes))

    @torch.no_grad()
    def describe(self, images: Tensor) -> Tensor:
        """Face descriptors: float [N, 128]."""
        return torch.cat([self.faces(face_chip(part)) for part in images.split(32)])

    @torch.no_grad()
    def reconstructions(self, made: Tensor) -> Figures:
        """Errors of reconstructions of the first held-out pictures: float [N, 3, H, W]."""
        images = self.images[: len(made)]
        pairs = zip(made.split(64), images.split(64), strict=True)
        persons = identity_similarity(self.describe(made), self.descriptors[: len(made)])
        return {
            "mse": float(mean_square(made, images).mean()),
            "psnr": float(psnr(made, images).mean()),
            "lpips_sq": float(torch.cat([self.perceptual(a, b) for a, b in pairs]).mean()),
            "identity_distance": persons.distance,
            "identity_found": persons.found_share,
        }


@torch.no_grad()
def decode(run: TrainedInversion, codes: Tensor) -> Tensor:
    """Pictures as they are shown, within [-1, 1]: float [N, 3, H, W]."""
    return torch.cat([run.generator.synthesis(part).clamp(-1, 1) for part in codes.split(32)])


def judge_encoder(judge: Judge, run: TrainedInversion) -> tuple[Figures, Tensor, Tensor]:
    """Figures of one encoder, its codes of the held-out pictures, and their reconstructions."""
    started = time.perf_counter()
    codes = encode(run.encoder, judge.pictures)
    seconds = (time.perf_counter() - started) / len(codes)
    made = decode(run, codes)
    found = judge.reconstructions(made)
    for name, space in judge.spaces.items():
        found[name] = frechet_distance(space(made), judge.features[name])
    few = slice(SWD_PICTURES)
    found["swd"] = float(np.mean(list(sliced_wasserstein(made[few], judge.images[few]).values())))
    standard = run.code_critic.standardise
    gap, floor = domain_gap_and_floor(standard(codes), standard(sample_codes(run.generator, 2 * len(codes))))
    for prefix, measured in (("", gap), ("floor_", floor)):
        found |= {
            f"{prefix}code_fd": measured.frechet,
            f"{prefix}code_fd_layer": float(np.mean(measured.frechet_layers)),
            f"{prefix}auc": measured.auc,
            f"{prefix}precision": measured.precision,
            f"{prefix}recall": measured.recall,
        }
    if judge.train is not None:
        found |= judge_edits(judge, judge.train, run, codes)
    return found | {"seconds": seconds}, codes, made


def judge_edits(judge: Judge, train: Pictures, run: TrainedInversion, codes: Tensor) -> Figures:
    """Boundaries fitted on this encoder's codes: average precision, and what edits at both ends of the range do."""
    names, critic = judge.config.attributes, run.code_critic
    train = train.first(judge.config.boundaries_from)
    train_codes = encode(run.encoder, train)
    standard = critic.standardise(train_codes).flatten(1).numpy()
    normals = {name: fit_boundary(standard, train.attributes[name], 3e3, 0.1)[0] for name in names}
    found: Figures = {}
    if judge.pictures.attributes:
        held_out = critic.standardise(codes).flatten(1).numpy()
        precisions = []
        for name in names:
            truth = judge.pictures.attributes[name]
            positive = truth > (0.5 if is_binary(truth) else np.median(truth))
            precisions.append(average_precision_score(positive, held_out @ normals[name]))
        found["boundary_ap"] = float(np.mean(precisions))
    shown = codes[: judge.config.edited]
    start = decode(run, shown)
    before, same = judge.reader.read(start), judge.describe(start)
    spread = {name: train.attributes[name].std() for name in names}
    space = CodeSpace(run)
    success, moved, drift, kept = [], [], [], []
    for name in names:
        others = [normals[other] for other in names if other != name]
        step = native_step(standard, normals[name], others)
        moved_by = torch.from_numpy(step).reshape(critic.mean.shape) * critic.deviation
        direction = space.direction(
            name, moved_by, list(range(len(critic.mean))), train_codes[:READ], DOMAIN_FLOOR
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
        "edit_moved": float(np.mean(moved)),  # in standard deviations among real people, as the drift
        "edit_drift": float(np.mean(drift)),
        "edit_drift_ratio": float(
            np.mean(drift) / max(np.mean(moved), 1e-6)
        ),  # who moves nothing drifts nowhere
        "edit_identity_distance": float(np.mean(kept)),
    }


def searches(run: TrainedInversion, count: int) -> dict[str, tuple[Search, float]]:
    """The inversions without an encoder, and Adam's rate for each."""
    mapping, mean = run.generator.mapping, run.code_critic.mean
    z = torch.randn(count, run.generator.config.z_size, generator=torch.Generator().manual_seed(0))
    return {
        "Image2StyleGAN": (image2stylegan(mean, count), 0.03),
        "W only": (single_w(mean, count), 0.03),
        "z with prior": (z_with_prior(mapping, z), 0.1),
        "z with stochastic clipping": (z_with_clipping(mapping, z.clamp(-2, 2)), 0.1),
    }


def inversions(
    run: TrainedInversion, perceptual: LPIPSSq, images: Tensor, steps: int
) -> Iterator[tuple[str, Tensor, Figures]]:
    """Each inversion by optimisation of pictures float [N, 3, H, W]: its name, its codes, how it went."""
    with torch.no_grad():
        codes = run.encoder(images)
    yield "encoder", codes, {"steps": 0.0}
    variance = float(run.code_critic.deviation.square().mean())
    objective = Objective(run.generator.synthesis, run.encoder, perceptual, variance)

    def timed(start: Tensor | Search, config: RefinementConfig) -> tuple[Refinement, Figures]:
        started = time.perf_counter()
        result = refine(objective, start, images, config)
        seconds = (time.perf_counter() - started) / len(images)
        return result, {"seconds": seconds, "steps": float(config.steps)}

    ours, figures_of_ours = timed(codes, RefinementConfig(steps=steps))
    yield "domain-regularised optimisation", ours.code, figures_of_ours
    plain = RefinementConfig(steps=0, domain_weight=0.0)
    goal = refine(objective, ours.code, images, plain).losses  # of the pictures alone: [N, 1]
    free = RefinementConfig(optimiser="adam", steps=4 * steps, domain_weight=0.0)
    for name, (search, rate) in searches(run, len(images)).items():
        result, found = timed(search, replace(free, learning_rate=rate))
        reached = result.losses <= goal
        first = torch.where(reached.any(1), reached.float().argmax(1), torch.inf)
        found["steps_to_equal_loss"] = float(first.median())
        found["reached_equal_loss"] = float(reached.any(1).float().mean())
        yield name, result.code, found


def judge_inversions(judge: Judge, run: TrainedInversion) -> tuple[dict[str, Figures], dict[str, Tensor]]:
    """Figures and pictures of each inversion by optimisation, on the first held-out pictures."""
    among = inversions_of_samples(run)
    found: dict[str, Figures] = {}
    made: dict[str, Tensor] = {}
    images = judge.images[: judge.config.optimised]
    for name, codes, figures_of_it in inversions(run, judge.perceptual, images, judge.config.steps):
        made[name] = decode(run, codes)
        score = float(domain_scores(run.code_critic, codes, among).mean())
        found[name] = judge.reconstructions(made[name]) | {"domain_score": score} | figures_of_it
    return found, made


def draw_shown(config: EvaluationConfig, runs: dict[str, TrainedInversion], chosen: TrainedInversion) -> None:
    """The pictures that may be shown, by each encoder and by each inversion."""
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


@torch.no_grad()
def judge_domain_score(judge: Judge, run: TrainedInversion) -> dict[str, np.ndarray]:
    """Domain scores of new sampled pictures, of held-out faces, and of pictures that are no faces."""
    among = inversions_of_samples(run)
    groups = {"held-out faces": judge.images, **no_faces(judge.images)}
    codes = {"sampled pictures, drawn anew": inversions_of_samples(run, seed=2)}
    codes |= {
        name: torch.cat([run.encoder(part) for part in images.split(64)]) for name, images in groups.items()
    }
    return {name: domain_scores(run.code_critic, found, among) for name, found in codes.items()}


def inversions_of_samples(run: TrainedInversion, seed: int = 1) -> Tensor:
    """E(G(w)) of sampled w: float32 [M, L, 512]."""
    count = calibration_count(SCORE_SAMPLES, run.generator.config.resolution)
    return invert_samples(sample_codes(run.generator, count, seed), run.generator.synthesis, run.encoder)


def no_faces(images: Tensor) -> dict[str, Tensor]:
    """Pictures with the colours and textures of the given ones that show no face: float [N, 3, H, W] each."""
    side = images.shape[3]
    block = side // 8
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    blocks = torch.nn.functional.unfold(images, block, stride=block)[:, :, order]
    corner = images[:, :, : side // 4, : side // 4]
    return {
        "shuffled blocks": torch.nn.functional.fold(blocks, (side, side), block, stride=block),
        "background textures": torch.nn.functional.interpolate(corner, (side, side), mode="bicubic").clamp(
            -1, 1
        ),
    }


def judge_generator(judge: Judge, run: TrainedInversion) -> Figures:
    """Frechet distance of samples to the training pictures, and of the held-out pictures as the floor."""
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
            # as few samples as there are held-out pictures: the distance falls with the number
            f"{name}_as_many_samples": frechet_distance(sampled[: len(held_out)], train),
        }
    return found


def samples(run: TrainedInversion, count: int = 48) -> dict[str, Tensor]:
    """Pictures of sampled codes, as they come and drawn towards the mean code: float [N, 3, H, W] each."""
    mean, codes = run.code_critic.mean, sample_codes(run.generator, count)
    return {
        f"samples, truncation {psi:g}": decode(run, mean + psi * (codes - mean)) for psi in (1.0, TRUNCATION)
    }


def mean_and_spread(several: list[Figures]) -> dict[str, tuple[float, float]]:
    """Mean and standard deviation of each figure over seeds."""
    return {
        name: (float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0)
        for name in several[0]
        if (values := [found[name] for found in several if name in found])
    }


def evaluate(config: EvaluationConfig) -> Path:
    """Measure everything; returns the table's path. Raises CheckpointError, DataError."""
    config.output.mkdir(parents=True, exist_ok=True)
    runs = [load_inversion(path) for path in config.runs]
    judge = Judge(config, runs[0].generator.config.resolution)
    encoders: list[dict[str, Any]] = []
    by_method: dict[str, list[Figures]] = {}
    pictures: dict[str, Tensor] = {}
    codes_of: dict[str, Tensor] = {}
    for path, run in zip(config.runs, runs, strict=True):
        weight, name = run.meta.get("loss_weights", {}).get("code_weight", 0.0), method_name(run.meta)
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
                "code_weight": weight,
                "figures": found,
            }
        )
        if name not in pictures:
            pictures[name], codes_of[name] = made, run.code_critic.standardise(codes)
        by_method.setdefault(name, []).append(found)
        # at once: hours of work, should it be stopped
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
    sampled = chosen.code_critic.standardise(sample_codes(chosen.generator, len(judge.images)))
    figures.code_map(config.output / "codes.png", sampled, codes_of)
    figures.gap_against_error(config.output / "gap.png", encoders)
    figures.reliability(config.output / "domain_score.png", scores)
    table = config.output / "evaluation.md"
    table.write_text(as_markdown(results))
    return table


ENCODER_COLUMNS = {
    "mse": "MSE", "psnr": "PSNR dB", "lpips_sq": "LPIPS-sq", "fd_efflite0": "FD-EffLite0", "fid": "FID",
    "swd": "SWD",
    "identity_distance": "identity distance", "code_fd": "code FD, joint", "code_fd_layer": "code FD, a layer",
    "auc": "two-sample AUC", "precision": "precision", "recall": "recall", "boundary_ap": "boundary AP",
    "edit_success": "edits right way", "edit_moved": "moved sd", "edit_drift": "drift sd",
    "edit_drift_ratio": "drift / moved",
    "edit_identity_distance": "identity distance of edits", "seconds": "s a picture",
}  # fmt: skip
INVERSION_COLUMNS = {
    "steps": "steps", "mse": "MSE", "psnr": "PSNR dB", "lpips_sq": "LPIPS-sq", "identity_distance": "identity distance",
    "domain_score": "domain score", "steps_to_equal_loss": "steps to the loss of ours, median",
    "reached_equal_loss": "share that reaches it", "seconds": "s a picture",
}  # fmt: skip


def as_markdown(results: dict[str, Any]) -> str:
    """The tables of an evaluation. Encoders: mean +- standard deviation where there are several seeds."""
    methods: dict[str, dict[str, tuple[float, float]]] = results["methods"]
    seeds = {name: sum(e["method"] == name for e in results["encoders"]) for name in methods}
    columns = {
        key: title for key, title in ENCODER_COLUMNS.items() if any(key in m for m in methods.values())
    }
    rows = [
        [f"{name} ({seeds[name]})", *(_plus_minus(found[key]) if key in found else "" for key in columns)]
        for name, found in methods.items()
    ]
    some = next(iter(methods.values()))
    floor = {key: f"{some[f'floor_{key}'][0]:.3g}" for key in columns if f"floor_{key}" in some}
    rows.append(["sampled codes (floor)", *(floor.get(key, "") for key in columns)])
    lines = [f"Encoders on {results['pictures']} held-out pictures; in brackets the number of runs.", ""]
    lines += _table(["encoder", *columns.values()], rows)
    optimised = results["inversions"]
    rows = [
        [name, *(f"{found[key]:.3g}" if key in found else "" for key in INVERSION_COLUMNS)]
        for name, found in optimised.items()
    ]
    lines += ["", f"Inversions of {results['config']['optimised']} of them.", ""]
    lines += _table(["inversion", *INVERSION_COLUMNS.values()], rows)
    lines += ["", "Mean domain score.", ""]
    lines += _table(["codes of", "score"], [[k, f"{v:.2f}"] for k, v in results["domain_score"].items()])
    if results["generator"]:
        lines += ["", "Generator: Frechet distances to the training pictures.", ""]
        lines += _table(["figure", "value"], [[k, f"{v:.4g}"] for k, v in results["generator"].items()])
    return "\n".join(lines) + "\n"


def _plus_minus(figure: tuple[float, float]) -> str:
    mean, spread = figure
    return f"{mean:.3g} +- {spread:.2g}" if spread else f"{mean:.3g}"


def _table(titles: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (titles, ["---"] * len(titles), *rows)]
