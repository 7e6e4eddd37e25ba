"""`python -m export verify` and `python -m export diff`: check and compare bundles in a repository. Needs no PyTorch.

Each bundle has a sample's inputs and outputs for every graph, stored after the graphs had passed their parity checks.
Whoever receives a bundle can run them again on their own machine.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tyro
from safetensors import SafetensorError
from safetensors.numpy import load

# Read once, when onnxruntime is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime as ort
from onnxruntime.capi.onnxruntime_pybind11_state import NotImplemented as NoKernel

Array = npt.NDArray[Any]
Manifest = dict[str, Any]

# sample/<role>/<inputs | outputs>/<name> in a bundle's tensors, one sample each. An input that is not there is zero.
SAMPLE = "sample"
DTYPES = {"tensor(uint8)": "uint8", "tensor(float)": "float32"}
# By a graph's precision. Samples are stored as float32 computes them; two runtimes round 16 bits differently.
# Codes, scores, losses: largest difference relative to the largest value.
RELATIVE = {"float32": 1e-3, "float16": 1e-2, "bfloat16": 5e-2}
# Pictures: levels of 255 within which a share of the values must be; 40 dB is a deviation of 2.6.
LEVELS = {"float32": 1, "float16": 8, "bfloat16": 8}
LEVELS_SHARE = 0.999
# Of a refiner only these losses are compared, as rounding grows along its steps: from 1e-6 to 2e-2 in five of them, at
# 128 pixels. The second loss already depends on the first gradient.
REFINER_OUTPUTS = {"loss": 2}


class VerificationError(ValueError):
    """A bundle is not what its manifest says; the message lists all that is wrong."""


@dataclass
class VerifyConfig:
    """Check manifests, checksums, shapes and stored samples of a repository's bundles."""

    repository: tyro.conf.Positional[Path]
    """Model repository."""
    bundle: str = ""
    """One bundle; all of them by default."""


@dataclass
class DiffConfig:
    """Say what changed between two bundles."""

    old: tyro.conf.Positional[Path]
    """A bundle's manifest, or a repository that holds one bundle."""
    new: tyro.conf.Positional[Path]
    """The other."""


