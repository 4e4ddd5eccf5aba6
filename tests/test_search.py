"""Laws of searching, through the public API, against the naive oracle."""

from __future__ import annotations

import dataclasses
import itertools
from concurrent.futures import ThreadPoolExecutor

import naive
import numpy as np
import pyarrow as pa
import pytest
from conftest import FLOAT32, flat_rows, judged, near_rows, turned_rows

from funnel import Cascade, FunnelIndex, Hits, Stage
from funnel.errors import (
    CascadeError,
    ClosedError,
    FunnelError,
    InvalidTypeError,
    UnknownIdError,
)
from funnel.projection import principal_axes

MODES = ("funnel", "rerank", "prefix_ann", "prefix", "exact")
WALKS = ("funnel", "rerank", "prefix_ann")
CODE_ERROR = 0.03  # what rounding to int8 costs a cosine, at most


def assert_equal_hits(one, other):
    """Assert that two answers are the same, bit for bit."""
    assert one.ids.shape == other.ids.shape
    assert one.ids.tolist() == other.ids.tolist()
    assert one.scores.tobytes() == other.scores.tobytes()


def everything(built, k=10):
    """Return the arguments of a search that reranks all rows at full width."""
    n = len(built.index)
    plan = Cascade([Stage(built.index.full_dim, keep=n)])
    return {"k": k, "shortlist": n, "ef_search": n, "cascade": plan}


# ---- the comparator judges as it should


ORACLE = np.array([0.1, 0.9, 0.5, 0.5, 0.7, -0.2])


@pytest.mark.parametrize("rows", [[1, 4, 2], [1, 4, 3]])
def test_assert_same_ranking__takes_any_order_of_ties(rows):
    naive.assert_same_ranking(rows, ORACLE[rows], ORACLE, 1e-6)


@pytest.mark.parametrize(
    ("rows", "scores"),
    [([1, 1], [0.9, 0.9]), ([1, -1], [0.9, -0.2]), ([1, 6], [0.9, 0.7]),
     ([4, 1], [0.7, 0.9]), ([1, 4], [0.9, 0.71]), ([1, 2], [0.9, 0.5]),
     ([1], [0.9, 0.7]), ([[1]], [[0.9]]), ([0] * 7, [0.1] * 7)],
    ids=["twice", "pad", "outside", "order", "score", "missed", "lengths", "axes",
         "long"],
)  # fmt: skip
def test_assert_same_ranking__refuses_wrong_answers(rows, scores):
    with pytest.raises(AssertionError):
        naive.assert_same_ranking(rows, scores, ORACLE, 1e-3)


def test_assert_same_ranking__forgives_within_the_tolerance():
    naive.assert_same_ranking([1, 2], [0.9, 0.5], ORACLE, 0.21)
    with pytest.raises(AssertionError):
        naive.assert_same_ranking([1, 2], [0.9, 0.5], ORACLE, 0.19)


def test_knn_recall__counts_ties_and_not_pads():
    assert naive.knn_recall([1, 4, 3], ORACLE, 3) == 1
    assert naive.knn_recall([1, 4, 4, -1], ORACLE, 3) == pytest.approx(2 / 3)
    assert naive.knn_recall(range(6), ORACLE, 10) == 1


# ---- every row


def test_exact__equals_brute_force(built):
    hits = built.index.search(built.queries, k=10, mode="exact")
    for i, query in enumerate(built.queries):
        oracle = built.final(i)
        naive.assert_same_ranking(hits.ids[i], hits.scores[i], oracle, built.tolerance)
        alone = built.index.search(query, k=10, mode="exact")
        naive.assert_same_ranking(*alone, oracle, built.tolerance)


def test_prefix__equals_naive_prefix_search(built):
    hits = built.index.search(built.queries, k=10, mode="prefix")
    for i, query in enumerate(built.queries):
        oracle = built.short(i)
        naive.assert_same_ranking(hits.ids[i], hits.scores[i], oracle, built.tolerance)
        alone = built.index.search(query, k=10, mode="prefix")
        naive.assert_same_ranking(*alone, oracle, built.tolerance)


@pytest.mark.parametrize("mode", ["exact", "prefix"])
def test_every_row__a_batch_agrees_with_single_queries(built, mode):
    batch = built.index.search(built.queries, k=20, mode=mode)
    few = built.index.search(built.queries[:5], k=20, mode=mode)
    alone = [built.index.search(query, k=20, mode=mode) for query in built.queries]
    np.testing.assert_allclose(
        batch.scores, [hits.scores for hits in alone], rtol=0, atol=built.tolerance / 2
    )
    np.testing.assert_allclose(
        few.scores, batch.scores[:5], rtol=0, atol=built.tolerance / 2
    )


@pytest.mark.parametrize("mode", ["exact", "prefix"])
def test_every_row__answers_do_not_depend_on_how_rows_are_chunked(
    either, mode, monkeypatch
):
    whole = either.index.search(either.queries, mode=mode)
    alone = either.index.search(either.queries[:3], mode=mode)
    monkeypatch.setattr("funnel.exact.SCAN_ROWS", 97)
    chunked = either.index.search(either.queries, mode=mode)
    np.testing.assert_array_equal(chunked.ids, whole.ids)
    np.testing.assert_allclose(chunked.scores, whole.scores, atol=either.tolerance)
    assert_equal_hits(either.index.search(either.queries[:3], mode=mode), alone)


