"""Finds a network's tensors within what a file wraps around them: dicts in dicts, whole modules, prefixes of names.

Lightning puts a `state_dict` below other keys, with the network's attribute before each name (`netG.`, `g_ema.`);
DataParallel adds `module.`, and torch.compile `_orig_mod.`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from torch import Tensor

from indomain.unpickling.values import Record
from training.run_folders.checkpoint import CheckpointError

ADDED = re.compile(r"(^|\.)(?:(?:module|_orig_mod)\.)+")
COUNT_OF_AVERAGES = "n_averaged"  # a tensor that torch's AveragedModel adds beside `module.`
AVERAGED = re.compile(r"(?<![a-z])ema(?![a-z])|smooth|avg|average|shadow", re.IGNORECASE)
DEEPEST_MODULE = 16  # modules within modules
DEEPEST_DICT = 4  # dicts around a state dict
# A name that each family's network has, and none of another family.
MARKS = (
    "conv1.conv.modulation.weight",
    "synthesis.b4.conv1.affine.weight",
    "synthesis.early_layer.const",
    "synthesis.layer0.const",
    "block0.bn.bn.weight",
)
DECODER = "decoder."  # before the generator's names where an encoder is beside it (pSp, e4e)


def without_added_names(content: Any, depth: int = 0) -> Any:
    """A file's content with `module.` and `_orig_mod.` taken out of the names of tensors, in dicts of any depth.

    Raises CheckpointError where two names become one.
    """
    if not isinstance(content, dict) or depth > DEEPEST_DICT:
        return content
    renamed: dict[Any, Any] = {}
    for key, value in content.items():
        if key == COUNT_OF_AVERAGES:
            continue
        name = ADDED.sub(r"\1", key) if isinstance(value, Tensor) and isinstance(key, str) else key
        if name in renamed:
            raise CheckpointError(f"it has two tensors that are both {name!r} without module. and _orig_mod.")
        renamed[name] = without_added_names(value, depth + 1)
    return renamed


def inner_networks(content: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield where networks are within a file's content, and each as {"state_dict", and "opts", "latent_avg" if there}.

    If some are moving averages, only these. Raises CheckpointError where several are of one family.
    """
    found = []
    for where, state, around in states_within(content):
        for prefix in prefixes(state):
            inner = {
                name.removeprefix(prefix): value for name, value in state.items() if is_below(name, prefix)
            }
            beside = {key: around[key] for key in ("opts", "latent_avg") if key in around}
            if "latent_avg" in inner:
                beside["latent_avg"] = inner.pop("latent_avg")
            found.append((f"{where}{prefix}", {"state_dict": inner} | beside))
    found = [entry for entry in found if AVERAGED.search(entry[0])] or found
    families = [mark for _, inner in found for mark in MARKS if has_mark(inner["state_dict"], mark)]
    if len(set(families)) < len(families):
        names = ", ".join(where for where, _ in found)
        raise CheckpointError(f"it holds several networks: {names}; save the state dict of one of them")
    yield from found


def states_within(
    content: Any, where: str = "", around: dict[Any, Any] | None = None, depth: int = 0
) -> Iterator[tuple[str, dict[Any, Any], dict[Any, Any]]]:
    """Yield the keys before a dict ("a.b."), the dict, and the one that it lies in: for a content and all within it.

    A module that was pickled whole counts as its state dict. Raises CheckpointError for one without end.
    """
    if isinstance(content, Record):
        content = tensors_of_module(content)
    if not isinstance(content, dict) or depth > DEEPEST_DICT:
        return
    yield where, content, around or {}
    for key, value in content.items():
        if isinstance(key, str) and isinstance(value, dict | Record):
            yield from states_within(value, f"{where}{key}.", content, depth + 1)


def prefixes(state: dict[Any, Any]) -> list[str]:
    """What stands before the marks of families in a state dict's names, without the decoder's own prefix."""
    found = set()
    for name in state:
        for mark in MARKS:
            if isinstance(name, str) and (name == mark or name.endswith(f".{mark}")):
                found.add(name.removesuffix(mark).removesuffix(DECODER))
    return sorted(found)


def has_mark(state: dict[str, Any], mark: str) -> bool:
    """Whether a state dict is of the family that has the mark."""
    return mark in state or f"{DECODER}{mark}" in state


def is_below(name: Any, prefix: str) -> bool:
    """Whether a state dict's name starts with the prefix."""
    return isinstance(name, str) and name.startswith(prefix)


def state_of(content: dict[Any, Any]) -> dict[Any, Any]:
    """A file's state dict: what it has as `state_dict`, or its whole content."""
    state = content.get("state_dict")
    return state if isinstance(state, dict) else content


def fields_of(value: Any) -> dict[Any, Any]:
    """The entries of options: a dict's, or those of a stand-in for an object; none of anything else."""
    value = value.fields if isinstance(value, Record) else value
    return value if isinstance(value, dict) else {}


def tensors_of_module(module: Record, depth: int = 0) -> dict[str, Tensor]:
    """The state dict of a module that was pickled whole: parameters and buffers by their full names.

    Raises CheckpointError for one that has itself as a part.
    """
    if depth > DEEPEST_MODULE:
        raise CheckpointError("it has modules within modules without end")
    state: dict[str, Tensor] = {}
    for kind in ("_parameters", "_buffers"):
        entries = fields_of(module.fields.get(kind))
        state |= {key: value for key, value in entries.items() if isinstance(value, Tensor)}
    for name, part in fields_of(module.fields.get("_modules")).items():
        if isinstance(part, Record):
            inner = tensors_of_module(part, depth + 1)
            state |= {f"{name}.{key}": value for key, value in inner.items()}
    return state
