"""Stored rows and their coordinates on the projection, read in chunks from our map.

Makes norms, codes and what the graph is built over; writes none of them (`segment.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from funnel.build.options import Options
from funnel.build.sample import Reservoir
from funnel.kernels.codes import quantise_all
from funnel.kernels.knobs import LOOSE
from funnel.kernels.rows import prefix_norms
from funnel.kernels.types import TINY, Floats
from funnel.projection import Projection
from funnel.vectors import row_norms, unit

CHUNK_BYTES = 32 << 20
CODE_QUANTILE = 0.9999  # larger coordinates are clipped: a finer step for the rest
CODE_SAMPLE = 4_096  # rows that it is taken of


class Coordinates:
    """Rows of the map, and their coordinates on the projection.

    Parameters
    ----------
    blocks : sequence of (n, width) arrays
        The column blocks, mapped.
    options : Options
    projection : Projection
    """

    def __init__(
        self,
        blocks: Sequence[npt.NDArray[Any]],
        options: Options,
        projection: Projection,
    ) -> None:
        self.projection, self.options, self._blocks = projection, options, blocks

    def chunks(self, rows: int) -> Iterator[tuple[int, int]]:
        """Yield ranges of rows that are about `CHUNK_BYTES` as float32."""
        step = max(1, CHUNK_BYTES // (4 * self.options.full_dim))
        for start in range(0, rows, step):
            yield start, min(start + step, rows)

    def raw(self, rows: npt.NDArray[np.int64]) -> Floats:
        """Return stored rows at full width, as float32; a view where that is one."""
        consecutive = len(rows) and rows[-1] - rows[0] == len(rows) - 1
        at: Any = slice(rows[0], rows[-1] + 1) if consecutive else rows
        parts = [block[at] for block in self._blocks]
        whole = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
        return whole.astype(np.float32, copy=False)

    def of(self, raw: Floats, projected: Floats) -> Floats:
        """Return renormalised coordinates; under inner product, times the full norm.

        `projected` is what `project` returned for the rows.
        """
        short = unit(projected)
        if self.options.metric == "ip":
            short *= row_norms(raw)
        return short

    def project(self, rows: Floats, width: int) -> Floats:
        """Return the first `width` coordinates of `rows`, not renormalised."""
        if self.projection.kind == "pca":
            return rows @ self.projection.axes[:width].T
        return np.ascontiguousarray(rows[:, :width])

    def norms(
        self, raw: Floats, projected: Floats, dims: npt.NDArray[np.int64]
    ) -> Floats:
        """Return prefix norms; for axes, after the norm of the code's coordinates."""
        out = np.empty((len(raw), len(dims)), np.float32)
        prefix_norms(raw, dims, out)
        if self.projection.kind != "pca":
            return out
        return np.concatenate([row_norms(projected), out], axis=1)

    def are_loose(self, raw: Floats, projected: Floats) -> npt.NDArray[np.bool_]:
        """Return which rows the projection says nothing of.

        It holds none of their norm: a graph cannot lead to them, nor a code rank them.
        """
        width = min(self.projection.graph_dim, self.projection.walk_dim)
        held, full = row_norms(projected[:, :width]), row_norms(raw)
        return ((held < LOOSE * full) & (full >= TINY))[:, 0]

    def code_unit(self, sample: Reservoir) -> float:
        """Return the coordinate that a code of 1 stands for."""
        by_norm = self.options.metric == "ip"
        step = 1 if by_norm else 1 + len(sample.rows) // CODE_SAMPLE
        rows, quantile = sample.rows[::step], CODE_QUANTILE
        short = np.abs(unit(self.project(rows, self.projection.code_dim)))
        if by_norm:  # clipping would hit the rows that should win
            short, quantile = short * sample.norms, 1.0
        top = float(np.quantile(short, quantile)) or float(short.max()) or 1.0
        return top / 127


def norm_columns(options: Options, projection: Projection) -> tuple[int, ...]:
    """Return the prefixes whose norms are stored, full_dim last."""
    widths = set(options.dims)
    if projection.kind == "prefix":
        widths.add(projection.code_dim)
    return tuple(sorted(widths))


def quantise_rows(short: Floats, code_unit: float, width: int) -> npt.NDArray[np.int8]:
    """Return coordinates as int8, padded with zeros to `width`."""
    codes = np.zeros((len(short), width), np.int8)
    quantise_all(short, np.float32(code_unit), codes)
    return codes
