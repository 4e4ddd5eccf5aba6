"""Which own prefixes are worth a stage: what `dims="auto"` means.

Measures them on some rows; the projection and its dims are `projection.py`'s matter.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from funnel.build import Options
from funnel.build.nodes import distinct
from funnel.build.sample import SAMPLE_ROWS
from funnel.probes import Probes
from funnel.vectors import apply_transform, bad_rows, check_rows, unit

LONGEST = 1_000  # rows: a prefix that needs more is no stage


def nested_dims(needed: dict[int, int], full_dim: int) -> tuple[int, ...]:
    """Return the own prefixes that are worth a stage, and full_dim.

    Going up, a prefix is kept if a shortlist of 1,000 rows by it would do, and if it
    needs at most two thirds of the rows of the one kept before: less does not pay for
    reading its dims, as in the default cascade.

    Parameters
    ----------
    needed : dict of int to int
        For each width, the rows of a shortlist that hold 99 % of the exact top 10.
    full_dim : int

    Examples
    --------
    >>> nested_dims({16: 4_000, 32: 900, 64: 112, 128: 100, 256: 14}, 1024)
    (32, 64, 256, 1024)
    """
    kept: list[int] = []
    for width, rows in sorted(needed.items()):
        pays = not kept or 3 * rows <= 2 * needed[kept[-1]]
        if width < full_dim and rows <= LONGEST and pays:
            kept.append(width)
    return (*kept, full_dim)


def with_measured_dims(options: Options, vectors: npt.NDArray[np.generic]) -> Options:
    """Return `options` with those of its dims that are worth a stage.

    Parameters
    ----------
    options : Options
    vectors : (n, full_dim) array
        The first batch of a source: at most 20,000 of its rows are measured, evenly
        taken, without bad ones and copies. A model's order does not depend on rows.
    """
    step = max(1, -(-len(vectors) // SAMPLE_ROWS))
    rows = check_rows(vectors[::step], "embeddings", options.full_dim)
    with np.errstate(invalid="ignore", over="ignore"):
        rows = apply_transform(rows, options.transform)
    rows = distinct(unit(np.delete(rows, bad_rows(rows, zero_is_bad=True), axis=0)))
    widths = list(options.dims[:-1])
    needed = Probes.of_sample(rows, options.seed).rows_needed(rows, widths)
    return replace(options, dims=nested_dims(needed, options.full_dim))
