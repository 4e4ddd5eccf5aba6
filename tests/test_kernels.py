"""Every kernel equals its naive twin, compiled or as plain Python.

With ``NUMBA_DISABLE_JIT=1`` the same laws run on less data.
"""

from __future__ import annotations

import dataclasses
import itertools

import naive
import numba
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from funnel.graph.adjacency import (
    ENTRIES,
    choose_entries,
    link_unreachable,
    rooted,
    unreachable,
)
from funnel.graph.build import Links
from funnel.graph.grow import batches, grow_graph
from funnel.graph.halves import are_uneven, directions, joined
from funnel.kernels import candidates as ends
from funnel.kernels import certify, fours, retrieve, sweep
from funnel.kernels import codes as c
from funnel.kernels import funnel as f
from funnel.kernels import knobs as p
from funnel.kernels import pool as o
from funnel.kernels import query as q
from funnel.kernels import rerank as r
from funnel.kernels import rows as w
from funnel.kernels import scan as s
from funnel.kernels import segments as t
from funnel.kernels import stages as later
from funnel.kernels import walk as g
from funnel.kernels.jit import COMPILED, FASTMATH, kernel, prefetch, ticks, widen
from funnel.kernels.refine import refine
from funnel.kernels.tiles import rows_as_tiles

DIMS = (1, 2, 7, 8, 31, 64, 97, 128)
DTYPES = ("float32", "float16")
# First dims of the column blocks, then the full width: one block, two, three.
EDGES = ((0, 97), (0, 31, 128), (0, 7, 64, 97))
CLOSE = 4e-6  # of a product of norms; the sums are in float32
CANARY = 113

laws = settings(max_examples=40 if COMPILED else 20)
seeds = st.integers(0, 2**32 - 1)


def size(compiled, interpreted):
    """Return how much data to use."""
    return compiled if COMPILED else interpreted


def frozen(array):
    """Return a C-ordered view that cannot be written, as a mapped file is."""
    view = np.ascontiguousarray(array).view()
    view.flags.writeable = False
    return view


