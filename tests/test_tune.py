"""Tuning: bounds, levels, and that a tuned search is one that could be typed."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import naive
import numpy as np
import pytest
from conftest import near_rows, turned_rows
from hypothesis import given, settings
from hypothesis import strategies as st

from funnel import FunnelIndex
from funnel.adapt import risk
from funnel.adapt.shortlists import between, replays, walked
from funnel.adapt.tune import plan_of
from funnel.adapt.workload import dcg_losses, workload_of
from funnel.errors import (
    CorruptIndexError,
    InvalidArgumentError,
    InvalidTypeError,
    ReadOnlyError,
)
from funnel.store.commit import newest_manifest
from funnel.store.tuned import Level, Tuned, risk_bound

ROWS = turned_rows(3_000, 96, seed=5)
QUERIES = near_rows(ROWS, 400, seed=6, noise=0.1)
TARGET = 0.9


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return an index that was tuned, and the report."""
    path = tmp_path_factory.mktemp("tuned") / "x"
    index = FunnelIndex.build(ROWS, path=path, projection="pca", code_dim=64)
    report = index.tune(QUERIES[:300], target_knn_recall=TARGET)
    yield index, report
    index.close()


def drawn_losses(rng: np.random.Generator, n: int, levels: int = 12) -> np.ndarray:
    """Return (n, l) losses that fall with effort, hard queries later; not monotone."""
    hard = rng.beta(0.5, 2, (n, 1))
    effort = np.linspace(0, 1, levels)
    losses = np.clip(hard - effort + 0.05 * rng.standard_normal((n, levels)), 0, 1)
    losses[:, -1] = 0
    return losses


# ---- bounds


@settings(max_examples=60)
@given(
    st.integers(1, 40), st.integers(1, 6), st.integers(0, 2**31), st.floats(0.01, 0.6)
)
def test_least_level__equals_naive(n: int, levels: int, seed: int, allowed: float):
    losses = np.random.default_rng(seed).random((n, levels)) ** 3
    found = risk.least_level(risk.monotone(losses), allowed)
    assert found == naive.least_level(losses.tolist(), allowed)


@settings(max_examples=60)
@given(st.integers(1, 60), st.integers(0, 60), st.floats(0.01, 0.99))
def test_binomial_cdf__equals_naive(n: int, most: int, share: float):
    expected = naive.binomial_cdf(most, n, share)
    assert risk.binomial_cdf(most, n, share) == pytest.approx(expected, abs=1e-9)


def test_risk_control__holds_on_average():
    rng, losses_seen = np.random.default_rng(0), []
    whole, allowed = drawn_losses(rng, 4_000), 0.05
    for _ in range(300):
        order = rng.permutation(len(whole))
        calibration, test = whole[order[:200]], whole[order[200:]]
        level = risk.least_level(risk.monotone(calibration), allowed)
        losses_seen.append(0.0 if level is None else test[:, level].mean())
    error = np.std(losses_seen) / len(losses_seen) ** 0.5
    assert np.mean(losses_seen) <= allowed + 2 * error
    assert np.mean(losses_seen) > allowed / 2, "so careful that it says nothing"


def test_confidence__is_kept_by_splits():
    rng, missed = np.random.default_rng(1), 0
    whole, allowed, sure, splits = drawn_losses(rng, 4_000), 0.05, 0.9, 300
    for _ in range(splits):
        order = rng.permutation(len(whole))
        calibration, test = whole[order[:300]], whole[order[300:]]
        level = risk.least_sure_level(risk.monotone(calibration), allowed, sure)
        missed += level is not None and test[:, level].mean() > allowed
    slack = 3 * (splits * (1 - sure) * sure) ** 0.5
    assert missed <= splits * (1 - sure) + slack


def test_no_bound__misses_half_of_the_splits():
    rng, missed, splits = np.random.default_rng(2), 0, 300
    whole, allowed = drawn_losses(rng, 4_000, levels=200), 0.05
    for _ in range(splits):
        order = rng.permutation(len(whole))
        calibration, test = whole[order[:300]], whole[order[300:]]
        level = int(np.argmax(calibration.mean(axis=0) <= allowed))
        missed += test[:, level].mean() > allowed
    assert missed > splits / 4, "the test of confidence could not fail"


def test_p_value__is_small_where_the_loss_is_and_one_where_it_is_not():
    assert risk.p_value(0.2, 1_000, 0.1) == 1
    assert risk.p_value(0.1, 1_000, 0.1) == 1
    values = [risk.p_value(mean, 1_000, 0.1) for mean in (0.0, 0.05, 0.08, 0.099)]
    assert values == sorted(values)
    assert values[0] < 1e-20
    assert risk.p_value(0.0, 10, 1.0) == 0
    assert risk.p_value(0.0, 10, 0.0) == 1


