"""What a tuning is to reach, and what is relevant, checked.

Called by `FunnelIndex.tune`, `.loss_by_stage` and `.evaluate`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from funnel.errors import InvalidArgumentError, InvalidTypeError, check_number
from funnel.snapshot import Snapshot

DEFAULT_TARGET = 0.99
FEWEST = 20  # queries


class Goal(NamedTuple):
    """What is asked: a target of a measure, perhaps with confidence, or a budget."""

    measure: str = "knn_recall"
    target: float | None = None
    confidence: float | None = None
    budget_ms: float | None = None


def check_goal(
    target_knn_recall: float | None,
    target_ndcg: float | None,
    budget_ms: float | None,
    confidence: float | None,
    qrels: Any,
) -> Goal:
    """Return what is asked, or raise if it is too much or makes no sense."""
    asked = {
        "target_knn_recall": target_knn_recall,
        "target_ndcg": target_ndcg,
        "budget_ms": budget_ms,
    }
    given = [name for name, value in asked.items() if value is not None]
    if len(given) > 1:
        raise InvalidArgumentError(f"tune() takes one of {', '.join(given)}")
    if target_ndcg is not None and qrels is None:
        raise InvalidArgumentError("target_ndcg needs qrels: what is relevant")
    sure = None if confidence is None else _share("confidence", confidence)
    if budget_ms is not None:
        if sure is not None:
            raise InvalidArgumentError("confidence is of a target: budget_ms has none")
        if check_number("budget_ms", budget_ms) <= 0:
            raise InvalidArgumentError(f"budget_ms must be above 0, not {budget_ms}")
        return Goal(budget_ms=float(budget_ms))
    if target_ndcg is not None:
        return Goal("ndcg", _share("target_ndcg", target_ndcg), sure)
    target = DEFAULT_TARGET if target_knn_recall is None else target_knn_recall
    return Goal("knn_recall", _share("target_knn_recall", target), sure)


def check_enough(queries: int, rows: int = 1) -> None:
    """Raise if there are too few queries to tell anything, or no rows."""
    if rows == 0:
        raise InvalidArgumentError("the index has no rows: there is nothing to tune")
    if queries < FEWEST:
        raise InvalidArgumentError(
            f"tune() needs at least {FEWEST} queries, not {queries}: one half chooses, "
            "the other judges"
        )


class Judgements(NamedTuple):
    """What is relevant to a query.

    Parameters
    ----------
    gains : dict of int to float
        Row → relevance, where that is above 0.
    ideal : list of float
        Relevances above 0, falling, of ids that are not in the index too.
    """

    gains: dict[int, float]
    ideal: list[float]


def judgements_of(snapshot: Snapshot, qrels: Any, count: int) -> list[Judgements]:
    """Return what is relevant to each query.

    Raises
    ------
    InvalidTypeError, InvalidArgumentError
        If `qrels` is not a dict for each query, or a relevance is not finite.
    """
    found = []
    gains = gains_of(snapshot, qrels, count)
    for held, known in zip(qrels, gains, strict=True):
        every = sorted((_relevance(gain) for gain in held.values()), reverse=True)
        relevant = {row: gain for row, gain in known.items() if gain > 0}
        found.append(Judgements(relevant, [gain for gain in every if gain > 0]))
    return found


def _relevance(value: object) -> float:
    """Return a relevance, which must be finite: sums of others say nothing."""
    number = check_number("relevance", value)
    if math.isinf(number):
        raise InvalidArgumentError(f"relevance must be finite, not {number}")
    return number


def gains_of(snapshot: Snapshot, qrels: Any, count: int) -> list[dict[int, float]]:
    """Return the relevance of rows for each query; ids that are not there are left out.

    Raises
    ------
    InvalidTypeError, InvalidArgumentError
        If `qrels` is not a dict for each query, or a relevance is not finite.
    """
    if isinstance(qrels, str | bytes | Mapping) or not isinstance(qrels, Sequence):
        raise InvalidTypeError("qrels must be a sequence of dicts, one a query")
    if len(qrels) != count:
        raise InvalidArgumentError(f"{len(qrels)} qrels for {count} queries")
    found = []
    for number, held in enumerate(qrels):
        if not isinstance(held, Mapping):
            raise InvalidTypeError(f"qrels[{number}] must be a dict of id → relevance")
        rows = {snapshot.row_of(i): _relevance(gain) for i, gain in held.items()}
        rows.pop(-1, None)
        found.append(rows)
    return found


def _share(name: str, value: object) -> float:
    """Return a share below 1."""
    number = check_number(name, value)
    if not 0 < number < 1:
        raise InvalidArgumentError(f"{name} must be between 0 and 1, not {number}")
    return number
