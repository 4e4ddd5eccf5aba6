"""A uniform sample of rows that stream by. Does not know where they come from."""

from __future__ import annotations

import numpy as np

from funnel.kernels.types import Floats

SAMPLE_ROWS = 20_000
SAMPLE_BYTES = 256 << 20


class Reservoir:
    """A uniform sample of a stream of rows.

    References
    ----------
    Vitter 1985, *Random sampling with a reservoir*, algorithm R.
    """

    def __init__(self, full_dim: int, seed: int) -> None:
        self.limit = max(64, min(SAMPLE_ROWS, SAMPLE_BYTES // (4 * full_dim)))
        self._sample = np.empty((self.limit, full_dim), np.float32)
        self._seen, self._rng = 0, np.random.default_rng(seed)

    def offer(self, rows: Floats) -> None:
        """Let each row replace a sampled one with the probability that is its due."""
        room = max(0, self.limit - self._seen)
        first = rows[:room]
        self._sample[self._seen : self._seen + len(first)] = first
        late = rows[room:]
        places = self._seen + room + np.arange(len(late))
        drawn = self._rng.integers(0, places + 1)
        chosen = np.flatnonzero(drawn < self.limit)
        self._sample[drawn[chosen]] = late[chosen]
        self._seen += len(rows)

    def rows(self) -> Floats:
        """Return the sample, (s, full_dim)."""
        return self._sample[: self._seen]