def test_axes__are_the_principal_axes(built):
    if built.axes is None:
        assert built.index.projection == "prefix"
        return
    code_dim = built.index.code_dim
    np.testing.assert_allclose(built.axes.T @ built.axes, np.eye(code_dim), atol=1e-5)
    expected = naive.principal_axes(built.rows, code_dim)
    rows = np.array([naive.unit(row) for row in built.rows])
    held, best = ((rows @ axes) ** 2 for axes in (built.axes, expected))
    np.testing.assert_allclose(held.sum(axis=0), best.sum(axis=0), rtol=1e-3)


# ---- the walk and the cascade


def test_funnel__one_full_stage_over_all_rows_equals_brute_force(built):
    for k in (1, 10):
        hits = built.index.search(built.queries, **everything(built, k))
        for i in range(len(built.queries)):
            naive.assert_same_ranking(
                hits.ids[i], hits.scores[i], built.final(i), built.tolerance
            )


def test_funnel__over_all_rows_equals_the_naive_cascade(built):
    n, full_dim, first = len(built.index), built.index.full_dim, built.index.dims[0]
    # The first stage's norms are stored, the middle one's are not.
    stages = [(first, n // 4), (first + 43, 14), (full_dim, 10)]
    wide = {"shortlist": n, "ef_search": n}
    hits = built.index.search(built.queries, cascade=Cascade(stages), **wide)
    walked = built.index.search(built.queries, k=n, mode="prefix_ann", **wide)
    for i, query in enumerate(built.queries):
        reached = walked.ids[i][walked.ids[i] >= 0]  # a graph may have lost a row
        assert len(reached) > 0.95 * n
        rows, scores = naive.cascade(
            built.rows, query, reached, stages, built.index.metric
        )
        np.testing.assert_allclose(hits.scores[i], scores, atol=built.tolerance)
        assert sorted(hits.ids[i]) == sorted(rows)


@pytest.mark.parametrize("mode", ["rerank", "funnel"])
def test_walk__scores_are_the_exact_scores_of_its_rows(built, mode):
    for k, shortlist in ((10, None), (3, 3), (40, 90)):
        hits = built.index.search(built.queries, k=k, shortlist=shortlist, mode=mode)
        for i in range(len(built.queries)):
            rows, scores = hits.ids[i], hits.scores[i]
            assert len(set(rows.tolist())) == k
            assert (np.diff(scores) <= 0).all()
            np.testing.assert_allclose(
                scores, built.final(i)[rows], rtol=0, atol=built.tolerance
            )


def test_prefix_ann__scores_are_about_those_of_the_codes_width(built):
    hits, off = built.index.search(built.queries, k=10, mode="prefix_ann"), []
    for i in range(len(built.queries)):
        rows, scores = hits.ids[i], hits.scores[i]
        assert len(set(rows.tolist())) == 10
        assert (np.diff(scores) <= 0).all()
        off.append(np.abs(scores - built.short(i)[rows]))
    limit = CODE_ERROR * built.tolerance / FLOAT32
    # Under inner product the largest coordinates of the longest rows are clipped.
    share = 0.95 if built.index.metric == "ip" else 1
    assert np.mean(np.array(off) <= limit) >= share
    assert np.median(off) <= limit / 15


def test_search__finds_what_there_is_to_find(built):
    short, full = [], []
    ann = built.index.search(built.queries, mode="prefix_ann", shortlist=100)
    hits = built.index.search(built.queries, mode="rerank")
    for i in range(len(built.queries)):
        short.append(naive.knn_recall(ann.ids[i], built.short(i), 10))
        full.append(naive.knn_recall(hits.ids[i], built.final(i), 10))
    assert np.mean(short) > 0.85  # int8 codes swap near neighbours
    assert np.mean(full) > 0.95


def test_search__finds_neighbours_in_tight_clusters(clustered):
    hits = clustered.index.search(clustered.queries)
    found = [
        naive.knn_recall(hits.ids[i], clustered.final(i), 10)
        for i in range(len(clustered.queries))
    ]
    assert np.mean(found) > 0.97


@pytest.mark.parametrize("mode", WALKS)
@pytest.mark.parametrize("threads", [1, 4])
def test_walk__a_batch_equals_its_single_queries(built, mode, threads):
    batch = built.index.search(built.queries, mode=mode, threads=threads)
    for i, query in enumerate(built.queries):
        alone = built.index.search(query, mode=mode, threads=threads)
        assert_equal_hits(alone, Hits(batch.ids[i], batch.scores[i]))


def test_walk__answers_do_not_depend_on_earlier_ones(either):
    first = either.index.search(either.queries[0], threads=1)
    for i in range(300):  # the scratch's epoch is one byte
        again = either.index.search(either.queries[i % 3], threads=1)
        if i % 3 == 0:
            assert_equal_hits(again, first)


def test_walk__a_longer_buffer_scores_more_and_finds_no_less(graph):
    scored, found = [], []
    for ef in (20, 60, 200, 1000):
        hits = graph.index.search(
            graph.queries,
            k=20,
            shortlist=20,
            ef_search=ef,
            mode="prefix_ann",
            trace=True,
        )
        scored.append(hits.trace[0].rows_in)
        found.append(hits.scores.sum(dtype=np.float64))
    assert scored == sorted(set(scored))
    assert found == sorted(found)


def test_walk__as_long_as_the_index_finds_every_row(make_index):
    corpus = turned_rows(1500, 64, seed=40, lengths=0.5)
    index = make_index(corpus, metric="ip", projection="prefix", code_dim=64)
    hits = index.search(corpus[:20], k=1500)
    for rows in hits.ids:
        assert sorted(rows) == list(range(1500))


def test_search__all_threads_of_a_program_get_the_right_answers(either):
    jobs = list(itertools.product(range(len(either.queries)), MODES))
    expected = [either.index.search(either.queries[i], mode=mode) for i, mode in jobs]
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(
            lambda job: either.index.search(either.queries[job[0]], mode=job[1]), jobs
        )
        for one, other in zip(found, expected, strict=True):
            assert_equal_hits(one, other)


# ---- shapes


@pytest.mark.parametrize("mode", MODES)
def test_search__shape_follows_the_queries(either, mode):
    index, queries = either.index, either.queries
    assert index.search(queries[0], k=3, mode=mode).ids.shape == (3,)
    assert index.search(queries[:1], k=3, mode=mode).ids.shape == (1, 3)
    assert index.search(queries[:9], k=3, mode=mode).scores.shape == (9, 3)
    hits = index.search(queries[:0], k=3, mode=mode, trace=True)
    assert hits.ids.shape == hits.scores.shape == (0, 3)
    assert len(hits.trace) >= 1


@pytest.mark.parametrize("mode", MODES)
def test_search__k_beyond_the_rows_gives_them_all(few_rows, mode):
    hits = few_rows.index.search(few_rows.queries, k=50, mode=mode)
    assert hits.ids.shape == (9, 7)
    for i in range(9):
        assert sorted(hits.ids[i]) == list(range(7))
    single = few_rows.index.search(few_rows.queries[0], k=50, mode=mode)
    assert single.ids.shape == (7,)


@pytest.mark.parametrize("mode", ["funnel", "rerank", "exact"])
def test_search__few_rows_equal_brute_force(few_rows, mode):
    hits = few_rows.index.search(few_rows.queries, k=4, mode=mode)
    for i in range(len(few_rows.queries)):
        naive.assert_same_ranking(
            hits.ids[i], hits.scores[i], few_rows.final(i), few_rows.tolerance
        )


@pytest.mark.parametrize("mode", MODES)
def test_search__one_row_is_found(one_row, mode):
    ids, scores = one_row.index.search(one_row.queries[0], mode=mode)
    assert ids.tolist() == [0]
    assert scores[0] == pytest.approx(1, abs=CODE_ERROR)


def test_search__whatever_the_queries_are_stored_as(either):
    index, queries = either.index, either.queries[:9]
    padded = np.repeat(queries, 2, axis=1)
    kinds = {
        "fortran": np.asfortranarray(queries),
        "big-endian": queries.astype(">f4"),
        "float64": queries.astype(np.float64),
        "strided": padded[:, ::2],
        "reversed": np.ascontiguousarray(queries[::-1])[::-1],
        "lists": queries.tolist(),
    }
    kinds["read-only"] = queries.copy()
    kinds["read-only"].flags.writeable = False
    for mode in ("funnel", "exact"):
        expected = index.search(queries, mode=mode)
        for name, kind in kinds.items():
            found = index.search(kind, mode=mode)
            assert found.ids.tolist() == expected.ids.tolist(), name
            np.testing.assert_array_equal(found.scores, expected.scores, name)
    halves = queries.astype(np.float16)
    assert_equal_hits(index.search(halves), index.search(halves.astype(np.float32)))


def test_hits__unpack_and_say_their_size(either):
    hits = either.index.search(either.queries[:4], k=3)
    ids, scores = hits
    assert ids is hits.ids
    assert scores is hits.scores
    assert scores.dtype == np.float32
    assert len(hits) == 4
    assert "(4, 3)" in repr(hits)


@pytest.mark.parametrize("mode", MODES)
def test_trace__comes_only_when_asked(either, mode):
    assert either.index.search(either.queries, mode=mode).trace is None
    assert either.index.search(either.queries, mode=mode, trace=True).trace


# ---- what it cost


def test_trace__counts_what_the_cascade_says(built):
    index, q = built.index, len(built.queries)
    itemsize = np.dtype(index.info["dtype"]).itemsize
    stages = [(16, 120), (59, 45), (index.full_dim, 10)]
    hits = index.search(
        built.queries, k=10, shortlist=200, cascade=Cascade(stages), trace=True
    )
    first, *rest = hits.trace
    walked = "links" in {p.name.split(".")[1] for p in index.path.glob("data/*")}
    assert first.name == ("walk" if walked else "scan")
    assert (first.dim, first.rows_kept) == (index.code_dim, 200 * q)
    assert 200 * q <= first.rows_in <= len(index) * q + 1024 * q
    if not walked:
        assert first.rows_in == len(index) * q
    assert first.dims_read == first.rows_in * index.code_dim
    assert first.bytes_read == first.rows_in * 128  # 72 dims, in whole cache lines
    received, before = 200 * q, 0
    assert len(rest) == len(stages)
    for stage, (dim, keep) in zip(rest, stages, strict=True):
        assert (stage.name, stage.dim) == ("rerank", dim)
        assert (stage.rows_in, stage.rows_kept) == (received, keep * q)
        assert stage.dims_read == received * (dim - before)
        assert stage.bytes_read == stage.dims_read * itemsize + 4 * received
        received, before = keep * q, dim
    assert hits.trace.queries == q
    assert all(stage.time_us > 0 for stage in hits.trace)
    total = sum(stage.time_us for stage in hits.trace)
    assert total == pytest.approx(hits.trace.kernel_us)
    assert len(str(hits.trace).splitlines()) == 1 + len(hits.trace)


def test_trace__batch_is_the_sum_of_its_queries(either):
    def counts(trace):
        return [(s.rows_in, s.rows_kept, s.dims_read, s.bytes_read) for s in trace]

    for mode in MODES:
        batch = either.index.search(either.queries, mode=mode, trace=True).trace
        alone = [
            counts(either.index.search(query, mode=mode, trace=True).trace)
            for query in either.queries
        ]
        assert counts(batch) == [tuple(c) for c in np.sum(alone, axis=0)]


def test_trace__a_cut_by_codes_reads_nothing(either):
    index = either.index
    plan = Cascade([Stage(index.code_dim, 30, space="codes"), (index.full_dim, 10)])
    trace = index.search(either.queries, shortlist=80, cascade=plan, trace=True).trace
    q = len(either.queries)
    assert [s.name for s in trace] == ["walk", "cut", "rerank"]
    assert [s.rows_kept for s in trace] == [80 * q, 30 * q, 10 * q]
    assert [s.rows_in for s in trace][1:] == [80 * q, 30 * q]
    assert (trace[1].dims_read, trace[1].bytes_read) == (0, 0)


@pytest.mark.parametrize(
    ("k", "shortlist", "kept"), [(10, None, 200), (150, None, 300), (10, 50, 50)]
)
def test_shortlist__is_what_was_asked_or_the_default(either, k, shortlist, kept):
    hits = either.index.search(
        either.queries[:2], k=k, shortlist=shortlist, mode="rerank", trace=True
    )
    assert hits.trace[0].rows_kept == 2 * kept


@pytest.mark.parametrize(("k", "shortlist"), [(3, None), (3, 99), (99, None)])
def test_shortlist__is_at_most_all_rows(few_rows, k, shortlist):
    for mode in WALKS:
        hits = few_rows.index.search(
            few_rows.queries[0], k=k, shortlist=shortlist, mode=mode, trace=True
        )
        assert hits.trace[0].rows_kept == 7


@pytest.mark.parametrize(("mode", "width"), [("exact", 150), ("prefix", 72)])
def test_trace__a_scan_reads_every_row(either, mode, width):
    trace = either.index.search(either.queries, mode=mode, trace=True).trace
    count = 1500 * len(either.queries)
    if mode == "prefix" and either.axes is not None:
        width = 150  # the query is turned back instead
    assert [(s.name, s.rows_in, s.dims_read) for s in trace] == [
        ("scan", count, count * width)
    ]
    assert trace[0].bytes_read == 4 * count * width


# ---- plans


def test_halving__is_the_papers_funnel():
    plan = Cascade.halving(shortlist=200, dims=(16, 32, 64, 128, 256, 2048))
    assert plan.dims == (16, 32, 64, 128, 256, 2048)
    assert plan.keeps == (200, 100, 50, 25, 10, 10)
    assert Cascade.halving(800, (16, 32, 64, 128, 256), k=20).keeps == (
        800, 400, 200, 20, 20,
    )  # fmt: skip
    assert Cascade.halving(30, (8, 16, 32, 64)).keeps == (30, 15, 10, 10)


def test_pruning__keeps_a_share():
    assert Cascade.pruning((64, 128, 256, 512)).keeps == (200, 100, 50, 10)
    plan = Cascade.pruning((64, 128, 256), ratio=0.25, shortlist=400, k=5)
    assert plan == Cascade([(64, 400), (128, 100), (256, 5)])
    assert Cascade.pruning((64, 128, 256), ratio=1).keeps == (200, 200, 10)


def test_cascade__is_a_value():
    plan = Cascade([Stage(16, keep=40), (64, 10)])
    assert plan == Cascade([(16, 40), Stage(64, 10)])
    assert hash(plan) == hash(Cascade([(16, 40), (64, 10)]))
    assert plan != Cascade([(16, 40), (64, 11)])
    assert eval(repr(plan)) == plan
    assert [stage.dim for stage in plan] == [16, 64]
    assert (len(plan), plan[1], plan.keeps) == (2, Stage(64, 10), (40, 10))
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.stages = ()
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan[0].keep = 1


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: Cascade([]), CascadeError),
        (lambda: Cascade([(64, 10), (64, 10)]), CascadeError),
        (lambda: Cascade([(64, 10), (32, 10)]), CascadeError),
        (lambda: Cascade([(32, 10), (64, 11)]), CascadeError),
        (lambda: Cascade([(32, 10), Stage(64, 10, space="codes")]), CascadeError),
        (lambda: Cascade([(64,)]), InvalidTypeError),
        (lambda: Cascade([64, 10]), InvalidTypeError),
        (lambda: Cascade(64), InvalidTypeError),
        (lambda: Stage(0, 10), CascadeError),
        (lambda: Stage(64, 0), CascadeError),
        (lambda: Stage(-1, 10), CascadeError),
        (lambda: Stage(64.0, 10), InvalidTypeError),
        (lambda: Stage(64, True), InvalidTypeError),
        (lambda: Stage(64, 10, space="pca"), CascadeError),
        (lambda: Cascade.halving(5, (16, 64), k=10), CascadeError),
        (lambda: Cascade.halving(200, ()), CascadeError),
        (lambda: Cascade.pruning((16, 64), ratio=0), CascadeError),
        (lambda: Cascade.pruning((16, 64), ratio=1.5), CascadeError),
        (lambda: Cascade.pruning((16, 64), ratio=True), InvalidTypeError),
    ],
)
def test_cascade__refuses_what_cannot_follow(make, error):
    with pytest.raises(error):
        make()


