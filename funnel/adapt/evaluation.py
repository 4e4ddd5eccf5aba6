"""How good and how fast a search is, as a value that shows itself.

Measures nothing (`evaluate.py`).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from funnel.adapt.tables import NONE, Shown, Table


@dataclass(frozen=True)
class Relevance:
    """How well answers meet relevance judgements, means over the judged queries.

    Parameters
    ----------
    ndcg : float
        ndcg@k: gains are the relevances, as trec_eval has it.
    recall : float
        Of the relevant ids, the share that is among the answers.
    mrr : float
        One over the rank of the first relevant answer, 0 where there is none.
    """

    ndcg: float
    recall: float
    mrr: float


@dataclass(frozen=True)
class Evaluation(Shown):
    """The report of `FunnelIndex.evaluate`: prints as a table.

    Parameters
    ----------
    queries, k : int
    plan, origin : str
        What was searched by, in words, and where that came from.
    knn_recall : float
        Of what exact search finds, the share that was found, mean over the queries.
    interval : (float, float)
        Its 95 % interval, by the normal approximation; all of 0 to 1 for one query.
        Where all queries lose equally much it has no width: ask more.
    judged : int
        Queries that have a relevant id.
    found, exact : Relevance or None
        Of this search and of exact search; None without judged queries.
    batch_us : float
        µs a query of all queries at once: the fastest of three.
    single_us : (float, float)
        Median and 99th percentile of the µs of single calls.
    calls : int
        Of which.
    threads : int
    rows_scored, bytes_read : float
        A query, over all steps: nodes by their codes, rows by their dims.
    """

    queries: int
    k: int
    plan: str
    origin: str
    knn_recall: float
    interval: tuple[float, float]
    judged: int
    found: Relevance | None
    exact: Relevance | None
    batch_us: float
    single_us: tuple[float, float]
    calls: int
    threads: int
    rows_scored: float
    bytes_read: float

    @property
    def ndcg_share(self) -> float | None:
        """The share of exact search's ndcg that is reached; None where that is 0."""
        if self.found is None or self.exact is None or self.exact.ndcg == 0:
            return None
        return self.found.ndcg / self.exact.ndcg

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return asdict(self) | {"ndcg_share": self.ndcg_share}

    @property
    def headline(self) -> str:
        """Return the recall and its interval, in one line."""
        low, high = self.interval
        return (
            f"knn_recall@{self.k} {self.knn_recall:.4f} (95 %: {low:.4f} to {high:.4f})"
            f" at {self.batch_us:.1f} µs a query, on {self.queries:,} queries"
        )

    def facts(self) -> list[tuple[str, str]]:
        """Return the plan, times and what was read."""
        threads = "thread" if self.threads == 1 else "threads"
        median, slow = self.single_us
        return [
            ("plan", f"{self.plan} ({self.origin})"),
            ("one batch", f"{self.batch_us:.1f} µs a query, {self.threads} {threads}"),
            ("single calls", f"median {median:.1f} µs, 99th percentile {slow:.1f} µs, "
             f"of {self.calls:,}"),
            ("a query", f"scores {self.rows_scored:,.1f} rows, reads "
             f"{self.bytes_read:,.0f} bytes"),
        ]  # fmt: skip

    def sections(self) -> list[Table]:
        """Return how judged answers compare with those of exact search."""
        if self.found is None or self.exact is None:
            return []
        rows: list[tuple[str, ...]] = []
        for name in ("ndcg", "recall", "mrr"):
            ours, best = getattr(self.found, name), getattr(self.exact, name)
            share = f"{ours / best:.4f}" if best else NONE
            rows.append((f"{name}@{self.k}", f"{ours:.4f}", f"{best:.4f}", share))
        header = ("measure", "this search", "exact search", "share")
        return [Table(f"{self.judged:,} judged queries", header, rows, left=1)]
