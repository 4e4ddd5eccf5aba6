"""Graphs of the nearest by cells: each step against its naive twin."""

from __future__ import annotations

import errno
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import naive
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_kernels import drawn_codes, frozen, laws, seeds, size

from funnel.graph import cells as c
from funnel.graph import knit as k
from funnel.graph import spill
from funnel.graph.adjacency import ENTRIES, choose_entries, link_unreachable, rooted
from funnel.kernels import cells as near
from funnel.kernels import choose
from funnel.kernels import tiles as t
from funnel.kernels.codes import code_offset
from funnel.kernels.jit import kernel
from funnel.kernels.lanes import SHIFT

LOWEST = -(1 << 31)
HERE = Path(tempfile.gettempdir())  # few tiles: nothing is put there


@kernel
def scored(group, queries, who, first, bounds, tiles, tile, scores, width, at, stride):
    if group == 4:
        return t.score_four(
            queries, who, first, bounds, tiles, tile, scores, width, at, stride
        )
    if group == 2:
        return t.score_two(
            queries, who, first, bounds, tiles, tile, scores, width, at, stride
        )
    return t.score_one(
        queries, who, first, bounds, tiles, tile, scores, width, at, stride
    )


@kernel
def looked_at(scores, bound):
    """Return what the looks at all scores find, and the lowest bit that is set."""
    bits = t.bits_from(scores, 0, bound)
    lowest = t.lowest_bit(bits) if bits != 0 else -1
    return t.count_from(scores, bound), t.greatest(scores), bits, lowest


def parted(codes, seed=0, threads=1):
    with ThreadPoolExecutor(threads) as pool:
        return c.part(frozen(codes), seed=seed, pool=pool, folder=HERE)