@pytest.mark.parametrize(
    "options",
    [
        {"cascade": [(16, 40), (151, 10)]},
        {"cascade": [Stage(48, 40, space="codes"), (150, 10)]},
        {"cascade": [Stage(72, 40, space="codes")]},
        {"cascade": [(16, 40), (150, 9)]},
        {"cascade": [(16, 9), (150, 9)]},
        {"cascade": [(150, 10)], "mode": "rerank"},
        {"cascade": [(150, 10)], "mode": "exact"},
        {"cascade": []},
    ],
    ids=str,
)
def test_search__refuses_a_cascade_that_does_not_fit(either, options):
    with pytest.raises(CascadeError):
        either.index.search(either.queries, k=10, **options)


def test_search__a_list_of_stages_is_a_cascade(either):
    stages = [(48, 50), (150, 10)]
    assert_equal_hits(
        either.index.search(either.queries, cascade=stages),
        either.index.search(either.queries, cascade=Cascade(stages)),
    )


def test_cascade__a_stage_that_drops_nothing_changes_nothing(either):
    plain = either.index.search(either.queries, shortlist=60, cascade=[(150, 10)])
    longer = [(16, 500), (48, 60), (97, 60), (150, 10)]
    idle = either.index.search(either.queries, shortlist=60, cascade=longer)
    assert_equal_hits(idle, plain)


