"""Compact checkpoints: one safetensors file of float16 weights, without the optimisers' moments.

A run goes on from such a file, also on another machine; its moments are warmed up anew. Keys are NETWORK/PARAMETER, and
the header's `meta` is checkpoint.json.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

COMPACT_FILE = "compact.safetensors"
LEFT_OUT = ("generator_live",)  # a run goes on from the moving average, `generator`


class CompactError(ValueError):
    """A file is no compact checkpoint; the message says why."""


def is_compact(path: Path) -> bool:
    """Whether a path is a single file of weights, and not a run folder."""
    return path.suffix == ".safetensors" and path.is_file()


def save_compact(file: Path, meta: Mapping[str, Any], states: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Replace `file` in one step by the states of the networks, each by the network's name.

    What does not fit into float16 keeps its type.
    """
    tensors = {
        f"{network}/{key}": _halved(value.detach())
        for network, state in states.items()
        if network not in LEFT_OUT
        for key, value in state.items()
    }
    fresh = file.with_suffix(".new")
    save_file(tensors, fresh, {"meta": json.dumps(dict(meta), default=str)})
    fresh.replace(file)


def _halved(value: Tensor) -> Tensor:
    half = value.half() if value.is_floating_point() else value
    return (half if half.isfinite().all() else value).contiguous()


def read_compact_meta(file: Path) -> dict[str, Any]:
    """checkpoint.json in the header. Raises CompactError."""
    try:
        with safe_open(file, "pt") as opened:
            meta = json.loads((opened.metadata() or {})["meta"])
    except (SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise CompactError(f"{file} is no compact checkpoint: {error}") from None
    if not isinstance(meta, dict):
        raise CompactError(f"{file} is no compact checkpoint: its meta is no object")
    return meta


def read_compact(file: Path, names: tuple[str, ...]) -> dict[str, Tensor]:
    """The tensors of the network that has the first of `names` which the file knows; none where it knows no name."""
    with safe_open(file, "pt") as opened:
        keys = list(opened.keys())
        for name in names:
            own = [key for key in keys if key.startswith(f"{name}/")]
            if own:
                return {key.removeprefix(f"{name}/"): opened.get_tensor(key) for key in own}
    return {}
