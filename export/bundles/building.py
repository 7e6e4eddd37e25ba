"""What a bundle is asked to be, and its graphs: networks folded and rounded, the domain score calibrated."""

from __future__ import annotations

import copy
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from torch import nn

from export.bundles.checkpoint import Pipeline
from export.graphs.encoder_folding import fold_encoder
from export.graphs.folding import (
    fold_latent_discriminator,
    fold_mapping,
    fold_synthesis,
    round_weights,
)
from export.graphs.graphs import (
    DomainScoreGraph,
    EncoderGraph,
    GeneratorGraph,
    Graph,
    IdentityGraph,
    WithExtraRows,
    WithoutExtraRows,
    bundle_graphs,
    detector_graph,
    identity_graph,
)
from export.graphs.precision import Precision, lower
from training.faces.identity import CHIP, FaceDescriptor
from training.losses.perceptual import LPIPSSq
from training.measures.domain_score import calibration_count, invert_samples
from training.networks.conditional.relabelling import LabelReader, Relabeller, fit_label_reader
from training.networks.generator import Generator
from training.refinement.objective import Objective
from training.refinement.optimisers import OPTIMISERS
from training.refinement.refinement import RefinementConfig
from training.refinement.refiner import Refiner

QUANTILES = 257
WeightFormat = Literal["float16", "float32"]
Alignment = Literal["face", "centre-crop"]
# More pleases the one descriptor alone: squared errors and the distance by dlib's descriptor rise again.
IDENTITY_WEIGHT = 0.03
DOMAIN_TERM = "mean((code - E(G(code)))^2) / code_variance"
SCORE = "percentile of the latent discriminator's mean logit among the inversions of sampled pictures, E(G(w)), 0..1"


@dataclass
class BundleConfig:
    """Write a run's graphs, their configuration and a manifest into a model repository."""

    run: tyro.conf.Positional[Path]
    """Run folder of `python -m training encoder`."""
    to: Path
    """Model repository; made if it is missing. A bundle of the same name is replaced."""
    name: str | None = None
    """Name of the bundle; the run's own if left out."""
    version: int | None = None
    """Puts this version beside those that the repository has, for a gateway to change over to while it serves."""
    share: str | None = None
    """Another bundle of the repository. Graphs that are byte for byte its own are not stored again: the manifest names
    the other bundle's files, which must stay then. A run of `tune` has the encoder and the mapping of its origin."""
    weights: WeightFormat = "float16"
    """Numbers that weights are rounded to before they are stored, whatever is computed in."""
    precision: Precision = "float32"
    """What encoder and generator compute in: 16 bits, for GPUs, where PSNR against float32 reaches 40 dB. Norms,
    demodulation and the sum of RGB stay float32, and so do the mapping, the domain score, and the refiner with its
    gradients."""
    precision_codes: int = 1_000
    """Codes that 16 bits are compared with float32 on."""
    alignment: Alignment | None = None
    """How photographs are brought into place. face: by the faces on them, to where the run's alignment.json says; that
    takes a sixth graph, the detector. Left out: face where the run has that file, otherwise centre-crop."""
    identity_score: bool = True
    """Adds a graph that says how likely two pictures show one person, 6.2 MB, where the run's alignment.json says where
    faces lie on its pictures; without that file there is none."""
    refine: RefinementConfig = field(default_factory=RefinementConfig)
    """Chunk size of the refiner, and the defaults that the manifest carries."""
    sampled_codes: int = 2_000
    """Codes sampled to calibrate the domain score, up to 128 pixels; their pictures are inverted. Fewer above."""
    seed: int = 0
    """Seed of sampled codes."""


@dataclass(frozen=True)
class Built:
    """A pipeline's graphs, and what their checks compare with."""

    graphs: dict[str, Graph]
    originals: dict[str, nn.Module]
    """The training networks, with the inputs and outputs of the graphs."""
    objective: Objective
    refine: RefinementConfig
    """The config's, with what the pipeline has."""
    statistics: dict[str, Any]
    labels: list[dict[str, Any]] = field(default_factory=list)
    """Name, frequency and, where codes can be relabelled, how well they are read: of each label."""


@dataclass(frozen=True)
class Folded:
    """A pipeline's networks as the graphs have them: what is the same for every input is computed beforehand."""

    synthesis: nn.Module
    mapping: nn.Module
    encoder: nn.Module
    latent_discriminator: nn.Module
    objective: Objective


def fold(
    pipeline: Pipeline, weights: WeightFormat = "float16", perceptual: nn.Module | None = None
) -> Folded:
    """Fold the networks and round their weights. `perceptual`: LPIPS-sq, or another distance for the refiner."""
    rounded = round_weights if weights == "float16" else nn.Module.eval
    synthesis = rounded(fold_synthesis(pipeline.generator.synthesis))
    mapping = rounded(fold_mapping(pipeline.generator.mapping))
    encoder = rounded(fold_encoder(pipeline.encoder))
    latent_discriminator = rounded(fold_latent_discriminator(pipeline.latent_discriminator))
    objective = pipeline.objective(synthesis, encoder, perceptual or LPIPSSq())
    rounded(objective)
    return Folded(synthesis, mapping, encoder, latent_discriminator, objective)


