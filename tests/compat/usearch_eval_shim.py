"""``usearch.eval``, as far as its index tests need it; no code in common with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .usearch_shim import Index
from .usearch_types import MetricKind, ScalarKind, numbers_of


def random_vectors(
    count: int,
    metric: MetricKind = MetricKind.IP,
    dtype: Any = ScalarKind.F32,
    ndim: int = 0,
) -> npt.NDArray[Any]:
    """Return (count, ndim) uniform numbers, C-contiguous; for products, unit rows."""
    rows = np.random.default_rng().random((count, ndim))
    if metric == MetricKind.IP:
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows.astype(numbers_of(dtype))


@dataclass(frozen=True)
class SearchStats:
    """How many keys found themselves, and what that cost."""

    index_size: int
    count_queries: int
    count_matches: int
    visited_members: int
    computed_distances: int


def self_recall(
    index: Index, sample: float = 1.0, *, keys: Any = None, count: int = 1
) -> SearchStats:
    """Search the rows of keys, or of a share of them, and count who is found."""
    asked = np.asarray(index.keys if keys is None else keys)
    if sample != 1.0:
        drawn = int(np.ceil(sample * len(asked)))
        asked = np.random.default_rng().choice(asked, drawn)
    matches = index.search(index.get(asked), count)
    found = (np.atleast_2d(matches.keys) == asked[:, None]).any(axis=1)
    return SearchStats(
        len(index),
        len(asked),
        int(found.sum()),
        matches.visited_members,
        matches.computed_distances,
    )