def test_cascade__widening_the_last_shortlist_never_loses_a_neighbour(built):
    k, full_dim = 10, built.index.full_dim
    found = []
    for keep in (10, 14, 25, 50, 100):
        stages = Cascade([(16, 150), (31, keep), (full_dim, k)])
        hits = built.index.search(built.queries, k=k, shortlist=250, cascade=stages)
        found.append([])
        for i, rows in enumerate(hits.ids):
            true = set(naive.top(built.final(i), k))
            found[-1].append(true & set(rows.tolist()))
    for narrow, wide in itertools.pairwise(found):
        for before, after in zip(narrow, wide, strict=True):
            assert before <= after
    assert sum(map(len, found[0])) < sum(map(len, found[-1]))


# ---- laws of the corpus


def test_corpus__permuting_it_permutes_the_answers(make_index):
    corpus = turned_rows(400, 97, seed=20)
    queries = near_rows(corpus, 12, 21)
    order = np.random.default_rng(22).permutation(400)
    options = {"projection": "prefix", "code_dim": 48, "graph_dim": 48}
    one = make_index(corpus, **options)
    other = make_index(corpus[order], **options)
    for mode in ("exact", "prefix", "rerank", "funnel"):
        straight = one.search(queries, k=8, mode=mode)
        permuted = other.search(queries, k=8, mode=mode)
        assert order[permuted.ids].tolist() == straight.ids.tolist()
        np.testing.assert_allclose(permuted.scores, straight.scores, atol=1e-6)