def settle(refine: RefinementConfig, *, groups: Collection[str], has_identity: bool) -> RefinementConfig:
    """The settings with what the pipeline has: its defaults where none is given, None for what it cannot do. `groups`:
    the names of its codes' groups of additional rows."""

    def switch(name: str, given: bool | None) -> bool | None:
        return given is not False if name in groups else None

    weight = IDENTITY_WEIGHT if refine.identity_weight is None else refine.identity_weight
    return replace(
        refine,
        detail=switch("detail", refine.detail),
        noise=switch("noise", refine.noise),
        identity_weight=weight if has_identity else None,
    )


def build(pipeline: Pipeline, config: BundleConfig) -> Built:
    """Fold and round the networks, calibrate the score, and make the graphs."""
    generator = pipeline.generator
    folded = fold(pipeline, config.weights)
    layers, code_size = generator.config.layers, generator.config.code_size
    extra = generator.synthesis.extra
    rows = extra.rows(code_size)
    refine = settle(config.refine, groups=extra.names, has_identity=folded.objective.descriptor is not None)
    side = generator.config.resolution

    def giving_rows(network: nn.Module) -> nn.Module:
        return WithExtraRows(network, rows) if rows else network

    def taking_rows(network: nn.Module) -> nn.Module:
        return WithoutExtraRows(network, layers) if rows else network

    with torch.no_grad():
        drawn = generator.mapping.draw(calibration_count(config.sampled_codes, side))
        inversions = invert_samples(folded.mapping(*drawn), folded.synthesis, folded.encoder)
        logits = folded.latent_discriminator(inversions).mean(1)
    quantiles = torch.quantile(logits, torch.linspace(0, 1, QUANTILES))
    reader, labels = read_labels(generator, config.seed)
    relabeller = None
    if reader is not None:
        rounded = copy.deepcopy(reader)
        relabeller = Relabeller(
            folded.mapping,  # type: ignore[arg-type]
            round_weights(rounded) if config.weights == "float16" else rounded,  # type: ignore[arg-type]
        )
    graphs = bundle_graphs(
        encoder=giving_rows(lower(folded.encoder, config.precision)),
        synthesis=lower(folded.synthesis, config.precision),
        mapping=giving_rows(folded.mapping),
        critic=taking_rows(DomainScoreGraph(folded.latent_discriminator, quantiles)),
        refiner=Refiner(
            folded.objective,
            OPTIMISERS[refine.optimiser],
            (layers + rows, code_size),
            refine.chunk_steps,
            refine.settings,
        ),
        resolution=side,
        code_shape=(layers + rows, code_size),
        z_size=generator.config.z_size,
        precision=config.precision,
        labels=len(labels),
        relabeller=relabeller,
    )
    if pipeline.face(config.alignment) is not None:
        graphs["detector"] = detector_graph()
    chip = pipeline.square(CHIP) if config.identity_score else None
    if chip is not None:
        graphs["identity"] = identity_graph(side, chip)
    originals = {
        **{role: graph.module for role, graph in graphs.items() if role == "detector"},
        "encoder": EncoderGraph(giving_rows(pipeline.encoder)),
        "generator": GeneratorGraph(generator.synthesis),
        "mapping": giving_rows(generator.mapping),
        "critic": taking_rows(DomainScoreGraph(pipeline.latent_discriminator, quantiles)),
    }
    if chip is not None:
        originals["identity"] = IdentityGraph(side, chip, FaceDescriptor())
    if reader is not None:
        originals["relabeller"] = Relabeller(generator.mapping, reader)
    statistics = {
        "sampled_codes": len(logits),
        "code_variance": folded.objective.code_variance,
        "domain_term": DOMAIN_TERM,
        "score": SCORE,
        "critic_logit_median": float(quantiles[QUANTILES // 2]),
    }
    return Built(graphs, originals, folded.objective, refine, statistics, labels)


def read_labels(generator: Generator, seed: int) -> tuple[LabelReader | None, list[dict[str, Any]]]:
    """What the manifest says of a conditional generator's labels, and E_y, where codes can be given other ones."""
    mapping = generator.mapping
    if mapping.labels is None:
        return None, []
    reader: LabelReader | None = None
    held_out: list[dict[str, Any] | None] = [None] * len(mapping.labels.names)
    if generator.config.relabels:
        reader, accuracy = fit_label_reader(mapping, seed)
        held_out = [{"metric": "accuracy", "value": float(value)} for value in accuracy]
    named = zip(mapping.labels.names, mapping.labels.frequency, held_out, strict=True)
    return reader, [{"name": n, "frequency": float(share), "held_out": told} for n, share, told in named]
