"""Where a peer is ahead of `funnel`, and whether what was aimed at holds.

Computed from the files of ``--peers``; formats sentences, measures nothing. Called by
`benchmarks.results_page`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from benchmarks.peer_results import ALONE, SUBJECT, Duel, Files, Record, duel, duels
from benchmarks.tables import number, size

AIMED_AT = (0.95, 0.99)
HAND_MADE = "diy"
GRAPHS = (
    "hnswlib",
    "faiss-hnsw",
    "usearch",
    "voyager",
    "ngt",
    "pynndescent",
    "zvec",
    "lancedb-ivf-hnsw",
)
"""How the names of full-width graphs begin."""


@dataclass(frozen=True)
class Verdict:
    """A claim, whether it holds (None: not measured), and the figure nearest to it."""

    claim: str
    holds: bool | None
    worst: str


def ahead(sets: Iterable[Files]) -> list[Duel]:
    """Return every comparison that a peer wins, the clearest first."""
    lost = [one for files in sets for one in duels(files) if behind(one)]
    return sorted(lost, key=_ratio)


def behind(one: Duel) -> bool:
    """Tell whether the peer is faster, or alone in reaching the recall."""
    if one.peer_qps is None:
        return False
    return one.our_qps is None or one.our_qps < one.peer_qps


def verdicts(sets: Sequence[Files]) -> list[Verdict]:
    """Judge everything that was aimed at."""
    scaling = _times(1.8, list(_scaling(sets)), "itself with one thread, one batch")
    return [*speed_verdicts(sets, SUBJECT), scaling, _build(sets), _memory(sets)]


def speed_verdicts(sets: Sequence[Files], subject: str) -> list[Verdict]:
    """Judge what was aimed at in speed for one of our runs."""
    batches = [
        one
        for files in sets
        for one in duels(files, subject)
        if one.mode == "batch" and one.target in AIMED_AT
    ]
    hand_made = [one for one in batches if one.peer == HAND_MADE]
    others = [one for one in batches if one.peer != HAND_MADE]
    hnswlib = [one for one in batches if one.peer == "hnswlib"]
    return [
        _times(8, hnswlib, "hnswlib at full width, one batch"),
        _times(4, others, "the best peer, one batch"),
        _times(1.5, hand_made, "the best recipe by hand (`diy`), one batch"),
    ]


def _times(wanted: float, found: list[Duel], opponent: str) -> Verdict:
    """Judge a ratio that every comparison has to reach."""
    claim = f"at least {wanted:g}× {opponent}, at {' and '.join(map(str, AIMED_AT))}"
    judged = [one for one in found if one.peer_qps is not None]
    if not judged:
        return Verdict(claim, None, "not measured")
    lowest: dict[str, Duel] = {}
    for one in sorted(judged, key=_ratio):
        lowest.setdefault(one.dataset, one)
    worst = min(lowest.values(), key=_ratio)
    said = f"lowest: {told(worst)}"
    if len(lowest) > 1:
        each = (f"{name} {_times_told(lowest[name])}" for name in sorted(lowest))
        said += f"; of each: {', '.join(each)}"
    return Verdict(claim, _ratio(worst) >= wanted, said)


def _ratio(one: Duel) -> float:
    """Return how many times as fast as the peer we are; 0 where only it gets there."""
    return one.ratio or 0.0


def _times_told(one: Duel) -> str:
    return "funnel does not reach it" if one.ratio is None else f"{number(one.ratio)}×"


def told(one: Duel) -> str:
    """Say a comparison in words."""
    plural = "s" if one.threads > 1 else ""
    mode = "one batch" if one.mode == "batch" else "single calls"
    return (
        f"{_times_told(one)}, `{one.peer}` on {one.dataset}, {mode}, {one.threads} "
        f"thread{plural}, knn_recall@10 {one.target:.2f}"
    )


def _scaling(sets: Sequence[Files]) -> Iterator[Duel]:
    for files in sets:
        record = files.alone()
        if record:
            yield from (duel(record, "batch", target) for target in AIMED_AT)


def _build(sets: Sequence[Files]) -> Verdict:
    """Judge build time against the fastest graph at full width."""

    def wanted(record: Record) -> float | None:
        return record["build_s"] if record["peer"].startswith(GRAPHS) else None

    return _against_least(
        sets,
        "builds at least 3× faster than the fastest graph at full width",
        "build_s",
        wanted,
        lambda ours, least: least >= 3 * ours,
        lambda ours, least: (
            f"{number(least / ours)}×, {number(ours)} s against {number(least)} s"
        ),
    )


def _memory(sets: Sequence[Files]) -> Verdict:
    """Judge the anonymous memory of open indexes."""

    def wanted(record: Record) -> float | None:
        return (record["startup"] or {}).get("anon_bytes")

    return _against_least(
        sets,
        "the smallest resident anonymous memory",
        "anon_bytes",
        wanted,
        lambda ours, least: ours <= least,
        lambda ours, least: f"{size(ours)} against {size(least)}",
    )


def _against_least(
    sets: Sequence[Files],
    claim: str,
    field: str,
    value: Callable[[Record], float | None],
    holds: Callable[[float, float], bool],
    say: Callable[[float, float], str],
) -> Verdict:
    """Compare ours with the least of the peers' values, in each data set."""
    parts, good = [], []
    for files in sets:
        built = files.ours["ours"][ALONE]
        ours = (built | (built["startup"] or {})).get(field)
        values = [(value(one), one["peer"]) for one in files.measured()]
        found = [(what, peer) for what, peer in values if what is not None]
        if ours is None or not found:
            continue
        least, peer = min(found)
        good.append(holds(ours, least))
        parts.append(f"{files.dataset}: {say(ours, least)} of `{peer}`")
    return Verdict(
        claim, all(good) if good else None, "; ".join(parts) or "not measured"
    )


def best_peers(files: Files, count: int = 3) -> list[str]:
    """Return the peers that come nearest to us in one batch, the nearest first."""
    nearest: dict[str, float] = {}
    for one in duels(files, SUBJECT):
        if one.mode == "batch" and one.target in AIMED_AT and one.peer_qps is not None:
            ratio = one.ratio or 0.0
            nearest[one.peer] = min(nearest.get(one.peer, ratio), ratio)
    return sorted(nearest, key=nearest.__getitem__)[:count]
