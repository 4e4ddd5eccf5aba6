"""What a build was asked for, as a checked value. `funnel/options.py` makes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Options:
    """What was asked of a build, checked."""

    dims: tuple[int, ...]
    full_dim: int
    graph_dim: int | None
    code_dim: int | None
    projection: str
    metric: str
    dtype: str
    transform: str | None
    M: int
    ef_construction: int
    builder: str
    seed: int
    threads: int
    drop_bad: bool

    def settings(self) -> dict[str, Any]:
        """Return what later builds of the same index are to be told again."""
        names = ("projection", "graph_dim", "code_dim", "M", "ef_construction",
                 "builder", "seed")  # fmt: skip
        return {name: getattr(self, name) for name in names}
