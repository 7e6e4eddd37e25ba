"""A bundle's graphs in plain ONNX Runtime sessions: the limit that everything else is measured against."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime

from serving.bundle import ROLES, Bundle, Role, first_inputs
from serving.jobs import RefineOptions
from serving.pipeline.refinement import RefineSettings
from serving.repository.reader import read_bundles

Array = npt.NDArray[Any]
ROOT = Path(__file__).parents[1]


def shipped_checkpoint() -> Path:
    """The checkpoint of the bundle in model_repository/, which has the bundle's name."""
    (manifest,) = (ROOT / "model_repository").glob("*.json")
    return ROOT / "training/checkpoints" / manifest.stem


class Graphs:
    """Sessions of one bundle; every method takes and gives batches."""

    def __init__(self, repository: Path, name: str = "", *, threads: int = 2) -> None:
        bundles = read_bundles(repository, (name,) if name else ())
        self.bundle: Bundle = next(iter(bundles.values()))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        # sessions take turns here: threads that go on spinning after a run would disturb whoever is measured next
        options.add_session_config_entry("session.force_spinning_stop", "1")
        self._sessions = {
            role: onnxruntime.InferenceSession(
                str(self.bundle.graph_file(role)), options, providers=["CPUExecutionProvider"]
            )
            for role in ROLES
        }

    def run(self, role: Role, **inputs: Array) -> dict[str, Array]:
        """One run of one graph: outputs by name."""
        session = self._sessions[role]
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, inputs), strict=True))

    def sample(self, count: int, seed: int = 0) -> Array:
        """Sampled codes float32 [N, L, 512], without truncation; labels are drawn as often 1 as in the data."""
        random = np.random.default_rng(seed)
        inputs = {"z": random.standard_normal((count, self.bundle.z_size), dtype=np.float32)}
        if self.bundle.labels:
            often = [label.frequency for label in self.bundle.labels]
            inputs["label"] = (random.random((count, len(often))) < often).astype(np.float32)
        return self.run("mapping", **inputs)["code"]

    def encode(self, image: Array) -> Array:
        """uint8 [N, H, W, 3] -> float32 [N, L, 512]."""
        return self.run("encoder", image=image)["code"]

    def decode(self, code: Array) -> Array:
        """float32 [N, L, 512] -> uint8 [N, H, W, 3]."""
        return self.run("generator", code=code)["image"]

    def refiner_inputs(
        self, code: Array, target: Array, options: RefineOptions | None = None
    ) -> dict[str, Array]:
        """Inputs of the first chunk, with the bundle's own settings where `options` give none."""
        defaults = self.bundle.refine
        settings = RefineSettings.resolve(options or RefineOptions(), defaults, defaults.steps)
        return first_inputs(self.bundle, code, target, settings)

    def refine(
        self, code: Array, target: Array, steps: int, options: RefineOptions | None = None
    ) -> tuple[Array, Array, Array]:
        """Best codes after `steps` steps (and the code after the last is judged too), loss before, best loss [N]."""
        state = self.refiner_inputs(code, target, options)
        best_code, best_loss, first_loss = code, np.full(len(code), np.inf), np.zeros(len(code))
        done = 0
        while done <= steps:  # one more chunk judges the code after the last step
            chunk = self.run("refiner", **state)
            losses = chunk["loss"]
            if done == 0:
                first_loss = losses[:, 0]
            if done < steps:
                loss, candidate = chunk["best_loss"][:, 0], chunk["best_code"]
            else:
                loss, candidate = losses[:, 0], state["code"]
            better = loss < best_loss
            best_loss = np.where(better, loss, best_loss)
            best_code = np.where(better[:, None, None], candidate, best_code)
            done += self.bundle.refine.chunk_steps
            for part in self.bundle.graphs["refiner"].state:
                state[part.name] = chunk[f"next_{part.name}"]
        return best_code, first_loss, best_loss


def batches(count: int, size: int) -> Iterator[slice]:
    """Slices that cover `count` samples."""
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def markdown_table(header: list[str], rows: list[list[str]]) -> str:
    """Rows as a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