def test_dcg_losses__equal_naive():
    rng = np.random.default_rng(3)
    exact, found = (rng.permuted(np.tile(np.arange(30), (8, 1)), axis=1) for _ in "ab")
    gains = [{int(row): float(rng.integers(4)) for row in some[:9]} for some in exact]
    gains[3] = {}
    losses = dcg_losses(exact[:, :10], gains, 10)(found, found)
    for i, held in enumerate(gains):
        ours, best = (
            naive.dcg([held.get(int(row), 0) for row in rows[i]], 10)
            for rows in (found, exact)
        )
        expected = max(0, 1 - ours / best) if best else math.nan
        assert losses[i] == pytest.approx(expected, nan_ok=True)
    assert np.isnan(losses[3])


# ---- a tuned index


def test_tune__reaches_its_target_on_queries_it_never_saw(tuned: Any):
    index, report = tuned
    unseen = QUERIES[300:]
    best = index.search(unseen, mode="exact").scores[:, -1:]
    found = (index.search(unseen).scores >= best - 1e-6).mean()
    assert report.reached
    assert found > TARGET - 0.03
    assert report.interval[0] <= report.quality <= report.interval[1]
    assert risk_bound(report.chosen.loss, report.tuned.queries) <= 1 - TARGET + 1e-9


def test_tuned_search__is_one_that_could_be_typed(tuned: Any):
    index, report = tuned
    level = report.chosen
    typed = index.search(
        QUERIES,
        mode="rerank",
        shortlist=level.shortlist,
        ef_search=level.ef_search,
        slack=level.slack,
    )
    assert index.search(QUERIES).ids.tolist() == typed.ids.tolist()
    shown = index.search(QUERIES, trace=True).trace
    assert shown.stages[-1].rows_in == level.shortlist * len(QUERIES)


@pytest.mark.parametrize("projection", ["prefix", "pca"])
@pytest.mark.parametrize("own", [False, True])
def test_replays__lose_what_searches_lose(projection: str, own: bool, tmp_path: Path):
    path = tmp_path / "x"
    with FunnelIndex.build(
        ROWS, path=path, projection=projection, code_dim=16, dims=(16, 24, 48)
    ) as index:
        snapshot = index._snapshot()
        given = None if own else QUERIES[:60]
        work = workload_of(snapshot, given, 5, seed=0, threads=1).part(slice(60))
        prices, seen = {dim: dim / 96 for dim in [*between(work), 96]}, set()
        for ef, slack in ((40, None), (60, None), (60, 0.1), (300, 0.2)):
            for loss, knobs in replays(walked(work, ef, slack, list(prices)), prices):
                found = work.run(plan_of(knobs, 5 + own, 96))
                assert loss == pytest.approx(work.recall_loss(*found).mean(), abs=1e-9)
                seen.add((slack, len(knobs.stages)))
        assert len(seen) == 2 * 3


def test_levels__cost_more_and_lose_less(tuned: Any):
    _, report = tuned
    levels = report.tuned.levels
    assert [one.us for one in levels] == sorted(one.us for one in levels)
    losses = [one.loss for one in levels]
    assert losses == sorted(losses, reverse=True)
    assert levels[-1].exact
    assert len(levels) > 3


def test_effort_and_target__choose_a_level(tuned: Any):
    index, report = tuned
    exact = index.search(QUERIES, mode="exact").ids.tolist()
    assert index.search(QUERIES, effort=1).ids.tolist() == exact
    assert index.search(QUERIES, target=1.0).ids.tolist() == exact
    same = index.search(QUERIES, target=TARGET).ids.tolist()
    assert same == index.search(QUERIES).ids.tolist()
    cheapest = index.search(QUERIES, effort=0, trace=True).trace
    assert cheapest.stages[-1].rows_in == report.tuned.levels[0].shortlist * len(
        QUERIES
    )


def test_tuned_search__of_another_k_takes_lists_as_much_longer(tuned: Any):
    index, report = tuned
    for k in (1, 3, 25, len(index)):
        assert (index.search(QUERIES[:5], k).counts == k).all()
    trace = index.search(QUERIES[:5], 20, trace=True).trace
    assert trace.stages[-1].rows_in == 2 * report.chosen.shortlist * 5


def test_tuned__lasts_and_is_the_new_handles_too(tuned: Any):
    index, report = tuned
    with FunnelIndex.open(index.path) as again:
        assert again.search(QUERIES).ids.tolist() == index.search(QUERIES).ids.tolist()
        manifest = newest_manifest(again.path)
    assert Tuned.of(manifest.plan) == report.tuned
    assert str(report).splitlines()[0].startswith("knn_recall@10 0.9")
    assert report.to_dict()["tuned"]["chosen"] == report.tuned.chosen


