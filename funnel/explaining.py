"""An open index, as far as it gives account of its searches.

A façade, as `handle.py` is: the work is in `adapt/`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from funnel.adapt.evaluate import evaluate
from funnel.adapt.evaluation import Evaluation
from funnel.adapt.explain import Asked, explain, why_not
from funnel.adapt.explanation import Explanation, WhyNot
from funnel.adapt.goal import gains_of, judgements_of
from funnel.adapt.progressive import progressive
from funnel.adapt.stage_losses import StageLosses, loss_by_stage
from funnel.adapt.workload import workload_of
from funnel.errors import DimensionError, InvalidArgumentError, InvalidTypeError
from funnel.filters import is_mask, selection_of
from funnel.handle import Handle
from funnel.options import OURS, check_habits
from funnel.plan import Plan
from funnel.planning import check_search
from funnel.reading import find_rows
from funnel.results import Hits
from funnel.snapshot import Snapshot
from funnel.store.manifest import Manifest
from funnel.vectors import check_queries

EXPLAINED = (
    "shortlist", "cascade", "ef_search", "mode", "threads", "slack", "effort", "target",
    "policy",
)  # fmt: skip
BUDGETS = ("budget_ms", "max_bytes")
KNOBS = ("shortlist", "cascade", "ef_search", "slack")


class Explaining(Handle):
    """A handle that shows what its searches do, step by step, lose and take."""

    def explain(self, query: Any, k: int = 10, **how: Any) -> Explanation:
        """Return what a search for one query did: rows, scores and time of every step.

        Searches, and replays the search in plain NumPy: milliseconds. The first call of
        a process also measures how fast memory is read, a tenth of a second.

        Parameters
        ----------
        query : (full_dim,) array-like
        k : int
        **how
            As in `search`, without `min_score`, `trace`, `uncertainty` and budgets.

        Returns
        -------
        Explanation
            Prints as a table, also by rich; HTML in a notebook; `to_dict` gives its
            values.

        Raises
        ------
        DimensionError, NonFiniteError, …
            As `search` does.
        """
        return explain(self._one(query, k, how))

    def search_progressive(self, query: Any, k: int = 10, **how: Any) -> Iterator[Hits]:
        """Yield the hits of one query after the walk and after each stage.

        The first are there after a part of the time, by the scores of codes; each
        stage sharpens them. The last ones, with ``hits.complete``, are those of
        `search`.

        Parameters
        ----------
        query : (full_dim,) array-like
        k : int
        **how
            As in `explain`.

        Yields
        ------
        Hits
            1-D; scores of a step are those of the prefix that it has reached.

        Raises
        ------
        DimensionError, NonFiniteError, …
            As `search` does, before the first step.
        """
        asked = self._one(query, k, how)
        snapshot, version = asked.snapshot, asked.snapshot.manifest.version
        steps = progressive(snapshot, asked.queries, asked.plan, asked.selection)
        return (
            Hits(
                snapshot.ids(one.rows)[0],
                one.scores[0],
                None,
                version,
                complete=one.whole,
            )
            for one in steps
        )

    def why_not(self, query: Any, identifier: Any, k: int = 10, **how: Any) -> WhyNot:
        """Return at which step a search loses a row, and what would keep it.

        Replays the search in plain NumPy, and scans the codes where the walk did not
        hand the row on: milliseconds.

        Parameters
        ----------
        query : (full_dim,) array-like
        identifier : int or str
            Id of a stored row. A hit gets an answer too, and what a filter leaves out.
        k : int
        **how
            As in `explain`.

        Returns
        -------
        WhyNot
            The step, the row's rank and score there and at every dim.

        Raises
        ------
        UnknownIdError
            If the index does not hold it.
        DimensionError, NonFiniteError, …
            As `search` does.
        """
        asked = self._one(query, k, how)
        (wanted,) = find_rows(asked.snapshot, [identifier], self.path).tolist()
        return why_not(asked, wanted, identifier)

    def loss_by_stage(
        self, queries: Any, k: int = 10, qrels: Any = None, **how: Any
    ) -> StageLosses:
        """Return how much of what exact search finds each step of a search loses.

        Searches exactly, and replays the search in plain NumPy: some milliseconds a
        query.

        Parameters
        ----------
        queries : (q, full_dim) array-like
        k : int
        qrels : sequence of dict, optional
            Of each query, id → relevance: says what each step loses of ndcg@k too, as
            a share of exact search's, over the queries that this answers with something
            relevant.
        **how
            As in `explain`.

        Returns
        -------
        StageLosses
            Prints as a table.

        Raises
        ------
        DimensionError, InvalidArgumentError
            If there are no queries, or no rows that may be answers.
        InvalidTypeError
            If `qrels` is no sequence of dicts.
        """
        asked = self._some(queries, k, how)
        snapshot, rows, plan, selection = asked[:4]
        gains = None if qrels is None else gains_of(snapshot, qrels, len(rows))
        most = min(plan.k, selection.rows)
        work = workload_of(snapshot, rows, most, 0, plan.threads, selection)
        return loss_by_stage(work, plan, gains)

    def evaluate(
        self, queries: Any, qrels: Any = None, k: int = 10, **how: Any
    ) -> Evaluation:
        """Return how good and how fast a search is, on queries.

        Searches for all queries at once four times, exactly once, and for up to 1,000
        of them one by one.

        Parameters
        ----------
        queries : (q, full_dim) array-like
            Others than those that the index was tuned on.
        qrels : sequence of dict, optional
            Of each query, id → relevance: compares ndcg@k, recall@k and mrr@k with
            those of exact search. Ids that the index does not hold are what no search
            finds; queries without a relevance above 0 are left out.
        k : int
        **how
            As in `search`, without `min_score`, `trace` and `uncertainty`.

        Returns
        -------
        Evaluation
            Prints as a table; `to_dict` gives its values.

        Raises
        ------
        DimensionError, InvalidArgumentError
            If there are no queries, no rows that may be answers, or not as many qrels.

        References
        ----------
        Järvelin & Kekäläinen 2002, *Cumulated gain-based evaluation of IR techniques*.
        Gains are the relevances, discounted by log₂(1 + rank), as trec_eval has it.
        """
        asked = self._some(queries, k, how, (*EXPLAINED, *BUDGETS))
        rows = asked.queries
        judged = None
        if qrels is not None:
            judged = judgements_of(asked.snapshot, qrels, len(rows))
        return evaluate(asked, judged, lambda some: self.search(some, k, **how))

    def _one(self, query: Any, k: int, how: dict[str, Any]) -> Asked:
        """Return the search for one query, checked."""
        asked = self._asked(query, k, how)
        if len(asked.queries) != 1:
            raise DimensionError(
                f"one query is explained at a time, not {len(asked.queries)}"
            )
        return asked

    def _some(
        self, queries: Any, k: int, how: dict[str, Any],
        names: tuple[str, ...] = EXPLAINED,
    ) -> Asked:  # fmt: skip
        """Return the search for some queries, checked, that can have answers."""
        asked = self._asked(queries, k, how, names)
        if not len(asked.queries):
            raise DimensionError("there are no queries to follow")
        if not asked.selection.rows:
            raise InvalidArgumentError("no row may be an answer: nothing can be found")
        return asked

    def _asked(
        self, queries: Any, k: int, how: dict[str, Any],
        names: tuple[str, ...] = EXPLAINED,
    ) -> Asked:  # fmt: skip
        """Return a search, its arguments checked as `search` checks them.

        Arguments of `search` that are not among `names` are refused.
        """
        given = {"mode": "funnel"} | how
        chosen = given.pop("filter", None)
        _check_names(given, names)
        masked = chosen is not None and is_mask(chosen)
        snapshot = self._shown() if masked else self._snapshot()
        m = snapshot.manifest
        again = partial(_planned, snapshot, k, given, names)
        plan = again({})
        began = time.perf_counter()
        selection, filter_us = snapshot.everything, None
        if chosen is not None:
            selection = selection_of(snapshot, chosen)
            filter_us = (time.perf_counter() - began) * 1e6
        rows, _ = check_queries(queries, m.full_dim, m.metric, m.transform)
        origin = _origin(m, given)
        return Asked(snapshot, rows, plan, selection, filter_us, origin, again)


def _planned(
    snapshot: Snapshot, k: int, given: dict[str, Any], names: tuple[str, ...],
    change: Mapping[str, Any],
) -> Plan:  # fmt: skip
    """Return the plan of a search, some of whose arguments are others.

    A knob takes the place of what stands for all of them.
    """
    asked = {"k": k, **given, **change}
    if change.keys() & set(KNOBS):
        whole = {"effort", "target"}
        if given.get("policy") == "adaptive":
            whole.add("policy")
        asked = {name: value for name, value in asked.items() if name not in whole}
    plan: Plan = snapshot.remember(
        check_search, asked["k"], *[asked.get(name) for name in names]
    )
    return plan


def _check_names(given: dict[str, Any], names: tuple[str, ...]) -> None:
    """Raise for an argument that is not among `names`, saying why."""
    for name in given.keys() - set(names):
        if name in BUDGETS:
            raise InvalidTypeError(
                f"{name}= ends a search early, perhaps before the step in question: "
                "leave it out here"
            )
        if name in OURS["search"]:
            raise InvalidTypeError(f"{name}= changes no step: leave it out here")
        check_habits({name: None}, "search")


def _origin(manifest: Manifest, given: dict[str, Any]) -> str:
    """Say where the plan of a search came from: see `options.check_search`."""
    typed = any(given.get(name) is not None for name in KNOBS)
    if typed or given["mode"] != "funnel":
        return "as asked"
    tuned = manifest.plan and given.get("policy") != "fixed"
    return "a tuned level" if tuned else "the default plan"
