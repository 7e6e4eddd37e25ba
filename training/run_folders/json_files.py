"""JSON files of a run folder: configs, figures, checkpoint.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


def write_json(path: Path, value: Any) -> None:
    """Write a value, or the fields of a dataclass, as indented JSON. Paths become strings."""
    fields = asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
    path.write_text(json.dumps(fields, indent=1, default=str) + "\n")


def read_config(kind: type[T], fields: Mapping[str, Any]) -> T:
    """Make a network's config from the fields in checkpoint.json. JSON's lists become tuples again."""
    return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()})
