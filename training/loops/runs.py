"""Run folders and checkpoints.

A run folder holds config, environment, figures (jsonl and TensorBoard), sample grids and the newest checkpoint.
Checkpoints are safetensors and JSON, never pickles, and are replaced in one step, so a killed run can be resumed.
"""

from __future__ import annotations

import json
import platform
import re
import shutil
import subprocess
import time
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

T = TypeVar("T")


class CheckpointError(ValueError):
    """A checkpoint is missing or does not fit; the message says what and why."""


class Run:
    """A numbered run folder, `runs/00003-gan-faces64`."""

    def __init__(self, folder: Path) -> None:
        from lightning.fabric.loggers import TensorBoardLogger

        self.folder = folder
        self.tensorboard = TensorBoardLogger(folder, name="", version="tensorboard")

    @classmethod
    def create(cls, parent: Path, name: str, config: Any) -> Run:
        """Make the next numbered folder under `parent` and write config and environment into it."""
        parent.mkdir(parents=True, exist_ok=True)
        numbers = [int(m[1]) for m in (re.match(r"(\d{5})-", p.name) for p in parent.iterdir()) if m]
        folder = parent / f"{max(numbers, default=-1) + 1:05d}-{name}"
        (folder / "samples").mkdir(parents=True)
        write_json(folder / "config.json", config)
        write_json(folder / "environment.json", environment())
        return cls(folder)

    @classmethod
    def resume(cls, folder: Path, step: int) -> Run:
        """Go on from the checkpoint of `step`: figures of later steps, which are done again, are dropped."""
        file = folder / "figures.jsonl"
        lines = file.read_text().splitlines(keepends=True) if file.is_file() else []
        # a killed process may leave half a line
        file.write_text("".join(x for x in lines if x.endswith("\n") and json.loads(x)["step"] <= step))
        return cls(folder)

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Append figures to `figures.jsonl` and TensorBoard."""
        with (self.folder / "figures.jsonl").open("a") as file:
            file.write(json.dumps({"step": step, "time": round(time.time(), 1), **figures}) + "\n")
        self.tensorboard.log_metrics(dict(figures), step)

    def save_grid(self, name: str, images: Tensor, columns: int = 8) -> None:
        """Write images float [N, 3, H, W] in [-1, 1] as one picture under `samples/`."""
        image_grid(images, columns).save(self.folder / "samples" / f"{name}.png")


def image_grid(images: Tensor, columns: int) -> Image.Image:
    """Tile images float [N, 3, H, W] in [-1, 1], row by row."""
    pixels = to_uint8(images).permute(0, 2, 3, 1).cpu().numpy()
    n, h, w, _ = pixels.shape
    rows = -(-n // columns)
    sheet = np.full((rows * h, columns * w, 3), 255, np.uint8)
    for i, picture in enumerate(pixels):
        y, x = divmod(i, columns)
        sheet[y * h : (y + 1) * h, x * w : (x + 1) * w] = picture
    return Image.fromarray(sheet)


def to_uint8(images: Tensor) -> Tensor:
    """[-1, 1] -> uint8, rounded; the graphs do the same."""
    return ((images.detach().float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def write_json(path: Path, value: Any) -> None:
    path.write_text(
        json.dumps(
            asdict(value) if is_dataclass(value) and not isinstance(value, type) else value,
            indent=1,
            default=str,
        )
        + "\n"
    )


def read_config(kind: type[T], fields: Mapping[str, Any]) -> T:
    """A network's config from a checkpoint's JSON, where tuples have become lists."""
    return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()})


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


def save_checkpoint(
    folder: Path,
    meta: Mapping[str, Any],
    networks: Mapping[str, nn.Module],
    optimisers: Mapping[str, torch.optim.Optimizer],
) -> None:
    """Replace `folder` in one step: `checkpoint.json`, one safetensors a network and one an optimiser."""
    fresh = folder.with_name(folder.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    for name, network in networks.items():
        save_file(
            {k: v.detach().contiguous() for k, v in trained_state(network).items()},
            fresh / f"{name}.safetensors",
        )
    for name, optimiser in optimisers.items():
        state = optimiser.state_dict()["state"]
        save_file(
            {
                f"{i}.{k}": torch.as_tensor(v).contiguous()
                for i, entry in state.items()
                for k, v in entry.items()
            },
            fresh / f"{name}.optimiser.safetensors",
        )
    write_json(fresh / "checkpoint.json", dict(meta))
    old = folder.with_name(folder.name + ".old")
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def trained_state(network: nn.Module) -> dict[str, Tensor]:
    """State without the frozen pretrained parts, which come from their packages again."""
    frozen = {name for name, module in network.named_modules() if getattr(module, "pretrained", False)}
    return {k: v for k, v in network.state_dict().items() if not any(k.startswith(f + ".") for f in frozen)}


def load_meta(checkpoint: Path, kind: str | None = None) -> dict[str, Any]:
    """Read `checkpoint.json` of a checkpoint folder, or of the run folder around it; `kind` is the one wanted."""
    path = checkpoint_folder(checkpoint) / "checkpoint.json"
    meta: dict[str, Any] = json.loads(path.read_text())
    if kind and meta["kind"] != kind:
        raise CheckpointError(
            f"{checkpoint} is a {meta['kind']}'s run folder, and a run of kind {kind} is wanted"
        )
    return meta


def checkpoint_folder(path: Path) -> Path:
    """A run folder's newest checkpoint; a checkpoint folder is its own."""
    for candidate in (path, path / "checkpoint", path / "checkpoint.old"):
        if (candidate / "checkpoint.json").is_file():
            return candidate
    raise CheckpointError(
        f"{path} holds no checkpoint (checkpoint.json); name a run folder that `python -m training` wrote"
    )


def load_network(checkpoint: Path, name: str, network: nn.Module) -> None:
    """Load one network's weights in place. Raises CheckpointError that lists what does not fit."""
    file = checkpoint_folder(checkpoint) / f"{name}.safetensors"
    if not file.is_file():
        raise CheckpointError(f"{checkpoint} holds no {name}")
    state, wanted = load_file(file), trained_state(network)
    unknown, missing = sorted(state.keys() - wanted.keys()), sorted(wanted.keys() - state.keys())
    unfit = sorted(k for k in state.keys() & wanted.keys() if state[k].shape != wanted[k].shape)
    if unknown or missing or unfit:
        raise CheckpointError(
            f"{name} in {checkpoint} does not fit: unknown {unknown}, missing {missing}, other shape {unfit}"
        )
    network.load_state_dict(state, strict=False)


def load_optimiser(checkpoint: Path, name: str, optimiser: torch.optim.Optimizer) -> None:
    """Load an optimiser's state in place; rates and other settings stay those of the run."""
    entries: dict[int, dict[str, Tensor]] = {}
    for key, value in load_file(checkpoint_folder(checkpoint) / f"{name}.optimiser.safetensors").items():
        index, field = key.split(".", 1)
        entries.setdefault(int(index), {})[field] = value
    optimiser.load_state_dict({"state": entries, "param_groups": optimiser.state_dict()["param_groups"]})