def sample_tensors(role: str, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> dict[str, Array]:
    """The first sample of a graph's inputs and outputs, by the names that they have in a bundle's tensors.

    Inputs that are zero, as most of a refiner's state is, and outputs that nobody compares are left out.
    """
    compared = REFINER_OUTPUTS if role == "refiner" else outputs
    sides = {
        "inputs": {name: value for name, value in inputs.items() if value[:1].any()},
        "outputs": {name: outputs[name] for name in compared},
    }
    return {
        f"{SAMPLE}/{role}/{side}/{name}": value[:1]
        for side, named in sides.items()
        for name, value in named.items()
    }


def verify(config: VerifyConfig) -> str:
    """Check bundles; return a line for each graph. Raises VerificationError, FileNotFoundError."""
    manifests = [
        path for path in sorted(config.repository.glob("*.json")) if config.bundle in ("", path.stem)
    ]
    if not manifests:
        raise FileNotFoundError(f"{config.repository} holds no bundle {config.bundle}".rstrip())
    lines, wrong = [], []
    for path in manifests:
        for line, complaint in verify_bundle(path):
            lines.append(line)
            if complaint:
                wrong.append(f"{path.stem}: {complaint}")
    if wrong:
        raise VerificationError("; ".join(wrong))
    return "\n".join(lines)


def verify_bundle(path: Path) -> Iterator[tuple[str, str]]:
    """Check a bundle; yield for each part what was found, and what is wrong with it or "".

    `path` is that of the manifest.
    """
    repository, name = path.parent, path.stem
    try:
        manifest: Manifest = json.loads(path.read_text())
        graphs, file = manifest["graphs"], repository / manifest["tensors"]["file"]
        wrong = checksum_complaint(file, manifest["tensors"]["sha256"])
        tensors = {} if wrong else load(file.read_bytes())
    except (ValueError, KeyError, TypeError, SafetensorError) as error:
        yield f"{name}  manifest  broken", f"its manifest or tensors cannot be read: {error!r}"
        return
    yield f"{name}  tensors  {'differ' if wrong else 'as in the manifest'}", wrong
    for role, graph in graphs.items():
        parts = [graph, graph["external_data"]] if "external_data" in graph else [graph]
        complaints = [checksum_complaint(repository / part["file"], part["sha256"]) for part in parts]
        wrong, found = next(filter(None, complaints), ""), ""
        if not wrong:
            found, wrong = verify_graph(repository, role, graph, tensors)
        yield f"{name}  {role}  {found or wrong}", f"{role}: {wrong}" if wrong else ""


def checksum_complaint(file: Path, wanted: str) -> str:
    """What is wrong with a file, or ""."""
    if not file.is_file():
        return f"{file.name} is missing"
    if sha256(file) != wanted:
        return f"{file.name} is not the file that the manifest names: its checksum differs"
    return ""


def sha256(file: Path) -> str:
    """Hexadecimal digest of a file, also of one that is larger than memory."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def verify_graph(
    repository: Path, role: str, graph: Manifest, tensors: Mapping[str, Array]
) -> tuple[str, str]:
    """Open a graph, compare its inputs and outputs with the manifest, and run its stored sample.

    Returns what was found, and what is wrong or nothing.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 3
    precision = graph.get("precision", "float32")
    try:
        session = ort.InferenceSession(
            str(repository / graph["file"]), options, providers=["CPUExecutionProvider"]
        )
    except NoKernel as error:
        if precision == "bfloat16":
            return "as in the manifest; not run: ONNX Runtime has no bfloat16 on this machine's processor", ""
        return "", f"ONNX Runtime cannot load it: {str(error)[:200]}"
    except Exception as error:  # ONNX Runtime has no common class for what a bad graph raises
        return "", f"ONNX Runtime cannot load it: {str(error)[:200]}"
    for side, values in (("inputs", session.get_inputs()), ("outputs", session.get_outputs())):
        have = [(v.name, DTYPES.get(v.type, v.type), list(v.shape[1:])) for v in values]
        named = [(b["name"], b["dtype"], list(b["shape"][1:])) for b in graph[side]]
        if have != named:
            return "", f"its {side} are {have}, and the manifest says {named}"
    stored = {
        side: {
            key.removeprefix(f"{SAMPLE}/{role}/{side}/"): value
            for key, value in tensors.items()
            if key.startswith(f"{SAMPLE}/{role}/{side}/")
        }
        for side in ("inputs", "outputs")
    }
    if not stored["inputs"]:
        return "inputs and outputs as in the manifest; no sample is stored (written by an older export)", ""
    zeros = {b["name"]: np.zeros([1, *b["shape"][1:]], b["dtype"]) for b in graph["inputs"]}
    names = [value.name for value in session.get_outputs()]
    outputs = dict(zip(names, session.run(names, zeros | stored["inputs"]), strict=True))
    worst, wrong = 0.0, ""
    for name, first in (REFINER_OUTPUTS if role == "refiner" else dict.fromkeys(stored["outputs"])).items():
        wanted = stored["outputs"][name][:, :first]
        off, allowed = difference(outputs[name][:, :first], wanted, precision)
        worst = max(worst, off / allowed)
        if not off <= allowed:  # NaN is never within
            wrong = f"{name} differs from the stored sample by {off:.2e}; at most {allowed:g} is allowed"
    return f"inputs, outputs and sample as stored ({worst:.1%} of what may differ)", wrong


def difference(found: Array, wanted: Array, precision: str) -> tuple[float, float]:
    """How far an output is from the stored one, and how far it may be, in the same unit."""
    if wanted.dtype == np.uint8:
        apart = np.abs(found.astype(int) - wanted.astype(int))
        return float((apart > LEVELS[precision]).mean()), 1 - LEVELS_SHARE
    return float(np.abs(found - wanted).max() / max(np.abs(wanted).max(), 1e-12)), RELATIVE[precision]


def diff(config: DiffConfig) -> str:
    """Compare two bundles; return a line for each change. Raises VerificationError, FileNotFoundError."""
    (old, old_tensors), (new, new_tensors) = read_bundle(config.old), read_bundle(config.new)
    lines = [
        f"{key}: {short(old.get(key))} -> {short(new.get(key))}"
        for key in sorted((old.keys() | new.keys()) - {"graphs", "tensors", "directions", "parity", "card"})
        if old.get(key) != new.get(key)
    ]
    for role in sorted(old["graphs"].keys() | new["graphs"].keys()):
        a, b = (manifest["graphs"].get(role, {}) for manifest in (old, new))
        changed = [
            key
            for key in ("sha256", "external_data", "precision", "inputs", "outputs", "max_batch_size")
            if a.get(key) != b.get(key)
        ]
        if changed:
            what = "added" if not a else "removed" if not b else f"other {', '.join(changed)}"
            lines.append(f"graph {role}: {what}{parity_change(old, new, role)}")
    before, after = ({d["name"]: d for d in manifest["directions"]} for manifest in (old, new))
    for name in sorted(before.keys() | after.keys()):
        lines += direction_change(name, before.get(name), after.get(name), old_tensors, new_tensors)
    return "\n".join(lines) or "no difference"


def read_bundle(path: Path) -> tuple[Manifest, dict[str, Array]]:
    """Read manifest and tensors of a bundle, named by its manifest or by a repository that holds no other.

    Raises FileNotFoundError, VerificationError.
    """
    manifests = sorted(path.glob("*.json")) if path.is_dir() else [path]
    if len(manifests) != 1 or not manifests[0].is_file():
        raise FileNotFoundError(f"{path} holds {len(manifests)} bundles; name the manifest of one")
    try:
        manifest: Manifest = json.loads(manifests[0].read_text())
        return manifest, load((manifests[0].parent / manifest["tensors"]["file"]).read_bytes())
    except (ValueError, KeyError, TypeError, SafetensorError) as error:
        raise VerificationError(f"{manifests[0]} cannot be read: {error!r}") from error


def direction_change(
    name: str, a: Manifest | None, b: Manifest | None, old: Mapping[str, Array], new: Mapping[str, Array]
) -> list[str]:
    """Lines about one direction. Vectors are compared by their angle."""
    if a is None or b is None:
        return [f"direction {name}: {'added' if a is None else 'removed'}"]
    lines = [
        f"direction {name}: {key} {short(a.get(key))} -> {short(b.get(key))}"
        for key in a
        if a[key] != b.get(key)
    ]
    vectors = [tensors[f"direction/{name}"].ravel() for tensors in (old, new)]
    if vectors[0].shape != vectors[1].shape:
        return [*lines, f"direction {name}: of another shape"]
    cosine = float(vectors[0] @ vectors[1] / np.linalg.norm(vectors[0]) / np.linalg.norm(vectors[1]))
    if cosine < 1 - 1e-6:
        lines.append(
            f"direction {name}: turned by {np.degrees(np.arccos(np.clip(cosine, -1, 1))):.1f} degrees"
        )
    return lines


def parity_change(old: Manifest, new: Manifest, role: str) -> str:
    """What changed in the parity figures of a graph, where both bundles have them."""
    figures = [manifest.get("parity", {}).get(role, {}) for manifest in (old, new)]
    common = [key for key in figures[0] if key in figures[1] and figures[0][key] != figures[1][key]]
    return "".join(f"; {key} {figures[0][key]:.2g} -> {figures[1][key]:.2g}" for key in common)


def short(value: object) -> str:
    """A value on one line of at most 120 characters."""
    text = json.dumps(value) if isinstance(value, dict | list) else str(value)
    return text if len(text) <= 120 else f"{text[:117]}..."
