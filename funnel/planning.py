"""Arguments of a search, checked → its plan, with the defaults filled in.

Raises before anything is read; does no work itself. Called by `handle.py` and
`explaining.py`.
"""

from __future__ import annotations

import math
from dataclasses import replace

from funnel.cascade import Cascade
from funnel.errors import (
    CascadeError,
    InvalidArgumentError,
    check_choice,
    check_number,
    check_share,
    check_whole,
)
from funnel.options import check_threads
from funnel.plan import MODES, POLICIES, Plan, check_cascade, default_cascade
from funnel.store.manifest import Manifest
from funnel.store.tuned import Tuned


def check_search(
    manifest: Manifest, k: int, shortlist: int | None, cascade: Cascade | None,
    ef_search: int | None, mode: str, threads: int | None, slack: float | None = None,
    effort: float | None = None, target: float | None = None,
    policy: str | None = None, budget_ms: float | None = None,
    max_bytes: int | None = None,
) -> Plan:  # fmt: skip
    """Return the plan of a search, defaults filled in and everything at most n."""
    check_choice("mode", mode, MODES)
    typed = any(one is not None for one in (shortlist, cascade, ef_search, slack))
    if effort is not None or target is not None:
        _check_dial(manifest, typed or mode != "funnel", effort, target)
    if policy is not None:
        _check_policy(manifest, policy, mode, typed or mode != "funnel", cascade)
        if policy == "fixed" and (effort is not None or target is not None):
            raise InvalidArgumentError("effort and target are not of policy='fixed'")
    tuned = manifest.plan and mode == "funnel" and not typed and policy != "fixed"
    if tuned:
        staged = budget_ms is not None or max_bytes is not None
        plan = _tuned_plan(manifest, k, threads, effort, target, staged)
    else:
        plan = _typed_plan(
            manifest, k, shortlist, cascade, ef_search, mode, threads, slack
        )
    if policy == "certified" and plan.mode == "funnel":
        whole = Cascade([(manifest.full_dim, plan.k)])
        plan = replace(plan, certified=True, cascade=whole)
    return _within(plan, budget_ms, max_bytes)


def _check_policy(
    manifest: Manifest, policy: str, mode: str, typed: bool, cascade: object
) -> None:
    """Raise unless a policy fits the other arguments and the index."""
    check_choice("policy", policy, POLICIES)
    if mode != "funnel":
        raise InvalidArgumentError(f"mode {mode!r} takes no policy")
    if policy == "adaptive" and (typed or not manifest.plan):
        raise InvalidArgumentError(
            "policy='adaptive' takes the knobs that tune() measured: call it once, and "
            "leave shortlist, cascade, ef_search and slack out"
        )
    if policy == "certified" and cascade is not None:
        raise InvalidArgumentError(
            "policy='certified' takes no cascade: bounds choose what is reranked"
        )


def _within(plan: Plan, budget_ms: float | None, max_bytes: int | None) -> Plan:
    """Return a plan with what a query may take."""
    if budget_ms is None and max_bytes is None:
        return plan
    if plan.mode in ("exact", "prefix"):
        raise InvalidArgumentError(
            "budget_ms and max_bytes end a search between its stages: a scan has one"
        )
    if budget_ms is not None:
        if check_number("budget_ms", budget_ms) <= 0:
            raise InvalidArgumentError(f"budget_ms must be above 0, not {budget_ms}")
        plan = replace(plan, budget_us=1e3 * budget_ms)
    if max_bytes is not None:
        plan = replace(plan, max_bytes=check_whole("max_bytes", max_bytes, 1, 1 << 62))
    return plan


def _typed_plan(
    manifest: Manifest, k: int, shortlist: int | None, cascade: Cascade | None,
    ef_search: int | None, mode: str, threads: int | None, slack: float | None,
) -> Plan:  # fmt: skip
    """Return the plan of knobs that were typed, the rest by default."""
    n = max(1, manifest.rows)  # an empty index is not searched
    asked = check_whole("k", k, 1, 2**31 - 1)
    k = min(asked, n)
    if shortlist is not None:
        shortlist = check_whole("shortlist", shortlist, 1, 2**31 - 1)
        if shortlist < k:
            raise InvalidArgumentError(f"shortlist is {shortlist}; k = {k} needs more")
    elif cascade is not None and isinstance(cascade, Cascade):
        shortlist = max(200, 2 * k, cascade[0].keep)
    shortlist = min(n, shortlist or max(200, 2 * k))
    ef = shortlist
    if ef_search is not None:
        ef = min(n, max(shortlist, check_whole("ef_search", ef_search, 1, 2**31 - 1)))
    if slack is not None:
        slack = check_share("slack", slack)
        if manifest.metric != "cosine":
            raise InvalidArgumentError(
                f"slack is of cosines: not for {manifest.metric!r}"
            )
    if cascade is not None:
        if mode != "funnel":
            raise CascadeError(f"mode {mode!r} takes no cascade: leave one of them out")
        if not isinstance(cascade, Cascade):
            cascade = Cascade(cascade)
        check_cascade(cascade, manifest, k, shortlist)
    elif mode == "funnel":
        cascade = default_cascade(manifest, k, shortlist)
    elif mode == "rerank":
        cascade = Cascade([(manifest.full_dim, k)])
    return Plan(mode, k, shortlist, ef, cascade, check_threads(threads), slack)


def _check_dial(
    manifest: Manifest, typed: bool, effort: float | None, target: float | None
) -> None:
    """Raise unless one of effort and target stands in the place of all knobs."""
    if typed or None not in (effort, target):
        raise InvalidArgumentError(
            "effort and target each stand for all other knobs: give one of them alone"
        )
    if not manifest.plan:
        raise InvalidArgumentError(
            "effort and target need an index that was tuned: call tune() once"
        )
    for name, value in (("effort", effort), ("target", target)):
        if value is not None and check_share(name, value) > 1:
            raise InvalidArgumentError(f"{name} is at most 1, not {value}")


def _tuned_plan(
    manifest: Manifest, k: int, threads: int | None,
    effort: float | None, target: float | None, staged: bool,
) -> Plan:  # fmt: skip
    """Return the plan of a level that was tuned; of longer lists for a larger k.

    Where a budget may end it, the dearest walk stands for a scan, which has no stages.
    """
    n = max(1, manifest.rows)
    k = min(check_whole("k", k, 1, 2**31 - 1), n)
    tuned = Tuned.of(manifest.plan or {})
    level = tuned.level_of(effort, target)
    walks = [one for one in tuned.levels if not one.exact]
    if staged and (level is None or level.exact):
        if not walks:
            return _typed_plan(manifest, k, None, None, None, "funnel", threads, None)
        level = walks[-1]
    if level is None or level.exact:
        return Plan("exact", k, k, k, None, check_threads(threads))
    times = max(1.0, k / tuned.k)
    shortlist, ef = (
        min(n, math.ceil(times * rows)) for rows in (level.shortlist, level.ef_search)
    )
    stages = [(dim, min(n, math.ceil(times * keep))) for dim, keep in level.stages]
    cascade = Cascade([*stages, (manifest.full_dim, k)])
    return Plan(
        "funnel", k, shortlist, ef, cascade, check_threads(threads), level.slack
    )
