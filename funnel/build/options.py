"""What a build was asked for, as a checked value. `funnel/options.py` makes it."""

from __future__ import annotations

from dataclasses import dataclass


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
