"""Networks that are known by their names and cannot be imported, with what an import of them would need."""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor

from export.state_dicts.wrapping import states_within
from indomain.unpickling.values import Record

ALIAS_FREE = re.compile(r"(?:.*\.)?synthesis\.L\d+_\d+_\d+\.weight")
NEEDED = (
    "its synthesis network starts from Fourier features and filters around each non-linearity, and its layers have "
    "other sides than 4, 8, 16, ... pixels. An import needs such a network in training/networks, its folded form in "
    "export/graphs, and parity with the original"
)


def why_unsupported(content: Any) -> str | None:
    """Which known network a file holds that cannot be imported, and what that would need; None if it holds none."""
    if isinstance(content, tuple | list) and content and all(isinstance(part, Record) for part in content):
        return f"it holds objects of {content[0].kind}, whose networks cannot be imported"
    for _, state, _ in states_within(content):
        layers = [value for name, value in state.items() if ALIAS_FREE.fullmatch(str(name))]
        parts = {str(name).rpartition("mapping.")[2] for name in state if "mapping." in str(name)}
        # StyleGAN-XL embeds labels by a table, without bias, and projects them.
        if "embed_proj.weight" in parts or (layers and "embed.weight" in parts and "embed.bias" not in parts):
            return (
                f"it is a StyleGAN-XL generator, not of the StyleGAN2 type: {NEEDED}. It has class embeddings of an "
                "EfficientNet too, a mean code for each class, and stages of rising sides that are files of their own"
            )
        if layers:
            radial = isinstance(layers[0], Tensor) and layers[0].shape[-1] == 1
            more = " with radially symmetric filters and 1 x 1 kernels" if radial else ""
            name = "StyleGAN3-r" if radial else "StyleGAN3-t"
            return f"it is a {name} generator{more}, not of the StyleGAN2 type: {NEEDED}"
    return None
