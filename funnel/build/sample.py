"""A uniform sample of rows that stream by. Does not know where they come from."""

from __future__ import annotations

import numpy as np

from funnel.build.nodes import distinct_first
from funnel.kernels.types import Floats, Rows
from funnel.vectors import row_norms, unit

SAMPLE_ROWS = 20_000
SAMPLE_BYTES = 256 << 20
MOVED_ROWS = 256


class Reservoir:
    """A uniform sample of a stream of rows, scaled to unit norm, and their norms.

    References
    ----------
    Vitter 1985, *Random sampling with a reservoir*, algorithm R.
    """

    def __init__(self, full_dim: int, seed: int) -> None:
        self._limit = max(64, min(SAMPLE_ROWS, SAMPLE_BYTES // (4 * full_dim)))
        self._rows = np.empty((self._limit, full_dim), np.float32)
        self._norms = np.empty((self._limit, 1), np.float32)
        self._seen, self._rng = 0, np.random.default_rng(seed)
        self._scaled = False

    def offer(self, rows: Floats) -> None:
        """Let each row replace a sampled one with the probability that is its due."""
        room = max(0, self._limit - self._seen)
        self._put(np.arange(self._seen, self._seen + len(rows[:room])), rows[:room])
        late = rows[room:]
        places = self._seen + room + np.arange(len(late))
        drawn = self._rng.integers(0, places + 1)
        chosen = np.flatnonzero(drawn < self._limit)
        self._put(drawn[chosen], late[chosen])
        self._seen += len(rows)

    def _put(self, places: Rows, rows: Floats) -> None:
        assert not self._scaled, "a sample that was read takes no more rows"
        self._rows[places] = rows

    def _scale(self) -> None:
        """Scale what is in the sample in the end: most rows do not stay."""
        if not self._scaled:
            rows = self._rows[: self._seen]
            self._norms[: self._seen] = row_norms(rows)
            unit(rows, out=rows)
            self._scaled = True

    @property
    def rows(self) -> Floats:
        """Return the sample, (s, full_dim)."""
        self._scale()
        return self._rows[: self._seen]

    @property
    def norms(self) -> Floats:
        """Return the norms the sampled rows had, (s, 1)."""
        self._scale()
        return self._norms[: self._seen]

    def distinct(self) -> Floats:
        """Return one of each of the sampled rows: a view of the first of `rows`.

        Rows change places for it, in the memory they have: memory that is touched for
        the first time costs more than all else here.
        """
        rows = self.rows
        order, count = distinct_first(rows)
        if count == len(rows):
            return rows
        others = rows[order[count:]]
        for start in range(0, count, MOVED_ROWS):  # from later places to earlier ones
            stop = min(start + MOVED_ROWS, count)
            rows[start:stop] = rows[order[start:stop]]
        rows[count:] = others
        self._norms[: len(rows)] = self._norms[order]
        return rows[:count]
