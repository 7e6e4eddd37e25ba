"""What it costs to bring codes into the domain: `python -m benchmarks.domain --data val.zip --train train.zip`.

The encoder's codes of held-out photographs are brought nearer to native ones, step by step: first their residual is
left out, so that they are mapping(z); then z is coupled with N(0, I) so that pictures change least
(`training.measures.prior_coupling`). Each row of the table is one step: how well a classifier tells the codes from
sampled ones, the error, and the error after the bundle's refinement. It is the curve that training has to beat.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from rich.progress import track
from torch import Tensor

from benchmarks.edits import Edits, decode, read
from benchmarks.graphs import Array, Graphs, batches, markdown_table, shipped_checkpoint
from benchmarks.quality import Judge, mean_figures
from serving.bundle import with_rows
from training.data.pictures import Pictures, load_pictures
from training.directions.attributes import AttributeReader
from training.directions.directions import encode
from training.measures.metrics import domain_gap, style_distance
from training.measures.prior_coupling import couple, picture_metric
from training.networks.generator import sample_codes
from training.networks.latent_discriminator import NativeCoordinates
from training.run_folders.trained_inversion import TrainedInversion, load_inversion


@dataclass
class DomainConfig:
    """Measure error against nearness to the prior, on pictures of your own."""

    data: Path
    """Folder or zip of held-out pictures, aligned as the bundle's training data."""
    train: Path
    """The training pictures, from whose codes the couplings are fitted."""
    run: Path | None = None
    """Run folder or checkpoint of the bundle; that of the shipped one by default."""
    repository: Path = Path("model_repository")
    """Model repository, with the bundle of that run: it refines."""
    fitted_on: int = 3_000
    """Training pictures to fit couplings on."""
    looked_at: int = 6
    """Codes at which it is measured how pictures change."""
    shown: int = 200
    """Held-out pictures, spread over all, whose reconstructions are compared."""
    refined: int = 12
    """Of these, how many are refined, by the bundle's own number of steps; 0 for none."""
    shares: tuple[float, ...] = (0.5, 0.75, 1.0)
    """How far z is brought towards N(0, I)."""
    seeds: int = 1
    """Draws of the couplings' noise, a row each."""
    train_attributes: Path | None = None
    """Csv of the training pictures: tells also whether edits of the refined codes go the right way."""


def spread_over(pictures: Pictures, count: int) -> Pictures:
    """So many of the pictures, from the first to the last."""
    return pictures.chosen(torch.linspace(0, len(pictures) - 1, min(count, len(pictures))).long())