def drawn(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def as_stored(rows, dtype):
    """Return rows as the store holds them, and their values in float64."""
    kept = rows.astype(dtype)
    held = kept.view(np.uint16) if dtype == "float16" else kept
    return frozen(held), kept.astype(np.float64)


def as_blocks(stored, edges):
    """Cut rows into column blocks, as the store does."""
    return tuple(frozen(stored[:, a:b]) for a, b in itertools.pairwise(edges))


def ints(*values):
    return np.array(values, np.int64)


NO_INTS, NO_INT32 = np.empty(0, np.int64), np.empty(0, np.int32)
NO_FLAGS = np.empty(0, np.uint8)


class Memory:
    """Segments as the kernels see them: a table of addresses, kept alive here.

    Parameters
    ----------
    edges : first dim of each column block, then the full width
    parts : mappings, one a segment
        Arrays by their names in `kernels/segments.py`, in small letters, and `blocks`;
        what is left out is empty. Flags of rows come with those of nodes.
    """

    def __init__(self, edges, *parts):
        self.alive, table, first = [], [], 0
        for part in parts:
            table.append(self.described(first, edges, **part))
            first += table[-1][t.ROWS]
        self.table = np.array(table, np.int64)
        halves = parts[0].get("blocks", [np.empty(0, np.float32)])[0].dtype == np.uint16
        like = np.empty(0, np.uint16 if halves else np.float32)
        self.memory = self.table, ints(*edges), like

    def described(
        self, first, edges, *, blocks=(), rows=0, codes=None, links=None,
        entries=NO_INT32, starts=NO_INTS, owned=NO_INTS, loose=NO_INTS,
        norms=NO_FLAGS, node_flags=None, row_flags=None, listed=NO_INT32,
        tails=NO_FLAGS,
    ):  # fmt: skip
        codes = np.empty((0, 64), np.int8) if codes is None else codes
        links = np.empty((len(codes), 0), np.int32) if links is None else links
        row = [0] * (t.BLOCKS + len(edges) - 1)
        row[t.FIRST], row[t.NODES] = first, len(codes)
        row[t.ROWS] = len(blocks[0]) if len(blocks) else rows or len(codes)
        row[t.DEGREE], row[t.ENTRY_COUNT] = links.shape[1], len(entries)
        row[t.OWNED_COUNT], row[t.LOOSE_COUNT] = len(owned), len(loose)
        row[t.LISTED_COUNT], row[t.PASSED] = len(listed), -1
        if node_flags is not None:
            row[t.PASSED] = int(node_flags.sum())
        flags = [NO_FLAGS if one is None else one for one in (node_flags, row_flags)]
        places = (t.CODES, t.LINKS, t.ENTRIES, t.ENTRY_CODES, t.STARTS, t.OWNED,
                  t.LOOSE, t.NORMS, t.NODE_FLAGS, t.ROW_FLAGS, t.LISTED,
                  t.TAILS)  # fmt: skip
        arrays = (codes, links, entries, codes[entries], starts, owned, loose, norms,
                  *flags, listed, tails, *blocks)  # fmt: skip
        places = (*places, *range(t.BLOCKS, t.BLOCKS + len(blocks)))
        for place, array in zip(places, arrays, strict=True):
            self.alive.append(np.ascontiguousarray(array))
            row[place] = self.alive[-1].ctypes.data
        return row


# ---- numbers


@numba.njit
def widen_all(values, out):
    for i in range(len(values)):
        out[i] = widen(values[i])


@numba.njit
def count_ticks(out, spins):
    total = 0
    for i in range(len(out)):
        out[i] = ticks()
        for j in range(spins):
            total += j * i
    return total


@numba.njit
def prefetch_all(rows):
    for i in range(len(rows)):
        prefetch(rows, i, 0)


def test_widen__equals_half_precision_for_all_bits():
    bits = np.arange(0, 1 << 16, size(1, 7), dtype=np.uint16)
    out = np.empty(len(bits), np.float32)
    widen_all(frozen(bits), out)
    expected = np.float32([naive.half_to_float(int(b)) for b in bits])
    np.testing.assert_array_equal(out, expected)


def test_widen__leaves_float32_alone():
    values = np.float32([0, -0.0, 1.5, -3e38, 1e-45, np.inf, -np.inf, np.nan])
    out = np.empty(len(values), np.float32)
    widen_all(frozen(values), out)
    assert out.tobytes() == values.tobytes()


def test_half_to_float__equals_numpy():
    bits = np.arange(1 << 16, dtype=np.uint16)
    with np.errstate(invalid="ignore"):
        expected = bits.view(np.float16).astype(np.float64)
    found = np.array([naive.half_to_float(int(b)) for b in bits])
    np.testing.assert_array_equal(found, expected)


def test_fastmath__keeps_nan_and_infinity():
    @numba.njit(fastmath=FASTMATH)
    def judge(x):
        return x != x, abs(x) <= np.float32(3.4028235e38)

    assert judge(np.float32(np.nan)) == (True, False)
    assert judge(np.float32(np.inf)) == (False, False)
    assert judge(np.float32(-1)) == (False, True)


def test_ticks__grow():
    out = np.empty(64, np.int64)
    count_ticks(out, 1000)
    assert (np.diff(out) > 0).all()


def test_prefetch__changes_nothing():
    rows = frozen(drawn(0, 5, 16))
    before = rows.copy()
    prefetch_all(rows)
    np.testing.assert_array_equal(rows, before)


# ---- one query


@pytest.mark.parametrize("dim", DIMS)
def test_norm__equals_naive(dim):
    vector = drawn(dim, dim)
    assert q.norm(vector) == pytest.approx(naive.norm(vector), rel=1e-12)
    assert q.norm(np.zeros(dim, np.float32)) == 0


@pytest.mark.parametrize("dim", DIMS)
def test_layer_norm__equals_naive(dim):
    rows = 3 * drawn(dim, 4, dim) + 7
    rows[3] = 2.5  # constant: no variance but epsilon
    expected = [naive.layer_norm(row) for row in rows]
    one, many = rows.copy(), rows.copy()
    for row in one:
        q.layer_norm(row)
    q.layer_norm_rows(many)
    np.testing.assert_allclose(many, expected, atol=2e-6)
    np.testing.assert_array_equal(many, one)


def test_layer_norm__adds_epsilon_to_the_variance():
    vector = np.float32([0.001, -0.001])
    q.layer_norm(vector)
    np.testing.assert_allclose(vector, [0.301511, -0.301511], rtol=1e-5)


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("width", [1, 8, 31, 64])
def test_project__equals_naive(dim, width):
    queries, axes = drawn(dim, 5, dim), frozen(drawn(width, width, dim))
    out = np.full((5, width), np.nan, np.float32)
    q.project(queries, axes, out)
    expected = queries.astype(np.float64) @ axes.T
    scale = naive.lengths_of(queries).max() * naive.lengths_of(axes).max()
    np.testing.assert_allclose(out, expected, atol=CLOSE * scale)


@pytest.mark.parametrize("dim", DIMS)
def test_project__does_not_depend_on_the_other_queries(dim):
    queries, axes = drawn(dim, 5, dim), frozen(drawn(1, 31, dim))
    together, alone = np.empty((2, 5, 31), np.float32)
    q.project(queries, axes, together)
    for i in range(5):
        q.project(queries[i : i + 1], axes, alone[i : i + 1])
    assert together.tobytes() == alone.tobytes()


@pytest.mark.parametrize("dim", [*DIMS, 700])
@pytest.mark.parametrize("count", [1, 9, 16, 33])
def test_project_codes__is_near_naive(dim, count):
    queries, axes = drawn(dim, 5, dim), drawn(1, count, dim)
    queries[3] = 0
    codes = np.empty((5, c.code_width(dim)), np.int8)
    scales, offsets = np.empty(5, np.float32), np.empty(5, np.int32)
    for i, query in enumerate(queries):
        scales[i] = c.quantise(query, codes[i])
        offsets[i] = c.code_offset(codes[i])
    axis_codes, units = c.rows_as_codes(axes)
    tiles, same = rows_as_tiles(axes)
    np.testing.assert_array_equal(same, units)
    out = np.full((5, count), np.nan, np.float32)
    q.project_codes(codes, scales, offsets, tiles, units, out)
    tops = np.abs(queries).max(axis=1)[:, None], np.abs(axes).max(axis=1)
    # Each of a product's factors is off by half a step at most.
    sums = np.abs(queries).sum(axis=1)[:, None], np.abs(axes).sum(axis=1)
    off = (tops[0] * sums[1] + tops[1] * sums[0] + dim * tops[0] * tops[1] / 254) / 254
    assert (np.abs(out - queries.astype(np.float64) @ axes.T) <= 1.001 * off).all()
    expected = [[naive.code_score(code, axis) for axis in axis_codes] for code in codes]
    steps = np.divide(1, scales, out=np.zeros(5, np.float32), where=scales > 0)
    np.testing.assert_allclose(out, expected * units * steps[:, None], rtol=1e-6)


@laws
@given(seeds, st.sampled_from(DIMS), st.sampled_from([1e-20, 1e-3, 1.0, 1e20]))
def test_quantise__rounds_to_the_nearest_step(seed, dim, scale):
    vector = drawn(seed, dim) * np.float32(scale)
    code = np.full(128, 99, np.int8)
    found = c.quantise(vector, code)
    expected, step = naive.quantise(vector)
    assert found == pytest.approx(step, rel=1e-6)
    assert np.abs(code).max() == 127
    assert np.abs(code[:dim] - vector.astype(np.float64) * step).max() <= 0.5 + 1e-4
    assert np.abs(code[:dim] - expected).max() <= 1
    assert not code[dim:].any()


def test_quantise__zero_vector_has_zero_code():
    code = np.full(64, 99, np.int8)
    assert c.quantise(np.zeros(31, np.float32), code) == 0
    assert not code.any()


@laws
@given(seeds, st.integers(1, 70), st.sampled_from([2e-3, 0.01, 0.3]))
def test_quantise_all__equals_naive_but_for_halves(seed, dim, step):
    rows = drawn(seed, 5, dim)
    codes = np.zeros((5, 128), np.int8)
    c.quantise_all(rows, np.float32(step), codes)
    expected = np.array([naive.quantise_by(row, np.float32(step)) for row in rows])
    steps = rows.astype(np.float64) / np.float32(step)
    halfway = np.abs(np.abs(steps - np.trunc(steps)) - 0.5) < 1e-4
    assert (codes[:, :dim] == expected)[~halfway].all()
    assert (np.abs(codes[:, :dim] - expected) <= 1).all()
    assert not codes[:, dim:].any()


def test_prepare__scales_to_unit_norm_and_returns_the_factor():
    raw = 5 * drawn(0, 31)
    for by_norm, factor in ((False, 1), (True, naive.norm(raw))):
        query = np.empty_like(raw)
        assert f.prepare(raw, query, by_norm) == pytest.approx(factor, rel=1e-6)
        np.testing.assert_allclose(query, naive.unit(raw), rtol=1e-6)
    zero = np.zeros(31, np.float32)
    assert f.prepare(zero, query, True) == 0
    assert not query.any()


# ---- norms of rows


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", DIMS)
def test_prefix_norms__equal_naive(dim, dtype):
    stored, values = as_stored(drawn(dim, 6, dim), dtype)
    dims = [d for d in (1, 7, 8, 64) if d < dim] + [dim]
    norms = np.full((6, len(dims)), np.nan, np.float32)
    w.prefix_norms(stored, ints(*dims), norms)
    np.testing.assert_allclose(norms, naive.prefix_norms(values, dims), rtol=1e-6)
    assert w.square(stored[0]) == pytest.approx(norms[0, -1] ** 2, rel=1e-6)


# ---- inner products


def test_first_outside__is_the_first_bad_row():
    rows = drawn(0, 6, 31)
    assert w.first_outside(rows, 1e-3, 1e9) == -1
    for at, value in ((4, np.nan), (3, np.inf), (2, -np.inf), (1, 0)):
        rows[at] = 0
        rows[at, 7] = value
        assert w.first_outside(rows, 1e-3, 1e9) == at
    assert w.first_outside(rows, 0.0, 1e9) == 2


@pytest.mark.parametrize("writeable", [True, False], ids=["mutable", "read-only"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", DIMS)
def test_dot__equals_naive(dim, dtype, writeable):
    query = drawn(dim, dim)
    stored, values = as_stored(drawn(dim + 1, 1, dim), dtype)
    row = (stored.copy() if writeable else stored)[0]
    exact, scale = query @ values[0], naive.norm(query) * naive.norm(values[0])
    assert r.dot(query, row) == pytest.approx(exact, abs=CLOSE * scale)
    product, square = r.dot_and_square(query, row, np.float32(0.5))
    assert product == pytest.approx(exact, abs=CLOSE * scale)
    assert square == pytest.approx(0.25 * naive.norm(values[0]) ** 2, rel=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("edges", EDGES, ids=str)
@laws
@given(data=st.data(), seed=seeds)
def test_extend__equals_naive_over_any_range(edges, dtype, data, seed):
    full_dim, n = edges[-1], 9
    start = data.draw(st.integers(0, full_dim))
    stop = data.draw(st.integers(start, full_dim))
    m = data.draw(st.integers(0, 6))
    query = drawn(seed, full_dim)
    stored, values = as_stored(drawn(seed + 1, n, full_dim), dtype)
    rows = np.random.default_rng(seed).integers(0, n, 8)
    dots = drawn(seed + 2, 8)
    expected = dots.astype(np.float64)
    for i in range(m):
        expected[i] += (
            query[start:stop].astype(np.float64) @ values[rows[i]][start:stop]
        )
    held, places = Memory(edges, {"blocks": as_blocks(stored, edges)}), np.empty(m, int)
    r.extend(query, held.memory, rows, m, start, stop, dots, places)
    np.testing.assert_allclose(dots, expected, atol=CLOSE * full_dim)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("edges", EDGES, ids=str)
@laws
@given(data=st.data(), seed=seeds)
def test_extend__in_steps_equals_one_pass(edges, dtype, data, seed):
    full_dim = edges[-1]
    steps = sorted(data.draw(st.sets(st.integers(1, full_dim - 1), max_size=4)))
    query = drawn(seed, full_dim)
    stored, _ = as_stored(drawn(seed + 1, 5, full_dim), dtype)
    rows, places = np.arange(5), np.empty(5, np.int64)
    held = Memory(edges, {"blocks": as_blocks(stored, edges)})
    once, stepped = np.zeros((2, 5), np.float32)
    r.extend(query, held.memory, rows, 5, 0, full_dim, once, places)
    for a, b in itertools.pairwise([0, *steps, full_dim]):
        r.extend(query, held.memory, rows, 5, a, b, stepped, places)
    np.testing.assert_allclose(stepped, once, atol=CLOSE * full_dim)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("edges", EDGES, ids=str)
@laws
@given(data=st.data(), seed=seeds)
def test_extend_with_squares__equals_naive_over_any_range(edges, dtype, data, seed):
    full_dim, n = edges[-1], 6
    start = data.draw(st.integers(0, full_dim))
    stop = data.draw(st.integers(start, full_dim))
    query, drawn_rows = drawn(seed, full_dim), drawn(seed + 1, n, full_dim)
    drawn_rows[2] = 0
    stored, values = as_stored(drawn_rows, dtype)
    norms = np.float32([[0, naive.norm(row)] for row in values])
    rows, m = np.random.default_rng(seed).integers(0, n, 8), 7
    dots, squares = np.zeros((2, 8), np.float32)
    held = Memory(edges, {"blocks": as_blocks(stored, edges), "norms": norms})
    places = np.empty(m, np.int64)
    r.extend_with_squares(
        query, held.memory, rows, m, start, stop, dots, places, squares, 2
    )
    for i, row in enumerate(rows[:m]):
        dot = query[start:stop].astype(np.float64) @ values[row][start:stop]
        assert dots[i] == pytest.approx(dot, abs=CLOSE * full_dim)
        square = naive.norm(naive.unit(values[row])[start:stop]) ** 2
        assert squares[i] == pytest.approx(square, abs=1e-6)
    assert dots[m] == squares[m] == 0


# ---- stage scores and selection


@pytest.mark.parametrize("metric", ["cosine", "ip"])
@pytest.mark.parametrize("stored_norms", [True, False], ids=["stored", "counted"])
@pytest.mark.parametrize("dim", DIMS)
def test_renormalise__equals_a_stage_score(dim, stored_norms, metric):
    rows = 3 * drawn(dim, 6, 128)
    rows[1, :dim] = 0  # a zero prefix
    rows[2] = 0
    query = naive.unit(drawn(dim + 1, 128))
    norms = np.float32(naive.prefix_norms(rows, [dim, 128]))
    full = np.where(norms[:, 1] > 0, norms[:, 1], 1)
    order = np.array([3, 1, 0, 2, 5, 4, 4])
    dots = np.float32(rows[order, :dim].astype(np.float64) @ query[:dim])
    squares = np.float32((norms[:, 0] / full)[order] ** 2)
    scores = np.full(7, np.nan, np.float32)
    held = Memory((0, 128), {"rows": 6, "norms": norms})
    r.renormalise(
        order,
        6,
        dots,
        squares,
        held.table,
        2,
        0 if stored_norms else -1,
        np.float32(naive.norm(query[:dim])),
        metric == "ip",
        scores,
    )
    expected = naive.stage_scores(rows[order[:6]], query, dim, metric)
    np.testing.assert_allclose(scores[:6], expected, atol=2e-6 * norms.max())
    assert scores[1] == scores[3] == 0
    assert np.isnan(scores[6])


def test_renormalise__zero_query_prefix_scores_zero():
    rows, scores = np.arange(2), np.full(2, np.nan, np.float32)
    dots, squares = np.zeros(2, np.float32), np.ones(2, np.float32)
    held = Memory((0, 8), {"rows": 2, "norms": np.ones((2, 2), np.float32)})
    for column in (0, -1):
        r.renormalise(
            rows, 2, dots, squares, held.table, 2, column, np.float32(0), False, scores
        )
        assert scores.tolist() == [0, 0]


floats = st.floats(width=32, allow_nan=False).map(lambda x: x + 0.0)  # no −0.0
some_floats = st.lists(
    floats | st.sampled_from([0.0, 1.0, -1.0, -1.5]), min_size=1, max_size=40
)


def packed(scores):
    scores = np.float32(scores)
    keys = np.empty(len(scores), np.int64)
    r.pack(scores, len(scores), keys)
    return keys


@laws
@given(some_floats)
@example([-1.0, 1.0, -2.0, 2.0, -1.0, 0.0, 1e-45, -1e-45, np.inf, -np.inf])
def test_pack__orders_like_the_floats_then_by_place(scores):
    order = np.argsort(packed(scores))[::-1]
    assert order.tolist() == naive.top(scores, len(scores))


@laws
@given(st.lists(st.integers(-9, 9), min_size=1, max_size=60), st.data())
def test_keep_largest__equals_a_sort(values, data):
    keep = data.draw(st.integers(1, len(values)))
    keys = ints(*values)
    r.keep_largest(keys, len(keys), keep)
    assert sorted(keys[:keep], reverse=True) == sorted(values, reverse=True)[:keep]
    assert sorted(keys) == sorted(values)


@pytest.mark.parametrize("shape", ["rising", "falling", "equal", "pipe", "random"])
def test_keep_largest__equals_a_sort_for_awkward_orders(shape):
    n = size(1000, 100)
    rising = np.arange(n, dtype=np.int64)
    values = {
        "rising": rising,
        "falling": rising[::-1],
        "equal": rising * 0,
        "pipe": np.minimum(rising, rising[::-1]),
        "random": np.random.default_rng(0).permutation(rising),
    }[shape]
    for keep in (1, 2, n // 2, n - 1, n):
        keys = values.copy()
        r.keep_largest(keys, n, keep)
        assert sorted(keys[:keep]) == sorted(values)[n - keep :]


@laws
@given(some_floats, st.data())
def test_select__keeps_exactly_the_best_in_their_order(scores, data):
    m = len(scores)
    keep = data.draw(st.integers(1, m + 2))
    rows = np.arange(m) * 3 + 5
    dots, squares = drawn(0, m), drawn(1, m)
    arrays = [rows.copy(), dots.copy(), squares.copy(), np.float32(scores)]
    left = r.select(packed(scores), m, keep, *arrays, np.ones(m, np.bool_))
    best = naive.keep_best(scores, keep)
    assert left == len(best)
    for found, given_ in zip(
        arrays, (rows, dots, squares, np.float32(scores)), strict=True
    ):
        np.testing.assert_array_equal(found[:left], given_[best])


@laws
@given(some_floats, st.integers(1, 45))
def test_write_best__gives_the_best_in_order(scores, k):
    m = len(scores)
    with np.errstate(over="ignore"):
        expected = np.float32(scores) * np.float32(0.5)
    candidates = (
        np.arange(m) + 100,
        np.float32(scores),
        np.empty(0, np.float32),
        np.empty(0, np.float32),
        np.empty(m, np.int64),
        np.empty(0, np.bool_),
    )
    rows, out = np.full(k, -1), np.full(k, -np.inf, np.float32)
    ends.write_best(candidates, m, np.float32(0.5), rows, out)
    best = naive.top(scores, k)
    assert rows.tolist() == [b + 100 for b in best] + [-1] * (k - len(best))
    np.testing.assert_array_equal(out[: len(best)], expected[best])
    assert (out[len(best) :] == -np.inf).all()


# ---- scanning rows


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("edges", EDGES, ids=str)
@laws
@given(data=st.data(), seed=seeds)
def test_scan_rows__equals_prefix_search(edges, dtype, data, seed):
    full_dim, n = edges[-1], size(50, 20)
    stop = data.draw(st.integers(1, full_dim))
    k = data.draw(st.integers(1, n))
    split = data.draw(st.integers(0, n))
    query = np.float32(naive.unit(drawn(seed, full_dim)))
    stored, values = as_stored(drawn(seed + 1, n, full_dim), dtype)
    weights = np.float32(1 / naive.prefix_norms(values, [stop])[:, 0])
    rows, scores = np.full(k, -1), np.full(k, -np.inf, np.float32)
    blocks, starts = as_blocks(stored, edges), ints(*edges)
    for first, last in ((0, split), (split, n)):
        part = weights[first:last]
        s.scan_rows(query, blocks, starts, stop, part, (first, last), 0, rows, scores)
    oracle = naive.prefix_cosines(values, query, stop) * naive.norm(query[:stop])
    naive.assert_same_ranking(rows, scores, oracle, CLOSE)


def test_scan_rows__leaves_pads_where_rows_are_few():
    stored, _ = as_stored(drawn(0, 2, 7), "float32")
    rows, scores = np.full(5, -1), np.full(5, -np.inf, np.float32)
    ones = np.ones(2, np.float32)
    s.scan_rows(drawn(1, 7), (stored,), ints(0, 7), 7, ones, (0, 2), 40, rows, scores)
    assert sorted(rows[:2]) == [40, 41]
    assert rows[2:].tolist() == [-1] * 3
    assert (scores[2:] == -np.inf).all()


@laws
@given(seeds, st.integers(1, 30), st.lists(st.integers(1, 12), max_size=4))
def test_merge_scores__equals_a_stable_sort_of_all_blocks(seed, k, widths):
    products = np.random.default_rng(seed).integers(-4, 5, (3, sum(widths)))
    rows, scores = np.full((3, k), -1), np.full((3, k), -np.inf, np.float32)
    first = 0
    for width in widths:
        block = np.float32(products[:, first : first + width])
        s.merge_scores(block, first, rows, scores)
        first += width
    for i in range(3):
        best = naive.top(products[i].tolist(), k)
        assert rows[i].tolist() == best + [-1] * (k - len(best))
        assert scores[i, : len(best)].tolist() == products[i][best].tolist()


# ---- codes and the walk


def drawn_codes(seed, n, dim, top=127):
    """Return n int8 codes of `dim` dims, padded to whole cache lines as stored ones."""
    codes = np.zeros((n, -(-dim // 64) * 64), np.int8)
    codes[:, :dim] = np.random.default_rng(seed).integers(-top, top + 1, (n, dim))
    return codes


def drawn_links(seed, n, degree, *, connected, damaged=False):
    """Return random links; some lists end early, some hold what is not a node."""
    rng = np.random.default_rng(seed)
    links = rng.integers(0, n, (n, degree)).astype(np.int32)
    if connected:
        links[:, 0] = (np.arange(n) + 1) % n
    ends = rng.integers(1, degree + 1, n)
    for node, end in enumerate(ends):
        links[node, end:] = -1
    if damaged:
        wrong = [-1, -2, -n, n, n + 1, 2**31 - 1, -(2**31)]
        for node in rng.choice(n, n // 3, replace=False):
            links[node, rng.integers(0, degree)] = rng.choice(wrong)
    return links


def unpacked(best, count):
    """Return (score, node) pairs of the walk's packed keys."""
    return [
        (int(key) >> o.NODE_BITS, (int(key) >> 1) & o.NODE_MASK) for key in best[:count]
    ]


def spare():
    """Return scratch for four nodes or scores."""
    return np.full(4, CANARY, np.int32)


LOWEST = np.int64(o.LOWEST_SCORE)
EVER = (1, 1, 0.0, -1.0, 1, LOWEST, 1)


def walk_together(queries, codes, links, entries, ef, stop=EVER, passing=()):
    """Walk with canaries around the scratch; (score, node) pairs and scored of each.

    `stop` is what `naive.walk` takes; tops and floors may be one for each query.
    """
    n, count = len(codes), len(queries)
    rank, shortlist, tops, slack, wanted, floors, guard = stop
    visited = np.full((count, n + 64), CANARY, np.uint8)
    visited[:, :n] = 0
    walkers = g.new_walkers(count, codes.shape[1], ef + 8, links.shape[1])
    walkers[g.POOLS][:], walkers[g.STATE][:] = CANARY, CANARY
    walkers[g.TOPS][:], walkers[g.FLOORS][:] = tops, floors
    for i, query in enumerate(queries):
        offset = c.code_offset(query)
        walkers[g.QUERIES][i], walkers[g.OFFSETS][i] = query, offset
        place, score = sweep.best_entry(
            query, offset, frozen(codes[entries]), walkers[g.SCORES]
        )
        g.begin(walkers, i, (entries[place], score), ef, visited[i], np.uint8(1))
    g.walk(
        walkers, count, frozen(codes), frozen(links), np.uint8(passing), ef,
        (rank, shortlist, slack, wanted, guard), visited,
    )  # fmt: skip
    assert (visited[:, n:] == CANARY).all()
    assert (walkers[g.POOLS][:, ef + o.ROOM :] == CANARY).all()
    return [
        (unpacked(pool[1:], state[g.SIZE]), state[g.SCORED])
        for pool, state in zip(walkers[g.POOLS], walkers[g.STATE], strict=True)
    ]


def run_walk(query, *arguments):
    """Walk for one query."""
    return walk_together(query[None], *arguments)[0]


def assert_same_scores(found, expected, query, codes):
    """Compare (score, node) lists by score, and each node with its claimed score."""
    assert [score for score, _ in found] == [score for score, _ in expected]
    assert len({node for _, node in found}) == len(found)
    for score, node in found:
        assert 0 <= node < len(codes)
        assert score == naive.code_score(query, codes[node])


@pytest.mark.parametrize("dim", [*DIMS, 192, 4096])
def test_score_code__equals_naive(dim):
    codes = drawn_codes(dim, 3, dim)
    codes[1], codes[2] = 127, -127
    for a, b in itertools.product(codes, codes):
        expected, offset = naive.code_score(a, b), c.code_offset(a)
        assert c.score_code(a, frozen(b), offset) == expected


@pytest.mark.parametrize("top", [1, 127])
def test_best_entry__is_the_first_of_the_best(top):
    codes = frozen(drawn_codes(0, 40, 8, top))
    for query in drawn_codes(1, 20, 8, top):
        scores = [naive.code_score(query, code) for code in codes]
        found = sweep.best_entry(query, c.code_offset(query), codes, spare())
        assert found == (naive.top(scores, 1)[0], max(scores))


@laws
@given(st.lists(st.integers(-50, 50), max_size=60, unique=True), st.integers(1, 20))
def test_insert__keeps_the_largest_sorted(values, limit):
    pool, seen = np.full(limit + o.ROOM + 4, CANARY, np.int64), []
    o.clear(pool, limit)
    for value in values:
        if value > pool[limit]:
            place = o.insert(pool, len(seen), limit, np.int64(value))
            seen = sorted([*seen, value], reverse=True)[:limit]
            assert place == seen.index(value)
        assert pool[1 : len(seen) + 1].tolist() == seen
    assert (pool[limit + o.ROOM :] == CANARY).all()


@kernel
def insert_some(pool, size, limit, keys, count):
    return o.insert_all(pool, size, limit, keys, count)


@kernel
def first_open(pool, size, at):
    return o.first_open(pool, size, at)


@laws
@given(
    st.lists(st.tuples(st.lists(st.integers(-99, 99), max_size=11), st.booleans())),
    st.integers(1, 40),
)
def test_insert_all__keeps_the_largest_sorted(batches, limit):
    pool, seen, floor = np.full(limit + o.ROOM + 4, CANARY, np.int64), [], -100
    o.clear(pool, limit)
    for values, drops in batches:
        if drops and seen:  # as a walk does once its horizon comes nearer
            floor = seen[len(seen) // 2]
        while seen and seen[-1] <= floor:
            pool[len(seen)] = o.LOWEST
            seen.pop()
        above = max(floor, int(pool[limit]))
        new = [v for v in dict.fromkeys(values) if v not in seen and v > above]
        keys = np.full(len(new) + 4, CANARY, np.int64)
        keys[: len(new)] = new
        place = insert_some(pool, len(seen), limit, keys, len(new))
        seen = sorted([*seen, *new], reverse=True)[:limit]
        assert place == min((seen.index(v) for v in new if v in seen), default=limit)
        assert pool[1 : len(seen) + 1].tolist() == seen
        assert (pool[len(seen) + 1 : limit + 1] == o.LOWEST).all()
        assert keys[-1] == CANARY
    assert pool[0] == o.HIGHEST
    assert (pool[limit + o.ROOM :] == CANARY).all()


@laws
@given(st.lists(st.booleans(), max_size=60), st.integers(0, 60), st.integers(0, 9))
def test_first_open__is_the_first_that_is_not_expanded(expanded, at, beyond):
    size, at = len(expanded), min(at, len(expanded))
    pool = np.full(size + o.ROOM + beyond, CANARY | 1, np.int64)
    pool[1 : size + 1] = np.int64(expanded) + 2 * np.arange(size, 0, -1)
    expected = next((i for i in range(at, size) if not expanded[i]), size)
    assert first_open(pool, size, at) == expected


@laws
@given(st.lists(st.integers(-9, 99), max_size=300), st.integers(0, 4))
def test_sort_down__sorts_the_first(values, beyond):
    keys = np.int64([*values, *[CANARY] * beyond])
    r.sort_down(keys, len(values))
    assert keys.tolist() == [*sorted(values, reverse=True), *[CANARY] * beyond]


def test_unseen_links__ends_at_what_is_no_node():
    codes, visited = frozen(drawn_codes(0, 10, 8)), np.zeros(10, np.uint8)
    near = np.full(8, CANARY, np.int32)
    visited[4] = 3
    for links, expected in (
        ([1, 4, 2, -1, 5], [1, 2]),
        ([10, 7], []),
        ([6, 2**31 - 1, 7], [6]),
        ([6, 1, 9, 9, 0], [9, 0]),
        ([-(2**31)], []),
    ):
        m = g.unseen_links(frozen(np.int32(links)), codes, visited, np.uint8(3), near)
        assert near[:m].tolist() == expected
        assert set(near[m : -(-m // 4) * 4].tolist()) <= set(expected)
    assert np.flatnonzero(visited == 3).tolist() == [0, 1, 2, 4, 6, 9]


@kernel
def four_next(query, codes, node, offset, scores):
    fours.score_next(query, codes, node, offset, scores)


@kernel
def four_listed(query, codes, nodes, at, offset, scores):
    fours.score_listed(query, codes, nodes, at, offset, scores)


@pytest.mark.parametrize("which", [0, 1, 2], ids=["any", "highest", "lowest"])
@pytest.mark.parametrize("dim", [*DIMS, 192, 4096])
def test_score_four__equals_one_by_one(dim, which):
    codes = drawn_codes(dim, 9, dim)
    codes[1], codes[2] = 127, -127
    query, scores = codes[which].copy(), np.full(16, CANARY, np.int32)
    expected = [naive.code_score(query, code) for code in codes]
    offset = c.code_offset(query)
    for node in range(6):
        four_next(query, frozen(codes), node, offset, scores)
        assert scores[:4].tolist() == expected[node : node + 4]
    nodes = np.int32([8, 0, 2, 2, 1, 7, 3, 0, 5])
    for at in (0, 3, 5):
        scores[:] = CANARY
        four_listed(query, frozen(codes), nodes, at, offset, scores)
        found = [expected[node] for node in nodes[at : at + 4]]
        assert scores[at : at + 4].tolist() == found
        assert (np.delete(scores, range(at, at + 4)) == CANARY).all()


@pytest.mark.parametrize("top", [1, 127], ids=["many-ties", "few-ties"])
@pytest.mark.parametrize("dim", DIMS)
def test_scan__equals_sorted_codes(dim, top):
    codes = drawn_codes(dim, size(200, 40), dim, top)
    query = drawn_codes(dim + 1, 1, dim)[0]
    for limit in (1, 7, len(codes), len(codes) + 9):
        pool = np.full(limit + o.ROOM + 8, CANARY, np.int64)
        offset = c.code_offset(query)
        count = sweep.scan(
            query, offset, frozen(codes), NO_FLAGS, limit, LOWEST, pool, spare()
        )
        found = unpacked(pool[1:], count)
        assert_same_scores(found, naive.scan_codes(query, codes, limit), query, codes)
        assert (pool[limit + o.ROOM :] == CANARY).all()


@pytest.mark.parametrize("damaged", [False, True], ids=["whole", "damaged"])
@laws
@given(
    seeds,
    st.sampled_from([8, 64, 97]),
    st.sampled_from([1, 2, 10, 50]),
    st.booleans(),
    st.sampled_from([-1.0, 0.0, 0.25, 8.0]),
    st.sampled_from([0.1, 0.5, 1.0]),
    st.sampled_from([1, 5, 40]),
    st.sampled_from([None, 0, 3, 30]),
)
def test_walk__equals_the_naive_walk(
    damaged, seed, dim, ef, connected, slack, share, wanted, above
):
    n = size(250, 60)
    codes, query = drawn_codes(seed, n, dim), drawn_codes(seed + 1, 1, dim)[0]
    links = drawn_links(seed, n, 6, connected=connected, damaged=damaged)
    entries = np.random.default_rng(seed).choice(n, 5, replace=False).astype(np.int32)
    top = float(np.linalg.norm(query) * np.linalg.norm(codes[entries[0]]))
    scores = sorted((naive.code_score(query, code) for code in codes), reverse=True)
    floor = LOWEST if above is None else np.int64(scores[above])
    stop = min(ef, 3), min(ef, 7), top, slack, wanted, floor, min(ef, 5)
    passing = np.random.default_rng(seed).random(n) < share if share < 1 else ()
    found, scored = run_walk(query, codes, links, entries, ef, stop, passing)
    expected, expected_scored = naive.walk(
        query, codes, links, entries, ef, stop, passing
    )
    assert_same_scores(found, expected, query, codes)
    assert scored == expected_scored


@laws
@given(seeds, st.integers(2, 5), st.sampled_from([-1.0, 0.0, 0.25]))
def test_walk__several_together_are_as_each_alone(seed, count, slack):
    n, ef = size(250, 60), 20
    codes, queries = drawn_codes(seed, n, 97), drawn_codes(seed + 1, count, 97)
    links = drawn_links(seed, n, 6, connected=True)
    entries = np.int32([0, 7, 11])
    tops = np.array([1.5 * naive.code_score(query, query) for query in queries])
    floors = np.random.default_rng(seed).integers(-20_000, 20_000, count)
    stops = [(3, 7, tops[i], slack, 40, floors[i], 5) for i in range(count)]
    stop = (3, 7, tops, slack, 40, floors, 5)
    together = walk_together(queries, codes, links, entries, ef, stop)
    for i, query in enumerate(queries):
        assert together[i] == run_walk(query, codes, links, entries, ef, stops[i])


@laws
@given(seeds, st.integers(0, 40), st.sampled_from([1, 8, 60]), st.sampled_from([8, 97]))
def test_refine__equals_sorted_sums(seed, found, keep, dim):
    tails, query = drawn_codes(seed, 50, dim, 3), drawn_codes(seed + 1, 1, dim)[0]
    rng = np.random.default_rng(seed)
    nodes = rng.choice(50, found, replace=False)
    scores = -np.sort(-rng.integers(-300, 300, found))
    pairs = [(int(a), int(b)) for a, b in zip(scores, nodes, strict=True)]
    pool = np.full(found + 9, CANARY, np.int64)
    keys = [(score << o.NODE_BITS) | (node << 1) | node % 2 for score, node in pairs]
    pool[1 : found + 1] = keys
    left = refine(
        query, c.code_offset(query), frozen(tails), pool, found, keep, spare(), spare()
    )
    assert unpacked(pool[1:], left) == naive.refine(query, tails, pairs, keep)
    assert (pool[found + 1 :] == CANARY).all()
    assert pool[0] == CANARY


@laws
@given(seeds, st.sampled_from([0.0, 0.1, 0.5, 1.0]), st.integers(1, 30))
def test_scans_and_keep_passing__equal_the_scan_of_what_passes(seed, share, limit):
    n, dim = size(200, 40), 31
    codes, query = drawn_codes(seed, n, dim), drawn_codes(seed + 1, 1, dim)[0]
    passing = np.uint8(np.random.default_rng(seed).random(n) < share)
    offset, listed = c.code_offset(query), np.flatnonzero(passing).astype(np.int32)
    whole = [
        (score, int(listed[at]))
        for score, at in naive.scan_codes(query, codes[listed], limit)
    ]
    pool = np.empty(n + o.ROOM, np.int64)
    count = sweep.scan(query, offset, frozen(codes), NO_FLAGS, n, LOWEST, pool, spare())
    count = o.keep_passing(pool, count, passing, limit)
    assert_same_scores(unpacked(pool[1:], count), whole, query, codes)
    for floor in (LOWEST, np.int64(0)):
        expected = [pair for pair in whole if pair[0] >= floor]
        if share > 0:  # no flags at all mean that everything passes
            count = sweep.scan(
                query, offset, frozen(codes), passing, limit, floor, pool, spare()
            )
            assert_same_scores(unpacked(pool[1:], count), expected, query, codes)
        count = sweep.scan_listed(
            query, offset, frozen(codes), listed, limit, floor, pool, spare(), spare()
        )
        assert_same_scores(unpacked(pool[1:], count), expected, query, codes)


@laws
@given(seeds, st.sampled_from([8, 97]), st.integers(0, 40))
def test_walk__as_long_as_the_graph_equals_the_scan(seed, dim, more):
    n = size(200, 40)
    codes, query = drawn_codes(seed, n, dim), drawn_codes(seed + 1, 1, dim)[0]
    links = drawn_links(seed, n, 5, connected=True)
    found, scored = run_walk(query, codes, links, np.int32([0, 7]), n + more)
    pool = np.empty(n + o.ROOM, np.int64)
    count = sweep.scan(
        query, c.code_offset(query), frozen(codes), NO_FLAGS, n, LOWEST, pool, spare()
    )
    assert found == unpacked(pool[1:], count)
    assert scored == n - 1


@pytest.mark.parametrize("link", [-1, -7, -(2**31), 50, 51, 2**31 - 1])
def test_walk__never_reads_what_is_not_a_node(link):
    n = 50
    # Codes beyond the map would win: a walk that reads them shows it.
    around = np.full((3 * n, 64), 127, np.int8)
    around[n : 2 * n] = drawn_codes(0, n, 8)
    codes, query = around[n : 2 * n], np.full(64, 127, np.int8)
    links = np.full((n, 4), link, np.int32)
    found, scored = run_walk(query, codes, links, np.int32([3]), 20)
    assert found == [(naive.code_score(query, codes[3]), 3)]
    assert scored == 0
    links[:, 0], links[:, 2] = (np.arange(n) + 1) % n, (np.arange(n) + 2) % n
    found, scored = run_walk(query, codes, links, np.int32([3]), 20)
    best, best_scored = naive.walk(query, codes, links, [3], 20)
    assert (found, scored) == (best, best_scored)


def test_next_epoch__is_new_to_every_node_even_when_it_wraps():
    visited = np.zeros(301, np.uint8)
    for i in range(600):
        epoch = retrieve.next_epoch(visited)
        assert epoch == visited[-1] != 0
        assert epoch not in visited[:-1]
        if i < 300:  # a node that is not seen again keeps its old epoch
            visited[i] = epoch


# ---- reachability


@laws
@given(seeds, st.integers(1, 4))
def test_unreachable__equals_a_breadth_first_search(seed, degree):
    n = size(80, 30)
    links = drawn_links(seed, n, degree, connected=False)
    rng = np.random.default_rng(seed)
    entries = rng.choice(n, 3).astype(np.int32)  # one may come twice
    lost = unreachable(links, entries)
    assert set(lost.tolist()) == set(range(n)) - naive.reachable(links, entries)


@laws
@given(seeds, st.integers(1, 5), st.integers(1, 5))
def test_joined__equals_naive(seed, degree, other):
    n = size(80, 30)
    first = drawn_links(seed, n, degree, connected=False)
    second = drawn_links(seed + 1, n, other, connected=False)
    for links in (first, second):  # a list has each end once
        for node in range(n):
            ends = list(dict.fromkeys(links[node][links[node] >= 0].tolist()))
            links[node] = ends + [-1] * (links.shape[1] - len(ends))
    levels = np.arange(n, dtype=np.int32)
    both = joined(Links(first, levels), Links(second, levels[::-1]))
    assert both.neighbours.shape == (n, degree + other)
    assert both.neighbours.dtype == np.int32
    np.testing.assert_array_equal(both.levels, levels)
    expected = naive.join(first.tolist(), second.tolist())
    for found, ends in zip(both.neighbours.tolist(), expected, strict=True):
        assert found == ends + [-1] * (len(found) - len(ends))


@pytest.mark.parametrize("dim", [3, 64, 97])
def test_directions__are_of_one_length(dim):
    codes = drawn_codes(dim, 200, dim)
    codes[::2] //= 3
    codes[7] = 0
    found = directions(codes)
    rows = np.delete(codes, 7, axis=0).astype(float)
    ours = np.delete(found, 7, axis=0).astype(float)
    lengths = np.linalg.norm(ours, axis=1)
    cosines = (rows * ours).sum(axis=1) / lengths / np.linalg.norm(rows, axis=1)
    assert (found[7] == 0).all()
    assert cosines.min() > 0.99
    assert np.quantile(lengths, 0.05) > 0.9 * lengths.max()


def test_are_uneven__tells_unit_rows_from_others():
    rng = np.random.default_rng(0)
    even = np.float32(1 + 1e-3 * rng.standard_normal((500, 1)))
    assert not are_uneven(even)
    assert not are_uneven(even[:0])
    assert are_uneven(np.float32(rng.lognormal(0, 0.3, (500, 1))))


@laws
@given(seeds, st.integers(1, 3), st.integers(1, 12))
def test_rooted__keeps_the_entries_that_lead_to_the_first(seed, degree, count):
    n = size(80, 30)
    links = drawn_links(seed, n, degree, connected=False)
    rng = np.random.default_rng(seed)
    entries = rng.choice(n, count, replace=False).astype(np.int32)
    kept = rooted(links, entries).tolist()
    leading = {
        root: {e for e in entries.tolist() if root in naive.reachable(links, [e])}
        for root in entries.tolist()
    }
    assert len(kept) == len(set(kept))
    assert set(kept) == leading[kept[0]]
    most = max(len(leading[root]) for root in entries[:8].tolist())
    assert 2 * len(kept) >= count or len(kept) == most


@laws
@given(seeds, st.integers(2, 5))
def test_link_unreachable__returns_exactly_what_is_still_lost(seed, degree):
    n = size(80, 30)
    links = drawn_links(seed, n, degree, connected=False)
    before, entry = links.copy(), int(seed % n)
    lost_before = set(range(n)) - naive.reachable(links, [entry])
    lost = link_unreachable(links, entry)
    assert set(lost.tolist()) == set(range(n)) - naive.reachable(links, [entry])
    assert len(lost) <= len(lost_before)
    assert links.min() >= -1
    assert links.max() < n
    ended = np.diff((links < 0).astype(int), axis=1)
    assert (ended >= 0).all(), "a list goes on after its end"
    if not lost_before:
        np.testing.assert_array_equal(links, before)


def test_link_unreachable__leaves_none_where_lists_have_room():
    n = size(200, 40)
    links = np.full((n, 4), -1, np.int32)
    links[:, 0] = np.maximum(np.arange(n) - 1, 0)  # all lead down to 0, nothing up
    assert len(naive.reachable(links, [0])) == 1
    for _ in range(n):  # a chain is mended by a few links a time
        if not len(link_unreachable(links, 0)):
            break
    assert naive.reachable(links, [0]) == set(range(n))


@pytest.mark.parametrize("upper", [0, 20, 3000])
def test_choose_entries__are_a_few_distinct_nodes(upper):
    n = 5000
    levels = np.zeros(n, np.int32)
    levels[np.random.default_rng(0).choice(n, upper, replace=False)] = 1
    levels[levels.argmax()] = 4 if upper else 0
    links = Links(np.empty((n, 0), np.int32), levels)
    entries = choose_entries(links)
    assert len(entries) == ENTRIES
    assert len(set(entries.tolist())) == len(entries)
    assert entries.dtype == np.int32
    assert entries.min() >= 0
    assert entries.max() < n
    high = np.flatnonzero(levels)
    within, without = (high, entries) if upper <= ENTRIES else (entries, high)
    assert set(within) <= set(without)
    assert upper == 0 or levels.argmax() in entries
    assert np.ptp(entries) > n / 2


def test_choose_entries__are_all_nodes_of_a_small_graph():
    links = Links(np.empty((7, 0), np.int32), np.zeros(7, np.int32))
    assert choose_entries(links).tolist() == list(range(7))


# ---- growing a graph


@laws
@given(seeds, st.sampled_from([8, 97]), st.integers(1, 70), st.sampled_from([1, 3]))
def test_grow_graph__equals_the_naive_one(seed, dim, n, threads):
    codes = drawn_codes(seed, n, dim)
    drawn = np.random.default_rng(seed).permutation(n)
    told = []
    graph = grow_graph(
        frozen(codes), M=3, ef_construction=9, seed=seed, threads=threads,
        advance=told.append,
    )  # fmt: skip
    expected = naive.grow(codes, 3, 9, drawn, list(batches(n)), ENTRIES)
    found = [[int(end) for end in ends if end >= 0] for ends in graph.neighbours]
    assert found == expected
    assert sum(told) == n
    assert np.flatnonzero(graph.levels).tolist() == sorted(drawn[:ENTRIES].tolist())


def test_grow_graph__does_not_depend_on_threads():
    codes = frozen(drawn_codes(0, size(3000, 100), 64))
    one, two = (
        grow_graph(
            codes, M=8, ef_construction=40, seed=1, threads=threads,
            advance=lambda _: None,
        )
        for threads in (1, 2)
    )  # fmt: skip
    np.testing.assert_array_equal(one.neighbours, two.neighbours)


def test_batches__grow_with_the_graph_and_stay_small():
    edges = list(batches(50_000))
    assert edges[0] == (1, 2)
    assert edges[-1][1] == 50_000
    for (_, stop), (start, _) in itertools.pairwise(edges):
        assert stop == start
    for start, stop in edges:
        assert stop - start <= max(1, min(start // 16, 250))
    assert list(batches(1)) == []


# ---- the funnel


PAIRS = ((50, 2), (40, 0), (-3, 3), (-9, 1))  # (score, node), best first
SHARED = (ints(0, 1, 3, 7, 8), ints(70, 10, 11, 20, 21, 22, 23, 30))
FIRST = 1000  # row of the segment that is expanded


def expanded(starts, owned, loose, k, room, n=100, hidden=()):
    """Run `expand` over `PAIRS`; return rows and scores."""
    best = ints(*[(score << o.NODE_BITS) | (node << 1) | 1 for score, node in PAIRS])
    flags = np.ones(n, np.uint8)
    flags[list(hidden)] = 0
    codes, some = np.zeros((4, 64), np.int8), {}
    if hidden:
        some = {"node_flags": np.ones(4, np.uint8), "row_flags": flags}
    part = {"rows": n, "codes": codes, "starts": starts, "owned": owned, "loose": loose}
    segment = Memory((0, 8), {"rows": FIRST}, part | some)
    total = room + len(loose)
    rows, scores = np.full(total + 4, CANARY), np.full(total + 4, CANARY, np.float32)
    errors = scores.copy()
    m = ends.expand(
        best, len(best), segment.table[1], k, room, np.float32(0.5), rows, scores,
        errors, frozen(codes), NO_TAILS, np.float32(0.25), 0,
    )  # fmt: skip
    assert m <= room
    assert (errors[:m] == 0.25).all()
    m = ends.add_loose(segment.table[1], rows, scores, errors, m)
    assert (rows[m:] == CANARY).all()
    assert (scores[m:] == CANARY).all()
    assert (errors[m:] == CANARY).all()
    return (rows[:m] - FIRST).tolist(), (2 * scores[:m]).tolist()


@pytest.mark.parametrize(("k", "room"), [(9, 9), (9, 3), (1, 4), (2, 1)])
def test_expand__gives_each_node_its_row(k, room):
    rows, scores = expanded(NO_INTS, NO_INTS, NO_INTS, k, room)
    assert rows == [2, 0, 3, 1][:room]
    assert scores == [50, 40, -3, -9][:room]


@pytest.mark.parametrize(
    ("k", "room", "expected"),
    [
        (9, 9, [20, 21, 22, 23, 70, 30, 10, 11]),
        (2, 9, [20, 21, 70, 30, 10, 11]),
        (1, 9, [20, 70, 30, 10]),
        (3, 4, [20, 21, 22, 70]),
        (9, 2, [20, 21]),
    ],
)
def test_expand__gives_duplicates_their_nodes_score(k, room, expected):
    rows, scores = expanded(*SHARED, NO_INTS, k, room)
    assert rows == expected
    score = {20: 50, 21: 50, 22: 50, 23: 50, 70: 40, 30: -3, 10: -9, 11: -9}
    assert scores == [score[row] for row in expected]


@pytest.mark.parametrize(
    ("room", "expected"),
    [
        (8, [20, 21, 70, 30, 10, 11, 5, 6, 7]),
        (3, [20, 21, 70, 5, 6, 7]),
        (1, [20, 5, 6, 7]),
        (0, [5, 6, 7]),
    ],
)
def test_expand__always_adds_the_loose_rows(room, expected):
    rows, scores = expanded(*SHARED, ints(5, 6, 7), 2, room)
    assert rows == expected
    assert scores[-3:] == [0, 0, 0]


@pytest.mark.parametrize(
    ("k", "hidden", "expected"),
    [
        (9, [20, 22], [21, 23, 70, 30, 10, 11, 5, 7]),
        (1, [20, 21, 70], [22, 30, 10, 5, 7]),
    ],
)
def test_expand__leaves_out_rows_that_may_not_be_answers(k, hidden, expected):
    rows, _ = expanded(*SHARED, ints(5, 6, 7), k, 9, hidden=[*hidden, 6])
    assert rows == expected


@pytest.mark.parametrize("wrong", [-1, 100, 2**40, -(2**63), 2**63 - 1])
def test_expand__never_gives_what_is_not_a_row(wrong):
    starts, owned = (part.copy() for part in SHARED)
    owned[[1, 4]] = wrong
    rows, _ = expanded(starts, owned, ints(wrong, 6), 9, 9)
    assert rows == [20, 22, 23, 70, 30, 11, 6]


@pytest.mark.parametrize("wrong", [-1, 9, 2**40, -(2**62), 2**63 - 1])
def test_expand__never_reads_beyond_the_nodes_rows(wrong):
    starts, owned = (part.copy() for part in SHARED)
    starts[3] = wrong
    rows, _ = expanded(starts, owned, ints(6), 9, 9)
    assert set(rows) <= {6, *owned.tolist()}
    assert rows[-1] == 6


def norm_table(values, dims):
    """Return the stored prefix norms and the column of each dim."""
    table = frozen(np.float32(naive.prefix_norms(values, dims)))
    return table, {dim: i for i, dim in enumerate(dims)}


def scratch(room):
    """Return candidate arrays: rows, scores, dots, squares, keys, spare."""
    kinds = (np.int64, np.float32, np.float32, np.float32, np.int64, np.bool_)
    return tuple(np.empty(room, kind) for kind in kinds)


def knobs_for(**given_):
    knobs = np.zeros(p.KNOBS, np.int64)
    knobs[p.MAX_BYTES] = knobs[p.MAX_TICKS] = -1
    for name, value in given_.items():
        knobs[getattr(p, name)] = value
    return knobs


@pytest.mark.parametrize("metric", ["cosine", "ip"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("edges", EDGES, ids=str)
@laws
@given(data=st.data(), seed=seeds)
def test_rerank__equals_the_naive_cascade(edges, dtype, metric, data, seed):
    full_dim, n = edges[-1], size(60, 24)
    count = data.draw(st.integers(1, n))
    # From 4 dims on: the cosines of one dim are all ties, those of two nearly.
    middle = data.draw(st.sets(st.integers(4, full_dim - 1), max_size=3))
    dims = [*sorted(middle), full_dim]
    shares = data.draw(st.lists(st.floats(0.2, 1), min_size=4, max_size=4))
    keeps = [max(1, int(count * x)) for x in itertools.accumulate(shares, min)]
    keeps = keeps[: len(dims)]
    with_norms = sorted(data.draw(st.sets(st.sampled_from(dims))) | {full_dim})
    query = np.float32(naive.unit(drawn(seed, full_dim)))
    stored, values = as_stored(2 * drawn(seed + 1, n, full_dim), dtype)
    norms, column = norm_table(values, with_norms)
    candidates, given_ = scratch(count), np.random.default_rng(seed).permutation(n)
    candidates[0][:] = given_[:count]
    trace = np.zeros((1 + len(dims), 4), np.int64)
    plan = ints(*dims), ints(*keeps), ints(*[column.get(d, -1) for d in dims])
    # In two segments: a stage reads rows of both.
    parts = [
        {"blocks": as_blocks(stored[a:b], edges), "norms": norms[a:b]}
        for a, b in ((0, n // 3), (n // 3, n))
    ]
    held = Memory(edges, *parts)
    knobs = knobs_for(BY_NORM=metric == "ip", COLUMNS=norms.shape[1])
    m, done = later.rerank(
        query, held.memory, plan, knobs, candidates, count, (0, 0), trace
    )
    assert done == len(dims)
    stages = list(zip(dims, keeps, strict=True))
    rows, scores = naive.cascade(values, query, given_[:count], stages, metric)
    order = naive.top(candidates[1][:m].tolist(), m)
    assert candidates[0][:m][order].tolist() == rows
    scale = norms.max() if metric == "ip" else 1
    np.testing.assert_allclose(candidates[1][:m][order], scores, atol=CLOSE * scale)
    counts = [count, *keeps]
    widths = np.diff([0, *dims])
    assert trace[1:, p.ROWS_IN].tolist() == counts[:-1]
    assert trace[1:, p.ROWS_KEPT].tolist() == keeps
    assert trace[1:, p.DIMS_READ].tolist() == (counts[:-1] * widths).tolist()
    assert (trace[1:, p.TICKS] > 0).all()
    assert not trace[0].any()


@pytest.mark.parametrize("metric", ["cosine", "ip"])
@laws
@given(seeds, st.sampled_from([4, 16, 40]), st.integers(1, 12), st.booleans())
def test_certify__equals_a_rerank_of_all(metric, seed, width, k, clipped):
    """Bounds hold, and what they spare cannot be an answer."""
    full_dim, n, by_norm = 48, 40, metric == "ip"
    rng = np.random.default_rng(seed)
    energy = 0.8 ** np.arange(full_dim)
    turn = np.linalg.qr(rng.standard_normal((full_dim, full_dim)))[0]
    values = (rng.standard_normal((n, full_dim)) * energy) @ turn
    values *= rng.uniform(0.5, 2, (n, 1))
    query = naive.unit(values[0] + 0.3 * rng.standard_normal(full_dim) * energy)
    stored, values = as_stored(values, "float32")
    axes = turn[:width]
    held = np.linalg.norm(values @ axes.T, axis=1)
    norms = np.float32(np.stack([held, np.linalg.norm(values, axis=1)], axis=1))
    short = (values @ axes.T) / (held if not by_norm else held / norms[:, 1])[:, None]
    unit_of = np.abs(short).max() / (100 if clipped else 127)
    codes = np.clip(np.rint(short / unit_of), -127, 127)
    some = np.abs(codes).max(axis=1) == 127
    projected = np.float32(axes @ query)
    step = np.abs(projected).max() / 127
    coded = np.rint(projected / step) * step / np.linalg.norm(projected)
    order = np.argsort(-(codes @ coded), kind="stable")
    candidates = scratch(n)
    candidates[0][:], candidates[1][:] = order, (unit_of * codes @ coded)[order]
    error = np.float32(np.sqrt(width) / 2 * unit_of)
    candidates[3][:] = np.where(some[order], np.float32(np.inf), error)
    memory = Memory((0, full_dim), {"blocks": [stored], "norms": norms}).memory
    q, bounds = np.float32(query), np.empty(n, np.float32)
    certify.bound_scores(projected, memory[0], (2, 0), by_norm, candidates, n, bounds)
    true = values @ query / (1 if by_norm else norms[:, 1])
    assert (bounds >= true[order]).all()
    for at in np.flatnonzero(~some[order]):
        length = norms[order[at], 1] if by_norm else 1
        room = error / length + (1 + error / length) * certify.query_error(
            projected, float(np.linalg.norm(projected))
        )
        most = naive.highest_score(values[order[at]], query, axes, 2 * room, by_norm)
        assert bounds[at] <= most + 2e-3 * length
    done = certify.certify(q, projected, memory, (2, 0), by_norm, candidates, n, k)
    best = np.sort(candidates[1][:done])[::-1][:k]
    np.testing.assert_allclose(best, np.sort(true)[::-1][:k], atol=1e-5 * norms.max())
    assert min(n, k) <= done <= n


def test_code_error__of_a_clipped_code_is_not_bounded():
    code = np.int8([3, -126, 126, 0])
    assert certify.code_error(code, np.float32(0.5)) == np.float32(0.5)
    for clipped in (127, -127):
        code[2] = clipped
        assert np.isinf(certify.code_error(code, np.float32(0.5)))


NO_TAILS = np.empty((0, 0), np.int8)


def corpus_of(seed, n, edges, code_dim, dtype="float32"):
    """Return a small corpus, its stored form, and the kernel's view of its codes."""
    stored, values = as_stored(drawn(seed, n, edges[-1]), dtype)
    codes = np.zeros((n, 64), np.int8)
    for code, row in zip(codes, values, strict=True):
        code[:code_dim] = np.rint(naive.unit(row[:code_dim]) * 127)
    return stored, values, codes


def coded(axes):
    """Return axes as `search_many` takes them."""
    return frozen(axes), *rows_as_tiles(axes)


@dataclasses.dataclass(frozen=True)
class Corpus:
    """A small corpus as the kernels see it; node i is row i."""

    values: np.ndarray  # (n, d) float64, as stored
    codes: np.ndarray
    blocks: tuple
    edges: tuple
    norms: np.ndarray
    column: dict  # of a dim's norms
    code_dim: int
    loose: np.ndarray = dataclasses.field(default_factory=ints)
    tails: np.ndarray = dataclasses.field(default_factory=lambda: NO_TAILS)

    def memory(self, links, entries, cuts=(), listed=True, passing=None):
        """Return the corpus as segments that begin at 0 and at `cuts`."""
        parts, n = [], len(self.values)
        for a, b in itertools.pairwise([0, *cuts, n]):
            own = links[a:b] - np.int32(a)
            own[(links[a:b] < a) | (links[a:b] >= b)] = -1  # the end of a list
            if cuts and links.shape[1]:  # a ring, so that all can be reached
                own[:, 0] = (np.arange(b - a) + 1) % (b - a)
            part = {
                "blocks": [block[a:b] for block in self.blocks],
                "norms": self.norms[a:b], "codes": self.codes[a:b], "links": own,
                "entries": np.int32([e - a for e in entries if a <= e < b] or [0]),
                "loose": self.loose, "tails": self.tails[a:b],
            }  # fmt: skip
            if passing is not None:
                flags = np.uint8(passing[a:b])
                part |= {"node_flags": flags, "row_flags": flags}
                if listed:
                    part["listed"] = np.flatnonzero(flags).astype(np.int32)
            parts.append(part)
        return Memory(self.edges, *parts)

    def search(self, queries, links, stages, k, *, metric="cosine", axes=None,
               entries=(0,), shortlist=None, ef=None, walks=2, **layout):  # fmt: skip
        """Run the kernel; return rows, scores and the trace."""
        n, count = len(self.values), len(queries)
        plan = [(dim, keep, self.column.get(dim, -1)) for dim, keep in stages]
        limit = shortlist or n
        knobs = knobs_for(
            EF=ef or limit, SHORTLIST=limit, CUT=limit, K=k, WIDTH=self.code_dim,
            BY_NORM=metric == "ip", CODE_BYTES=64, COLUMNS=self.norms.shape[1],
            RANK=ef or limit,  # later segments are walked to their end too
            FEWEST=k, TAIL_BYTES=self.tails.shape[1],
        )  # fmt: skip
        rows, scores = np.zeros((count, k), np.int64), np.zeros((count, k), np.float32)
        trace = np.zeros((1 + len(stages), 4), np.int64)
        held = self.memory(links, entries, **layout)
        f.search_many(
            queries,
            coded(np.empty((0, 0), np.float32) if axes is None else axes),
            held.memory,
            tuple(np.array(plan, np.int64).reshape(-1, 3).T.copy()),
            knobs,
            np.array([-1.0, *[1 / 127] * len(held.table)]),
            np.zeros((walks, n + 1), np.uint8),
            (rows, scores, trace),
        )
        return rows, scores, trace


def made_corpus(seed, n, edges, code_dim, axes=None, dtype="float32"):
    stored, values = as_stored(drawn(seed, n, edges[-1]), dtype)
    codes = np.zeros((n, 128 if code_dim > 64 else 64), np.int8)
    short = values if axes is None else values @ np.asarray(axes, np.float64).T
    for code, row in zip(codes, short, strict=True):
        code[:code_dim] = np.rint(naive.unit(row[:code_dim]) * 127)
    norms, column = norm_table(values, (31, edges[-1]))
    heads, tails = codes[:, :64].copy(), codes[:, 64:].copy()
    blocks = as_blocks(stored, edges)
    return Corpus(values, heads, blocks, edges, norms, column, code_dim, tails=tails)


def no_links(n):
    return np.empty((n, 0), np.int32)


TURNED = np.linalg.qr(drawn(9, 128, 100).astype(np.float64))[0].T.astype(np.float32)


@pytest.mark.parametrize("metric", ["cosine", "ip"])
@pytest.mark.parametrize("axes", [None, TURNED], ids=["prefix", "axes"])
@pytest.mark.parametrize("walked", [False, True], ids=["scan", "walk"])
@pytest.mark.parametrize("code_dim", [31, 97], ids=["whole", "tails"])
def test_search_many__with_a_full_shortlist_equals_the_naive_cascade(
    code_dim, walked, axes, metric
):
    n, count, k = size(150, 50), size(11, 6), 5
    corpus = made_corpus(0, n, (0, 31, 128), code_dim, axes)
    links = drawn_links(1, n, 6, connected=True) if walked else no_links(n)
    stages = [(50, n // 2), (97, n // 4), (128, k)]
    queries = 3 * drawn(2, count, 128)
    rows, scores, trace = corpus.search(
        queries, links, stages, k, metric=metric, axes=axes
    )
    scale = 1
    if metric == "ip":
        scale = naive.lengths_of(corpus.values).max() * naive.lengths_of(queries).max()
    for i in range(count):
        best, wanted = naive.cascade(
            corpus.values, queries[i], range(n), stages, metric
        )
        assert rows[i].tolist() == best
        np.testing.assert_allclose(scores[i], wanted, atol=CLOSE * scale)
    assert trace[:, p.ROWS_IN].tolist() == [count * m for m in (n, n, n // 2, n // 4)]
    assert trace[:, p.ROWS_KEPT].tolist() == [count * m for m in (n, n // 2, n // 4, k)]
    assert trace[0, p.DIMS_READ] == count * n * code_dim


@pytest.mark.parametrize("metric", ["cosine", "ip"])
@pytest.mark.parametrize("cuts", [(), (40,), (10, 70)], ids=str)
@pytest.mark.parametrize("walked", [False, True], ids=["scan", "walk"])
@pytest.mark.parametrize("listed", [False, True], ids=["flags", "listed"])
@pytest.mark.parametrize("share", [0.05, 0.5, 1])
def test_search_many__over_segments_and_what_passes_equals_the_naive_cascade(
    share, listed, walked, cuts, metric
):
    n, count, k = size(150, 75), size(7, 3), 5
    corpus = made_corpus(0, n, (0, 31, 128), 31)
    links = drawn_links(1, n, 6, connected=True) if walked else no_links(n)
    stages, queries = [(50, n // 2), (97, n // 4), (128, k)], 3 * drawn(2, count, 128)
    passing = np.random.default_rng(3).random(n) < share
    rows, scores, _ = corpus.search(
        queries, links, stages, k, metric=metric, cuts=cuts, listed=listed,
        passing=passing, entries=range(n),
    )  # fmt: skip
    for i in range(count):
        best, wanted = naive.cascade(
            corpus.values, queries[i], np.flatnonzero(passing).tolist(), stages, metric
        )
        assert rows[i][: len(best)].tolist() == best
        assert (rows[i][len(best) :] == -1).all()
        scale = naive.lengths_of(corpus.values).max() if metric == "ip" else 1
        scale *= naive.norm(queries[i]) if metric == "ip" else 1
        np.testing.assert_allclose(scores[i][: len(best)], wanted, atol=CLOSE * scale)


@pytest.mark.parametrize("axes", [None, TURNED], ids=["prefix", "axes"])
@pytest.mark.parametrize("code_dim", [31, 97], ids=["whole", "tails"])
@pytest.mark.parametrize("walks", [1, 2, 3, 9])
def test_search_many__a_batch_equals_its_single_queries(walks, code_dim, axes):
    n = size(150, 50)
    corpus = made_corpus(3, n, (0, 31, 128), code_dim, axes)
    links, stages = drawn_links(4, n, 6, connected=True), [(64, 12), (128, 7)]
    queries = drawn(5, 11, 128)
    given_ = {"axes": axes, "shortlist": 25}
    rows, scores, trace = corpus.search(
        queries, links, stages, 7, walks=walks, **given_
    )
    alone = [
        corpus.search(queries[i : i + 1], links, stages, 7, **given_) for i in range(11)
    ]
    assert rows.tolist() == [part[0][0].tolist() for part in alone]
    assert scores.tobytes() == np.concatenate([part[1] for part in alone]).tobytes()
    summed = sum(part[2] for part in alone)[:, : p.TICKS]
    assert trace[:, : p.TICKS].tolist() == summed.tolist()


@pytest.mark.parametrize("axes", [None, TURNED], ids=["prefix", "axes"])
@pytest.mark.parametrize("code_dim", [31, 97], ids=["whole", "tails"])
def test_search_many__without_stages_scores_by_codes(code_dim, axes):
    n, k = 20, 6
    corpus = made_corpus(6, n, (0, 31, 128), code_dim, axes)
    queries = drawn(7, 5, 128)
    rows, scores, _ = corpus.search(queries, no_links(n), [], k, axes=axes)
    for i, query in enumerate(queries):
        short = query if axes is None else axes.astype(np.float64) @ query
        code = np.zeros(64 + corpus.tails.shape[1], np.int8)
        code[:code_dim] = naive.quantise(naive.unit(short[:code_dim]))[0]
        whole = np.concatenate([corpus.codes, corpus.tails], axis=1)
        by_code = [naive.code_score(code, one) for one in whole]
        kth = sorted(by_code, reverse=True)[k - 1]
        # Axes are int8 for a query: its code may be a step off.
        assert len(set(rows[i].tolist())) == k
        assert min(by_code[row] for row in rows[i]) >= kth - 0.01 * max(by_code)
        if axes is None:
            oracle = naive.prefix_cosines(corpus.values, query, code_dim)
        else:
            held = axes[:code_dim].T
            oracle = naive.axis_scores(corpus.values, query, held, "cosine")
        np.testing.assert_allclose(scores[i], oracle[rows[i]], atol=0.02)


def test_search_many__scans_where_fewer_nodes_are_linked_than_asked():
    corpus = made_corpus(8, 12, (0, 31, 128), 31)
    links, query = np.full((12, 2), -1, np.int32), drawn(9, 1, 128)
    links[4, 0] = 9
    rows, _, _ = corpus.search(query, links, [], 2, entries=[4])
    assert sorted(rows[0]) == [4, 9]
    code = np.zeros(64, np.int8)
    code[:31] = naive.quantise(naive.unit(query[0][:31]))[0]
    best = [node for _, node in naive.scan_codes(code, corpus.codes, 4)]
    rows, _, _ = corpus.search(query, links, [], 4, entries=[4])
    assert rows[0].tolist() == best


def test_search_many__a_longer_walk_hands_on_the_shortlist_only():
    n = size(150, 50)
    corpus = made_corpus(10, n, (0, 31, 128), 31)
    links, queries = drawn_links(11, n, 6, connected=True), drawn(12, 3, 128)
    stages = [(128, 5)]
    for ef in (20, 30, n):
        rows, scores, trace = corpus.search(
            queries, links, stages, 5, shortlist=20, ef=ef
        )
        assert trace[0, p.ROWS_KEPT] == trace[1, p.ROWS_IN] == 3 * 20
    # As long as the graph, the walk finds the best 20 codes.
    for i, query in enumerate(queries):
        code = np.zeros(64, np.int8)
        code[:31] = naive.quantise(naive.unit(query[:31]))[0]
        near = [node for _, node in naive.scan_codes(code, corpus.codes, 20)]
        best, wanted = naive.cascade(corpus.values, query, near, stages, "cosine")
        assert rows[i].tolist() == best
        np.testing.assert_allclose(scores[i], wanted, atol=CLOSE)


@pytest.mark.parametrize("metric", ["cosine", "ip"])
def test_search_many__ranks_loose_rows_beside_the_shortlist(metric):
    n, stages = 40, [(50, 20), (128, 6)]
    corpus = made_corpus(13, n, (0, 31, 128), 31)
    queries = drawn(14, 5, 128)
    # Rows 0 to 29 have nodes; the others are loose.
    seen = dataclasses.replace(
        corpus, codes=corpus.codes[:30], loose=ints(*range(30, n))
    )
    rows, _, trace = seen.search(
        queries, no_links(30), stages, 6, metric=metric, shortlist=30
    )
    for i, query in enumerate(queries):
        best, _ = naive.cascade(corpus.values, query, range(n), stages, metric)
        assert rows[i].tolist() == best
    assert trace[:, p.ROWS_IN].tolist() == [5 * 30, 5 * n, 5 * 20]
    assert trace[:, p.ROWS_KEPT].tolist() == [5 * 30, 5 * 20, 5 * 6]


@pytest.mark.parametrize("metric", ["cosine", "ip"])
@pytest.mark.parametrize("axes", [None, TURNED], ids=["prefix", "axes"])
def test_search_many__says_which_queries_no_code_can_rank_for(axes, metric):
    corpus = made_corpus(8, 12, (0, 31, 128), 31, axes)
    queries = drawn(15, 3, 128)
    # The second query has no coordinates that codes hold.
    if axes is None:
        queries[1, :31] = 0
    else:
        held = axes[:31].astype(np.float64)
        queries[1] -= held.T @ (held @ queries[1])
    rows, _, _ = corpus.search(
        queries, no_links(12), [(50, 6), (128, 4)], 4, metric=metric, axes=axes
    )
    assert (rows[[0, 2]] >= 0).all()
    assert rows[1].tolist() == [p.BLIND, -1, -1, -1]
    rows, scores, _ = corpus.search(
        0 * queries, no_links(12), [], 4, metric=metric, axes=axes
    )
    assert not scores.any()
    assert all(len(set(found)) == 4 for found in rows.tolist())