def rows_of(tiles, width):
    """Return the codes that tiles hold, in the order of their places."""
    laid = tiles.reshape(-1, width // 4, 16, 4).transpose(0, 2, 1, 3)
    return (laid.reshape(-1, width).astype(int) - SHIFT).astype(np.int8)


def cell_of_nodes(found, n):
    """Return the cell of each node, by the places of the tiles."""
    cells = np.full(n, -1)
    for cell in range(len(found.starts) - 1):
        places = found.members[16 * found.starts[cell] : 16 * found.starts[cell + 1]]
        cells[places[places >= 0]] = cell
    return cells


def naive_cells(codes, seed):
    """Return codes and cells as the naive twin takes them."""
    found = parted(codes, seed)
    centres = rows_of(found.centres, codes.shape[1])
    return codes, centres, cell_of_nodes(found, len(codes)), found.middles.tolist()


@laws
@given(seeds, st.sampled_from([1, 64, 97]), st.sampled_from([1, 2, 4]))
def test_tiles__are_scored_as_plain_products(seed, dim, group):
    rng = np.random.default_rng(seed)
    codes, queries = drawn_codes(seed, 40, dim), drawn_codes(seed + 1, 9, dim)
    codes[:8], codes[8:12], queries[:2], queries[2] = 127, -127, -127, 127
    members = rng.permutation(48).astype(np.int32) - 8  # eight places of none
    tiles = np.empty((3, 16 * codes.shape[1]), np.uint8)
    t.lay_tiles(frozen(codes), frozen(np.maximum(members, -1)), tiles)
    who = rng.integers(0, 9, 7).astype(np.int32)
    bounds = rng.integers(-20_000, 20_000, 9).astype(np.int32)
    scores, width = np.full(300, 7, np.int32), codes.shape[1]
    mask = scored(group, queries, who, 2, bounds, tiles, 1, scores, width, 5, 30)
    shifted = [naive.code_score(q, np.full(width, SHIFT)) for q in queries.astype(int)]
    for i, query in enumerate(who[2 : 2 + group]):
        for lane, node in enumerate(members[16:32]):
            found = scores[5 + 30 * i + lane]
            expected = naive.code_score(queries[query], codes[node]) + shifted[query]
            assert found == (expected if node >= 0 else 0)
            assert (int(mask) >> (16 * i + lane)) & 1 == int(found >= bounds[query])
    assert (scores[:5] == 7).all()
    assert (scores[5 + 30 * group :] == 7).all()


def test_lay_out__gives_the_same_tiles_from_a_file(tmp_path, monkeypatch):
    codes = frozen(drawn_codes(0, size(3000, 50), 64))
    members = np.random.default_rng(0).permutation(len(codes) + 8).astype(np.int32) - 8
    members = np.concatenate([members, np.full(-len(members) % 16, -1, np.int32)])
    held = spill.lay_out(codes, members, tmp_path)
    monkeypatch.setattr(spill, "IN_MEMORY_BYTES", 0)
    monkeypatch.setattr(spill, "PIECE", 7)
    spilled = spill.lay_out(codes, members, tmp_path)
    np.testing.assert_array_equal(spilled, held)
    assert not held.flags.writeable
    assert not spilled.flags.writeable
    assert not list(tmp_path.iterdir())


def test_lay_out__says_that_the_disk_is_full(tmp_path, monkeypatch):
    class Full:
        def __init__(self, **_):
            self.closed = False

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.closed = True

        def write(self, _):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(spill, "IN_MEMORY_BYTES", 0)
    monkeypatch.setattr(spill.tempfile, "TemporaryFile", Full)
    codes = frozen(drawn_codes(0, 16, 8))
    with pytest.raises(OSError, match="No space"):
        spill.lay_out(codes, np.arange(16, dtype=np.int32), tmp_path)


def test_knit_graph__is_the_same_by_tiles_in_a_file(tmp_path, monkeypatch):
    codes = frozen(drawn_codes(0, size(3000, 50), 64))
    given = {"M": 8, "ef_construction": 40, "seed": 1, "threads": 2}
    given |= {"folder": tmp_path, "advance": lambda _: None}
    held = k.knit_graph(codes, **given)
    monkeypatch.setattr(spill, "IN_MEMORY_BYTES", 0)
    spilled = k.knit_graph(codes, **given)
    np.testing.assert_array_equal(spilled.neighbours, held.neighbours)
    assert not list(tmp_path.iterdir())


@laws
@given(seeds, st.integers(1, 4), st.sampled_from([0, 2, 3000]))
def test_threshold__is_reached_by_as_many_as_are_wanted(seed, lines, spread):
    rng = np.random.default_rng(seed)
    scores = rng.integers(-spread - 1, spread + 1, 16 * lines).astype(np.int32)
    scores[rng.random(len(scores)) < 0.2] = LOWEST
    bound = np.int32(rng.integers(-spread - 1, spread + 1))
    count, greatest, mask, lowest = looked_at(scores, bound)
    assert count == (scores >= bound).sum()
    assert greatest == scores.max()
    bits = [i for i in range(16) if (int(mask) >> i) & 1]
    assert bits == np.flatnonzero(scores[:16] >= bound).tolist()
    assert lowest == (bits[0] if bits else -1)
    least = int(rng.integers(1, len(scores) + 1))
    most = int(rng.integers(least, len(scores) + 1))
    low = choose.threshold(scores, least, most)
    reached = int((scores >= low).sum())
    assert reached >= least
    assert reached <= most or (scores >= low + 1).sum() < least


@laws
@given(seeds, st.integers(1, 3), st.integers(1, 60), st.sampled_from([1, 5, 4000]))
def test_choose_cells__takes_the_best(seed, lines, first, spread):
    rng = np.random.default_rng(seed)
    scores = rng.integers(-spread, spread + 1, 16 * lines).astype(np.int32)
    wanted = int(rng.integers(1, len(scores) + 1))
    out, found = np.full(wanted + 1, -7, np.int32), np.empty(wanted + 16, np.int32)
    few = choose.choose_cells(scores, wanted, first, out, found)
    order = np.argsort(-scores.astype(int), kind="stable")
    assert sorted(out[:wanted].tolist()) == sorted(order[:wanted].tolist())
    assert out[wanted] == -7
    assert 1 <= few <= wanted
    if few < wanted:
        assert scores[out[:few]].min() >= scores[out[few:wanted]].max()


@laws
@given(seeds, st.integers(0, 90), st.integers(1, 40), st.sampled_from([0, 3, 4000]))
def test_settle__keeps_the_best(seed, count, limit, spread):
    rng = np.random.default_rng(seed)
    scores = np.full(96, 9, np.int32)
    scores[:count] = rng.integers(-spread, spread + 1, count)
    nodes = rng.permutation(96).astype(np.int32)
    pairs = list(zip(scores[:count].tolist(), nodes[:count].tolist(), strict=True))
    best = sorted(pairs, reverse=True)[:limit]
    kept, bound = near.settle(scores, nodes, count, limit)
    left = list(zip(scores[:kept].tolist(), nodes[:kept].tolist(), strict=True))
    assert set(best) <= set(left) <= set(pairs)
    assert len(set(left)) == kept <= max(limit + 16, 0)
    assert bound == LOWEST or sum(pair[0] >= bound for pair in pairs) >= limit


@laws
@given(
    seeds,
    st.sampled_from([(1, 97), (127, 8), (2, 3)]),
    st.integers(1, 9),
    st.integers(1, 30),
    st.integers(1, 20),
)
def test_probe__holds_the_nearest_of_the_best_cells(seed, drawn, b, limit, wanted):
    top, dim = drawn
    n = size(300, 60)
    codes, queries = drawn_codes(seed, n, dim, top), drawn_codes(seed + 1, b, dim, top)
    found = parted(codes, seed)
    held = (
        np.empty((b, near.room(limit)), np.int32),
        np.empty((b, near.room(limit)), np.int32),
        np.zeros(b, np.int64),
        np.random.default_rng(seed).integers(0, 2**31, b).astype(np.int32),
    )
    arrays = found.centres, found.starts, found.tiles, found.members
    probed = near.probe(queries, arrays, n, wanted, limit, held)
    cells, centres = cell_of_nodes(found, n), rows_of(found.centres, codes.shape[1])
    for i, query in enumerate(queries):
        offset, count, salt = int(code_offset(query)), held[2][i], int(held[3][i])
        best, chosen = naive.nearest_by_cells(
            query, codes, centres, cells, wanted, limit, salt
        )
        scores = (held[0][i, :count] + offset).tolist()
        pairs = list(zip(scores, held[1][i, :count].tolist(), strict=True))
        first = sorted(pairs, reverse=True)[: len(best)]
        assert [(score, number ^ salt) for score, number in first] == best
        assert sorted(probed[i].tolist()) == sorted(chosen)
        assert all(naive.code_score(query, codes[n ^ salt]) == s for s, n in pairs)


@laws
@given(seeds, st.sampled_from([1, 2, 127]), st.integers(1, 200))
def test_part__gives_each_node_its_best_centre(seed, top, n):
    codes = drawn_codes(seed, size(n, min(n, 40)), 8, top)
    found = parted(codes, seed)
    n, cells = len(codes), cell_of_nodes(found, len(codes))
    members = found.members[found.members >= 0]
    assert sorted(members.tolist()) == list(range(n))
    held = rows_of(found.tiles, codes.shape[1])
    np.testing.assert_array_equal(held[found.members >= 0], codes[members])
    centres = rows_of(found.centres, codes.shape[1]).astype(int)
    products = codes.astype(int) @ centres.T
    np.testing.assert_array_equal(products.argmax(axis=1), cells)
    for cell, middle in enumerate(found.middles.tolist()):
        own = np.flatnonzero(cells == cell)
        assert (middle < 0) == (len(own) == 0)
        if len(own):
            assert products[middle, cell] == products[own, cell].max()


def test_part__does_not_depend_on_threads():
    codes = drawn_codes(0, size(9000, 60), 64)
    one, two = (parted(codes, 3, threads) for threads in (1, 2))
    for name in ("centres", "starts", "tiles", "members", "middles"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    assert parted(codes, 4).members.tolist() != one.members.tolist()


@laws
@given(
    seeds, st.sampled_from([(127, 8), (1, 97), (1, 2)]), st.integers(1, 120),
    st.sampled_from([1, 3]),
)  # fmt: skip
def test_knit_graph__equals_the_naive_one(seed, drawn, n, threads):
    top, dim = drawn
    codes, told = drawn_codes(seed, size(n, min(n, 30)), dim, top), []
    n = len(codes)
    patch = pytest.MonkeyPatch()
    patch.setattr(k, "PROBED", 3)
    patch.setattr(k, "TOGETHER", 50)
    patch.setattr(k, "THINNED", 3)
    patch.setattr(k, "FAR", 2)
    graph = k.knit_graph(
        frozen(codes), M=3, ef_construction=9, seed=seed, threads=threads,
        folder=HERE, advance=told.append,
    )  # fmt: skip
    order = np.random.default_rng(seed).permutation(n)
    expected = naive.knit(*naive_cells(codes, seed), 3, 6, 3)
    naive.turn_back(expected, codes, 6)
    naive.lead_to_all(expected, 6, 2, 4)
    added = [0] * n
    for count in k.samples(n):
        few = codes[order[:count]]
        far = naive.knit(*naive_cells(few, seed), 2, 6, 3)
        naive.weave(expected, order[:count].tolist(), far, added, 6)
    patch.undo()
    assert [
        [e for e in ends.tolist() if e >= 0] for ends in graph.neighbours
    ] == expected
    assert sum(told) == n
    assert np.flatnonzero(graph.levels).tolist() == sorted(order[:ENTRIES].tolist())


def test_knit_graph__does_not_depend_on_threads():
    codes = frozen(drawn_codes(0, size(3000, 50), 64))
    one, two = (
        k.knit_graph(
            codes, M=8, ef_construction=40, seed=1, threads=threads, folder=HERE,
            advance=lambda _: None,
        )
        for threads in (1, 2)
    )  # fmt: skip
    np.testing.assert_array_equal(one.neighbours, two.neighbours)
    np.testing.assert_array_equal(one.levels, two.levels)


def test_knit_graph__leads_from_one_tight_cluster_to_another():
    rng, n = np.random.default_rng(0), size(4000, 120)
    middles = rng.integers(-100, 101, (n // 40, 64))
    codes = middles[rng.integers(0, len(middles), n)] + rng.integers(-1, 2, (n, 64))
    graph = k.knit_graph(
        frozen(codes.astype(np.int8)), M=8, ef_construction=64, seed=0, threads=1,
        folder=HERE, advance=lambda _: None,
    )  # fmt: skip
    entries = choose_entries(graph)
    assert len(rooted(graph.neighbours, entries)) == len(entries)
    lost = link_unreachable(graph.neighbours, int(entries[0]))
    assert len(lost) < n / 20
