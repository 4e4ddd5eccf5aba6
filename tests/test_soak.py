"""A writer of random changes that is killed again and again; and what judges it.

A quick form of `reliability/soak.py`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from funnel import FunnelIndex
from reliability.changes import IDS, KINDS, Plan, drawn, drawn_step, write
from reliability.soak import check_bounded, judge, steps_of
from reliability.workload import INDEX, LOG, State, built

REPOSITORY = Path(__file__).parent.parent
ALONE = Plan(seed=2, number=3)  # nothing merges behind its back


@pytest.fixture
def before(tmp_path: Path) -> State:
    """Return what the index in `tmp_path` holds before a writer comes."""
    edit = drawn("build", {}, np.random.default_rng(1))
    built(tmp_path / INDEX, edit).close()
    return edit.after({})


def test_soak__leaves_a_whole_index(tmp_path: Path) -> None:
    out = tmp_path / "rounds.jsonl"
    command = [sys.executable, "-m", "reliability.soak", "--seconds", "4"]
    done = subprocess.run(
        [*command, "--out", str(out)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rounds = [json.loads(line) for line in out.read_text().splitlines()]
    assert rounds
    assert {one["ended"] for one in rounds} <= {0, -9}
    assert {one["outcome"] for one in rounds} <= {"acknowledged", "intended"}


def test_steps__are_of_every_kind_and_stay_small() -> None:
    rng, state, seen = np.random.default_rng(1), {}, set()
    for _ in range(400):
        kind, edits, after = drawn_step(state, rng)
        assert after == state or edits
        assert len(after) <= IDS
        seen.add(kind)
        state = after
    assert seen == set(KINDS)


def test_judge__says_what_a_writer_did(tmp_path: Path, before: State) -> None:
    write(tmp_path, before, ALONE, steps=25)
    steps = steps_of(tmp_path / LOG)
    assert len(steps) == 25
    assert all(step["done"] for step in steps)
    outcome, held = judge(tmp_path, before)
    assert outcome == "acknowledged"
    assert {str(i): [*row] for i, row in held.items()} == steps[-1]["state"]
    check_bounded(tmp_path / INDEX)


@pytest.mark.parametrize("change", ["delete", "update_metadata", "compact"])
def test_judge__notices_a_change_that_nobody_noted(
    change: str, tmp_path: Path, before: State
) -> None:
    with FunnelIndex.open(tmp_path / INDEX, "rw") as index:
        edit = drawn(change, before, np.random.default_rng(4))
        edit.apply(index)
    if edit.after(before) == before:
        assert judge(tmp_path, before) == ("acknowledged", before)
    else:
        with pytest.raises(AssertionError, match="neither what was acknowledged"):
            judge(tmp_path, before)


@pytest.mark.parametrize("kind", ["backup", "slice"])
def test_judge__notices_that_a_copy_is_gone(
    kind: str, tmp_path: Path, before: State
) -> None:
    lines = [{"intent": 0, "state": before, "kind": kind}, {"done": 0}]
    (tmp_path / LOG).write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(AssertionError, match="the index is gone"):
        judge(tmp_path, before)


@pytest.mark.parametrize("place", ["data", "manifest", "."])
def test_check_bounded__notices_a_file_that_nobody_names(
    place: str, tmp_path: Path, before: State
) -> None:
    (tmp_path / INDEX / place / "left").write_text("behind")
    with pytest.raises(AssertionError, match="left"):
        check_bounded(tmp_path / INDEX)
