"""The sample of a stream, and its distinct rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from funnel.build import sample as s
from funnel.probes import ranks_of


def sampled(seed: int, kinds: int, rows: int) -> s.Reservoir:
    """Return a sample of rows of some kinds, each at a few lengths."""
    rng = np.random.default_rng(seed)
    directions = rng.standard_normal((kinds, 7)).astype(np.float32)
    lengths = 2.0 ** rng.integers(-2, 3, (rows, 1)).astype(np.float32)
    reservoir = s.Reservoir(7, seed)
    reservoir.offer(directions[rng.integers(0, kinds, rows)] * lengths)
    return reservoir


def rows_and_norms(reservoir: s.Reservoir) -> list[tuple[float, ...]]:
    joined = np.concatenate([reservoir.rows, reservoir.norms], axis=1)
    return [tuple(row) for row in joined.tolist()]


@given(st.integers(0, 99), st.integers(1, 400), st.integers(1, 700))
def test_distinct__is_one_of_each_in_order_and_loses_no_row(seed, kinds, rows):
    reservoir = sampled(seed, kinds, rows)
    before = rows_and_norms(reservoir)
    once = list(dict.fromkeys(row[:-1] for row in before))
    found = reservoir.distinct()
    assert [tuple(row) for row in found.tolist()] == once
    assert np.shares_memory(found, reservoir.rows)
    assert sorted(rows_and_norms(reservoir)) == sorted(before)
    assert [tuple(row) for row in reservoir.distinct().tolist()] == once


@pytest.mark.parametrize("ties", [False, True])
def test_ranks__count_what_is_at_least_as_good(ties):
    rng = np.random.default_rng(3)
    scores = rng.standard_normal(500).astype(np.float32)
    if ties:
        scores = np.round(scores, 1)
    scores[17] = -np.inf
    wanted = scores[rng.choice(np.delete(np.arange(500), 17), 10, replace=False)]
    expected = [sum(one >= score for one in scores.tolist()) for score in wanted]
    assert ranks_of(scores, wanted).tolist() == expected
