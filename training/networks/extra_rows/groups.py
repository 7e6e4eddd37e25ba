"""Additional rows of a code, in groups: which rows are whose, and what all of them add to the synthesis network.

A code of a pipeline with such groups has more rows than layers, [L + R, 512]: the first L are the layers' vectors, the
others hold maps, flattened, group after group in the order of `GROUPS`. Native codes and the encoder's have zeros
there; only a refinement fills them. Each group is a switch of the refinement, by its name, and a term that holds it
small. Transport, handles, files and edits know rows alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor, nn

GROUPS = ("detail", "noise")
"""All that there may be, in the order of their rows."""


@dataclass(frozen=True)
class Added:
    """What rows add to the synthesis network, by layers: maps float [N, 1 or C, side, side]."""

    before: dict[int, Tensor] = field(default_factory=dict)
    """Before a layer's activation, as its noise."""
    after: dict[int, Tensor] = field(default_factory=dict)
    """After a layer."""


class GroupConfig(Protocol):
    """What the shape of every group says."""

    @property
    def weight(self) -> float:
        """Weight of the mean square of the rows in a refinement's objective: it holds them small."""
        ...

    @property
    def described(self) -> dict[str, Any]:
        """What a bundle's manifest says of it."""
        ...

    def rows(self, code_size: int) -> int:
        """Rows of a code, [code_size] each, that hold the maps. Raises ValueError if they do not fill rows."""
        ...


class RowGroup(nn.Module):
    """One group: rows of a code float [N, R, 512] -> what they add."""

    name: str
    config: GroupConfig

    def forward(self, rows: Tensor) -> Added:
        raise NotImplementedError


@dataclass(frozen=True)
class RowTerm:
    """What an objective knows of a group: its name, its rows among all rows of a code, and its weight."""

    name: str
    rows: slice
    weight: float


class ExtraRows(nn.Module):
    """The groups of a synthesis network; most have none."""

    def __init__(self) -> None:
        super().__init__()
        self.groups = nn.ModuleDict()

    def put(self, group: RowGroup) -> None:
        """Add a group, or replace that of its name."""
        found = {**self.groups, group.name: group}
        self.groups = nn.ModuleDict({name: found[name] for name in GROUPS if name in found})

    @property
    def names(self) -> tuple[str, ...]:
        """The groups that there are, in the order of their rows."""
        return tuple(self.groups)

    def terms(self, layers: int, code_size: int) -> tuple[RowTerm, ...]:
        """Each group's rows in a code of `layers` vectors of `code_size` values, and its weight."""
        terms, first = [], layers
        for name, group in self.groups.items():
            config: GroupConfig = group.config  # type: ignore[assignment]
            last = first + config.rows(code_size)
            terms.append(RowTerm(name, slice(first, last), config.weight))
            first = last
        return tuple(terms)

    def rows(self, code_size: int) -> int:
        """How many rows all groups take."""
        terms = self.terms(0, code_size)
        return terms[-1].rows.stop if terms else 0

    def forward(self, code: Tensor, layers: int) -> Added:
        """What the rows of codes float [N, L + R, 512] beyond the layers add; nothing of codes [N, L, 512]."""
        added = Added()
        if code.shape[1] > layers:
            for term in self.terms(layers, code.shape[2]):
                part = self.groups[term.name](code[:, term.rows])
                added.before.update(part.before)
                added.after.update(part.after)
        return added
