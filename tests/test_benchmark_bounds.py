"""The bounds of the benchmark hold, and rule out what they should."""

from __future__ import annotations

import conftest
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import bounds
from funnel import FunnelIndex


@given(st.integers(0, 2**32 - 1), st.integers(1, 12))
def test_upper__is_never_below_the_cosine(seed: int, width: int):
    rng = np.random.default_rng(seed)
    rows, query = rng.standard_normal((20, 12)), rng.standard_normal(12)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    query /= np.linalg.norm(query)
    most = bounds.upper(rows[:, :width], query[:width])
    assert (most >= rows @ query - 1e-9).all()


def test_ruled_out__is_most_where_axes_hold_the_energy():
    rows = conftest.turned_rows(1_000, 160, 0, rank=60)
    queries = conftest.near_rows(rows, 10, 1)
    index = FunnelIndex.build(rows, projection="pca", code_dim=64, graph_dim=64)
    found = bounds.ruled_out(index, rows, queries, 10)
    assert set(found) == {"axes 64", "axes 128", "own 128"}
    assert found["axes 128"] >= found["axes 64"] > found["own 128"]
    assert found["axes 128"] > 0.9
