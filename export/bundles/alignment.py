"""`python -m export align`: changes how photographs are aligned for an existing bundle, and nothing else of it.

To align by faces, the face detector is added to the bundle's graphs, and the place of faces to its manifest.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from safetensors.numpy import load
from safetensors.numpy import save as to_safetensors

from export.bundles.building import Alignment
from export.bundles.bundle import put
from export.bundles.checkpoint import load_alignment
from export.bundles.manifest import DETECTOR_LICENCE, alignment, describe_graph, graph_file
from export.bundles.verification import Manifest, sample_tensors, sha256, verify_bundle
from export.engines.triton import MAX_BATCH, TritonError, config_pbtxt
from export.graphs.graphs import detector_graph, for_detector, to_onnx
from export.graphs.storage import save
from export.parity.differences import Array
from export.parity.forward import check_forward, check_structure
from export.parity.sessions import open_session, run
from export.parity.tolerances import ParityError
from training.run_folders.checkpoint import CheckpointError

ROLE = "detector"


@dataclass
class AlignConfig:
    """Change how photographs are aligned for an existing bundle; the files of its other graphs stay as they are."""

    repository: tyro.conf.Positional[Path]
    """Model repository."""
    alignment: Alignment = "face"
    """face: eyes and mouth are brought to where they are on training pictures. centre-crop: no alignment."""
    run: Path | None = None
    """For face: the folder with the alignment.json that `python -m training alignment` wrote."""
    bundle: str = ""
    """Its bundle; the only one by default."""


def align(config: AlignConfig) -> str:
    """Change the bundle; return a summary. Raises CheckpointError, TritonError, ParityError, FileNotFoundError."""
    manifest, tensors, name = read(config.repository, config.bundle)
    tensors = {key: value for key, value in tensors.items() if not key.startswith(f"sample/{ROLE}/")}
    manifest = without_detector(manifest)
    work = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=config.repository.resolve().parent))
    try:
        if config.alignment == "face":
            face = None if config.run is None else load_alignment(config.run)
            if face is None:
                raise CheckpointError(
                    "name a --run that has an alignment.json, of `python -m training alignment`"
                )
            manifest |= alignment(face) | {"licence": manifest["licence"] + DETECTOR_LICENCE}
            tensors |= add_detector(name, manifest, tensors, work)
        replace_alignment(config.repository, name, manifest, tensors, work)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return f"{name}: alignment {config.alignment}; every other graph is the file that it was"


def read(repository: Path, bundle: str) -> tuple[Manifest, dict[str, Array], str]:
    """Read manifest, tensors and name of a repository's bundle. Raises TritonError, FileNotFoundError."""
    manifests = [path for path in repository.glob("*.json") if bundle in ("", path.stem)]
    if len(manifests) != 1:
        raise FileNotFoundError(f"{repository} must hold one bundle, or name it: --bundle")
    for _, complaint in verify_bundle(manifests[0]):
        if complaint:
            raise TritonError(f"{manifests[0].stem} is not whole: {complaint}")
    manifest = json.loads(manifests[0].read_text())
    return manifest, load((repository / manifest["tensors"]["file"]).read_bytes()), manifests[0].stem


def without_detector(manifest: Manifest) -> Manifest:
    """The manifest without its face detector, for pictures that are only cropped."""
    rest = {key: value for key, value in manifest.items() if key != "face"}
    for part in ("graphs", "parity"):
        rest[part] = {key: value for key, value in manifest[part].items() if key != ROLE}
    # Older cards had an entry that the manifest itself has now.
    rest.get("card", {}).pop("alignment", None)
    return rest | alignment(None) | {"licence": manifest.get("licence", "").removesuffix(DETECTOR_LICENCE)}


def add_detector(name: str, manifest: Manifest, tensors: Mapping[str, Array], work: Path) -> dict[str, Array]:
    """Write and check the detector, and add it to the manifest; return the tensors of its stored sample."""
    picture = tensors.get("sample/generator/outputs/image")
    if picture is None:
        raise TritonError(f"{name} has no stored samples; export it again with --alignment face")
    graph, model, version = detector_graph(), f"{name}_{ROLE}", manifest["graphs"]["encoder"]["version"]
    file = work / graph_file(model, version)
    file.parent.mkdir(parents=True)
    save(to_onnx(graph, model), file)
    text = config_pbtxt(model, MAX_BATCH[ROLE], graph.inputs, graph.outputs)
    (work / model / "config.pbtxt").write_text(text)
    check_structure(graph, file)
    images = for_detector(torch.from_numpy(np.concatenate([picture, picture[:, :, ::-1]])))
    session = open_session(file)
    manifest["parity"][ROLE] = check_forward(graph, session, graph.module, images)
    manifest["graphs"][ROLE] = describe_graph(graph, model, version, work)
    return sample_tensors(ROLE, {"image": images.numpy()}, run(session, {"image": images.numpy()}))


def replace_alignment(
    repository: Path, name: str, manifest: Manifest, tensors: Mapping[str, Array], work: Path
) -> None:
    """Move detector, tensors and manifest into place, the manifest last. Raises ParityError if they do not verify."""
    file = f"{name}.safetensors"
    (work / file).write_bytes(
        to_safetensors({key: np.ascontiguousarray(value) for key, value in tensors.items()})
    )
    manifest["tensors"] = {"file": file, "sha256": sha256(work / file)}
    (work / f"{name}.json").write_text(json.dumps(manifest, indent=1) + "\n")
    made, place = work / f"{name}_{ROLE}", repository / f"{name}_{ROLE}"
    if made.exists():
        put(made, place, work / "old")
    elif place.exists():
        place.rename(work / "old")
    for part in (file, f"{name}.json"):
        (work / part).replace(repository / part)
    for _, complaint in verify_bundle(repository / f"{name}.json"):
        if complaint:
            raise ParityError(f"the written bundle does not verify: {complaint}")
