"""Reads a run folder of training: networks, directions, model card."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file
from torch import nn

from export.bundles.presets import read_presets
from training.faces.alignment import ALIGNMENT_FILE
from training.faces.mobile_face import ALIGNED_SQUARE, IdentityDescriptor
from training.faces.squares import Square, square_between
from training.networks.encoder import Encoder
from training.networks.generator import Generator
from training.networks.latent_discriminator import LatentDiscriminator
from training.networks.pyramid_encoder import PyramidEncoder
from training.refinement.detail_basis import load_detail
from training.refinement.noise_maps import load_noise
from training.refinement.objective import Objective
from training.run_folders.checkpoint import CheckpointError
from training.run_folders.trained_inversion import load_inversion

Tensors = dict[str, npt.NDArray[np.float32]]
DIRECTION_FIELDS = ("name", "label", "layers", "range", "scale", "held_out", "conditioned_on")


@dataclass(frozen=True)
class Pipeline:
    """A trained pipeline, networks in evaluation mode."""

    generator: Generator
    encoder: Encoder | PyramidEncoder
    latent_discriminator: LatentDiscriminator
    meta: dict[str, Any]
    """checkpoint.json"""
    card: dict[str, Any]
    """card.json; empty if there is none"""
    directions: list[dict[str, Any]]
    vectors: Tensors
    """A direction's name -> float32 [L, 512], of length 1, zero outside its layers."""
    boundaries: Tensors = field(default_factory=dict)
    """boundary/NAME and across/NAME -> float32 [L, 512], for directions that were made from labels."""
    presets: list[dict[str, Any]] = field(default_factory=list)
    where_faces_lie: dict[str, Any] | None = None
    """alignment.json; None if there is none"""

    def objective(self, synthesis: nn.Module, encoder: nn.Module, perceptual: nn.Module) -> Objective:
        """The objective of this pipeline's refinements, by its own networks or folded ones."""
        shape, square = self.generator.config, self.square(ALIGNED_SQUARE)
        descriptor = None if square is None else IdentityDescriptor(shape.resolution, square)
        return Objective(
            synthesis,
            encoder,
            perceptual,
            float(self.latent_discriminator.deviation.square().mean()),
            layers=shape.layers,
            groups=self.generator.synthesis.extra.terms(shape.layers, shape.code_size),
            descriptor=descriptor,
        )

    def square(self, aligned: Square) -> Square | None:
        """Where on this run's pictures a square of pictures aligned as the training data lies; None without an
        alignment.json."""
        if self.where_faces_lie is None:
            return None
        template = self.where_faces_lie["template"]
        return square_between(aligned, template["left_eye"], template["right_eye"])

    def face(self, alignment: str | None) -> dict[str, Any] | None:
        """Where faces are to be aligned to; None for pictures that are only cropped. Raises CheckpointError."""
        if alignment == "face" and self.where_faces_lie is None:
            raise CheckpointError(
                f"the run has no {ALIGNMENT_FILE}; write it with `python -m training alignment`"
            )
        return None if alignment == "centre-crop" else self.where_faces_lie


def load_pipeline(run: Path) -> Pipeline:
    """Load a run folder of kind "inversion". Raises CheckpointError, PresetError."""
    generator, encoder, discriminator, meta = load_inversion(run)
    shape = (generator.config.layers, generator.config.code_size)
    file = run / "card.json"
    card = json.loads(file.read_text()) if file.is_file() else {}
    directions, vectors, boundaries = load_directions(run, shape)
    listing = run / "presets.json"
    presets = read_presets(listing, directions) if listing.is_file() else []
    load_detail(run, generator)
    load_noise(run, generator)
    return Pipeline(
        generator,
        encoder,
        discriminator,
        meta,
        card,
        directions,
        vectors,
        boundaries,
        presets,
        load_alignment(run),
    )


def load_alignment(run: Path) -> dict[str, Any] | None:
    """Read alignment.json, if there is one."""
    file = run / ALIGNMENT_FILE
    return json.loads(file.read_text()) if file.is_file() else None


def load_directions(run: Path, shape: tuple[int, int]) -> tuple[list[dict[str, Any]], Tensors, Tensors]:
    """Entries, vectors and boundaries of directions.json and directions.safetensors; all empty if there are none.

    `shape`: [L, 512]. Raises CheckpointError for what does not fit.
    """
    file = run / "directions.json"
    if not file.is_file():
        return [], {}, {}
    entries, tensors = json.loads(file.read_text()), load_file(run / "directions.safetensors")
    vectors = {}
    for entry in entries:
        name = entry["name"]
        vector = tensors.get(f"direction/{name}")
        if vector is None or vector.shape != shape:
            raise CheckpointError(
                f"{run}: direction {name} has no vector of shape {shape}; write the directions again"
            )
        outside = [layer for layer in range(shape[0]) if layer not in entry["layers"]]
        if abs(float(np.linalg.norm(vector)) - 1) > 1e-3 or np.any(vector[outside]):
            raise CheckpointError(
                f"{run}: direction {name} must have length 1 and be zero outside its layers"
            )
        vectors[name] = vector.astype(np.float32)
    boundaries = {
        key: tensor for key, tensor in tensors.items() if key.partition("/")[0] in ("boundary", "across")
    }
    if any(tensor.shape != shape for tensor in boundaries.values()):
        raise CheckpointError(f"{run}: boundaries must have the shape {shape}; write the directions again")
    return [{key: entry.get(key) for key in DIRECTION_FIELDS} for entry in entries], vectors, boundaries
