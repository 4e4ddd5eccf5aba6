"""How many times faster, like with like: same clock, both at the same knn_recall.

Picks for each system the fastest swept point that reaches a target, and divides. It
formats nothing. Called by `benchmarks.report`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.results import Record, curves, depth, label

TARGETS = (0.95, 0.98, 0.99)
HEADLINE = 0.98
SUBJECTS = ("funnel_pca", "funnel", "rerank_pca")
SCANS = ("exact", "faiss-flat")
OWN_RERANK = {"funnel": "rerank", "funnel_pca": "rerank_pca", "funnel_paper": "rerank"}


@dataclass(frozen=True)
class Clock:
    """What is timed: one batch of all queries, or the median of single calls."""

    name: str

    def read(self, record: Record) -> float:
        """µs a query."""
        if self.name == "one batch":
            return record["batch_us"]
        return record["time_us"]["p50"]  # steadier than the mean on a busy machine


BATCH, SINGLE = Clock("one batch"), Clock("single calls")


@dataclass(frozen=True)
class Speedup:
    """`subject` takes 1/`times` of `opponent`'s time; both reach `target`."""

    clock: Clock
    target: float
    subject: Record
    opponent: Record

    @property
    def times(self) -> float:
        """Opponent's time over the subject's."""
        return self.clock.read(self.opponent) / self.clock.read(self.subject)


def fastest(curve: list[Record], target: float, clock: Clock, k: int) -> Record | None:
    """Return the fastest point of a curve with knn_recall@k of at least `target`."""
    good = [point for point in curve if point[f"knn_recall@{k}"] >= target]
    return min(good, key=clock.read, default=None)


def best_scan(results: Mapping[str, Any], clock: Clock) -> Record | None:
    """Return the faster of our exact scan and faiss's, by the same clock."""
    scans = [one for one in results["sweep"] if label(one) in SCANS]
    return min(scans, key=clock.read, default=None)


def peers(results: Mapping[str, Any]) -> list[str]:
    """Labels of the other libraries that were swept, scans left out."""
    labels = (label(one) for one in results["sweep"] if one["system"] != "funnel")
    return [name for name in dict.fromkeys(labels) if name not in SCANS]


def speedups(
    results: Mapping[str, Any], clock: Clock, target: float, subject: str
) -> dict[str, Speedup]:
    """Compare one of our runs with the best scan, each peer, and its own rerank.

    Parameters
    ----------
    results : mapping
        What ``results.json`` holds.
    clock : Clock
        The same for both sides.
    target : float
        knn_recall@k that both sides must reach.
    subject : str
        Run of ours.

    Returns
    -------
    dict
        Opponent's label (``"best scan"`` for the faster exact one) → the comparison;
        without those that do not reach the target, empty if the subject does not.
    """
    grouped, k = curves(results["sweep"]), depth(results)
    ours = fastest(grouped.get(subject, []), target, clock, k)
    if ours is None:
        return {}
    names = [*peers(results), OWN_RERANK.get(subject)]
    against = {name: fastest(grouped.get(name, []), target, clock, k) for name in names}
    found = {"best scan": best_scan(results, clock)} | against
    return {
        name: Speedup(clock, target, ours, record)
        for name, record in found.items()
        if name and record
    }
