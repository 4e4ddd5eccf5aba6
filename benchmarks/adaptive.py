"""What tuning buys, and whether it keeps its word: ``python -m benchmarks.adaptive``.

Tunes on some of a data set's queries and judges on the others: levels of effort, which
may end walks by slack, beside every fixed count; how near a tuned search comes to its
target; how often the bound holds over random splits; what bounds on scores prune.
benchmarks/README.md explains the rows.

q = queries, l = levels, g = settings of fixed counts.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import adaptive_page as page
from benchmarks.coverage import Losses, coverage, one_by_one
from benchmarks.pareto import qps_at
from benchmarks.roofline import saved_index
from benchmarks.run import ROOT, load_data, positive
from benchmarks.tables import to_rich, wide_console

RECALLS = (0.95, 0.98, 0.99)
NDCGS = (0.98, 0.99, 0.995)
TARGETS = (0.95, 0.99)
NDCG_TARGET = 0.995  # of exact search's
ROUNDS = 5
SETS = ("fashion-mrl", "bible-mrl", "scifact-mrl", "nfcorpus-mrl")
KEEPS = (10, 12, 15, 20, 25, 30, 40, 50, 70, 100)
HALVED = (40, 70, 100)  # shortlists that a stage at a middle dim halves, too
EFS = (10, 14, 20, 28, 40, 56, 80, 112, 160, 224, 320, 448)
SHORTLISTS = (50, 200)
OTHERS = 100  # queries without judgements: so many and tuning takes them alone
SINGLE = 500  # queries that are timed alone
EXACT_SINGLE = 50
TIE = 1e-6

Record = dict[str, Any]


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    out = argparse.ArgumentParser(
        prog="python -m benchmarks.adaptive", description=__doc__.split("\n\n")[1]
    )
    add = out.add_argument
    add("--dataset", metavar="SPEC,…", help="as benchmarks.run; by default those of "
        f"{', '.join(SETS)} that --cache has, else docstrings")  # fmt: skip
    add("--n", type=positive, metavar="ROWS", help="corpus rows")
    add("--dim", type=positive, help="full width")
    add("--queries", type=positive, metavar="Q", help="at most this many (1000)")
    add("--k", type=positive, default=10, help="neighbours (%(default)s)")
    add("--out", type=Path, default=Path("results") / "adaptive", metavar="DIR")
    add("--cache", type=Path, default=ROOT / "data", metavar="DIR", help="made data")
    add("--any-source", action="store_true", help="as benchmarks.run")
    add("--doc", action="store_true", help="write the figures of docs/adaptive.md, of "
        "all that --out holds; with --dataset '' nothing is measured")  # fmt: skip
    out.set_defaults(dims=None)
    return out


class Judge:
    """Searches an index for queries that it was not tuned on.

    Parameters
    ----------
    index : FunnelIndex
        Its ids are rows of the corpus.
    queries : (q, d) float32
    k : int
    gains : callable or None
        (q, k) rows → their relevance.
    """

    def __init__(
        self, index: Any, queries: np.ndarray, k: int,
        gains: Callable[[np.ndarray], np.ndarray] | None,
    ) -> None:  # fmt: skip
        self.index, self.queries, self.k, self.gains = index, queries, k, gains
        exact = index.search(queries, k, mode="exact")
        self.last = exact.scores[:, -1:] - TIE
        self.dcg = None if gains is None else self._dcg(exact.ids)

    def _dcg(self, rows: np.ndarray) -> np.ndarray:
        assert self.gains is not None
        discounts: np.ndarray = self.gains(rows) / np.log2(np.arange(2, self.k + 2))
        return discounts.sum(axis=1)

    def losses(self, **how: Any) -> Losses:
        """Return 1 − knn_recall@k of each query."""
        scores = self.index.search(self.queries, self.k, **how).scores
        return 1 - (scores >= self.last).mean(axis=1)

    def ndcg(self, **how: Any) -> float | None:
        """Return ndcg@k as a share of exact search's: their sums over the queries.

        The ideal ranking falls out only of a query's own ratio; queries that exact
        search answers with nothing relevant have none.
        """
        if self.dcg is None or not (self.dcg > 0).any():
            return None
        return float(self.shares(**how).mean())

    def shares(self, **how: Any) -> Losses:
        """Return the share of exact search's DCG@k, of each query that has one."""
        assert self.dcg is not None
        found, some = self.index.search(self.queries, self.k, **how).ids, self.dcg > 0
        shares: Losses = self._dcg(found)[some] / self.dcg[some]
        return shares

    def ndcg_losses(self, **how: Any) -> Losses:
        """Return what tuning counts as lost: no query makes up for another."""
        return 1 - np.minimum(1, self.shares(**how))

    def batch_us(self, **how: Any) -> float:
        """Return what a batch takes, µs a query, one thread."""
        began = time.perf_counter_ns()
        self.index.search(self.queries, self.k, threads=1, **how)
        return (time.perf_counter_ns() - began) / 1e3 / len(self.queries)

    def single_us(self, most: int = SINGLE, **how: Any) -> np.ndarray:
        """Return what a query takes alone, µs, for some of them."""
        spent = []
        for query in self.queries[:most]:
            began = time.perf_counter_ns()
            self.index.search(query, self.k, threads=1, **how)
            spent.append((time.perf_counter_ns() - began) / 1e3)
        return np.array(spent)

    def point(self, **how: Any) -> Record:
        """Return the quality, the time and the work of a setting."""
        trace = self.index.search(self.queries, self.k, trace=True, **how).trace
        single, count = self.single_us(**how), len(self.queries)
        return {
            "knn_recall": 1 - float(self.losses(**how).mean()),
            "ndcg": self.ndcg(**how),
            "batch_us": float(np.median([self.batch_us(**how) for _ in range(ROUNDS)])),
            "single_p50_us": float(np.median(single)),
            "single_p99_us": float(np.quantile(single, 0.99)),
            "scored": trace[0].rows_in / count,
            "reranked": trace[-1].rows_in / count,
            "bytes": trace.bytes_read / count,
        }

    def settings(self, all_of: Sequence[Record]) -> list[Record]:
        """Judge and time many settings, in turn round after round: medians."""
        rounds = [[self.batch_us(**how) for how in all_of] for _ in range(ROUNDS)]
        return [
            {
                "knn_recall": 1 - float(self.losses(**how).mean()),
                "ndcg": self.ndcg(**how),
                "us": us,
            }
            for how, us in zip(all_of, np.median(rounds, axis=0).tolist(), strict=True)
        ]


