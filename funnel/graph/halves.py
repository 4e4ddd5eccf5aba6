"""A graph for inner products of vectors of uneven length: two halves in one.

The longest vectors are near to everything by inner product, so that links by it alone
lead to them and to little else; links by direction alone lead there slowly. Half of
each finds what neither does (Liu et al. 2020, arXiv:1909.13459, section 4, who keep two
graphs). Builds neither half (`build.py`, `grow.py`, `knit.py`).

n = nodes, w = bytes of a code, g = links of a node.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from funnel.graph.build import Links
from funnel.kernels.types import Floats
from funnel.vectors import unit

EVEN = 0.95  # the 1st percentile of the norms over the 99th: one graph will do
LARGEST, USUAL = 127, 0.99
CHUNK_ROWS = 16_384
Int8s = npt.NDArray[np.int8]


def are_uneven(norms: Floats) -> bool:
    """Tell whether norms differ so much that one graph will not do."""
    if not len(norms):
        return False
    low, high = np.quantile(norms, (0.01, 0.99))
    return bool(low < EVEN * high)


def directions(codes: Int8s) -> Int8s:
    """Return (n, w) codes scaled to one norm, as codes."""
    out = np.empty(codes.shape, np.int8)
    tops = [np.abs(_as_directions(part)).max(axis=1) for part in _chunks(codes)]
    scale = LARGEST / float(np.quantile(np.concatenate(tops), USUAL) or 1)
    for part, to in zip(_chunks(codes), _chunks(out), strict=True):
        to[:] = np.clip(np.rint(_as_directions(part) * scale), -LARGEST, LARGEST)
    out.flags.writeable = False
    return out


def joined(first: Links, second: Links) -> Links:
    """Return the links of both, those of the first before; each end once."""
    parts = []
    for a, b in zip(_chunks(first.neighbours), _chunks(second.neighbours), strict=True):
        known = (b[:, :, None] == a[:, None, :]).any(axis=2)
        both = np.concatenate([a, np.where(known, -1, b)], axis=1)
        order = np.argsort(both < 0, axis=1, kind="stable")
        parts.append(np.take_along_axis(both, order, axis=1))
    return Links(np.concatenate(parts), first.levels)


def _as_directions(codes: Int8s) -> Floats:
    return unit(codes.astype(np.float32))


def _chunks(rows: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
    return [rows[at : at + CHUNK_ROWS] for at in range(0, len(rows), CHUNK_ROWS)]
