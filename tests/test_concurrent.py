"""Readers beside a writer: every answer is right for its version; nothing leaks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from funnel.kernels.jit import COMPILED
from reliability.concurrent import (
    FEW,
    GROWTH_BYTES,
    RECORD,
    Answer,
    History,
    count_wrong,
    is_bad,
    is_right,
    p99_ms,
    run,
    vector,
)


@pytest.mark.skipif(not COMPILED, reason="an oracle a version takes too long")
@pytest.mark.parametrize("processes", [False, True], ids=["threads", "processes"])
def test_readers__are_right_while_an_index_changes(
    processes: bool, tmp_path: Path
) -> None:
    found = run(tmp_path, 4.0, 4 if not processes else 2, processes=processes)
    assert found["wrong"] == 0
    assert found["answers"] > 20
    assert found["versions_read"] > 1
    assert found["left_descriptors"] == 0
    assert found["left_maps"] == 0
    assert found["merges"] + found["compactions"] > 0
    assert found["graphs"] > 0
    assert found["grown_bytes"] <= GROWTH_BYTES
    assert not is_bad(found, slower=float("inf"))


def test_is_right__notices_what_is_wrong() -> None:
    state = {i: i for i in range(50)}
    query = vector(7)
    scores = [float(vector(i) @ query) for i in range(50)]
    lengths = [float((vector(i) @ vector(i)) ** 0.5) for i in range(50)]
    cosines = [s / n / lengths[7] for s, n in zip(scores, lengths, strict=True)]
    order = sorted(range(50), key=lambda i: -cosines[i])[:5]
    right = Answer(7, 1, order, [cosines[i] for i in order])
    assert is_right(right, state)
    assert not is_right(replace(right, ids=[*order[:4], 49]), state)
    assert not is_right(replace(right, ids=order[:4]), state)
    assert not is_right(right, state | {order[2]: 400})
    gone = dict(state)
    del gone[order[0]]
    assert not is_right(right, gone)
    assert not is_right(replace(right, ids=[order[0]] * 5), state)
    history = History()
    history.add(1, state)
    records = np.concatenate([right.record(), replace(right, ids=order[::-1]).record()])
    assert count_wrong(records, history) == 1


def test_history__gives_the_states_on_both_sides() -> None:
    history = History()
    for version, state in ((1, {0: 0}), (3, {1: 1}), (6, {2: 2})):
        history.add(version, state)
    assert history.around(3) == [{0: 0}, {1: 1}]
    assert history.around(4) == [{1: 1}, {2: 2}]
    assert history.around(9) == [{2: 2}]
    assert history.of(3) == [{1: 1}]
    assert history.of(4) == [{1: 1}, {2: 2}]
    assert history.of(9) == [{2: 2}]


def test_p99__is_of_answers_that_began_in_a_span_and_of_others() -> None:
    records = np.zeros(2 * FEW, RECORD)
    records["began"] = np.arange(2 * FEW)
    records["took"] = np.where(np.arange(2 * FEW) < FEW, 0.004, 0.001)
    found = p99_ms(records, [(0.0, FEW / 2), (FEW / 2, FEW)])
    assert found == {
        "answers_in_compaction": FEW,
        "p99_ms_in_compaction": 4.0,
        "p99_ms_otherwise": 1.0,
    }
    assert p99_ms(records, [(0.0, 3.0)])["p99_ms_in_compaction"] is None


@pytest.mark.parametrize(
    "fault",
    [
        {"wrong": 1},
        {"left_descriptors": 1},
        {"left_maps": 1},
        {"answers": 0},
        {"grown_bytes": GROWTH_BYTES + 1},
        {"p99_ms_in_compaction": 3.1},
    ],
)
def test_is_bad__notices_each_fault(fault: dict[str, float]) -> None:
    fine = {
        "wrong": 0, "left_descriptors": 0, "left_maps": 0, "answers": 1,
        "grown_bytes": 0, "p99_ms_in_compaction": 2.0, "p99_ms_otherwise": 1.0,
    }  # fmt: skip
    assert not is_bad(fine, 3)
    assert is_bad(fine | fault, 3)
