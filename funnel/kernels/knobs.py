"""Places in the arrays that a search is told by, and in those it counts in.

Numbers alone, for kernels and for whoever lays out their arguments (`search.py`).
"""

from __future__ import annotations

# Columns of a trace record.
ROWS_IN, ROWS_KEPT, DIMS_READ, TICKS = 0, 1, 2, 3
# Places in `knobs`.
EF, SHORTLIST, CUT, K, WIDTH, BY_NORM, RANK, CODE_BYTES, COLUMNS, FEWEST = range(10)
CERTIFIED, CODE_COLUMN, MAX_BYTES, MAX_TICKS, TAIL_BYTES = range(10, 15)
KNOBS = 15
# Places in `scales`.
SLACK, CODE_UNITS = 0, 1
TOGETHER = 4  # queries that are prepared at once: so many and an axis fit a cache
# What stands for the first row of a query that the projection says nothing of.
BLIND = -2
LOOSE = 1e-6  # share of a norm: a projection that holds less says nothing
