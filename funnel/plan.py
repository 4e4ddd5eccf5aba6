"""How one search is to be run, as a value: what was asked, defaults filled in.

Knows an index by its manifest only; runs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from funnel.cascade import Cascade, Stage
from funnel.errors import CascadeError
from funnel.store.manifest import Manifest

MARGIN = 1.5  # a sample is sparser than the corpus, and 256 probes are few
POLICIES = ("fixed", "adaptive", "certified")
MODES = ("funnel", "rerank", "prefix_ann", "prefix", "exact")


@dataclass(frozen=True, eq=False)
class Plan:
    """How to search: what was asked, with every default filled in.

    Equal only to itself: a snapshot remembers plans by what was asked, and finds what
    belongs to one in no time.

    Parameters
    ----------
    mode : str
    k, shortlist, ef : int
    cascade : Cascade or None
        None where nothing is reranked.
    threads : int
    slack : float or None
        None where the walk expands all that it keeps.
    rank : int
        Of the node that the slack is measured from; 0 for the k-th.
    certified : bool
        Drop from the shortlist only what bounds prove to be no answer.
    max_bytes : int or None
    budget_us : float or None
        What a query may take: no stage begins beyond that.
    """

    mode: str
    k: int
    shortlist: int
    ef: int
    cascade: Cascade | None
    threads: int
    slack: float | None = None
    rank: int = 0
    certified: bool = False
    max_bytes: int | None = None
    budget_us: float | None = None


def default_cascade(manifest: Manifest, k: int, shortlist: int) -> Cascade:
    """Return the cascade of an index that was not told or taught a better one.

    The order of the codes cuts the shortlist to what held 99 % of the top 10 on the
    build's sample, and half as much again; more for a longer shortlist, half of that
    where codes hold more than the walk scores, which rank more closely. A stage must
    not rank worse than the order it receives: a longer own prefix comes in between only
    where it was measured to need so much fewer rows that it spares a third of them. The
    last stage is the full width.
    """
    full_dim, share = manifest.full_dim, k / 10
    part = 8 if manifest.tail_width else 4

    def keep(needed: int) -> int:
        wanted = max(2 * k, int(MARGIN * needed * share), shortlist // part)
        return min(shortlist, wanted)

    stages = [Stage(manifest.code_dim, keep(manifest.code_rows), space="codes")]
    for dim, needed in sorted((int(d), n) for d, n in manifest.stage_rows.items()):
        rows = max(2 * k, int(MARGIN * needed * share), shortlist // 8)
        if needed < manifest.code_rows and 3 * rows <= 2 * stages[-1].keep:
            stages.append(Stage(dim, rows))
    return Cascade([*stages, Stage(full_dim, min(k, stages[-1].keep))])


def check_cascade(cascade: Cascade, manifest: Manifest, k: int, shortlist: int) -> None:
    """Raise unless `cascade` fits the index and can give `k` answers."""
    for stage in cascade:
        if stage.dim > manifest.full_dim:
            raise CascadeError(f"{stage!r}: this index holds {manifest.full_dim} dims")
        if stage.space == "codes" and stage.dim != manifest.code_dim:
            raise CascadeError(f"{stage!r}: the codes have {manifest.code_dim} dims")
    if cascade[-1].space == "codes":
        raise CascadeError("the last stage must score dims of the embedding")
    if min(cascade.keeps) < k:
        raise CascadeError(f"{cascade!r} keeps {min(cascade.keeps)} rows; k is {k}")
    if shortlist < k:
        raise CascadeError(f"a shortlist of {shortlist} cannot hold k = {k} rows")
