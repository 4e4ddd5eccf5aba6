"""Adaptive classification: equal to its oracle, safe in its promise, and an estimator.

The promise: with thresholds by risk control, accuracy is expected to fall by at most
alpha below full width's. Scores to test it on are drawn, so that it may be broken.
"""

from __future__ import annotations

import json
import math
import pickle
import re
from itertools import pairwise
from pathlib import Path

import naive
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils.estimator_checks import parametrize_with_checks

import funnel.classify.inputs
from benchmarks import classify as benchmark
from benchmarks.marked import END
from funnel.classify import AdaptiveClassifier, UnfittedError
from funnel.classify.heads import confidences, given_heads, split
from funnel.classify.report import make_report
from funnel.classify.stages import Outcomes
from funnel.classify.thresholds import best_pair, path, risk_controlled, stops
from funnel.errors import (
    DimensionError,
    FunnelError,
    InvalidArgumentError,
    InvalidTypeError,
    NonFiniteError,
)

SPLITS, CALIBRATION, FRESH = 300, 400, 600
DIMS = (2, 4, 8)
DOC = Path(benchmark.__file__).parents[1] / "docs" / "classify.md"


def clouds(n, seed, width=16, classes=3):
    """Return rows around a centre a class, told apart better by more dims; labels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    centres = np.random.default_rng(99).normal(size=(classes, width))
    return centres[labels] + 1.2 * rng.normal(size=(n, width)), labels


ROWS, LABELS = clouds(400, seed=0)
FRESH_ROWS, FRESH_LABELS = clouds(150, seed=1)


def linear_heads(seed, dims=DIMS, classes=3):
    rng = np.random.default_rng(seed)
    return {
        dim: (rng.normal(size=(classes, dim)), rng.normal(size=classes)) for dim in dims
    }


@pytest.fixture(scope="module")
def fitted():
    """Give a classifier of fitted heads, its rows not those of the tests."""
    return AdaptiveClassifier(dims=DIMS).fit(ROWS, LABELS)


@st.composite
def outcomes(draw, most_rows=30):
    """Draw confidences (n, s), many of them equal, and what is right."""
    n, stages = draw(st.integers(1, most_rows)), draw(st.integers(1, 5))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    steps = draw(st.sampled_from([3, 10, 99, 10_000]))
    sure = rng.integers(1, steps + 1, (n, stages)) / steps
    return sure, rng.random((n, stages)) < rng.random(stages)


# ---- the oracle


@given(outcomes(), st.integers(0, 2**32 - 1))
def test_stops__equal_the_oracle(drawn, seed):
    sure, _ = drawn
    thresholds = np.random.default_rng(seed).choice(
        [0, 1 / 3, 0.5, 1, 2], sure.shape[1]
    )
    found = stops(sure, thresholds[:-1])
    assert found.tolist() == [naive.adaptive_stage(r, thresholds[:-1]) for r in sure]


@given(outcomes())
def test_best_pair__equals_the_oracle(drawn):
    expected = naive.best_pair_thresholds(*drawn)
    np.testing.assert_allclose(best_pair(*drawn), expected, rtol=0, atol=1e-15)


@given(outcomes(), st.sampled_from([0.001, 0.05, 0.1, 0.25, 0.5, 0.9, 0.999]))
def test_risk_controlled__equals_the_oracle(drawn, alpha):
    found, expected = risk_controlled(*drawn, alpha), naive.risk_level(*drawn, alpha)
    # NumPy's roots and Python's may differ in their last bit
    assert found == expected or found == pytest.approx(expected, rel=1e-15)


@given(st.integers(0, 2**32 - 1), st.lists(st.floats(0, 1.1), min_size=2, max_size=2))
def test_predict__equals_the_oracle(seed, thresholds):
    heads, rng = linear_heads(seed), np.random.default_rng(seed)
    rows = rng.normal(size=(7, 9))
    model = AdaptiveClassifier(heads, thresholds=thresholds).fit(rows, np.arange(7) % 3)
    triples = [(dim, *heads[dim]) for dim in DIMS]
    for row, label, shares in zip(
        rows, model.predict(rows), model.predict_proba(rows), strict=True
    ):
        expected, expected_shares = naive.adaptive_label(row, triples, thresholds)
        assert label == expected
        np.testing.assert_allclose(shares, expected_shares, rtol=1e-12)


# ---- laws of the thresholds


@given(outcomes())
def test_threshold_0__stops_at_the_first_head(drawn):
    sure, _ = drawn
    assert not stops(sure, np.zeros(sure.shape[1] - 1)).any()


@given(outcomes(), st.sampled_from([1.0, 1.5, math.inf]))
def test_threshold_of_1_or_more__never_stops_early(drawn, threshold):
    sure, _ = drawn
    last = sure.shape[1] - 1
    assert (stops(sure, np.full(last, threshold)) == last).all()


@given(outcomes(), st.floats(0, 1), st.floats(0, 1))
def test_higher_level__never_stops_earlier(drawn, one, other):
    sure, _ = drawn
    low, high = (path(x, sure.shape[1]) for x in sorted((one, other)))
    assert (stops(sure, low) <= stops(sure, high)).all()


@given(st.integers(1, 10**9 - 1), st.integers(1, 12))
def test_row_at_its_level__does_not_stop_and_the_next_one_does(billionths, power):
    level = (billionths / 1e9) ** (1 / power)
    threshold = path(level, power + 1)[-1]
    assert billionths / 1e9 <= threshold < (billionths + 1) / 1e9


@given(outcomes())
def test_risk_controlled__asks_more_for_less_risk(drawn):
    found = [risk_controlled(*drawn, a) for a in (0.01, 0.1, 0.3, 0.6, 0.99)]
    assert all(a >= b for a, b in pairwise(found))


@given(outcomes(), st.integers(0, 2**32 - 1))
def test_thresholds__do_not_depend_on_the_order_of_rows(drawn, seed):
    sure, right = drawn
    order = np.random.default_rng(seed).permutation(len(sure))
    again = sure[order], right[order]
    assert best_pair(*drawn).tolist() == best_pair(*again).tolist()
    assert risk_controlled(*drawn, 0.2) == risk_controlled(*again, 0.2)


def test_risk_controlled__promises_nothing_that_few_rows_cannot_hold():
    sure, right = np.full((98, 3), 0.9), np.ones((98, 3), bool)
    assert risk_controlled(sure, right, 0.01) == math.inf
    assert path(math.inf, 3).tolist() == [math.inf] * 2
    sure, right = np.full((99, 3), 0.9), np.ones((99, 3), bool)
    assert risk_controlled(sure, right, 0.01) == 0
    assert path(0, 3).tolist() == [0, 0]


# ---- the promise


def scores(rng, n, stages=6):
    """Draw heads of which each is wrong where no other is, and often sure of it.

    An early head is never right where the last is wrong: no loss is set off.
    """
    sure = 0.3 + 0.7 * rng.random((n, stages))
    victim = rng.integers(1 - stages, stages - 1, n)  # half of the rows are no one's
    wrong = victim[:, None] == np.arange(stages)
    sure[wrong] = 0.3 + 0.7 * rng.random(wrong.sum()) ** 1.5
    unlucky = rng.random(n) < 0.05  # wrong everywhere
    return sure, ~(wrong | unlucky[:, None])


def losses(learn, alpha, shuffled=False):
    """Return the loss of accuracy on fresh rows, and stages walked, split by split."""
    pool = scores(np.random.default_rng(7), CALIBRATION + FRESH)
    found, walked = [], []
    for seed in range(SPLITS):
        rng = np.random.default_rng(seed)
        sure, right = scores(rng, CALIBRATION + FRESH)
        if shuffled:
            order = rng.permutation(CALIBRATION + FRESH)
            sure, right = pool[0][order], pool[1][order]
        thresholds = learn(sure[:CALIBRATION], right[:CALIBRATION], alpha)
        sure, right = sure[CALIBRATION:], right[CALIBRATION:]
        stopped = stops(sure, thresholds)
        hit = right[np.arange(FRESH), stopped]
        found.append(right[:, -1].mean() - hit.mean())
        walked.append(stopped.mean())
    return np.array(found), float(np.mean(walked))


def one_by_one(sure, right, alpha):
    """Control the risk of each stage as if it were the only one before the last."""
    pairs = [[stage, -1] for stage in range(sure.shape[1] - 1)]
    return np.array([risk_controlled(sure[:, p], right[:, p], alpha) for p in pairs])


def together(sure, right, alpha):
    return path(risk_controlled(sure, right, alpha), sure.shape[1])


@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.1])
def test_risk_controlled__keeps_its_promise(alpha):
    found, walked = losses(together, alpha)
    error = found.std(ddof=1) / math.sqrt(SPLITS)
    assert found.mean() <= alpha + 2 * error
    assert found.mean() >= alpha / 2  # neither by never stopping early
    assert walked < 4.9


def test_risk_controlled__keeps_its_promise_over_splits_of_one_set():
    found, _ = losses(together, 0.05, shuffled=True)
    assert found.mean() <= 0.05 + 2 * found.std(ddof=1) / math.sqrt(SPLITS)


@pytest.mark.parametrize("alpha", [0.01, 0.05])
def test_thresholds_one_by_one__break_the_promise(alpha):
    found, _ = losses(one_by_one, alpha)
    error = found.std(ddof=1) / math.sqrt(SPLITS)
    assert found.mean() > alpha + 2 * error


def test_best_pair__promises_nothing():
    found, _ = losses(lambda sure, right, alpha: best_pair(sure, right), 0.01)
    assert found.mean() > 0.01


# ---- the estimator


@pytest.fixture
def first_dim(request, monkeypatch):
    """Let default dims begin at 1, so that the small data of the checks has stages."""
    monkeypatch.setattr(funnel.classify.inputs, "FIRST_DIM", 1)


# Votes are by cosine, which rows of zeros do not have: they are refused.
ZERO_ROWS = dict.fromkeys(
    ("check_estimators_dtypes", "check_classifier_data_not_an_array"),
    "its data holds rows whose first dims are all zero",
)


@parametrize_with_checks(
    [
        AdaptiveClassifier(),
        AdaptiveClassifier(thresholds="risk", alpha=0.1),
        AdaptiveClassifier(heads="knn"),
    ],
    expected_failed_checks=lambda one: ZERO_ROWS if one.heads == "knn" else {},
)
def test_estimator__is_one_of_scikit_learn(estimator, check, first_dim):
    check(estimator)


@parametrize_with_checks([AdaptiveClassifier()])
def test_estimator__of_one_stage_is_one_too(estimator, check):
    check(estimator)


def test_batch__equals_its_rows(fitted):
    stopped = fitted.dims_used(FRESH_ROWS)
    assert len(set(stopped)) == len(DIMS)
    labels, shares = fitted.predict(FRESH_ROWS), fitted.predict_proba(FRESH_ROWS)
    for i, row in enumerate(FRESH_ROWS[:, None]):
        assert fitted.predict(row) == labels[i]
        assert fitted.dims_used(row) == stopped[i]
        np.testing.assert_allclose(fitted.predict_proba(row)[0], shares[i], rtol=1e-12)


def test_rows_at_a_threshold__stop_alike_alone_and_in_a_batch():
    model = AdaptiveClassifier(dims=DIMS, thresholds="risk", alpha=0.05)
    model.fit(ROWS, LABELS, validation=(FRESH_ROWS, FRESH_LABELS))
    off = np.abs(model._outcomes.confidences[:, :-1] - model.thresholds_)
    assert off.min() < 1e-11  # a row is exactly at its threshold
    stopped = model.dims_used(FRESH_ROWS)
    assert [model.dims_used(row)[0] for row in FRESH_ROWS[:, None]] == stopped.tolist()


@given(st.permutations(range(40)))
def test_rows__do_not_depend_on_their_order(fitted, order):
    rows = FRESH_ROWS[:40]
    shares = fitted.predict_proba(rows)[order]
    np.testing.assert_allclose(fitted.predict_proba(rows[order]), shares, rtol=1e-12)


def test_given_thresholds__0_is_the_first_head_and_2_the_last():
    heads = linear_heads(3)
    for thresholds, dim in ((0, 0), DIMS[0]), ((2, 2), DIMS[-1]), ((2, 0), DIMS[1]):
        model = AdaptiveClassifier(heads, thresholds=thresholds).fit(ROWS, LABELS)
        assert (model.dims_used(FRESH_ROWS) == dim).all()
        alone = given_heads(heads)[dim].probabilities(FRESH_ROWS[:, :dim])
        np.testing.assert_allclose(model.predict_proba(FRESH_ROWS), alone, rtol=1e-12)


@pytest.mark.parametrize("classes", [2, 3])
def test_logistic_heads__are_scikit_learns(classes):
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rows, labels = clouds(200, 5, classes=classes)
    names = np.array(["ant", "bee", "cat"])[labels]
    model = AdaptiveClassifier(dims=[4], validation_share=0.5).fit(rows, names)
    kept, _ = split(labels, 0.5, seed=0)
    theirs = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1_000))
    theirs.fit(rows[kept][:, :4], names[kept])
    np.testing.assert_allclose(
        model.predict_proba(rows), theirs.predict_proba(rows[:, :4]), rtol=1e-9
    )
    assert model.predict(rows).tolist() == theirs.predict(rows[:, :4]).tolist()


def test_knn_heads__count_votes_as_the_oracle_does():
    limits = (0.6, 0.8)  # three and four of five votes: many rows are exactly there
    model = AdaptiveClassifier("knn", dims=DIMS, n_neighbors=5, thresholds=limits)
    model.fit(ROWS, LABELS, validation=(FRESH_ROWS, FRESH_LABELS))
    shares, used = model.predict_proba(FRESH_ROWS), model.dims_used(FRESH_ROWS)
    assert len(set(used)) == len(DIMS)
    for row, found, dim in zip(FRESH_ROWS, shares, used, strict=True):
        votes = []
        for width in DIMS:
            near = naive.top(naive.prefix_cosines(ROWS, row, width), 5)
            votes.append(np.bincount(LABELS[near], minlength=3) / 5)
        stage = naive.adaptive_stage([max(one) for one in votes], limits)
        assert dim == DIMS[stage]
        np.testing.assert_allclose(found, votes[stage], rtol=1e-12)


@given(st.lists(st.integers(0, 3), min_size=5, max_size=40), st.floats(0.01, 0.99))
def test_split__keeps_a_row_of_every_class_and_takes_one_of_two(codes, share):
    codes = np.array(codes + codes)
    kept, held = split(codes, share, seed=1)
    assert sorted([*kept, *held]) == list(range(len(codes)))
    assert set(codes[kept]) == set(codes[held]) == set(codes)


# ---- the report


def test_expected_dims__are_those_of_the_rows(fitted):
    used = fitted.dims_used(FRESH_ROWS)
    report = fitted.report(FRESH_ROWS, FRESH_LABELS)
    cumulative = {2: 2, 4: 6, 8: 14}
    assert report.expected_dims.last == pytest.approx(used.mean())
    assert report.expected_dims.cumulative == pytest.approx(
        np.mean([cumulative[dim] for dim in used])
    )
    hit = fitted.predict(FRESH_ROWS) == FRESH_LABELS
    assert report.accuracy == pytest.approx(hit.mean())
    assert fitted.expected_dims_ == fitted.report().expected_dims


@given(outcomes())
def test_report__adds_up(drawn):
    sure, right = drawn
    dims = [3**i for i in range(sure.shape[1])]
    report = make_report(Outcomes(sure, right), best_pair(*drawn), dims)
    parts = [(s.share_stopped, s.stopped_accuracy) for s in report.stages]
    assert sum(share for share, _ in parts) == pytest.approx(1)
    hits = sum(share * hit for share, hit in parts if share)
    assert hits == pytest.approx(report.accuracy)
    last = report.stages[-1]
    assert (last.capped_accuracy, last.capped_dims) == (
        report.accuracy, report.expected_dims,
    )  # fmt: skip
    assert report.curve[0].accuracy == pytest.approx(right[:, 0].mean())
    assert report.curve[-1].accuracy == pytest.approx(report.full_accuracy)
    spent = [point.expected_dims.last for point in report.curve]
    assert spent == sorted(spent)


def test_report__prints_a_table(fitted):
    lines = str(fitted.report(FRESH_ROWS, FRESH_LABELS)).splitlines()
    assert lines[0].startswith("150 rows: accuracy 0.")
    assert len(lines) == 4 + len(DIMS)
    assert lines[-1].startswith("| 8 | – |")


# ---- odd and bad input


def test_confidences__forget_the_last_bits():
    assert confidences(np.array([[0.3, 0.7]])) == confidences(
        np.array([[0.3, np.nextafter(0.7, 1)]])
    )


def test_float32__is_read_as_it_is(fitted):
    rows = FRESH_ROWS.astype(np.float32)
    wide = fitted.predict_proba(rows.astype(np.float64))
    assert (fitted.predict_proba(rows) == wide).all()


def test_pickle__and_clone_work(fitted):
    again = pickle.loads(pickle.dumps(fitted))
    assert (again.predict(FRESH_ROWS) == fitted.predict(FRESH_ROWS)).all()
    assert not hasattr(clone(fitted), "heads_")


def test_unfitted__is_both_libraries_error():
    assert issubclass(UnfittedError, NotFittedError)
    assert issubclass(UnfittedError, FunnelError)
    for ask in ("predict", "predict_proba", "dims_used", "report"):
        with pytest.raises(UnfittedError, match="call fit"):
            getattr(AdaptiveClassifier(), ask)(ROWS, *[LABELS][: ask == "report"])


NAN_HEADS = {2: (np.full((3, 2), np.nan), np.zeros(3))}
UNEVEN = linear_heads(0, (2,)) | linear_heads(0, (4,), classes=4)
BAD = [
    ({"heads": "forest"}, InvalidArgumentError, "logistic"),
    ({"heads": 3}, InvalidTypeError, "heads must be"),
    ({"heads": {}}, InvalidArgumentError, "empty"),
    ({"heads": {2.5: (1, 2)}}, InvalidTypeError, "dim must be an int"),
    ({"heads": {2: 7}}, InvalidTypeError, r"\(weights, bias\)"),
    ({"heads": {2: (np.ones((3, 4)), np.ones(3))}}, DimensionError, r"\(classes, 2\)"),
    ({"heads": NAN_HEADS}, NonFiniteError, "head at 2"),
    ({"heads": UNEVEN}, DimensionError, "same two or more classes"),
    ({"heads": linear_heads(0, (2, 32))}, DimensionError, "end at 32"),
    ({"heads": linear_heads(0, (2,), classes=2)}, InvalidArgumentError, "no classes"),
    ({"heads": linear_heads(0), "dims": (2, 5)}, DimensionError, "need heads"),
    ({"dims": (4, 2)}, InvalidArgumentError, "increase"),
    ({"dims": ()}, InvalidArgumentError, "increase"),
    ({"dims": 4}, InvalidTypeError, "sequence"),
    ({"dims": (2, 4.0)}, InvalidTypeError, "int"),
    ({"dims": (2, 17)}, DimensionError, "16 features"),
    ({"thresholds": "best"}, InvalidArgumentError, "best_pair"),
    ({"thresholds": 0.5}, InvalidTypeError, "sequence"),
    ({"dims": DIMS, "thresholds": (0.5,)}, InvalidArgumentError, "2 numbers"),
    ({"dims": (2, 4), "thresholds": (-0.1,)}, InvalidArgumentError, "at least 0"),
    ({"dims": (2, 4), "thresholds": ("x",)}, InvalidTypeError, "number"),
    ({"dims": (2, 4), "thresholds": (math.nan,)}, InvalidArgumentError, "NaN"),
    ({"alpha": 0}, InvalidArgumentError, "alpha"),
    ({"alpha": 1}, InvalidArgumentError, "alpha"),
    ({"alpha": "small"}, InvalidTypeError, "alpha"),
    ({"validation_share": 1.5}, InvalidArgumentError, "validation_share"),
    ({"n_neighbors": 0}, InvalidArgumentError, "n_neighbors"),
    ({"seed": -1}, InvalidArgumentError, "seed"),
]


@pytest.mark.parametrize(("given_", "error", "words"), BAD, ids=str)
def test_bad_parameters__are_typed_errors(given_, error, words):
    with pytest.raises(error, match=words):
        AdaptiveClassifier(**given_).fit(ROWS, LABELS)


BAD_ROWS = [
    (ROWS[0], LABELS, InvalidArgumentError, "2D"),
    (ROWS[:0], LABELS[:0], InvalidArgumentError, "0 sample"),
    (ROWS, LABELS[:-1], InvalidArgumentError, "inconsistent"),
    (ROWS, np.zeros(400), InvalidArgumentError, "1 class"),
    (ROWS, ROWS[:, 0], InvalidArgumentError, "Unknown label type"),
    (np.where(ROWS > 2, np.nan, ROWS), LABELS, InvalidArgumentError, "NaN"),
    (ROWS * 1j, LABELS, InvalidArgumentError, "Complex"),
    (ROWS[:3], [0, 1, 2], InvalidArgumentError, "rows of their own"),
]


@pytest.mark.parametrize(("rows", "labels", "error", "words"), BAD_ROWS)
def test_bad_rows__are_typed_errors(rows, labels, error, words):
    with pytest.raises(error, match=words):
        AdaptiveClassifier().fit(rows, labels)


def test_bad_validation__is_a_typed_error():
    model = AdaptiveClassifier(dims=DIMS)
    with pytest.raises(InvalidTypeError, match="pair"):
        model.fit(ROWS, LABELS, validation=ROWS)
    with pytest.raises(DimensionError, match="16 features"):
        model.fit(ROWS, LABELS, validation=(ROWS[:, :9], LABELS))
    with pytest.raises(InvalidArgumentError, match="no classes"):
        model.fit(ROWS, LABELS, validation=(ROWS, LABELS + 7))
    with pytest.raises(InvalidArgumentError, match="no validation"):
        AdaptiveClassifier(linear_heads(0)).fit(ROWS, LABELS, (ROWS, LABELS))


def test_bad_rows_of_a_prediction__are_typed_errors(fitted):
    for ask in (fitted.predict, fitted.predict_proba, fitted.dims_used):
        with pytest.raises(DimensionError, match="expecting 16 features"):
            ask(ROWS[:, :9])
        with pytest.raises(InvalidArgumentError, match="infinity"):
            ask(np.full((2, 16), np.inf))
    with pytest.raises(InvalidArgumentError, match="neither"):
        fitted.report(ROWS)
    with pytest.raises(InvalidArgumentError, match="no classes"):
        fitted.report(ROWS, LABELS + 1)


# ---- the document and its figures


def test_document__code_runs(capsys):
    code = re.findall(r"```python\n(.*?)```", DOC.read_text(), flags=re.DOTALL)
    assert code
    exec(compile("\n".join(code), DOC.name, "exec"), {})
    assert "(300,) (300, 3)" in capsys.readouterr().out


def test_document__has_its_markers_and_figure():
    text = DOC.read_text()
    assert text.count(benchmark.BEGIN) == text.count(END) == 1
    for link in re.findall(r"\]\(([^)#]+)", text):
        assert (DOC.parent / link).exists(), link


def tiny_set(folder):
    """Write a set of 16 dims with heads for 8 and 16."""
    centres = np.random.default_rng(99).normal(size=(3, 16))
    heads = {}
    for dim in (8, 16):
        part = centres[:, :dim]
        heads[f"head{dim}_w"], heads[f"head{dim}_b"] = part, -(part**2).sum(1) / 2
    np.savez(folder / "heads.npz", **heads)
    for seed, (rows, labels, n) in enumerate(
        [
            ("corpus", "corpus_labels", 300),
            ("queries", "query_labels", 40),
            ("validation", "validation_labels", 160),
        ]
    ):
        x, y = clouds(n, seed)
        np.save(folder / f"{rows}.npy", x.astype(np.float32))
        np.save(folder / f"{labels}.npy", y)


def test_benchmark__measures_and_writes_its_section(tmp_path, monkeypatch, capsys):
    (tmp_path / "tiny").mkdir()
    (tmp_path / "docs").mkdir()
    tiny_set(tmp_path / "tiny")
    doc = tmp_path / "docs" / "classify.md"
    doc.write_text(f"before\n{benchmark.BEGIN}STALE\n{END}\nafter\n")
    monkeypatch.setattr(benchmark, "ROOT", tmp_path)
    monkeypatch.setattr(benchmark, "FIT_ROWS", 100)
    out = tmp_path / "classify.json"
    benchmark.main(
        ["--dataset", "tiny", "--cache", str(tmp_path), "--out", str(out), "--doc"]
    )
    found = json.loads(out.read_text())
    assert (found["fit_rows"], found["tests"]["validation"]["rows"]) == (100, 60)
    assert found["nearest"].keys() == {"8", "16"}
    for policy in found["policies"].values():
        one = policy["validation"]
        assert one["loss"] == pytest.approx(
            one["full_accuracy"] - one["accuracy"], abs=1e-5
        )
        assert 8 <= one["dims"] <= 16
        assert one["dims"] <= one["cumulative_dims"] <= 24
    # so few rows promise nothing below 1 %: full width
    assert found["policies"]["risk, α = 0.2%"]["queries"]["dims"] == 16
    text = doc.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "STALE" not in text
    assert "### tiny, both: 100 rows" in text
    assert (tmp_path / "docs" / "figures" / "classify-tiny.png").stat().st_size > 5_000
