"""Names that older checkpoints have for what has another name now.

Discriminators were called critics once. Run folders of that time are still read: `checkpoint.py` asks here for the
file that holds a network, and passes every checkpoint.json and every weights file through. Nothing writes these names.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

FORMER_NETWORKS = {"image_discriminator": "image_critic", "latent_discriminator": "code_critic"}
"""Name of a network's file now -> its name before."""
CURRENT_KEYS = {
    "critic": "discriminator",
    "code_critic": "latent_discriminator",
    "code_critic_view": "latent_discriminator_view",
    "code_critic_rate": "latent_discriminator_rate",
}
"""Key of checkpoint.json before -> now, at any depth."""
CURRENT_TENSORS = {"critics.": "discriminators."}
"""Beginning of a tensor's name before -> now."""
COMPUTED_TENSORS = ("native.",)
"""Beginning of the names of tensors that were stored once, and follow from other weights."""


def weights_file(folder: Path, name: str, suffix: str = ".safetensors") -> Path:
    """The file of the network `name` in a checkpoint folder, under its former name where only that one is there."""
    former = folder / f"{FORMER_NETWORKS.get(name, name)}{suffix}"
    current = folder / f"{name}{suffix}"
    return former if former.is_file() and not current.is_file() else current


def current_file_name(name: str) -> str:
    """The name that a checkpoint's file of this name has now."""
    for current, former in FORMER_NETWORKS.items():
        if name.startswith(f"{former}."):
            return current + name.removeprefix(former)
    return name


def current_meta(meta: Mapping[str, Any]) -> dict[str, Any]:
    """checkpoint.json with today's keys."""
    return {
        CURRENT_KEYS.get(key, key): current_meta(value) if isinstance(value, dict) else value
        for key, value in meta.items()
    }


def current_tensors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A weights file's tensors by today's names, without those that are computed now."""
    return {
        _current_tensor_name(name): tensor
        for name, tensor in state.items()
        if not name.startswith(COMPUTED_TENSORS)
    }


def _current_tensor_name(name: str) -> str:
    for former, current in CURRENT_TENSORS.items():
        if name.startswith(former):
            return current + name.removeprefix(former)
    return name
