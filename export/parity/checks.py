"""All checks of a bundle together.

The figures that they reach go into the manifest.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from export.graphs.graphs import EncoderGraph, GeneratorGraph, Graph, for_detector
from export.graphs.precision import Precision, picture_psnr
from export.parity.differences import Figures
from export.parity.forward import check_forward, check_structure, other_labels, with_filled_rows
from export.parity.refiner import check_refiner
from export.parity.sessions import open_session
from export.parity.tolerances import TOLERANCES, Tolerances, require
from training.refinement.objective import Objective
from training.refinement.refinement import RefinementConfig


def precision_figures(
    graphs: Mapping[str, Graph], objective: Objective, codes: Sequence[Tensor]
) -> dict[str, Figures]:
    """PSNR of pictures of the 16-bit generator, and of the 16-bit encoder's codes, against those in float32.

    `objective` holds the float32 networks; codes: batches of float32 [N, L, 512].
    """
    generator, encoder = graphs["generator"].module, graphs["encoder"].module
    assert isinstance(generator, GeneratorGraph)
    synthesis = objective.synthesis
    pictures = GeneratorGraph(synthesis)

    def reconstruction(network: nn.Module) -> Callable[[Tensor], Tensor]:
        return lambda code: synthesis(network(pictures(code)))

    exact = reconstruction(EncoderGraph(objective.encoder))
    return {
        "generator": picture_psnr(generator.synthesis, synthesis, codes),
        "encoder": picture_psnr(reconstruction(encoder), exact, codes),
    }


def check_precision(
    figures: Mapping[str, Figures], precision: Precision, tolerances: Tolerances = TOLERANCES
) -> None:
    """Raise ParityError where 16 bits change pictures too much."""
    for role, reached in figures.items():
        psnr, limit = reached["psnr_db"], tolerances.psnr_db
        what = f"PSNR of {precision} against float32 {psnr:.1f} dB; at least {limit:g} needed"
        require(psnr >= limit, role, what)


def check_all(
    graphs: Mapping[str, Graph],
    models: Mapping[str, Path],
    widened: Mapping[str, Path],
    checkpoint: Mapping[str, nn.Module],
    objective: Objective,
    config: RefinementConfig,
    latents: tuple[Tensor, ...],
    announce: Callable[[str], None],
) -> dict[str, Figures]:
    """Make every check on every graph; return the figures by role. Raises ParityError.

    `models`: the files by role. `widened`: the same, but float32 in the place of 16 bits (`storage.widen`).
    `checkpoint`: the training networks, with the graphs' inputs and outputs. `latents`: the mapping's inputs, z float32
    [N, z_size] and maybe labels, to sample codes and pictures from. `announce` is called with each step's name.
    """
    for role, path in models.items():
        check_structure(graphs[role], path)
    with torch.no_grad():
        codes = with_filled_rows(graphs["mapping"].module(*latents), objective.layers)
        pictures = GeneratorGraph(objective.synthesis)(codes)
        # Domain scores are compared on inversions, as that of a sampled code is 1.
        inverted = EncoderGraph(objective.encoder)(pictures)
        inverted = nn.functional.pad(inverted, (0, 0, 0, codes.shape[1] - inverted.shape[1]))
    figures: dict[str, Figures] = {}
    inputs: dict[str, Tensor | tuple[Tensor, ...]] = {
        "encoder": pictures,
        "generator": codes,
        "mapping": latents,
        "critic": inverted,
    }
    if "detector" in graphs:
        inputs["detector"] = for_detector(pictures)
    if "identity" in graphs:
        inputs["identity"] = pictures
    if "relabeller" in graphs:
        inputs["relabeller"] = (codes, other_labels(latents[1]))
    for role, x in inputs.items():
        announce(f"checking the {role}")
        graph, original = graphs[role], checkpoint[role]
        if graph.precision != "float32":
            # How far its rounded weights are from the checkpoint's is part of the PSNR.
            original = copy.deepcopy(graph.module).float()
            graph = replace(graph, module=original, precision="float32")
        figures[role] = check_forward(graph, open_session(widened[role]), original, x)
    announce("checking the refiner")
    # Each sample starts from its neighbour's code, so that there is something to refine.
    starts, targets = codes.numpy(), np.roll(pictures.numpy(), 1, 0)
    figures["refiner"] = check_refiner(open_session(models["refiner"]), objective, starts, targets, config)
    return figures