def test_corpus__scaling_a_row_changes_no_cosine(make_index):
    corpus = turned_rows(400, 97, seed=23)
    queries = near_rows(corpus, 12, 24)
    scale = np.float32(2.0) ** np.random.default_rng(25).integers(-9, 9, (400, 1))
    for projection in ("prefix", "pca"):
        one = make_index(corpus, projection=projection)
        other = make_index(corpus * scale, projection=projection)
        for mode in ("exact", "rerank"):
            straight = one.search(queries, k=8, mode=mode)
            scaled = other.search(queries * 8, k=8, mode=mode)
            assert scaled.ids.tolist() == straight.ids.tolist()
            np.testing.assert_allclose(scaled.scores, straight.scores, atol=1e-6)


def test_inner_product__long_rows_win(make_index):
    corpus = flat_rows(300, 64, seed=26)
    corpus[17] *= 50
    index = make_index(corpus, metric="ip", projection="prefix")
    query = corpus[17] + corpus[40] / 2
    for mode in MODES:
        ids, scores = index.search(query, k=2, mode=mode)
        assert ids[0] == 17
        expected = corpus[17].astype(np.float64) @ query
        assert scores[0] == pytest.approx(expected, rel=CODE_ERROR)
    twice = index.search(2 * query, k=5)
    assert twice.scores == pytest.approx(2 * index.search(query, k=5).scores, rel=1e-6)


UNEVEN = {
    "positive": lambda rng: rng.random((3_000, 16)),
    "centred": lambda rng: rng.standard_normal((3_000, 16)),
    "one-far-dim": lambda rng: np.hstack(
        [rows := rng.random((3_000, 16)), -0.5 * (rows**2).sum(1, keepdims=True)]
    ),
}


@pytest.mark.parametrize("builder", ["numba", "faiss"])
@pytest.mark.parametrize("kind", UNEVEN)
def test_inner_product__of_uneven_rows_finds_the_best(make_index, kind, builder):
    rng = np.random.default_rng(1)
    rows = UNEVEN[kind](rng)
    if kind != "one-far-dim":
        rows *= rng.lognormal(0, 0.3, (3_000, 1))
    queries = UNEVEN[kind](rng)[:100]
    queries[:, 16:] = 1
    index = make_index(np.float32(rows), metric="ip", builder=builder)
    best = index.search(np.float32(queries), 10, mode="exact").ids
    found = index.search(np.float32(queries), 10).ids
    shared = [len(set(a) & set(b)) for a, b in zip(found, best, strict=True)]
    assert np.mean(shared) / 10 > 0.98


def test_inner_product__gives_as_many_as_asked(make_index):
    rows = np.random.default_rng(0).random((3_000, 16), dtype=np.float32)
    index = make_index(rows, metric="ip")
    for k in (200, 1_500, 3_000):
        assert (index.search(rows[:20], k).counts == k).all()


