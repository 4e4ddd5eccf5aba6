"""Codes that hold more than a walk scores: indexes with tails, through the public API.

What the kernels do with them is tested in `test_kernels.py`; here whether every way to
search, to change and to open an index knows of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import naive
import numpy as np
import pytest

from funnel import Cascade, FunnelIndex, Stage, diagnose
from funnel.errors import CorruptIndexError, FormatVersionError
from funnel.projection import with_tail
from funnel.store import manifest as m

N, DIM, K = 5_000, 192, 10
HEAD, WHOLE = 64, 128


def drawn(n: int, seed: int) -> np.ndarray:
    """Draw rows whose energy falls slowly: 64 axes hold some of it, 128 nearly all."""
    rng = np.random.default_rng(seed)
    scale = np.exp(-np.arange(DIM) / 40)
    turn = np.linalg.qr(np.random.default_rng(0).standard_normal((DIM, DIM)))[0]
    return ((rng.standard_normal((n, DIM)) * scale) @ turn).astype(np.float32)


ROWS, QUERIES = drawn(N, 1), drawn(40, 2)


def built(path: Path, rows: np.ndarray = ROWS, **options: Any) -> FunnelIndex:
    """Build an index whose walks score 64 of 128 dims."""
    widths = {"projection": "pca", "graph_dim": HEAD, "code_dim": WHOLE}
    return FunnelIndex.build(rows, path=path, **widths | options)


@pytest.fixture(scope="module", params=["cosine", "ip"])
def index(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[FunnelIndex]:
    folder = tmp_path_factory.mktemp("tails")
    with built(folder / request.param, metric=request.param) as opened:
        yield opened


def exact(rows: np.ndarray, query: np.ndarray, metric: str) -> list[int]:
    scores = naive.stage_scores(rows.astype(np.float64), query, DIM, metric)
    return np.argsort(-scores, kind="stable")[:K].tolist()


def recall(index: FunnelIndex, rows: np.ndarray = ROWS, **how: Any) -> float:
    found = index.search(QUERIES, k=K, **how).ids
    wanted = [exact(rows, query, index.metric) for query in QUERIES]
    return float(
        np.mean([np.isin(a, b).mean() for a, b in zip(found, wanted, strict=True)])
    )


def test_tails__are_part_of_what_the_index_says(index: FunnelIndex) -> None:
    assert (index.walk_dim, index.code_dim) == (HEAD, WHOLE)
    assert index.info["walk_dim"] == HEAD
    assert index.graph_dim == HEAD
    index.verify("full")


@pytest.mark.parametrize("mode", ["funnel", "rerank", "prefix", "exact"])
def test_tails__every_mode_finds_the_nearest(index: FunnelIndex, mode: str) -> None:
    assert recall(index, mode=mode) > (0.7 if mode == "prefix" else 0.93)


def test_tails__rank_better_than_what_the_walk_scores(index: FunnelIndex) -> None:
    few = Cascade([Stage(WHOLE, 14, space="codes"), Stage(DIM, K)])
    by_walk = {"shortlist": 14, "ef_search": 70, "cascade": Cascade([Stage(DIM, K)])}
    tailed = recall(index, shortlist=70, cascade=few)
    assert tailed > 0.9
    assert recall(index, **by_walk) == pytest.approx(tailed, abs=0.03)
    # Without tails, so few rows hold much less.
    short = index.search(QUERIES, k=K, mode="prefix_ann", ef_search=70)
    assert (np.diff(short.scores, axis=1) <= 0).all()


def test_tails__are_counted_by_traces(index: FunnelIndex) -> None:
    trace = index.search(QUERIES, k=K, shortlist=20, ef_search=40, trace=True).trace
    assert trace is not None
    walk = trace[0]
    assert walk.dim == HEAD
    assert walk.rows_kept == 20 * len(QUERIES)
    tails = walk.dims_read - HEAD * walk.rows_in
    assert tails == 40 * len(QUERIES) * (WHOLE - HEAD)
    assert walk.bytes_read == walk.dims_read


@pytest.mark.parametrize("threads", [1, 2])
def test_tails__a_batch_equals_its_single_queries(
    index: FunnelIndex, threads: int
) -> None:
    together = index.search(QUERIES, k=K, shortlist=30, threads=threads)
    for i, query in enumerate(QUERIES):
        alone = index.search(query, k=K, shortlist=30)
        assert alone.ids.tolist() == together.ids[i].tolist()
        assert alone.scores.tobytes() == together.scores[i].tobytes()


def test_tails__bounds_drop_no_answer(index: FunnelIndex) -> None:
    # All rows are the shortlist: what retrieves it plays no part.
    found = index.search(QUERIES, policy="certified", shortlist=N, trace=True)
    exact = index.search(QUERIES, mode="exact")
    scale = np.abs(exact.scores).max()
    np.testing.assert_allclose(found.scores, exact.scores, atol=4e-6 * scale)
    assert found.trace is not None
    assert found.trace[-1].rows_in < 0.5 * N * len(QUERIES)


def test_tails__explain_replays_what_was_found(index: FunnelIndex) -> None:
    for query in QUERIES[:5]:
        hits = index.search(query, shortlist=30, trace=True)
        told = index.explain(query, shortlist=30)
        assert hits.trace is not None
        assert [(s.name, s.rows_in, s.kept) for s in told.steps] == [
            (s.name, s.rows_in, s.rows_kept) for s in hits.trace
        ]


def test_tails__what_a_walk_lost_is_found_by_the_change_that_is_told(
    index: FunnelIndex,
) -> None:
    told_of = 0
    for query in QUERIES:
        how: dict[str, Any] = {"k": K, "shortlist": 10, "mode": "rerank"}
        for row in set(exact(ROWS, query, index.metric)) - set(
            index.search(query, **how).ids.tolist()
        ):
            told = index.why_not(query, row, **how)
            assert told.lost_by == "walk"
            told_of += bool(told.change)
            if told.change:
                assert row in index.search(query, **(how | told.change)).ids
    assert told_of > 10


def test_tails__alone_do_not_make_a_query_that_a_walk_can_see(
    index: FunnelIndex,
) -> None:
    axes = index._open.axes.astype(np.float64)
    query = QUERIES[0] - axes[:HEAD].T @ (axes[:HEAD] @ QUERIES[0])
    assert np.linalg.norm(axes[HEAD:] @ query) > 0.1
    found = index.search(query, k=K, shortlist=20)
    assert found.ids.tolist() == exact(ROWS, query, index.metric)
    assert [step.name for step in index.explain(query, shortlist=20).steps] == ["scan"]


@pytest.mark.parametrize("share", [0.01, 0.5])
def test_tails__filters_pass_what_they_should(index: FunnelIndex, share: float) -> None:
    passing = np.flatnonzero(np.random.default_rng(3).random(N) < share)
    found = index.search(QUERIES, k=K, filter=passing).ids
    assert np.isin(found, passing).all()
    wanted = [passing[exact(ROWS[passing], q, index.metric)] for q in QUERIES]
    assert (
        np.mean([np.isin(a, b).mean() for a, b in zip(found, wanted, strict=True)])
        > 0.93
    )


def test_tails__live_on_in_later_segments(tmp_path: Path) -> None:
    more = drawn(4_500, 4)
    with built(tmp_path / "x") as index:
        index.add(more[:300])
        index.add(more[300:])
        index.delete(range(100))
        rows = np.concatenate([ROWS, more])
        rows[:100] = 0
        assert [len(s.tails) for s in index._open.segments] == [N, 300, 4_200]
        assert recall(index, rows) > 0.93
        few = {"shortlist": 15, "ef_search": 60, "cascade": Cascade([Stage(DIM, K)])}
        assert recall(index, rows, **few) > 0.9
        index.compact()
        assert index.info["segments"] == 1
        assert index.search(more[7], k=1).ids.tolist() == [N + 7]
        index.verify("full")
    with FunnelIndex.open(tmp_path / "x") as again:
        assert again.info["walk_dim"] <= again.info["code_dim"]


def test_tails__halves_and_tuned_plans_use_them(tmp_path: Path) -> None:
    with built(tmp_path / "x", dtype="float16") as index:
        index.tune(drawn(200, 5), target_knn_recall=0.9)
        assert recall(index) > 0.85


def test_tails__an_older_reader_refuses(tmp_path: Path) -> None:
    built(tmp_path / "x").close()
    with (
        mock.patch.object(m, "KNOWN_FEATURES", m.KNOWN_FEATURES - {m.TAILS}),
        pytest.raises(FormatVersionError, match="tails"),
    ):
        FunnelIndex.open(tmp_path / "x")
    with FunnelIndex.build(ROWS, path=tmp_path / "y", code_dim=HEAD) as plain:
        assert plain._manifest.features() == []
        assert plain.walk_dim == plain.code_dim == HEAD


@pytest.mark.parametrize(
    ("name", "value"), [("walk_dim", 192), ("walk_dim", 63), ("tails", None)]
)
def test_tails__what_makes_no_sense_is_refused(
    tmp_path: Path, name: str, value: int | None
) -> None:
    with built(tmp_path / "x") as index:
        manifest = index._manifest
    document = json.loads(manifest.to_bytes().partition(b"\n")[2])
    if value is None:
        del document["segments"][0]["files"][name]
    else:
        document[name] = value
    changed = m._rebuild(document).to_bytes()
    next((tmp_path / "x" / "manifest").glob("*.fm")).write_bytes(changed)
    with pytest.raises(CorruptIndexError, match=name):
        FunnelIndex.open(tmp_path / "x")


def test_tails__are_chosen_and_advised_alike(tmp_path: Path) -> None:
    with mock.patch("funnel.projection.SHORT", 10_000):  # 64 dims are enough
        told = diagnose(ROWS)
        with mock.patch("funnel.projection.with_tail", return_value=WHOLE):
            chosen = FunnelIndex.build(ROWS, path=tmp_path / "x", projection="pca")
        with mock.patch("funnel.adapt.diagnose.with_tail", return_value=WHOLE):
            advised = diagnose(ROWS)
    with chosen:
        assert (chosen.walk_dim, chosen.graph_dim, chosen.code_dim) == (64, 64, 128)
    assert (told.graph_dim, told.code_dim) == (64, 64)
    assert (advised.graph_dim, advised.code_dim) == (64, 128)
    assert "graph_dim=64, code_dim=128" in advised.advice[0]


@pytest.mark.parametrize("projection", ["prefix", "pca"])
def test_tails__of_an_index_that_begins_empty(tmp_path: Path, projection: str) -> None:
    widths = {"projection": projection, "graph_dim": HEAD, "code_dim": WHOLE}
    with FunnelIndex.create(tmp_path / "x", DIM, **widths) as index:
        index.add(ROWS)
        assert (index.walk_dim, index.code_dim) == (HEAD, WHOLE)
        index.compact()
        assert (index.walk_dim, index.code_dim) == (HEAD, WHOLE)
        assert index.projection == projection
        assert recall(index, shortlist=400) > 0.9


@pytest.mark.parametrize(
    ("needed", "head", "full_dim", "expected"),
    [
        ({64: 172, 128: 29, 256: 11}, 128, 1024, 256),  # text
        ({64: 11, 128: 10, 256: 10}, 64, 2048, 64),  # images
        ({64: 20, 128: 14}, 64, 128, 64),  # rows are as short as codes
        ({48: 30, 96: 10}, 48, 4096, 48),  # no whole line
        ({128: 29}, 128, 1024, 128),  # nothing else was measured
    ],
)
def test_with_tail__is_taken_where_it_spares_a_quarter(
    needed: dict[int, int], head: int, full_dim: int, expected: int
) -> None:
    assert with_tail(needed, head, full_dim) == expected
