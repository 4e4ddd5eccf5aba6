"""What the files of ``--peers`` say: speeds at equal knn_recall, and the ratios.

Reads JSON, computes; formats nothing. Called by `benchmarks.peer_report` and
`benchmarks.results_page`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.pareto import Point, qps_at
from benchmarks.results import read_json
from benchmarks.systems import family

Record = dict[str, Any]
TARGETS = (0.90, 0.95, 0.99)
SUBJECT, HALVES, OWN_PREFIX = "funnel_pca", "funnel_pca_f16", "funnel"
MODES = {"batch": "batch_us", "single": "single_p50_us"}
ALONE = "funnel-pca"
CLEARLY = 0.97


@dataclass(frozen=True)
class Files:
    """The files of one data set on one machine: ours, and one a peer and threads.

    Parameters
    ----------
    ours, peers : dict, list of dict
        Their `dataset` is the folder's name: on a second machine that says which.
    data : str
        Name of the data set alone.
    """

    ours: Record
    peers: list[Record]
    data: str

    @property
    def dataset(self) -> str:
        """Name of the data set, and of the machine if it is not the first."""
        return self.ours["dataset"]

    def measured(self, threads: int | None = None) -> Iterator[Record]:
        """Yield the peers that were measured, `funnel` beside itself left out."""
        for one in self.peers:
            wanted = threads in (None, one["threads"]) and one["peer"] != ALONE
            if wanted and one["status"] == "measured":
                yield one

    def left_out(self) -> dict[str, str]:
        """Return why peers were not measured, in their order."""
        out = {}
        for one in self.peers:
            if one["status"] != "measured":
                out[one["peer"]] = one["message"]
        return out

    def alone(self) -> Record | None:
        """Return `funnel` with several threads beside itself with one."""
        found = (one for one in self.peers if one["peer"] == ALONE)
        return next((one for one in found if one["status"] == "measured"), None)


def read_folder(folder: Path) -> Files:
    """Read the files of a data set on one machine."""
    ours = read_json(folder / "funnel.json")
    peers = [read_json(path) for path in sorted(folder.glob("*-t*.json"))]
    data = ours["dataset"]
    name = {"dataset": folder.name if folder.name.startswith(f"{data}-") else data}
    return Files(ours | name, [one | name for one in peers], data)


def points(record: Record, mode: str, side: str, run: str | None = None) -> list[Point]:
    """Return (knn_recall, queries per second) of the points of a side, medians."""
    return [
        (one["knn_recall"], 1e6 / float(np.median(one[MODES[mode]])))
        for one in record["points"]
        if one["side"] == side and run in (None, family(one["run"]))
    ]


@dataclass(frozen=True)
class Duel:
    """A peer and `funnel` at one recall, by one clock, from one process.

    Speeds are queries per second; None where the recall was not reached.
    """

    dataset: str
    peer: str
    threads: int
    mode: str
    target: float
    peer_qps: float | None
    our_qps: float | None

    @property
    def ratio(self) -> float | None:
        """Times that `funnel` is as fast; None unless both reach the target."""
        if self.peer_qps is None or self.our_qps is None:
            return None
        return self.our_qps / self.peer_qps


def duel(record: Record, mode: str, target: float, subject: str = SUBJECT) -> Duel:
    """Compare a peer with a run of ours."""
    peer_run = subject if record["peer"] == ALONE else None
    peer = qps_at(points(record, mode, "peer", peer_run), target)
    ours = qps_at(points(record, mode, "ours", subject), target)
    threads = record["threads"]
    return Duel(record["dataset"], record["peer"], threads, mode, target, peer, ours)


def duels(files: Files, subject: str = SUBJECT) -> Iterator[Duel]:
    """Yield all comparisons of a data set."""
    for record in files.measured():
        for mode in MODES:
            for target in TARGETS:
                yield duel(record, mode, target, subject)


def best_recall(record: Record, side: str = "peer", run: str | None = None) -> float:
    """Return the highest knn_recall that was reached."""
    return max((recall for recall, _ in points(record, "batch", side, run)), default=0)


def near_front(records: list[Record]) -> list[Record]:
    """Return the points that no other of their system beats clearly in one batch.

    That is: none is as exact in less than 0.97 of the time.
    """

    def beaten(one: Record) -> bool:
        limit = CLEARLY * float(np.median(one["batch_us"]))
        return any(
            other["system"] == one["system"]
            and other["knn_recall"] >= one["knn_recall"]
            and float(np.median(other["batch_us"])) < limit
            for other in records
        )

    return [one for one in records if not beaten(one)]
