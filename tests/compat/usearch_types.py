"""The enums of ``usearch.index`` and what its searches return; values and no calls.

q = queries, k = answers of each.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
import numpy.typing as npt


class MetricKind(Enum):
    """Metrics, by the name of the space that has them, or their own."""

    IP = "ip"
    Cos = "cosine"
    L2sq = "l2"
    Hamming = "Hamming distance"
    Tanimoto = "Tanimoto distance"
    Sorensen = "Sorensen distance"


class ScalarKind(Enum):
    """Types of numbers, by NumPy's name where it has one."""

    F64 = "float64"
    F32 = "float32"
    F16 = "float16"
    BF16 = "bfloat16"
    I8 = "int8"


def numbers_of(dtype: Any) -> str:
    """Return NumPy's name of a type given as `ScalarKind`, a dtype or a class."""
    return dtype.value if isinstance(dtype, ScalarKind) else np.dtype(dtype).name


@dataclass(frozen=True)
class Match:
    """One answer."""

    key: int
    distance: float


@dataclass(frozen=True)
class Matches:
    """The answers of one query, nearest first; keys and distances are (k,)."""

    keys: npt.NDArray[np.uint64]
    distances: npt.NDArray[np.float32]
    visited_members: int = 0
    computed_distances: int = 0

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, at: int) -> Match:
        return Match(int(self.keys[at]), float(self.distances[at]))


@dataclass(frozen=True)
class BatchMatches:
    """The answers of q queries; keys and distances are (q, k)."""

    keys: npt.NDArray[np.uint64]
    distances: npt.NDArray[np.float32]
    visited_members: int = 0
    computed_distances: int = 0

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, at: int) -> Matches:
        return Matches(self.keys[at], self.distances[at])

    def __iter__(self) -> Iterator[Matches]:
        return (self[at] for at in range(len(self)))


class Clustering:
    """What clustering would return."""
