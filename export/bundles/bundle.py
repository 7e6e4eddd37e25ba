"""`python -m export bundle`: a run folder to a bundle in a model repository.

Everything is written beside the repository and moved into it only when all checks have passed.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save as to_safetensors
from torch import Tensor

from export.bundles.building import Built, BundleConfig, build
from export.bundles.checkpoint import Pipeline, load_pipeline
from export.bundles.manifest import (
    Place,
    describe,
    graph_file,
    offered_graphs,
    place_graph,
    refuse_to_break_others,
)
from export.bundles.progress import progress_bar
from export.bundles.verification import sample_tensors, verify_bundle
from export.engines.triton import MAX_BATCH, config_pbtxt
from export.graphs.graphs import for_detector, to_onnx
from export.graphs.storage import data_file, widen
from export.parity.checks import check_all, check_precision, precision_figures
from export.parity.differences import Array, Figures
from export.parity.forward import other_labels, with_filled_rows
from export.parity.refiner import refiner_inputs
from export.parity.sessions import open_session, run
from export.parity.tolerances import ParityError, sample_count
from training.refinement.refinement import RefinementConfig

# Of the progress bar: five graphs exported, five checked, and three more. Precision and further graphs add theirs.
STEPS = 13


def write_bundle(config: BundleConfig) -> str:
    """Export, check, move into place; return a summary. Raises CheckpointError, ParityError, SharedGraphError."""
    pipeline = load_pipeline(config.run)
    name = config.name or str(pipeline.meta["name"])
    torch.manual_seed(config.seed)
    config.to.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=config.to.parent))
    try:
        steps = STEPS + (config.precision != "float32") + 2 * (pipeline.face(config.alignment) is not None)
        steps += 2 * pipeline.generator.config.relabels
        steps += 2 * (config.identity_score and pipeline.where_faces_lie is not None)
        with progress_bar(steps) as announce:
            sizes, figures, places = write_checked(pipeline, name, config, work, announce)
        move_into_place(work, config.to, name, tuple(sizes), config.version)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return summary(name, config.to, sizes, figures, places)


def write_checked(
    pipeline: Pipeline, name: str, config: BundleConfig, work: Path, announce: Callable[[str], None]
) -> tuple[dict[str, int], dict[str, Figures], dict[str, Place]]:
    """Write the whole bundle into the folder `work`; return bytes, figures and place of each graph. Raises ParityError.

    `announce` is called with each step's name.
    """
    offered = offered_graphs(config.to, name, config.share)
    announce("folding networks, calibrating the score")
    built = build(pipeline, config)
    mapping = pipeline.generator.mapping
    latents = mapping.draw(sample_count(pipeline.generator.config.resolution))
    rounding: dict[str, Figures] = {}
    if config.precision != "float32":
        announce(f"comparing {config.precision} with float32")
        rounding = measure_precision(built, config, mapping.draw, len(latents[0]))
    files, widened, places = {}, {}, {}
    for role, graph in built.graphs.items():
        announce(f"exporting the {role}")
        own = (f"{name}_{role}", config.version or 1)
        places[role] = place_graph(graph, to_onnx(graph, own[0]), own, offered.get(role), work)
        files[role] = widened[role] = work / graph_file(*places[role])
        if graph.precision != "float32":
            widened[role] = work / "widened" / f"{role}.onnx"
            widened[role].parent.mkdir(exist_ok=True)
            widen(files[role], widened[role])
        text = config_pbtxt(places[role][0], MAX_BATCH[role], graph.inputs, graph.outputs)
        (work / places[role][0] / "config.pbtxt").write_text(text)
    figures = check_all(
        built.graphs, files, widened, built.originals, built.objective, built.refine, latents, announce
    )
    figures |= {role: figures[role] | reached for role, reached in rounding.items()}
    announce("storing a sample of each graph")
    discriminator = pipeline.latent_discriminator
    tensors = {"mean_code": discriminator.mean.numpy(), "code_std": discriminator.deviation.numpy()}
    tensors |= {f"direction/{key}": vector for key, vector in pipeline.vectors.items()} | pipeline.boundaries
    for role, inputs in inputs_of(latents, widened, built.refine, built.objective.layers).items():
        tensors |= sample_tensors(role, inputs, run(open_session(widened[role]), inputs))
    # Not save_file: it would let nobody else read the file.
    content = to_safetensors({key: np.ascontiguousarray(value) for key, value in tensors.items()})
    (work / f"{name}.safetensors").write_bytes(content)
    manifest = describe(name, pipeline, built, config, work, figures, places)
    (work / f"{name}.json").write_text(json.dumps(manifest, indent=1) + "\n")
    announce("verifying the bundle")
    for _, complaint in verify_bundle(work / f"{name}.json"):
        if complaint:
            raise ParityError(f"the written bundle does not verify: {complaint}; nothing was kept")
    return {role: stored_bytes(file) for role, file in files.items()}, figures, places


def measure_precision(
    built: Built, config: BundleConfig, draw: Callable[[int], tuple[Tensor, ...]], batch: int
) -> dict[str, Figures]:
    """PSNR of the graphs that compute in 16 bits, over codes of drawn latents, in batches. Raises ParityError."""
    mapping = built.graphs["mapping"].module
    parts = torch.arange(config.precision_codes).split(batch)
    with torch.no_grad():
        codes = [mapping(*draw(len(part))) for part in parts]
    figures = precision_figures(built.graphs, built.objective, codes)
    check_precision(figures, config.precision)
    return figures


def stored_bytes(file: Path) -> int:
    """Size of a graph with the weights beside it."""
    return sum(part.stat().st_size for part in (file, data_file(file)) if part.is_file())


def inputs_of(
    latents: tuple[Tensor, ...], files: Mapping[str, Path], refine: RefinementConfig, layers: int | None
) -> dict[str, dict[str, Array]]:
    """Inputs for each graph's stored sample, made by the graphs; the refiner goes from a code to another's picture.

    `latents`: the mapping's inputs, z float32 [N, z_size] and maybe labels; `files` by role; `layers`: rows of a code
    that are vectors.
    """
    latent = {name: x.numpy() for name, x in zip(("z", "label"), latents, strict=False)}
    native = run(open_session(files["mapping"]), latent)["code"]
    code = with_filled_rows(torch.from_numpy(native), layers).numpy()
    image = run(open_session(files["generator"]), {"code": code})["image"]
    return {
        "mapping": latent,
        "generator": {"code": code},
        "encoder": {"image": image},
        "critic": run(open_session(files["encoder"]), {"image": image}),
        **(
            {"detector": {"image": for_detector(torch.from_numpy(image)).numpy()}}
            if "detector" in files
            else {}
        ),
        **({"identity": {"image": image}} if "identity" in files else {}),
        **(
            {"relabeller": {"code": code, "label": other_labels(latents[1]).numpy()}}
            if "relabeller" in files
            else {}
        ),
        "refiner": refiner_inputs(code, np.roll(image, 1, 0), refine),
    }


def move_into_place(
    work: Path, repository: Path, name: str, roles: tuple[str, ...], version: int | None = None
) -> None:
    """Replace the bundle, or one version of it, in the repository. The manifest, which vouches for it, goes last.

    Raises SharedGraphError.
    """
    repository.mkdir(exist_ok=True)
    refuse_to_break_others(work, repository, name, version)
    for role in roles:
        made, place = work / f"{name}_{role}", repository / f"{name}_{role}"
        if not made.exists():  # it is shared: another bundle has it
            if version is None and place.exists():
                place.rename(work / f"{name}_{role}.old")
        elif version is not None and place.exists():
            put(made / str(version), place / str(version), work / f"{name}_{role}.old")
            (made / "config.pbtxt").replace(place / "config.pbtxt")
        else:
            put(made, place, work / f"{name}_{role}.old")
    for file in (f"{name}.safetensors", f"{name}.json"):
        (work / file).replace(repository / file)


def put(made: Path, place: Path, old: Path) -> None:
    """Move a folder to its place; what was there is moved to `old`."""
    if place.exists():
        place.rename(old)
    made.rename(place)


def summary(
    name: str,
    repository: Path,
    sizes: Mapping[str, int],
    figures: Mapping[str, Figures],
    places: Mapping[str, Place],
) -> str:
    """What was written, for the terminal."""
    lines = [f"{name} written to {repository}"]
    for role, size in sizes.items():
        reached = ", ".join(f"{key} {value:.3g}" for key, value in figures[role].items())
        model = places[role][0]
        stored = f"{size / 1e6:6.2f} MB" if model == f"{name}_{role}" else f"shared, {model}"
        lines.append(f"  {role:<9} {stored}  {reached}")
    return "\n".join(lines)
