"""`python -m training tune`: a run's generator tuned to the pictures of one person, as a run folder of its own.

Encoder, latent discriminator, directions, presets and alignment are carried over as they are.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import Tensor, nn

from training.data.pictures import Pictures, load_pictures
from training.faces.identity import FaceDescriptor, face_chip
from training.losses.perceptual import LPIPSSq
from training.measures.metrics import mean_square
from training.networks.generator import sample_codes
from training.refinement.objective import Objective
from training.refinement.refinement import RefinementConfig, refine
from training.run_folders.checkpoint import CheckpointError, checkpoint_folder, save_checkpoint
from training.run_folders.compact import is_compact
from training.run_folders.json_files import write_json
from training.run_folders.publication import CARD_FILE, copy_beside
from training.run_folders.run_folder import RunFolder
from training.run_folders.trained_inversion import TrainedInversion, load_inversion
from training.tuning.pivotal_tuning import TuningConfig, tune

AT_ONCE = 8  # pictures that networks see together
OTHERS = 64  # sampled codes on which the change of other pictures is measured
Row = tuple[float, float, float]  # identity distance, MSE, LPIPS-sq


@dataclass
class TuneConfig:
    """Tune a generator to the pictures of one person, for closer inversions and edits of this person."""

    run: tyro.conf.Positional[Path]
    """Run folder of an encoder, or what `publish` made of it."""
    pictures: Path
    """Folder or zip of the person's pictures, aligned, of the generator's size."""
    to: Path
    """Run folder to write; its name becomes the run's."""
    tuning: TuningConfig = field(default_factory=TuningConfig)
    """Steps, rate, weights."""
    refine: RefinementConfig = field(default_factory=RefinementConfig)
    """How the pictures are inverted."""


class Measures:
    """What a reconstruction is measured by: networks that are loaded once."""

    def __init__(self) -> None:
        self.perceptual, self.faces = LPIPSSq().eval(), FaceDescriptor().eval()

    @torch.no_grad()
    def row(self, made: Tensor, images: Tensor) -> Row:
        """Means over pairs of pictures float [N, 3, H, W]; the made ones are clamped to [-1, 1], as they are shown."""
        pairs = list(zip(made.clamp(-1, 1).split(AT_ONCE), images.split(AT_ONCE), strict=True))
        identity = [(self.faces(face_chip(a)) - self.faces(face_chip(b))).norm(dim=1) for a, b in pairs]
        pixel = [mean_square(a, b) for a, b in pairs]
        perceptual = [self.perceptual(a, b) for a, b in pairs]
        return tuple(float(torch.cat(parts).mean()) for parts in (identity, pixel, perceptual))  # type: ignore[return-value]


def tune_run(config: TuneConfig) -> str:
    """Write the tuned run folder; return a table of what it gained. Raises CheckpointError, DataError."""
    if config.to.exists():
        raise CheckpointError(f"{config.to} is there already; name a folder that is not")
    run = load_inversion(config.run)
    pictures = load_pictures(config.pictures, run.generator.config.resolution, crop=False)
    images = pictures.batch(torch.arange(len(pictures)), mirror=False)
    measures = Measures()
    synthesis = run.generator.synthesis
    pivots = invert(run, synthesis, measures.perceptual, images, config.refine)
    folder = RunFolder.make(config.to, config)
    tuned = tune(run.generator, measures.perceptual, pivots, images, config.tuning, folder.log)
    again = invert(run, tuned, measures.perceptual, images, config.refine)
    made = {
        "generator as it was": draw(synthesis, pivots),
        "tuned, at the same codes": draw(tuned, pivots),
        "tuned, inverted again": draw(tuned, again),
    }
    folder.save_grid("tuned", torch.cat([images, *made.values()]), columns=len(images))
    codes = sample_codes(run.generator, OTHERS)
    rows = {name: measures.row(drawn, images) for name, drawn in made.items()}
    rows[f"tuned beside as it was, {OTHERS} sampled codes"] = measures.row(
        draw(tuned, codes), draw(synthesis, codes).clamp(-1, 1)
    )
    save_tuned(config, run, tuned, pictures)
    return f"{table(rows)}\n{config.to} written"


def invert(
    run: TrainedInversion, synthesis: nn.Module, perceptual: LPIPSSq, images: Tensor, config: RefinementConfig
) -> Tensor:
    """Codes float [N, L, 512] of pictures float [N, 3, H, W]: the encoder's, refined for this synthesis network."""
    variance = float(run.latent_discriminator.deviation.square().mean())
    objective = Objective(synthesis, run.encoder, perceptual, variance)
    return torch.cat(
        [refine(objective, run.encoder(part), part, config).code for part in images.split(AT_ONCE)]
    )


@torch.no_grad()
def draw(synthesis: nn.Module, codes: Tensor) -> Tensor:
    """Codes float [N, L, 512] -> pictures float [N, 3, H, W]."""
    return torch.cat([synthesis(part) for part in codes.split(AT_ONCE)])


def save_tuned(config: TuneConfig, run: TrainedInversion, tuned: nn.Module, pictures: Pictures) -> None:
    """Write the checkpoint, and beside it what is carried over, with a card that says what was tuned."""
    origin = str(run.meta["name"])
    settings = {"tuning": asdict(config.tuning), "refine": asdict(config.refine)}
    meta = run.meta | {
        "name": config.to.name,
        "tuned": {"from": origin, "pictures": len(pictures), **settings},
    }
    # The network itself has been tuned in a copy.
    run.generator.synthesis.load_state_dict(tuned.state_dict())
    networks = {
        "generator": run.generator,
        "encoder": run.encoder,
        "latent_discriminator": run.latent_discriminator,
    }
    save_checkpoint(config.to / "checkpoint", meta, networks, {})
    copy_beside(config.run if is_compact(config.run) else checkpoint_folder(config.run), config.to)
    write_json(config.to / CARD_FILE, tuned_card(config.to / CARD_FILE, meta))


def tuned_card(file: Path, meta: dict[str, Any]) -> dict[str, Any]:
    """The model card in `file`, or a new one where there is none, with what tuning adds to it."""
    card = json.loads(file.read_text()) if file.is_file() else {}
    origin, count = meta["tuned"]["from"], meta["tuned"]["pictures"]
    data = card.get("data") or str(meta.get("data", ""))
    return card | {
        "data": f"{data} Tuned from {origin} on {count} pictures of one person.".strip(),
        "limits": f"{card.get('limits', '')} Tuned to one person: for pictures of this person only.".strip(),
    }


def table(rows: dict[str, Row]) -> str:
    """The figures as Markdown."""
    lines = ["| | identity distance | MSE | LPIPS-sq |", "| --- | --- | --- | --- |"]
    lines += [f"| {name} | {' | '.join(f'{value:.3g}' for value in row)} |" for name, row in rows.items()]
    return "\n".join(lines)
