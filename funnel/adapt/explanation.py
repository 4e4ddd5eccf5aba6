"""What a search did, and where it lost a row, as values that show themselves."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from funnel.adapt.tables import Shown, Table, number
from funnel.plan import Plan

STEPS = (
    "step", "dim", "rows in", "kept", "margin", "slack", "k-th score", "last score",
    "bytes", "pages", "µs", "floor µs",
)  # fmt: skip


def words_of(plan: Plan) -> str:
    """Return a plan in words: its mode, and the knobs that this one has."""
    if plan.mode == "exact":
        return "exact: every row at full width"
    if plan.mode == "prefix":
        return "prefix: every row at the width of the codes"
    said = [f"{plan.mode}: shortlist {plan.shortlist:,}", f"ef_search {plan.ef:,}"]
    if plan.slack is not None:
        said.append(f"slack {plan.slack:g}")
    if plan.certified:
        said.append("reranked by bounds")
    elif plan.cascade is not None:
        stages = [
            f"{'codes of ' if stage.space == 'codes' else ''}{stage.dim:,} dims keep "
            f"{stage.keep:,}"
            for stage in plan.cascade
        ]
        said.append(f"cascade {' > '.join(stages)}")
    if plan.budget_us is not None:
        said.append(f"at most {plan.budget_us / 1e3:g} ms")
    if plan.max_bytes is not None:
        said.append(f"at most {plan.max_bytes:,} bytes")
    return ", ".join(said)


@dataclass(frozen=True)
class ShownStep:
    """A step of one search.

    Parameters
    ----------
    name : {"filter", "walk", "scan", "cut", "rerank"}
    dim : int
    rows_in, kept : int
    margin : float or None
        How much further from the query the last row that went on is than the k-th:
        (1 − its score) / (1 − that of the k-th) − 1. Of cosines only; None where the
        k-th is no distance away.
    slack : float or None
        Where a walk was to end; measured from its k-th best.
    kth_score, last_score : float or None
        Of the k-th best at this step, and of the last row that went on.
    bytes_read : int
        Of vectors, norms and codes.
    pages : int
        Of 4,096 bytes, that hold them, by their addresses.
    time_us : float
    floor_us : float
        What reading as many bytes from memory, one after the other, takes one thread of
        this machine. A step may beat it by what is in a cache.
    """

    name: str
    dim: int
    rows_in: int
    kept: int
    margin: float | None = None
    slack: float | None = None
    kth_score: float | None = None
    last_score: float | None = None
    bytes_read: int = 0
    pages: int = 0
    time_us: float = 0.0
    floor_us: float = 0.0

    def cells(self) -> tuple[str, ...]:
        """Return the cells of a table's row."""
        return (
            self.name, f"{self.dim:,}", f"{self.rows_in:,}", f"{self.kept:,}",
            number(self.margin, ".3f"), number(self.slack, "g"),
            number(self.kth_score, ".4f"), number(self.last_score, ".4f"),
            f"{self.bytes_read:,}", f"{self.pages:,}", f"{self.time_us:.1f}",
            f"{self.floor_us:.1f}",
        )  # fmt: skip


@dataclass(frozen=True)
class Explanation(Shown):
    """What one search did: prints as a table, shows as one in a notebook.

    Parameters
    ----------
    steps : tuple of ShownStep
    k : int
    origin : str
        Where the plan came from.
    plan : str
        In words.
    time_us : float
        Inside compiled code.
    call_us : float
        Of the whole search, without its filter and the ids.
    floor_us : float
        What reading as many bytes from memory takes.
    memory_gb_s : float
        How fast one thread reads memory here: see `adapt/floor.py`.
    """

    steps: tuple[ShownStep, ...]
    k: int
    origin: str
    plan: str
    time_us: float
    call_us: float
    floor_us: float
    memory_gb_s: float

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return asdict(self)

    @property
    def headline(self) -> str:
        """Return what was searched and how long it took, in one line."""
        return f"k = {self.k}, {self.origin}; {self.time_us:.1f} µs"

    def facts(self) -> list[tuple[str, str]]:
        """Return the plan, and where the time went."""
        read = sum(step.bytes_read for step in self.steps)
        times = f"{self.time_us / self.floor_us:.1f} times " if self.floor_us else ""
        return [
            ("plan", self.plan),
            ("time", f"{self.time_us:.1f} of {self.call_us:.1f} µs in compiled code"),
            ("memory", f"{times}the {self.floor_us:.1f} µs that reading {read:,} bytes "
             f"takes at {self.memory_gb_s:.1f} GB/s"),
        ]  # fmt: skip

    def sections(self) -> list[Table]:
        """Return the table of the steps."""
        rows = [step.cells() for step in self.steps]
        shown = [i for i, name in enumerate(STEPS) if name != "slack" or self.slackened]
        header, *cells = [tuple(row[i] for i in shown) for row in (STEPS, *rows)]
        return [Table("", header, cells, left=1)]

    @property
    def slackened(self) -> bool:
        """Whether a walk may end by slack."""
        return any(step.slack is not None for step in self.steps)


@dataclass(frozen=True)
class WhyNot(Shown):
    """Where a search lost a row.

    Parameters
    ----------
    identifier : int or str
    lost_by : {"filter", "walk", "cut", "rerank", "scan"} or None
        None for a hit.
    verdict : str
        In words.
    rank : int or None
        Among what that step scored, from 1; of a row that the walk did not hand on,
        among all rows by their codes; None if it is not among the best 20,000 of these
        or of a scan.
    score, threshold : float or None
        Of the row, and of the last row that went on.
    margin, margin_kept : float or None
        How many times as far from the query as the k-th best they are, by 1 − cosine:
        (1 − score) / (1 − k-th score).
    change : dict
        What keeps it there: an argument of `search`, or ``keep`` of the stage at
        ``dim``. A knob stands in the place of `effort`, `target` and
        ``policy="adaptive"``; a `k` wants as many of a cascade that was given. Empty
        where nothing is known to.
    at : dict of int to (int, float)
        Dims → rank and score among what was retrieved.
    """

    identifier: Any
    lost_by: str | None
    verdict: str
    rank: int | None = None
    score: float | None = None
    threshold: float | None = None
    margin: float | None = None
    margin_kept: float | None = None
    change: dict[str, float] = field(default_factory=dict)
    at: dict[int, tuple[int, float]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return asdict(self)

    @property
    def headline(self) -> str:
        """Return which row was lost where, in one line."""
        return f"{self.identifier!r}: {self.verdict}"

    def facts(self) -> list[tuple[str, str]]:
        """Return what would keep it."""
        said = ", ".join(f"{name}={value}" for name, value in self.change.items())
        return [("kept with", said)] if said else []

    def sections(self) -> list[Table]:
        """Return its rank and score at every dim."""
        rows: list[tuple[str, ...]] = [
            (f"{dim:,}", f"{rank:,}", f"{score:.4f}")
            for dim, (rank, score) in self.at.items()
        ]
        return [Table("", ("dims", "rank", "score"), rows)]
