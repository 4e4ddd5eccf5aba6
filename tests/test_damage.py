"""Damaged files never crash, and are never silent once verified."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from funnel.kernels.jit import COMPILED
from reliability import damage

TRIALS = 40

pytestmark = pytest.mark.skipif(
    not COMPILED or not hasattr(os, "fork"), reason="a process a trial takes too long"
)


@pytest.mark.parametrize("name", ["funnel", "funnel-verified"])
def test_damage__is_an_error_or_no_matter(name: str, tmp_path: Path) -> None:
    rows = damage.run(name, TRIALS, 3, tmp_path)
    assert [row["damage"] for row in rows] == list(damage.DAMAGE)
    for row in rows:
        allowed = {"right", "error"} | ({"wrong"} if name == "funnel" else set())
        found = set(row) - {"system", "damage", "trials"}
        assert found <= allowed, row
        assert sum(row[one] for one in found) == TRIALS
        if name == "funnel-verified":
            assert row["error"] > TRIALS / 2


def test_damage__spoils_files_of_every_type(tmp_path: Path) -> None:
    damage.Funnel(verified=False).build(damage.corpus(), tmp_path)
    assert set(damage.types_of(tmp_path)) == {
        "FUNNEL", "manifest", "vectors0", "norms", "codes", "links",
        "entries", "node_starts", "node_rows", "loose", "ids", "lookup", "metadata",
        "axes", "deleted",
    }  # fmt: skip


class Fragile:
    """A system that does what it is told, to see that a trial says so."""

    def __init__(self, deed: Any) -> None:
        self.deed = deed

    def build(self, vectors: np.ndarray, folder: Path) -> None:
        """Nothing."""

    def answer(self, folder: Path, queries: np.ndarray) -> Any:
        """Do it."""
        return self.deed()


def test_outcome__tells_crashes_errors_and_wrong_answers_apart(tmp_path: Path) -> None:
    def outcome(deed: Any) -> str:
        return damage.outcome(Fragile(deed), tmp_path, np.empty(0), right=[1])

    assert outcome(lambda: [1]) == "right"
    assert outcome(lambda: [2]) == "wrong"
    assert outcome(lambda: 1 / 0) == "error"
    assert outcome(lambda: os.kill(os.getpid(), signal.SIGKILL)) == "crash"