def steps(
    config: DomainConfig, run: TrainedInversion, codes: Tensor, train: Tensor
) -> Iterator[tuple[str, Tensor]]:
    """Each step's name and codes float [N, L, 512]. Where z cannot be read off codes there is but the encoder's own."""
    shape, mapping = run.generator.config, run.generator.mapping
    yield "the encoder's", codes
    if shape.mapping != "dense" or shape.mapping_depth != 1 or shape.labels:
        print(
            "no couplings: they need a dense mapping of one layer without labels, as `training mapping` fits to any run"
        )
        return
    native = NativeCoordinates(shape.layers, shape.code_size, mapping.last_inputs).fit(mapping)
    z, fitted = native.split(codes)[0], native.split(train)[0]
    variances = torch.linalg.eigvalsh(torch.cov(z.T)).flip(0)
    told = ", ".join(
        f"{k}: {variances[k - 1]:.2f}" for k in (1, 10, 100, 200, 300, 400) if k <= len(variances)
    )
    print(f"variance of z along its principal directions, 1 in sampled codes: {told}")
    yield "half of the residual", native.with_residual(codes, 0.5)
    yield "no residual: mapping(z)", native.with_residual(codes, 0.0)

    def draw(z: Tensor) -> Tensor:
        # A quarter of the pixels says as much about what is seen, in less time.
        return F.avg_pool2d(run.generator.synthesis(mapping(z)), 2)

    metric = picture_metric(draw, fitted[:: len(fitted) // config.looked_at][: config.looked_at])
    for share in config.shares:
        coupling = couple(fitted, metric, share)
        for seed in range(config.seeds):
            with torch.no_grad():
                moved = mapping(coupling(z, torch.Generator().manual_seed(seed)))
            yield f"z {100 * share:.0f} % of the way to N(0, I)" + (f", draw {seed}" if seed else ""), moved


def main(config: DomainConfig) -> None:
    """Print the table. Raises CheckpointError."""
    torch.set_num_threads(1)
    run = load_inversion(config.run or shipped_checkpoint())
    graphs, judge = Graphs(config.repository, ""), Judge()
    side = run.generator.config.resolution
    held_out, real = (
        load_pictures(config.data, side),
        load_pictures(config.train, side, config.train_attributes),
    )
    images, fitted = held_out.images, spread_over(real, config.fitted_on)
    codes, train = encode(run.encoder, held_out), encode(run.encoder, fitted)
    sampled = sample_codes(run.generator, 2 * len(codes), seed=5)
    standard: Callable[[Tensor], Tensor] = run.latent_discriminator.standardise
    chosen = torch.linspace(0, len(images) - 1, min(config.shown, len(images))).long()
    refined = chosen[torch.linspace(0, len(chosen) - 1, min(config.refined, len(chosen))).long()]
    targets = images.permute(0, 2, 3, 1).contiguous().numpy()

    def alignment(codes: Tensor) -> list[str]:
        gap = domain_gap(standard(codes), standard(sampled[: len(codes)]))
        away = style_distance(run.generator.synthesis, codes, sampled[len(codes) :])
        numbers = f"{gap.auc:.3f}", f"{gap.frechet:,.0f}", f"{gap.precision:.2f}", f"{gap.recall:.2f}"
        return [*numbers, f"{away:.4f}"]

    def likeness(codes: Array, of: Tensor) -> list[str]:
        found = mean_figures(judge.errors(decode(graphs, codes), targets[of.numpy()]))
        return [f"{found['mse']:.4f}", f"{found['lpips_sq']:.3f}", f"{found['identity_distance']:.2f}"]

    def refine(codes: Array) -> Array:
        done = []
        for part in batches(len(codes), 4):
            target = targets[refined[part].numpy()]
            done.append(graphs.refine(codes[part], target, graphs.bundle.refine.steps)[0])
        return np.concatenate(done)

    names = [name for name in graphs.bundle.directions if name in real.attributes]
    reader = AttributeReader.train(fitted, names) if names else None
    spread = {name: float(np.nanstd(real.attributes[name])) for name in names}

    def edited(codes: Array) -> list[str]:
        assert reader is not None
        edits = Edits(graphs, reader, codes, read(reader, decode(graphs, codes)), spread)
        ends = [edits.at_both_ends(name) for name in names]
        right, moved, drift = (
            np.mean([[end[f"{figure}_{side}"] for side in ("low", "high")] for end in ends])
            for figure in ("right_way", "moved", "drift")
        )
        return [f"{right:.1%}", f"{drift / moved:.2f}"]

    head = ["codes", "two-sample AUC", "code FD", "precision", "recall", "style distance"]
    head += ["MSE", "LPIPS-sq", "identity"]
    head += ["refined: MSE", "LPIPS-sq", "identity"] if len(refined) else []
    head += ["edits right way", "drift / moved"] if len(refined) and names else []
    rows = []
    for name, moved in track(list(steps(config, run, codes, train)), "bringing codes nearer"):
        # Codes of a bundle with detail have more rows, which are zero before a refinement.
        start = with_rows(moved.numpy(), len(graphs.bundle.mean_code))
        row = [name, *alignment(moved), *likeness(start[chosen.numpy()], chosen)]
        if len(refined):
            found = refine(start[refined.numpy()])
            row += likeness(found, refined) + (edited(found) if names else [])
        rows.append(row)
    rows.append(["other sampled codes", *alignment(sampled[len(codes) :]), *[""] * (len(head) - 6)])
    print(f"{graphs.bundle.name}: {len(images)} photographs, {len(chosen)} decoded, {len(refined)} refined")
    print(markdown_table(head, rows))


if __name__ == "__main__":
    main(tyro.cli(DomainConfig))