@pytest.mark.parametrize("count", [1, 7, 40])
def test_axes__of_fewer_rows_than_dims_hold_all_their_energy(count):
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((count, 200)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    axes = principal_axes(rows, 64)
    assert axes.shape == (64, 200)
    np.testing.assert_allclose(axes @ axes.T, np.eye(64), atol=1e-5)
    held = np.linalg.norm(rows @ axes.T, axis=1)
    np.testing.assert_allclose(held, 1, atol=1e-5)
    energies = ((rows @ axes.T) ** 2).sum(axis=0)
    assert (np.diff(energies) < 1e-5).all()


@pytest.mark.parametrize("rank", [400, 90, 3], ids=["full", "few", "three"])
def test_axes__of_wide_rows_hold_what_a_full_decomposition_does(rank):
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((500, rank)) / np.sqrt(1 + np.arange(rank))
    rows = (rows @ rng.standard_normal((rank, 400))).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    axes = principal_axes(rows, 64)
    np.testing.assert_allclose(axes @ axes.T, np.eye(64), atol=1e-5)
    held = ((rows @ axes.T) ** 2).sum()
    best = ((rows @ naive.principal_axes(rows, 64)) ** 2).sum()
    assert held > 0.999 * best


def test_inner_product__zero_vectors_score_zero(make_index):
    corpus = flat_rows(40, 33, seed=27)
    corpus[[3, 9]] = 0
    index = make_index(corpus, metric="ip")
    for mode in MODES:
        rows, scores = index.search(corpus[5], k=40, mode=mode)
        assert sorted(rows) == list(range(40))
        assert not scores[np.isin(rows, (3, 9))].any()
        assert not index.search(corpus[3], k=4, mode=mode).scores.any()


def test_zero_prefix__scores_zero(make_index):
    corpus = flat_rows(50, 64, seed=28)
    corpus[4, :32] = 0
    index = make_index(
        corpus, projection="prefix", code_dim=32, graph_dim=32, dims=(16, 32, 64)
    )
    query = corpus[4].copy()
    rows, scores = index.search(query, k=50, mode="prefix")
    assert not scores.any()
    assert sorted(rows) == list(range(50))
    query[:32] = corpus[5, :32]
    for stages in ([(16, 50), (64, 50)], [(23, 50), (64, 50)]):
        hits = index.search(query, k=50, shortlist=50, cascade=stages)
        naive.assert_same_ranking(
            *hits, naive.final_scores(corpus, query, "cosine"), FLOAT32
        )
    rows, scores = index.search(query, k=50, mode="prefix")
    assert scores[rows == 4] == 0


@pytest.fixture(scope="module", params=[300, 1100], ids=["no-graph", "graph"])
def half_blind(request, make_index):
    """Give an index over a prefix that nine of its rows have nothing of."""
    corpus = flat_rows(request.param, 96, seed=36)
    corpus[10:100:10, :48] = 0
    index = make_index(corpus, projection="prefix", graph_dim=48, code_dim=48)
    return judged(index, corpus, near_rows(corpus, 12, 37))


def test_loose_rows__are_found_all_the_same(half_blind):
    index, rows = half_blind.index, half_blind.rows
    for row in range(10, 100, 10):
        query = rows[row].astype(np.float32)
        query[:48] = 0.1 * rows[row + 1, :48]
        for mode in ("rerank", "funnel"):
            hits = index.search(query, k=5, mode=mode)
            assert hits.ids[0] == row
            oracle = naive.final_scores(rows, query, "cosine")
            np.testing.assert_allclose(hits.scores, oracle[hits.ids], atol=FLOAT32)


def test_blind_queries__are_scanned_exactly(half_blind):
    index, rows = half_blind.index, half_blind.rows
    queries = rows[10:100:10].astype(np.float32)
    for mode in ("rerank", "funnel"):
        hits = index.search(queries, k=8, mode=mode)
        for i, query in enumerate(queries):
            oracle = naive.final_scores(rows, query, "cosine")
            naive.assert_same_ranking(hits.ids[i], hits.scores[i], oracle, FLOAT32)
    mixed = np.concatenate([half_blind.queries[:3], queries[:2]])
    batch = index.search(mixed)
    for i, query in enumerate(mixed):
        assert_equal_hits(index.search(query), Hits(batch.ids[i], batch.scores[i]))


def test_blind_queries__a_batch_equals_its_single_queries(half_blind):
    queries = half_blind.rows[10:100:10].astype(np.float32)
    batch = half_blind.index.search(queries)
    for i, query in enumerate(queries):
        alone = half_blind.index.search(query)
        assert_equal_hits(alone, Hits(batch.ids[i], batch.scores[i]))


def test_blind_queries__are_counted_in_the_trace(half_blind):
    queries = half_blind.rows[10:100:10].astype(np.float32)
    trace = half_blind.index.search(queries, trace=True).trace
    read = sum(stage.dims_read for stage in trace)
    assert read >= len(queries) * half_blind.rows.size


def test_duplicates__are_all_found(duplicated):
    index, rows = duplicated.index, duplicated.rows
    values, counts = np.unique(rows, axis=0, return_counts=True)
    copied = values[counts.argmax()]
    copies = np.flatnonzero((rows == copied).all(axis=1))
    assert len(copies) == 300
    for mode in MODES:
        hits = index.search(copied, k=300, mode=mode)
        assert sorted(hits.ids) == copies.tolist()
        assert sorted(index.search(copied, k=10, mode=mode).ids)[0] in copies
    hits = index.search(copied, **everything(duplicated, k=len(index)))
    assert sorted(hits.ids) == list(range(len(index)))


def test_duplicates__do_not_push_others_out(duplicated):
    index, rows = duplicated.index, duplicated.rows
    distinct, first, counts = np.unique(
        rows, axis=0, return_index=True, return_counts=True
    )
    copied = first[counts.argmax()]
    for seed in range(8):
        # By the codes' 48 dims the copies are best, by full width they are not.
        query = rows[copied].astype(np.float32)
        query[48:] = 0.5 * flat_rows(1, 96, seed)[0, 48:] - 2 * query[48:]
        near = naive.top(naive.stage_scores(distinct, query, 48, "cosine"), 80)
        assert (distinct[near[0]] == rows[copied]).all()
        _, scores = naive.cascade(distinct, query, near, [(96, 10)], "cosine")
        hits = index.search(query, shortlist=120, ef_search=len(rows), mode="rerank")
        assert (hits.scores >= scores - FLOAT32).all()
        for row in index.search(query, k=10).ids:
            assert (rows[row] != rows[copied]).any()


def test_duplicates__equal_brute_force(duplicated):
    hits = duplicated.index.search(duplicated.queries, **everything(duplicated, k=25))
    for i in range(len(duplicated.queries)):
        naive.assert_same_ranking(
            hits.ids[i], hits.scores[i], duplicated.final(i), FLOAT32
        )


def test_layer_norm__transforms_rows_and_queries(make_index):
    corpus = 3 * turned_rows(300, 64, seed=30) + np.float32(0.5)
    queries = near_rows(corpus, 10, 31)
    index = make_index(corpus, transform="layer_norm", code_dim=32, graph_dim=32)
    rows = np.array([naive.layer_norm(row) for row in corpus])
    vectors = index.get(range(300), vectors=True)["vector"].combine_chunks()
    stored = vectors.flatten().to_numpy().reshape(300, 64)
    np.testing.assert_allclose(stored, rows, atol=1e-5)
    for mode in ("exact", "rerank"):
        hits = index.search(queries, k=5, shortlist=300, mode=mode)
        for i, query in enumerate(queries):
            oracle = naive.final_scores(rows, naive.layer_norm(query), "cosine")
            naive.assert_same_ranking(hits.ids[i], hits.scores[i], oracle, 2 * FLOAT32)
    before = queries.copy()
    index.search(queries)
    np.testing.assert_array_equal(queries, before)


# ---- ids, metadata, tables


def test_open__answers_as_the_built_index_did(built):
    with FunnelIndex.open(built.index.path) as again:
        assert len(again) == len(built.index)
        assert again.dims == built.index.dims
        assert again.projection == built.index.projection
        for mode in MODES:
            assert_equal_hits(
                again.search(built.queries, mode=mode),
                built.index.search(built.queries, mode=mode),
            )
        again.verify()


def test_get__returns_the_stored_vectors(built):
    dtype = np.dtype(built.index.info["dtype"])
    wanted = [5, 0, len(built.index) - 1, 5]
    table = built.index.get(wanted, vectors=True)
    assert table["id"].to_pylist() == wanted
    column = table["vector"].combine_chunks()
    assert column.type == pa.list_(pa.from_numpy_dtype(dtype), built.rows.shape[1])
    found = column.flatten().to_numpy().reshape(4, -1)
    np.testing.assert_array_equal(found, built.rows[wanted].astype(dtype))


IDS = {
    "row": None,
    "int64": np.array([7, -3, 2**63 - 1, -(2**63), 0, 40, -(10**12), 9], np.int64),
    "str": ["b", "a", "B", "ä", "文", "a b", "0", "longer " * 20],
    "int32": np.arange(8, dtype=np.int32)[::-1],
    "list": [5, 4, 3, 2, 1, 0, -1, -2],
}


@pytest.fixture(scope="module", params=IDS)
def labelled(request, make_index):
    """Give an index of eight rows with ids of each kind, and the ids."""
    corpus, given = flat_rows(8, 16, seed=32), IDS[request.param]
    columns = {
        "title": [f"t{i}" for i in range(8)],
        "year": [2000 + i for i in range(8)],
    }
    index = make_index(corpus, ids=given, metadata=columns)
    listed = range(8) if given is None else given
    return index, [i.item() if isinstance(i, np.generic) else i for i in listed], corpus


def test_ids__are_returned_for_their_rows(labelled):
    index, ids, corpus = labelled
    for mode in MODES:
        hits = index.search(corpus, k=1, mode=mode)
        assert hits.ids[:, 0].tolist() == ids
        assert index.search(corpus[3], k=1, mode=mode).ids.tolist() == [ids[3]]
        kind = object if isinstance(ids[0], str) else np.int64
        assert hits.ids.dtype == kind


def test_get__keeps_the_asked_order(labelled):
    index, ids, corpus = labelled
    order = [6, 2, 2, 0, 7]
    for asked in ([ids[i] for i in order], tuple(ids[i] for i in order)):
        table = index.get(asked, vectors=True)
        assert table.column_names == ["id", "title", "year", "vector"]
        assert table["id"].to_pylist() == list(asked)
        assert table["title"].to_pylist() == [f"t{i}" for i in order]
        assert table["year"].to_pylist() == [2000 + i for i in order]
        np.testing.assert_array_equal(table["vector"].to_pylist(), corpus[order])
    assert "vector" not in index.get(ids[:1]).column_names


def test_get__nothing_gives_no_rows(labelled):
    index, _, _ = labelled
    table = index.get([], vectors=True)
    assert table.num_rows == 0
    assert table.column_names == ["id", "title", "year", "vector"]


def test_get__has_the_types_of_the_whole_table(labelled):
    index, ids, _ = labelled
    whole = index.to_arrow(vectors=True).schema
    for asked in (ids[:2], []):
        assert index.get(asked, vectors=True).schema.equals(whole)


@pytest.mark.parametrize("unknown", ["nope", 99, -99, 2**70, 1.5, None, True, b"a"])
def test_get__names_an_unknown_id(labelled, unknown):
    index, ids, _ = labelled
    assert unknown not in index
    with pytest.raises(UnknownIdError) as caught:
        index.get([ids[0], unknown])
    assert repr(unknown) in str(caught.value)
    assert isinstance(caught.value, LookupError)


@pytest.mark.parametrize("asked", ["ab", b"ab", 3, None, {1: 2}])
def test_get__wants_a_sequence(labelled, asked):
    with pytest.raises(InvalidTypeError):
        labelled[0].get(asked)


def test_contains__knows_every_id(labelled):
    index, ids, _ = labelled
    assert all(i in index for i in ids)
    assert len(index) == 8
    numbers = [i for i in ids if isinstance(i, int)]
    assert all(np.int64(i) in index for i in numbers)
    assert ("5" in index) == ("5" in ids)


def test_to_arrow__holds_all_rows_in_order(labelled):
    index, ids, corpus = labelled
    table = index.to_arrow()
    assert table.column_names == ["id", "title", "year"]
    assert table["id"].to_pylist() == ids
    assert table["year"].to_pylist() == list(range(2000, 2008))
    vectors = index.to_arrow(vectors=True)["vector"].to_pylist()
    np.testing.assert_array_equal(vectors, corpus)


def test_arrow_stream__is_accepted_by_pyarrow(labelled):
    index, ids, _ = labelled
    table = pa.table(index)
    assert table.equals(index.to_arrow(vectors=True))
    reader = pa.RecordBatchReader.from_stream(index)
    assert sum(len(batch) for batch in reader) == len(ids)
    again = FunnelIndex.build(
        index, path=index.path.with_name("again.funnel"), overwrite=True
    )
    with again:
        assert again.to_arrow(vectors=True).equals(table)


def test_arrow_stream__is_accepted_by_polars(labelled):
    polars = pytest.importorskip("polars")
    index, ids, corpus = labelled
    frame = polars.DataFrame(index)
    assert frame.columns == ["id", "title", "year", "vector"]
    assert frame["id"].to_list() == ids
    np.testing.assert_array_equal(frame["vector"].to_list(), corpus)


def test_arrow_stream__is_accepted_by_pandas(labelled):
    pandas = pytest.importorskip("pandas", minversion="3")
    index, ids, corpus = labelled
    frame = pandas.DataFrame.from_arrow(index)
    assert frame["id"].tolist() == ids
    assert frame["title"].tolist() == [f"t{i}" for i in range(8)]
    np.testing.assert_array_equal(np.stack(frame["vector"]), corpus)


def test_metadata__survives_a_reopening(make_index):
    table = pa.table(
        {
            "text": pa.array(["x", None, "é"], pa.large_string()),
            "when": pa.array([1, 2, None], pa.timestamp("us")),
            "tags": pa.array([["a"], [], None], pa.list_(pa.string())),
        }
    )
    index = make_index(flat_rows(3, 16, seed=33), metadata=table, ids=["p", "q", "r"])
    with FunnelIndex.open(index.path) as again:
        assert again.to_arrow().drop_columns("id").equals(table)
        assert again.get(["r", "p"]).drop_columns("id").equals(table.take([2, 0]))


# ---- the handle


def test_close__ends_the_handle_and_can_be_repeated(make_index):
    corpus = flat_rows(20, 16, seed=34)
    index = make_index(corpus, ids=list(range(20)))
    with index as same:
        assert same is index
        index.search(corpus, threads=2)
    index.close()
    uses = [
        lambda: index.search(corpus),
        lambda: index.get([3]),
        lambda: 3 in index,
        index.to_arrow,
        index.verify,
        index.warmup,
        index.__enter__,
        lambda: pa.table(index),
    ]
    for use in uses:
        with pytest.raises(ClosedError) as caught:
            use()
        assert isinstance(caught.value, ValueError)
        assert isinstance(caught.value, FunnelError)
    assert "closed" in repr(index)
    with FunnelIndex.open(index.path) as again:
        assert again.search(corpus[4], k=1).ids.tolist() == [4]


def test_close__happens_when_a_block_raises(one_row):
    with pytest.raises(KeyError), FunnelIndex.open(one_row.index.path) as index:
        raise KeyError
    with pytest.raises(ClosedError):
        index.search(one_row.queries)


def test_handles__of_one_index_do_not_share_their_end(either):
    one, other = (FunnelIndex.open(either.index.path) for _ in range(2))
    one.close()
    with other:
        assert_equal_hits(
            other.search(either.queries), either.index.search(either.queries)
        )


def test_index__says_what_it_is(built):
    index = built.index
    assert len(index) == index.info["rows"] == len(built.rows)
    assert index.dims[-1] == index.full_dim == built.rows.shape[1]
    grown = index.info.get("graph", {}).get("builder") == "numba"  # over the codes
    assert (index.graph_dim, index.code_dim) == (72 if grown else 40, 72)
    assert index.info["metric"] == index.metric
    assert index.projection in repr(index)
    assert index.metric in repr(index)


def test_warmup__returns_seconds(either):
    assert either.index.warmup() >= 0


def test_judged__takes_rows_as_stored(built):
    again = judged(built.index, built.rows.astype(np.float32), built.queries)
    np.testing.assert_array_equal(again.rows, built.rows)
