"""A numbered run folder: config, environment, figures (jsonl and TensorBoard) and sample grids.

The checkpoint beside them is written by `checkpoint.py`.
"""

from __future__ import annotations

import json
import platform
import re
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from training.run_folders.json_files import write_json
from training.run_folders.picture_grid import image_grid


class RunFolder:
    """One run's folder, as `runs/00003-gan-faces64`."""

    def __init__(self, folder: Path) -> None:
        from lightning.fabric.loggers import TensorBoardLogger

        self.folder = folder
        self.tensorboard = TensorBoardLogger(folder, name="", version="tensorboard")

    @classmethod
    def create(cls, parent: Path, name: str, config: Any) -> RunFolder:
        """Make the next numbered folder under `parent`, and write config.json and environment.json into it."""
        parent.mkdir(parents=True, exist_ok=True)
        numbers = [int(m[1]) for m in (re.match(r"(\d{5})-", p.name) for p in parent.iterdir()) if m]
        return cls.make(parent / f"{max(numbers, default=-1) + 1:05d}-{name}", config)

    @classmethod
    def make(cls, folder: Path, config: Any) -> RunFolder:
        """Make a run folder of that name, as `create` does."""
        (folder / "samples").mkdir(parents=True)
        write_json(folder / "config.json", config)
        write_json(folder / "environment.json", environment())
        return cls(folder)

    @classmethod
    def resume(cls, folder: Path, step: int) -> RunFolder:
        """Open the folder of a run that goes on from the checkpoint of `step`.

        Figures of later steps are dropped: these steps are done again.
        """
        file = folder / "figures.jsonl"
        lines = file.read_text().splitlines(keepends=True) if file.is_file() else []
        # A killed process may leave half a line.
        file.write_text("".join(x for x in lines if x.endswith("\n") and json.loads(x)["step"] <= step))
        return cls(folder)

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Append figures to `figures.jsonl` and TensorBoard."""
        with (self.folder / "figures.jsonl").open("a") as file:
            file.write(json.dumps({"step": step, "time": round(time.time(), 1), **figures}) + "\n")
        self.tensorboard.log_metrics(dict(figures), step)

    def save_grid(self, name: str, images: Tensor, columns: int = 8) -> None:
        """Write pictures float [N, 3, H, W] in [-1, 1] as one sheet under `samples/`."""
        image_grid(images, columns).save(self.folder / "samples" / f"{name}.png")


def environment() -> dict[str, str]:
    """What a figure depends on besides the config: revision and versions."""
    git = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, cwd=Path(__file__).parent
    )
    return {
        "revision": git.stdout.strip() or "unknown",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "machine": platform.machine(),
        "threads": str(torch.get_num_threads()),
    }
