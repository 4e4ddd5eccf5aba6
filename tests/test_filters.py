"""Filters: what passes is what plain Python says, and answers are the best of it."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import conftest
import naive
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import funnel.build.segment
from funnel import Cascade, FunnelIndex, Stage
from funnel.errors import (
    DimensionError,
    FunnelError,
    InvalidArgumentError,
    InvalidTypeError,
    UnknownIdError,
)
from funnel.kernels.jit import COMPILED

DIM, ROWS = 24, 600 if COMPILED else 120
POOL = conftest.turned_rows(ROWS, DIM, 7, rank=16)
QUERIES = conftest.near_rows(POOL, 4, 8)
CLOSE = 4e-6
DAY = datetime.date(2026, 1, 1)


def columns(count: int, start: int = 0) -> dict[str, list[Any]]:
    at = range(start, start + count)
    return {
        "lang": [("en", "de", "fr", None)[i % 4] for i in at],
        "year": [None if i % 7 == 0 else 2000 + i % 30 for i in at],
        "share": [i / 100 for i in at],
        "good": [i % 3 == 0 for i in at],
        "day": [DAY + datetime.timedelta(i % 20) for i in at],
        "tags": [[f"t{i % 5}", "all"] if i % 2 else None for i in at],
    }


@pytest.fixture(scope="module", params=["one", "many"])
def index(request: pytest.FixtureRequest) -> Iterator[FunnelIndex]:
    """One segment with a graph; or three, with rows deleted in two of them."""
    before = funnel.build.segment.SCAN_ROWS
    funnel.build.segment.SCAN_ROWS = 50
    third = ROWS // 3
    some = ROWS if request.param == "one" else third
    ids = [f"d{i}" for i in range(ROWS)]
    with FunnelIndex.build(
        POOL[:some], ids=ids[:some], metadata=columns(some), M=8, ef_construction=60
    ) as built:
        if request.param == "many":
            for start in (third, 2 * third):
                at = slice(start, start + third)
                meta = columns(third, start)
                if start == third:
                    del meta["share"]
                built.add(POOL[at], ids=ids[at], metadata=meta)
            built.delete([ids[1], ids[third + 5], ids[3], "unknown"])
        yield built
    funnel.build.segment.SCAN_ROWS = before


def rows_in(index: FunnelIndex) -> list[dict[str, Any]]:
    return index.to_arrow().to_pylist()


def meets(row: dict[str, Any], condition: dict[str, Any]) -> bool:
    """Judge a row as MongoDB would, in plain Python."""
    return all(_meets_one(row, name, value) for name, value in condition.items())


def _meets_one(row: dict[str, Any], name: str, value: Any) -> bool:
    if name == "$and":
        return all(meets(row, one) for one in value)
    if name == "$or":
        return any(meets(row, one) for one in value)
    if name == "$not":
        return not meets(row, value)
    if not isinstance(value, dict):
        value = {"$eq": value}
    return all(_compares(row[name], o, v) for o, v in value.items())


def _compares(held: Any, operator: str, value: Any) -> bool:
    if operator == "$not":
        return not all(_compares(held, o, v) for o, v in value.items())
    if operator == "$exists":
        return (held is not None) == value
    if operator in ("$ne", "$nin"):
        opposite = {"$ne": "$eq", "$nin": "$in"}[operator]
        return not _compares(held, opposite, value)
    if operator == "$in":
        return held in value
    if operator == "$eq":
        return held == value
    if held is None or value is None:
        return False
    if operator == "$contains":
        return value in held
    return {
        "$gt": held > value,
        "$gte": held >= value,
        "$lt": held < value,
        "$lte": held <= value,
    }[operator]


plain = st.one_of(
    st.builds(lambda v: {"lang": v}, st.sampled_from(["en", "de", "xx", None])),
    st.builds(
        lambda o, v: {"year": {o: v}},
        st.sampled_from(["$eq", "$ne", "$gt", "$gte", "$lt", "$lte"]),
        st.integers(1998, 2031) | st.none(),
    ),
    st.builds(
        lambda o: {"lang": {o: None}},
        st.sampled_from(["$eq", "$ne", "$gt", "$gte", "$lt", "$lte"]),
    ),
    st.builds(
        lambda a, b: {"year": {"$gte": a, "$lt": b}, "good": True},
        st.integers(2000, 2030),
        st.integers(2000, 2030),
    ),
    st.builds(
        lambda o, v: {"lang": {o: v}},
        st.sampled_from(["$in", "$nin"]),
        st.lists(st.sampled_from(["en", "fr", None]), max_size=3),
    ),
    st.builds(lambda v: {"share": {"$lte": v}}, st.floats(0, ROWS / 100)),
    st.builds(
        lambda n: {"day": {"$gt": DAY + datetime.timedelta(n)}}, st.integers(0, 20)
    ),
    st.builds(lambda v: {"tags": {"$exists": v}}, st.booleans()),
    st.builds(
        lambda v: {"tags": {"$contains": v}}, st.sampled_from(["all", "t3", "x"])
    ),
    st.builds(lambda v: {"lang": {"$contains": v}}, st.sampled_from(["e", "n", ""])),
    st.builds(lambda n: {"id": {"$in": [f"d{n}", "d2"]}}, st.integers(0, ROWS)),
    st.builds(lambda n: {"year": {"$not": {"$lt": n}}}, st.integers(2000, 2030)),
)
conditions = st.recursive(
    plain,
    lambda some: st.one_of(
        st.builds(lambda a: {"$and": a}, st.lists(some, max_size=3)),
        st.builds(lambda a: {"$or": a}, st.lists(some, max_size=3)),
        st.builds(lambda a: {"$not": a}, some),
    ),
    max_leaves=4,
)


def check(index: FunnelIndex, given_: Any, passing: list[str], k: int = 5) -> None:
    """Compare searches with a filter to the oracle over the rows that pass."""
    values = POOL[[int(name[1:]) for name in passing]].astype(np.float64)
    for mode in ("exact", "funnel", "prefix"):
        hits = index.search(QUERIES, k, filter=given_, mode=mode, shortlist=ROWS)
        assert hits.ids.shape == (len(QUERIES), min(k, len(passing)))
        assert (hits.counts == min(k, len(passing))).all()
        assert set(hits.ids.ravel()) <= set(passing)
        if mode == "prefix" or not passing:
            continue
        for query, found, scores in zip(QUERIES, hits.ids, hits.scores, strict=True):
            places = np.array([passing.index(i) for i in found])
            oracle = naive.prefix_cosines(values, query, DIM)
            naive.assert_same_ranking(places, scores, oracle, CLOSE)


@settings(max_examples=60 if COMPILED else 10)
@given(condition=conditions)
def test_dict__passes_what_plain_python_says(
    index: FunnelIndex, condition: dict[str, Any]
) -> None:
    passing = [row["id"] for row in rows_in(index) if meets(row, condition)]
    check(index, condition, passing)


def test_expression_mask_and_ids__pass_the_same(index: FunnelIndex) -> None:
    rows = rows_in(index)
    mask = [row["good"] and row["lang"] == "de" for row in rows]
    passing = [row["id"] for row, one in zip(rows, mask, strict=True) if one]
    expression = (pc.field("lang") == "de") & pc.field("good")
    for one in (
        {"lang": "de", "good": True},
        expression,
        mask,
        np.array(mask),
        pa.array(mask),
        passing,
        np.array(passing),
        pa.array([*passing, "unknown"]),
    ):
        check(index, one, passing)


@pytest.mark.parametrize("share", [0.0, 0.004, 0.01, 0.1, 0.5, 0.9, 1.0])
def test_mask__of_any_share_gives_the_best_of_what_passes(
    index: FunnelIndex, share: float
) -> None:
    ids = index.to_arrow().column("id").to_pylist()
    mask = np.random.default_rng(3).random(len(ids)) < share
    passing = [i for i, one in zip(ids, mask, strict=True) if one]
    check(index, mask, passing, k=7)
    # With an ordinary shortlist too there are always min(k, matches) answers.
    hits = index.search(QUERIES, 7, filter=mask, shortlist=10)
    assert hits.ids.shape == (len(QUERIES), min(7, len(passing)))
    assert all(one is not None for one in hits.ids.ravel())


def test_filter__is_evaluated_once_a_version(
    index: FunnelIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    evaluate = funnel.filters.evaluate
    monkeypatch.setattr(
        funnel.filters, "evaluate", lambda *a: (calls.append(1), evaluate(*a))[1]
    )
    condition = {"year": {"$gte": 2011}, "good": False}
    first = index.search(QUERIES[0], filter=condition, trace=True)
    assert calls
    count = len(calls)
    again = index.search(QUERIES[0], filter=dict(reversed(condition.items())))
    index.search(QUERIES[0], filter=condition)
    assert len(calls) in (count, 2 * count)  # the same in another order is another
    assert first.ids.tolist() == again.ids.tolist()
    step = first.trace[0]
    assert step.name == "filter"
    assert step.rows_in == len(index)
    assert step.rows_kept == sum(meets(row, condition) for row in rows_in(index))


@pytest.mark.parametrize(
    ("given_", "error", "words"),
    [
        ({"nope": 1}, InvalidArgumentError, "no metadata column 'nope'.*lang"),
        ({"year": {"$gthan": 1}}, InvalidArgumentError, "unknown operator '\\$gthan'"),
        ({"$xor": []}, InvalidArgumentError, "unknown operator '\\$xor'"),
        ({"$and": {"year": 1}}, InvalidTypeError, "list of dicts"),
        ({"$or": [3]}, InvalidTypeError, "takes dicts"),
        ({"year": "soon"}, InvalidTypeError, "'year' is int64"),
        ({"lang": {"$gt": 3}}, InvalidTypeError, "'lang' is"),
        ({"lang": {"$in": "en"}}, InvalidTypeError, "takes a list"),
        ({"year": {"$contains": 2}}, InvalidTypeError, "only texts and lists"),
        ({"year": {"$exists": 1}}, InvalidTypeError, "takes a bool"),
        ({"year": {}}, InvalidArgumentError, "empty condition"),
        ({"year": [1]}, InvalidTypeError, "cannot be compared"),
        ({3: 1}, InvalidTypeError, "must be str"),
        ("lang = 'en'", InvalidTypeError, "must be a dict"),
        (3, InvalidTypeError, "must be a dict"),
        ([True, False], DimensionError, "mask of shape"),
        (np.uint8([1, 0, 0, 1]), InvalidTypeError, "a mask needs bools"),
        ([1, 2.5], InvalidTypeError, "ids must be"),
        (pc.field("nope") == 1, InvalidArgumentError, "nope"),
        (pc.field("year") + 1, InvalidTypeError, "not bool"),
    ],
    ids=str,
)
def test_bad_filter__says_what_is_wrong(
    index: FunnelIndex, given_: Any, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words) as caught:
        index.search(QUERIES, filter=given_)
    assert isinstance(caught.value, FunnelError)


def nested(inner: Any, deep: int) -> Iterator[Any]:
    """Give `inner` inside `deep` dicts and lists, of every kind that nests."""
    wrap = {
        "and": lambda one: {"$and": [one]},
        "or": lambda one: {"year": 1, "$or": [one, {"year": 1}]},
        "not": lambda one: {"$not": one},
        "not of a column": lambda one: {"year": {"$not": one.get("year", one)}},
        "list": lambda one: {"$and": [[one]]},
        "tuple": lambda one: {"year": (one,)},
    }
    for one_more in wrap.values():
        whole = inner
        for _ in range(deep):
            whole = one_more(whole)
        yield whole
    names: Any = ()
    for _ in range(deep):
        names = (names,)
    yield {names: 1}
    yield {"year": {"$in": [names]}}


def test_filter__nested_too_deep_is_refused(index: FunnelIndex) -> None:
    for deep in (101, 10_000):
        for given_ in nested({"year": 1}, deep):
            with pytest.raises(InvalidArgumentError, match="more than 100 deep"):
                index.search(QUERIES, filter=given_)
    endless: dict[str, Any] = {}
    endless["$and"] = [endless, endless]
    with pytest.raises(InvalidArgumentError, match="more than 100 deep"):
        index.search(QUERIES, filter=endless)
    with pytest.raises(InvalidArgumentError, match="more than 100 deep"):
        index.delete(filter=endless)


def test_filter__nested_as_deep_as_may_be_is_evaluated(index: FunnelIndex) -> None:
    condition: dict[str, Any] = {"year": {"$gte": 2015}}
    passing = [row["id"] for row in rows_in(index) if meets(row, condition)]
    for _ in range(49):  # a dict and a list each
        condition = {"$and": [condition]}
    check(index, condition, passing)


def test_filter__nan_and_zeros_are_compared_in_lists_as_they_are_alone() -> None:
    nan, values = float("nan"), [float("nan"), 0.0, -0.0, 1.5, None]
    meta = pa.table({"part": values, "small": pa.array(values, pa.float32())})
    with FunnelIndex.build(POOL[:5], metadata=meta) as index:
        for name in meta.column_names:
            for given_, passing in (
                (nan, []), ({"$in": [nan]}, []), ({"$in": [nan, 1.5]}, [3]),
                ({"$ne": nan}, [0, 1, 2, 3, 4]), ({"$nin": [nan]}, [0, 1, 2, 3, 4]),
                ({"$gte": nan}, []), ({"$not": {"$lt": nan}}, [0, 1, 2, 3, 4]),
                (0.0, [1, 2]), (-0.0, [1, 2]), ({"$in": [0.0]}, [1, 2]),
                ({"$in": [-0.0, 1.5]}, [1, 2, 3]), ({"$nin": [0]}, [0, 3, 4]),
                ({"$in": [None]}, [4]), ({"$in": [None, nan]}, [4]),
            ):  # fmt: skip
                found = index.search(POOL[0], k=5, filter={name: given_}).ids.tolist()
                assert sorted(found) == passing, (name, given_)


@pytest.mark.parametrize(
    "given_",
    [
        {}, {"$and": []}, {"$and": [{}, {}]}, {"$or": [{}, {"year": 2001}]},
        {"$not": {"$or": []}}, {"year": {"$nin": []}},
        {"$not": {"year": {"$in": []}}}, {"$and": [{"$not": {"$not": {}}}]},
    ],
    ids=str,
)  # fmt: skip
def test_delete__refuses_a_filter_that_says_nothing(
    index: FunnelIndex, given_: dict[str, Any]
) -> None:
    before, rows = index.versions(), len(index)
    passing = index.search(QUERIES[0], k=rows, filter=given_)
    assert passing.counts == rows  # a search takes it
    with pytest.raises(InvalidArgumentError, match=r"every row.*\$exists"):
        index.delete(filter=given_)
    assert (index.versions(), len(index)) == (before, rows)


def test_delete__takes_filters_that_no_row_or_every_row_passes() -> None:
    with FunnelIndex.build(POOL[:40], metadata=columns(40)) as index:
        for none in ({"$or": []}, {"$not": {}}, {"year": {"$in": []}}, []):
            assert index.delete(filter=none) == 0
        assert index.versions() == [1]
        assert index.delete(filter={"id": {"$exists": True}}) == 40
        assert len(index) == 0


# ---- what else is asked of an index


def test_min_score__leaves_out_what_scores_less(index: FunnelIndex) -> None:
    whole = index.search(QUERIES, k=20)
    least = float(np.median(whole.scores))
    hits = index.search(QUERIES, k=20, min_score=least)
    assert hits.counts.tolist() == (whole.scores >= least).sum(axis=1).tolist()
    for i, count in enumerate(hits.counts.tolist()):
        assert hits.ids[i][:count].tolist() == whole.ids[i][:count].tolist()
        assert all(one is None for one in hits.ids[i][count:])
        assert (hits.scores[i][count:] == -np.inf).all()
    assert index.search(QUERIES[0], min_score=2.0).counts == 0


def test_similar__keeps_as_many_as_it_was_told_to(index: FunnelIndex) -> None:
    plain = index.similar("d7", 4, mode="exact").ids.tolist()
    assert index.similar("d7", 4, shortlist=4).counts == 4
    cascade = Cascade([Stage(index.full_dim, 4)])
    assert index.similar("d7", 4, cascade=cascade, shortlist=len(index)).counts == 4
    widest = Cascade([Stage(index.full_dim, len(index))])
    assert index.similar("d7", 4, cascade=widest).ids.tolist() == plain
    with pytest.raises(InvalidArgumentError, match="shortlist"):
        index.similar("d7", 4, shortlist=3)


def test_similar__leaves_out_the_row_itself(index: FunnelIndex) -> None:
    hits = index.similar("d7", k=4)
    among = index.search(POOL[7], k=5)
    assert hits.ids.tolist() == [one for one in among.ids.tolist() if one != "d7"][:4]
    assert index.similar("d7", 2, filter={"good": True}).counts == 2
    with pytest.raises(UnknownIdError):
        index.similar("unknown")


def test_vectors__are_the_first_dims_as_stored(index: FunnelIndex) -> None:
    names = index.to_arrow().column("id").to_pylist()
    held = POOL[[int(name[1:]) for name in names]]
    for dim in (1, 7, DIM, None):
        np.testing.assert_array_equal(index.vectors(dim), held[:, :dim])
    info = index.info
    if info["segments"] == 1 and info["deleted"] == 0:
        assert not index.vectors(7).flags.owndata
    with pytest.raises(InvalidArgumentError):
        index.vectors(DIM + 1)


def test_to_batches__yields_all_rows(index: FunnelIndex) -> None:
    table = index.to_batches(vectors=False).read_all()
    assert table == index.to_arrow()


def test_slice__is_an_index_of_the_first_dims(
    index: FunnelIndex, tmp_path: Path
) -> None:
    with index.slice(16, tmp_path / "small") as small:
        assert small.full_dim == 16
        assert len(small) == len(index)
        assert small.to_arrow() == index.to_arrow()
        np.testing.assert_array_equal(small.vectors(), index.vectors(16))


def test_update_metadata__changes_only_what_it_names(tmp_path: Path) -> None:
    ids = [f"d{i}" for i in range(40)]
    with FunnelIndex.build(
        POOL[:30], ids=ids[:30], metadata=columns(30), path=tmp_path / "index"
    ) as index:
        index.add(POOL[30:40], ids=ids[30:])
        before = index.get(ids).to_pylist()
        new = {"year": [1, 2, None], "word": ["a", None, "c"]}
        assert index.update_metadata(["d3", "d33", "d1"], new) == 3
        after = index.get(ids).to_pylist()
        expected = [row | {"word": None} for row in before]
        for name, year, word in (("d3", 1, "a"), ("d33", 2, None), ("d1", None, "c")):
            expected[int(name[1:])] |= {"year": year, "word": word}
        assert after == expected
        assert index.versions() == [1, 2, 3]
        for ids_, meta, error in (
            (["d3", "nope"], {"year": [1, 2]}, UnknownIdError),
            (["d3", "d3"], {"year": [1, 2]}, InvalidArgumentError),
            (["d3"], {"year": [1, 2]}, InvalidArgumentError),
            (["d3"], {"year": ["x"]}, InvalidTypeError),
        ):
            with pytest.raises(error):
                index.update_metadata(ids_, meta)
        assert index.versions() == [1, 2, 3]
        index.compact()
        assert index.get(ids).to_pylist() == expected


def test_delete__takes_a_filter() -> None:
    with FunnelIndex.build(POOL[:40], metadata=columns(40)) as index:
        gone = sum(row["good"] for row in rows_in(index))
        assert index.delete(filter={"good": True}) == gone
        assert not any(row["good"] for row in rows_in(index))
        assert index.delete(filter={"good": True}) == 0
        for wrong in ({}, {"ids": [1], "filter": {"good": True}}):
            with pytest.raises(InvalidArgumentError, match="either"):
                index.delete(**wrong)


@pytest.mark.parametrize("rows", [0, 30])
def test_filters__need_no_metadata(rows: int, tmp_path: Path) -> None:
    with FunnelIndex.create(tmp_path / "index", DIM) as index:
        index.add(POOL[:rows])
        low = {"id": {"$lt": 5}}
        for given_, passing in (
            (low, min(rows, 5)), ({}, rows), (pc.field("id") < 5, min(rows, 5)),
            ([1, 2], min(rows, 2)), (np.ones(rows, bool), rows),
        ):  # fmt: skip
            assert index.search(QUERIES, k=40, filter=given_).ids.shape[1] == passing
        assert index.delete(filter=low) == min(rows, 5)


def test_filters__tell_types_apart(tmp_path: Path) -> None:
    meta = pa.table(
        {
            "flag": [True, False, True],
            "word": ["3", "1", "x"],
            "small": pa.array([1, 2, 3], pa.int8()),
            "part": pa.array([0.3, 0.5, 1.0], pa.float32()),
            "day": [datetime.date(2026, 1, d) for d in (1, 2, 3)],
            "time": [datetime.datetime(2026, 1, d, 12) for d in (1, 2, 3)],
        }
    )
    noon, day = datetime.datetime(2026, 1, 1, 12), datetime.date(2026, 1, 2)
    with FunnelIndex.build(POOL[:3], metadata=meta) as index:
        for given_, passing in (
            ({"flag": True}, [0, 2]),
            ({"part": 0.3}, [0]),
            ({"part": {"$in": [0.3, 7, None]}}, [0]),
            ({"small": {"$in": [3, 3.5, 1000]}}, [2]),
            ({"small": {"$lte": 2.5}}, [0, 1]),
            ({"day": day}, [1]),
            ({"day": noon}, []),
            ({"day": {"$lt": noon}}, [0]),
            ({"time": {"$gte": day}}, [1, 2]),
            ({"word": {"$in": ["3", "x"]}}, [0, 2]),
        ):
            found = index.search(POOL[0], k=3, filter=given_).ids.tolist()
            assert sorted(found) == passing, given_
        for wrong in (
            {"flag": 1}, {"flag": {"$in": [2]}}, {"word": {"$in": [3]}},
            {"small": {"$in": ["3"]}}, {"small": {"$in": [True]}},
        ):  # fmt: skip
            with pytest.raises(InvalidTypeError):
                index.search(POOL[0], filter=wrong)
        with pytest.raises(DimensionError):
            index.search(POOL[0], filter=np.ones((3, 1), bool))


def test_filters__that_are_many_cost_no_more_each(index: FunnelIndex) -> None:
    snapshot = index._snapshot()
    ids = index.to_arrow().column("id").to_pylist()
    for i in range(300):
        index.search(QUERIES[0], k=1, filter=[ids[i % len(ids)], f"none {i}"])
    assert len(snapshot._selections) <= 256
    assert snapshot._kept_bytes == sum(s.bytes for s in snapshot._selections.values())