def typed(level: Any, full_dim: int, k: int) -> Record:
    """Return a level's knobs as arguments of a search, which remembers tuples."""
    if level.exact:
        return {"mode": "exact"}
    return {
        "shortlist": level.shortlist,
        "ef_search": level.ef_search,
        "slack": level.slack,
        "cascade": (*level.stages, (full_dim, k)),
    }


def fixed() -> list[tuple[int, int]]:
    """Return fixed counts: each shortlist with every longer list of the walk."""
    return [(keep, ef) for ef in EFS for keep in KEEPS if keep <= ef <= 16 * keep]


def knobs(keep: int, ef: int) -> Record:
    """Return fixed counts as arguments of a search."""
    return {"mode": "rerank", "shortlist": keep, "ef_search": ef}


def cascades(
    counts: Sequence[tuple[int, int]], dims: Sequence[int], code_dim: int, k: int
) -> list[Record]:
    """Return fixed cascades: a stage at a middle dim halves the shortlist."""
    between = [dim for dim in dims if code_dim < dim <= dims[-1] // 2][:2]
    return [
        {"shortlist": keep, "ef_search": ef, "cascade": ((dim, keep // 2), last)}
        for dim in between
        for keep, ef in counts
        if keep in HALVED and keep // 2 > k
        for last in [(dims[-1], k)]
    ]


def parts_of(
    workload: Any, args: argparse.Namespace
) -> tuple[np.ndarray, list[dict[int, float]] | None, np.ndarray]:
    """Return the queries to tune on, their judgements, and which others are to judge.

    A data set with queries that have no judgements lends those to tuning; else it is a
    random half of the workload's: files may be in some order, and what is promised is
    of queries that come in none. Labels, of which a tenth of the corpus has each, are
    not made judgements.
    """
    queries = np.ascontiguousarray(workload.queries)
    folder = args.cache / str(args.dataset)
    if (folder / "queries.jsonl").exists():
        known = set(map(str, workload.data.query_ids))
        lines = (folder / "queries.jsonl").read_text().splitlines()
        ids = [str(json.loads(line)["_id"]) for line in lines]
        others = [i for i, one in enumerate(ids) if one not in known]
        if len(others) >= OTHERS:
            every = np.load(folder / "queries.npy", mmap_mode="r")
            return np.ascontiguousarray(every[others]), None, np.arange(len(queries))
    order, half = np.random.default_rng(0).permutation(len(queries)), len(queries) // 2
    tuning, judged = np.sort(order[:half]), np.sort(order[half:])
    known = None
    if workload.data.qrels is not None:
        known = judgements(workload.data, tuning)
    return np.ascontiguousarray(queries[tuning]), known, judged


def judgements(data: Any, queries: np.ndarray) -> list[dict[int, float]]:
    """Return row → relevance of some queries, where it is more than none."""
    place = {str(one): i for i, one in enumerate(data.doc_ids)}
    return [
        {place[str(d)]: g for d, g in data.qrels[data.query_ids[i]].items() if g > 0}
        for i in queries.tolist()
    ]


def gains_of(
    data: Any, judged: np.ndarray
) -> Callable[[np.ndarray], np.ndarray] | None:
    """Return what tells the relevance of rows to each of the judged queries."""
    if data.qrels is None and data.labels is not None:
        rows, queries = (np.asarray(part) for part in data.labels)
        wanted = queries[judged]
        return lambda found: (rows[found] == wanted[:, None]).astype(float)
    if data.qrels is None:
        return None
    held = judgements(data, judged)
    return lambda found: np.array(
        [[gain.get(int(row), 0.0) for row in some] for gain, some in zip(held, found,
         strict=True)]
    )  # fmt: skip


def measure(args: argparse.Namespace) -> Record:
    """Tune on some queries, judge on the others."""
    from benchmarks import machine
    from benchmarks.bounds import ruled_out
    from benchmarks.measure import quiet
    from benchmarks.truth import make_workload
    from funnel import FunnelIndex

    workload = make_workload(load_data(args), None)
    tuning, known, judged = parts_of(workload, args)
    queries = np.ascontiguousarray(workload.queries[judged])
    folder = Path(tempfile.mkdtemp(prefix="funnel-"))
    try:
        with FunnelIndex.open(saved_index(workload, args)) as saved:
            saved.backup(folder / "index")
        with quiet(1), FunnelIndex.open(folder / "index", "rw") as index:
            index.warmup()
            gains = gains_of(workload.data, judged)
            judge = Judge(index, queries, args.k, gains)
            spared = ruled_out(index, workload.data.corpus, queries, args.k)
            found = _judged(judge, tuning, known) | {"ruled_out": spared}
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return found | {
        "dataset": workload.data.name,
        "rows": workload.shape[0],
        "full_dim": workload.shape[1],
        "queries": len(queries),
        "tuning_queries": len(tuning),
        "k": args.k,
        "machine": machine.describe(1, machine.cores()),
        "versions": machine.versions(),
        "commit": machine.commit(),
    }


def _judged(
    judge: Judge, tuning: np.ndarray, known: list[dict[int, float]] | None
) -> Record:
    """Return everything that is measured of one index."""
    full_dim, counts = judge.index.full_dim, fixed()
    counts = [(keep, ef) for keep, ef in counts if judge.k <= keep]
    plain = judge.point()
    exact_us = judge.single_us(EXACT_SINGLE, mode="exact")
    certified = {
        str(n): judge.point(policy="certified", shortlist=n) for n in SHORTLISTS
    }
    tuned = [_tuned(judge, tuning, target) for target in TARGETS]
    levels = [typed(one, full_dim, judge.k) for one in tuned[-1]["levels"]]
    dims, code_dim = judge.index.dims, judge.index.info["code_dim"]
    plain_counts = [knobs(*one) for one in counts]
    plain_counts += cascades(counts, dims, code_dim, judge.k)
    if known is not None:
        tuned.append(_tuned(judge, tuning, NDCG_TARGET, known))
    for one in tuned:
        one.pop("levels")
    both = judge.settings([*plain_counts, *levels])
    timed = {
        "fixed": (plain_counts, both[: len(plain_counts)]),
        "levels": (levels, both[len(plain_counts) :]),
    }
    alone = {one: judge.losses(**knobs(*one)) for one in counts}
    losses = np.stack([judge.losses(**one) for one in levels], axis=1)
    return {
        "untuned": plain,
        "exact_single_us": float(np.median(exact_us)),
        "certified": certified,
        "tuned": tuned,
        **{kind: points for kind, (_, points) in timed.items()},
        "equal": equal(judge, timed),
        "coverage": {str(t): coverage(losses, t) for t in TARGETS},
        "one_by_one": {str(t): one_by_one(alone, t) for t in TARGETS},
    }


def equal(
    judge: Judge, found: dict[str, tuple[list[Record], list[Record]]]
) -> list[Record]:
    """Measure the fastest fixed and the fastest adaptive setting of equal quality."""
    wanted = [("knn_recall", r) for r in RECALLS] + [("ndcg", r) for r in NDCGS]
    rows = []
    for measure, target in wanted:
        for kind, (settings, points) in found.items():
            good = [
                (point["us"], i)
                for i, point in enumerate(points)
                if point[measure] is not None and point[measure] >= target
            ]
            if good:
                how = settings[min(good)[1]]
                head = {"measure": measure, "target": target, "kind": kind}
                rows.append(head | {"setting": how} | judge.point(**how))
    return rows


def _tuned(
    judge: Judge, queries: np.ndarray, target: float,
    known: list[dict[int, float]] | None = None,
) -> Record:  # fmt: skip
    """Tune for a target; return how near it comes on queries it never saw.

    With judgements the target is of ndcg.
    """
    began = time.perf_counter()
    asked: Record = {"target_knn_recall": target}
    if known is not None:
        asked = {"target_ndcg": target, "qrels": known}
    report = judge.index.tune(queries, k=judge.k, **asked)
    took = time.perf_counter() - began
    losses = judge.losses() if known is None else judge.ndcg_losses()
    error = float(losses.std() / len(losses) ** 0.5)
    full_dim = judge.index.full_dim
    return judge.point() | {
        "target": target,
        "measure": "knn_recall" if known is None else "ndcg",
        "over_target": 1 - float(losses.mean()) - target,
        "interval": 1.96 * error,
        "tune_s": took,
        "level": typed(report.chosen, full_dim, judge.k),
        "levels": report.tuned.levels,
    }


def speeds(found: Record, kind: str, measure: str, target: float) -> float | None:
    """Return the queries per second at a recall, or at a share of exact's ndcg."""
    points = [
        (one[measure], 1e6 / one["us"])
        for one in found[kind]
        if one[measure] is not None
    ]
    return qps_at(points, target)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure each data set, write and show."""
    from benchmarks.results import write_json

    args = parser().parse_args(argv)
    console = wide_console()
    args.out.mkdir(parents=True, exist_ok=True)
    given = args.dataset
    if given is None:
        held = [name for name in SETS if (args.cache / name).is_dir()]
        given = ",".join(held) or "docstrings"
    for name in filter(None, given.split(",")):
        found = measure(argparse.Namespace(**{**vars(args), "dataset": name}))
        found["ahead"] = {
            measure: {
                str(target): [
                    speeds(found, kind, measure, target) for kind in ("fixed", "levels")
                ]
                for target in targets
            }
            for measure, targets in (("knn_recall", RECALLS), ("ndcg", NDCGS))
        }
        write_json(found, args.out / f"{found['dataset']}.json")
        for table in page.tables(found):
            console.print(to_rich(table))
    print(f"written to {args.out}/")
    if args.doc:
        page.write(args.out, ROOT / "docs" / "adaptive.md")


if __name__ == "__main__":
    main()