def test_plot__draws_the_levels(tuned: Any, tmp_path: Path):
    _, report = tuned
    report.plot(tmp_path / "levels.png")
    assert (tmp_path / "levels.png").stat().st_size > 5_000


@pytest.mark.parametrize("metric", ["cosine", "ip"])
def test_tune__of_an_index_by_its_own_rows(metric: str, tmp_path: Path):
    with FunnelIndex.build(ROWS[:600], metric=metric, path=tmp_path / "x") as index:
        report = index.tune(target_knn_recall=0.8, confidence=0.8, k=5)
        assert report.own_queries
        assert report.tuned.k == 5
        assert index.search(ROWS[:600], 1).ids[:, 0].tolist() != []
        index.add(ROWS[600:700])
        assert index.search(ROWS[650], 1).scores[0] > 0
        index.compact()
        assert newest_manifest(index.path).plan == report.tuned.to_json()


def test_tune__within_a_budget_or_of_ndcg(tmp_path: Path):
    ids = [f"d{i}" for i in range(600)]
    with FunnelIndex.build(ROWS[:600], ids=ids, path=tmp_path / "x") as index:
        cheap = index.tune(QUERIES[:100], budget_ms=1e-9)
        assert cheap.tuned.chosen == 0
        rich = index.tune(QUERIES[:100], budget_ms=1e9)
        assert rich.chosen.loss == min(one.loss for one in rich.tuned.levels)
        exact = index.search(QUERIES[:100], 5, mode="exact").ids
        qrels = [dict.fromkeys(some, 1.0) | {"gone": 2.0} for some in exact]
        report = index.tune(QUERIES[:100], qrels, target_ndcg=0.8)
        assert report.tuned.measure == "ndcg"
        assert report.quality > 0.8
        assert list(report.beside) == ["knn_recall"]
        other = index.tune(QUERIES[:100], qrels, target_knn_recall=0.8)
        mean, (least, most) = other.beside["ndcg"]
        assert least <= mean <= most <= 1.2
        assert "ndcg@10 of exact" in str(other)
        own = index.tune(target_knn_recall=0.999)
        assert not own.reached
        assert own.quality == 1.0


def test_tune__where_every_walk_is_poor_scans(tmp_path: Path):
    rows = np.random.default_rng(0).standard_normal((3_000, 64)).astype(np.float32)
    queries = np.random.default_rng(1).standard_normal((60, 64)).astype(np.float32)
    with FunnelIndex.build(
        rows, path=tmp_path / "x", projection="prefix", code_dim=8, graph_dim=8
    ) as index:
        report = index.tune(queries)
        assert not report.reached
        assert index.search(queries, mode="exact").ids.tolist() == (
            index.search(queries).ids.tolist()
        )
        # A budget ends a search between its stages: a scan has none.
        assert not index.search(queries, max_bytes=1).complete
        assert index.search(queries, budget_ms=float("inf")).complete


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e3])
def test_tune__of_inner_products_does_not_hang_on_their_scale(
    scale: float, tmp_path: Path
):
    rng = np.random.default_rng(0)
    rows = np.float32(scale * ROWS[:2_000] * rng.uniform(0.5, 2, (2_000, 1)))
    queries = np.float32(scale * QUERIES[:100])
    with FunnelIndex.build(
        rows, path=tmp_path / "x", metric="ip", projection="pca", code_dim=32
    ) as index:
        whole = index.evaluate(queries, mode="rerank", shortlist=len(rows))
        assert whole.knn_recall == 1.0
        report = index.tune(queries, target_knn_recall=0.9)
        exact = index.search(queries, mode="exact").ids
        found = [
            len(set(a) & set(b)) / 10
            for a, b in zip(index.search(queries).ids, exact, strict=True)
        ]
        assert report.quality == pytest.approx(np.mean(found), abs=0.06)


def test_tune__to_ndcg_leaves_out_queries_without_judgements(tmp_path: Path):
    with FunnelIndex.build(ROWS[:600], path=tmp_path / "x") as index:
        unknown = [{f"d{i}": 1.0} for i in range(60)]
        with pytest.raises(InvalidArgumentError, match="at least 20"):
            index.tune(QUERIES[:60], unknown, target_ndcg=0.9)
        exact = index.search(QUERIES[:60], 3, mode="exact").ids
        some = [dict.fromkeys(ids.tolist(), 1.0) for ids in exact[:40]] + [{}] * 20
        report = index.tune(QUERIES[:60], some, target_ndcg=0.5)
        assert report.tuned.queries == 20
        beside = index.tune(QUERIES[:60], unknown, target_knn_recall=0.5).beside
        assert math.isnan(beside["ndcg"][0])


