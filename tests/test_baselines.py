"""What fixed searches of a fixed index cost, counted, against reviewed baselines.

Rows scored, rows kept, dims and bytes read may move by 2 %; never a clock. The index is
built with one thread by faiss, which has wheels everywhere. To accept new counts, run
this file with ``FUNNEL_TEST=overwrite`` and review the diff of ``counters.json``.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import naive
import pytest
from conftest import judged, near_rows, turned_rows

from funnel import Cascade, Stage

BASELINES = Path(__file__).parent / "baselines" / "counters.json"
OVERWRITE = os.environ.get("FUNNEL_TEST") == "overwrite"
TOLERANCE = 0.02
N, FULL_DIM, QUERIES = 2500, 192, 32
COUNTERS = ("rows_in", "rows_kept", "dims_read", "bytes_read")
INDEXES = {
    "prefix": {"projection": "prefix", "graph_dim": 64, "code_dim": 96},
    "prefix narrow": {"projection": "prefix", "graph_dim": 32, "code_dim": 32},
    "pca": {"projection": "pca", "graph_dim": 32, "code_dim": 64},
    "pca float16 ip": {"projection": "pca", "graph_dim": 32, "code_dim": 64,
                       "dtype": "float16", "metric": "ip"},
    "auto": {},
}  # fmt: skip
SEARCHES = {
    "funnel": {},
    "funnel shortlist 60": {"shortlist": 60},
    "funnel k 50": {"k": 50},
    "rerank": {"mode": "rerank"},
    "rerank ef_search 500": {"mode": "rerank", "ef_search": 500},
    "prefix_ann": {"mode": "prefix_ann"},
    "prefix": {"mode": "prefix"},
    "exact": {"mode": "exact"},
    "paper": {"cascade": Cascade.halving(200, (16, 32, 64, 128, 192))},
    "unstored norms": {
        "cascade": Cascade([Stage(50, 80), Stage(100, 30), Stage(192, 10)])
    },
}


@pytest.fixture(scope="module", params=INDEXES)
def named(request, make_index):
    """Give the name of an index, and the index."""
    drawn = turned_rows(N + QUERIES // 2, FULL_DIM, seed=50)
    corpus, fresh = drawn[:N], drawn[N:]
    queries = [*near_rows(corpus, QUERIES - len(fresh), seed=51), *fresh]
    index = make_index(corpus, seed=0, **INDEXES[request.param])
    return request.param, judged(index, corpus, queries)


def counted(built):
    """Return what each search cost: its steps by name and dim, and their counters."""
    costs = {}
    for name, options in SEARCHES.items():
        trace = built.index.search(built.queries, trace=True, **options).trace
        costs[name] = [
            {"step": f"{step.name} {step.dim}"}
            | {counter: getattr(step, counter) for counter in COUNTERS}
            for step in trace
        ]
    return costs


def differences(found, expected):
    """Return in words where counters are not what they were, within the tolerance."""
    words = []
    for search in sorted(found.keys() | expected.keys()):
        new, old = (part.get(search, []) for part in (found, expected))
        steps = [[step["step"] for step in part] for part in (new, old)]
        if steps[0] != steps[1]:
            words.append(f"{search}: steps were {steps[1]}, are {steps[0]}")
            continue
        words += [
            f"{search}, {now['step']}: {counter} was {was[counter]}, is {now[counter]}"
            for now, was in zip(new, old, strict=True)
            for counter in COUNTERS
            if abs(now[counter] - was[counter]) > TOLERANCE * was[counter]
        ]
    return words


def test_counters__are_those_of_the_baselines(named):
    name, built = named
    found = counted(built)
    kept = json.loads(BASELINES.read_text()) if BASELINES.exists() else {}
    if OVERWRITE:
        kept = {known: kept[known] for known in INDEXES if known in kept}
        kept[name] = found
        BASELINES.parent.mkdir(exist_ok=True)
        BASELINES.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")
    assert differences(found, kept.get(name, {})) == []


def test_counters__have_no_baselines_of_other_indexes():
    assert json.loads(BASELINES.read_text()).keys() == INDEXES.keys()


def test_searches__still_find_their_neighbours(named):
    # Or else the counters could be had for less.
    _, built = named
    for mode in ("funnel", "rerank"):
        hits = built.index.search(built.queries, mode=mode)
        found = [
            naive.knn_recall(hits.ids[i], built.final(i), 10) for i in range(QUERIES)
        ]
        assert sum(found) / QUERIES > 0.97


def test_differences__sees_what_changed():
    step = {"step": "walk 64"} | dict.fromkeys(COUNTERS, 1000)
    same, more = step | {"rows_in": 1020}, step | {"rows_in": 1021}
    less, other = step | {"bytes_read": 979}, step | {"step": "scan 64"}
    none = step | dict.fromkeys(COUNTERS, 0)
    assert differences({"a": [step]}, {"a": [step]}) == []
    assert differences({"a": [same]}, {"a": [step]}) == []
    assert differences({"a": [none]}, {"a": [none]}) == []
    for changed in ([more], [less], [other], [none], [], [step, step]):
        assert len(differences({"a": changed}, {"a": [step]})) >= 1
    assert differences({"a": [step]}, {}) == ["a: steps were [], are ['walk 64']"]
    assert differences({"a": [step]}, {"a": [none]})
