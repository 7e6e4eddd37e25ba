"""Checkpoints: a folder with checkpoint.json and one safetensors file a network and an optimiser.

Nothing is pickled. A checkpoint is replaced in one step, so that a killed run can be resumed. What reads a run folder
here also reads a compact checkpoint (`compact.py`).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from training.run_folders.compact import CompactError, is_compact, read_compact, read_compact_meta
from training.run_folders.former_names import FORMER_NETWORKS, current_meta, current_tensors, weights_file
from training.run_folders.json_files import write_json

OPTIMISER_SUFFIX = ".optimiser.safetensors"


class CheckpointError(ValueError):
    """A checkpoint is missing or does not fit; the message says what and why."""


def save_checkpoint(
    folder: Path,
    meta: Mapping[str, Any],
    networks: Mapping[str, nn.Module],
    optimisers: Mapping[str, torch.optim.Optimizer],
) -> None:
    """Replace `folder` in one step by checkpoint.json, a weights file a network and a state file an optimiser."""
    fresh = folder.with_name(folder.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    for name, network in networks.items():
        state = {key: value.detach().contiguous() for key, value in trained_state(network).items()}
        save_file(state, fresh / f"{name}.safetensors")
    for name, optimiser in optimisers.items():
        entries = optimiser.state_dict()["state"].items()
        state = {
            f"{i}.{k}": torch.as_tensor(v).contiguous() for i, entry in entries for k, v in entry.items()
        }
        save_file(state, fresh / f"{name}{OPTIMISER_SUFFIX}")
    write_json(fresh / "checkpoint.json", dict(meta))
    old = folder.with_name(folder.name + ".old")
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def trained_state(network: nn.Module) -> dict[str, Tensor]:
    """A network's state without its frozen pretrained parts, which are loaded from their packages again."""
    frozen = {name for name, module in network.named_modules() if getattr(module, "pretrained", False)}
    return {k: v for k, v in network.state_dict().items() if not any(k.startswith(f + ".") for f in frozen)}


def checkpoint_folder(path: Path) -> Path:
    """The newest checkpoint of a run folder; of a checkpoint folder that folder itself. Raises CheckpointError."""
    for candidate in (path, path / "checkpoint", path / "checkpoint.old"):
        if (candidate / "checkpoint.json").is_file():
            return candidate
    raise CheckpointError(
        f"{path} holds no checkpoint (checkpoint.json); name a run folder that `python -m training` wrote"
    )


def load_meta(checkpoint: Path, kind: str | None = None) -> dict[str, Any]:
    """Read checkpoint.json of a checkpoint folder, of the run folder around it, or of a compact checkpoint.

    Raises CheckpointError where there is none, or where it is of another kind ("gan", "inversion") than `kind`.
    """
    if is_compact(checkpoint):
        try:
            meta = current_meta(read_compact_meta(checkpoint))
        except CompactError as error:
            raise CheckpointError(str(error)) from None
    else:
        meta = current_meta(json.loads((checkpoint_folder(checkpoint) / "checkpoint.json").read_text()))
    if kind and meta["kind"] != kind:
        raise CheckpointError(
            f"{checkpoint} is a {meta['kind']}'s run folder, and a run of kind {kind} is wanted"
        )
    return meta


def read_network(checkpoint: Path, name: str) -> dict[str, Tensor]:
    """One network's weights by today's names; empty where the checkpoint does not hold that network."""
    if is_compact(checkpoint):
        return current_tensors(read_compact(checkpoint, (name, FORMER_NETWORKS.get(name, name))))
    file = weights_file(checkpoint_folder(checkpoint), name)
    return current_tensors(load_file(file)) if file.is_file() else {}


def load_network(checkpoint: Path, name: str, network: nn.Module) -> None:
    """Load one network's weights in place. Raises CheckpointError that lists what does not fit."""
    state, wanted = read_network(checkpoint, name), trained_state(network)
    if not state:
        raise CheckpointError(f"{checkpoint} holds no {name}")
    unknown, missing = sorted(state.keys() - wanted.keys()), sorted(wanted.keys() - state.keys())
    unfit = sorted(k for k in state.keys() & wanted.keys() if state[k].shape != wanted[k].shape)
    if unknown or missing or unfit:
        raise CheckpointError(
            f"{name} in {checkpoint} does not fit: unknown {unknown}, missing {missing}, other shape {unfit}"
        )
    network.load_state_dict(state, strict=False)


def laid_as(parameter: Tensor, value: Tensor) -> Tensor:
    """A moment as its parameter lies in memory: fused Adam refuses one that lies otherwise. A step count as it is."""
    return torch.empty_like(parameter, device="cpu").copy_(value) if value.shape == parameter.shape else value


def load_optimiser(checkpoint: Path, name: str, optimiser: torch.optim.Optimizer) -> bool:
    """Load an optimiser's moments in place. Rates and other settings stay those that it was made with.

    Returns whether the checkpoint holds them: a compact one does not.
    """
    if is_compact(checkpoint):
        return False
    file = weights_file(checkpoint_folder(checkpoint), name, OPTIMISER_SUFFIX)
    if not file.is_file():
        return False
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    entries: dict[int, dict[str, Tensor]] = {}
    for key, value in load_file(file).items():
        index, field = key.split(".", 1)
        entries.setdefault(int(index), {})[field] = laid_as(parameters[int(index)], value)
    optimiser.load_state_dict({"state": entries, "param_groups": optimiser.state_dict()["param_groups"]})
    return True