def test_tune__says_whether_it_is_within_the_budget(tmp_path: Path):
    with FunnelIndex.build(ROWS[:600], path=tmp_path / "x") as index:
        report = index.tune(QUERIES[:40], budget_ms=1e9)
        assert report.reached
        assert "no walk" not in str(report)
        report = index.tune(QUERIES[:40], budget_ms=1e-9)
        assert not report.reached
        assert "no level is within the budget" in str(report)


def test_tune__of_few_rows_or_none(tmp_path: Path):
    with FunnelIndex.create(tmp_path / "x", 96) as index:
        with pytest.raises(InvalidArgumentError, match="no rows"):
            index.tune(QUERIES[:40])
        index.add(ROWS[:8])
        assert index.tune(QUERIES[:40]).tuned.k == 8
        for seed in (-1, "x", 1.5):
            with pytest.raises((InvalidArgumentError, InvalidTypeError), match="seed"):
                index.tune(QUERIES[:40], seed=seed)
        with pytest.raises(InvalidArgumentError, match="too large"):
            index.tune(QUERIES[:40], [{0: 10**400}] * 40, target_ndcg=0.5)


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"target_knn_recall": 1.0}, InvalidArgumentError, "between 0 and 1"),
        ({"target_knn_recall": "high"}, InvalidTypeError, "must be a number"),
        ({"target_ndcg": 0.9}, InvalidArgumentError, "needs qrels"),
        ({"budget_ms": 0}, InvalidArgumentError, "above 0"),
        ({"budget_ms": 1, "confidence": 0.9}, InvalidArgumentError, "has none"),
        (
            {"budget_ms": 1, "target_knn_recall": 0.9},
            InvalidArgumentError,
            "takes one of",
        ),
        ({"confidence": 2}, InvalidArgumentError, "confidence"),
        ({"queries": ROWS[:5]}, InvalidArgumentError, "at least 20"),
        (
            {"queries": QUERIES[:30], "qrels": [{}], "target_ndcg": 0.9},
            InvalidArgumentError,
            "1 qrels for 30",
        ),
        (
            {"queries": QUERIES[:30], "qrels": "no", "target_ndcg": 0.9},
            InvalidTypeError,
            "sequence of dicts",
        ),
    ],
    ids=str,
)
def test_bad_goal__says_what_is_wrong_and_changes_nothing(
    tuned: Any, given: dict[str, Any], error: type[Exception], words: str
):
    index, _ = tuned
    before = index.versions()
    with pytest.raises(error, match=words):
        index.tune(**given)
    assert index.versions() == before


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"effort": 0.5, "target": 0.9}, "one of them alone"),
        ({"effort": 0.5, "shortlist": 50}, "one of them alone"),
        ({"target": 0.9, "mode": "rerank"}, "one of them alone"),
        ({"effort": 1.5}, "at most 1"),
        ({"target": -0.5}, "at least 0"),
    ],
    ids=str,
)
def test_bad_dial__says_what_is_wrong(tuned: Any, given: dict[str, Any], words: str):
    index, _ = tuned
    with pytest.raises(InvalidArgumentError, match=words):
        index.search(QUERIES, **given)


def test_dial__needs_a_tuned_index_and_tune_a_writable_one(tmp_path: Path):
    FunnelIndex.build(ROWS[:50], path=tmp_path / "x").close()
    with FunnelIndex.open(tmp_path / "x") as index:
        with pytest.raises(InvalidArgumentError, match=r"call tune\(\)"):
            index.search(QUERIES, effort=0.5)
        with pytest.raises(ReadOnlyError):
            index.tune()


LEVEL = Level(10, 20, 0.1, False, 0.1, 5.0)
PLAN = Tuned(10, "knn_recall", 100, 0, (LEVEL,))


@pytest.mark.parametrize(
    "change",
    [
        {"k": 0},
        {"k": 11},
        {"k": "ten"},
        {"chosen": 1},
        {"chosen": True},
        {"measure": "speed"},
        {"levels": ()},
        {"levels": (dataclasses.replace(LEVEL, slack=-1.0),)},
        {"levels": (dataclasses.replace(LEVEL, us=float("inf")),)},
        {"levels": (dataclasses.replace(LEVEL, ef_search=5),)},
        {"levels": (dataclasses.replace(LEVEL, exact=1),)},
    ],
    ids=str,
)
def test_stored_plan__that_makes_no_sense_is_refused(
    change: dict[str, Any], tmp_path: Path
):
    assert Tuned.of(PLAN.to_json()) == PLAN
    with FunnelIndex.build(ROWS[:50], path=tmp_path / "x") as index:
        manifest = newest_manifest(index.path)
    wrong = dataclasses.replace(PLAN, **change).to_json()
    path = next((tmp_path / "x" / "manifest").glob("*.fm"))
    path.write_bytes(dataclasses.replace(manifest, plan=wrong).to_bytes())
    with pytest.raises(CorruptIndexError, match="plan"):
        FunnelIndex.open(tmp_path / "x")
