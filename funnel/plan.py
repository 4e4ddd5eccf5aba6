"""How one search is to be run, as a value: what was asked, defaults filled in.

Knows an index by its manifest only; runs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from funnel.cascade import Cascade, Stage
from funnel.errors import CascadeError
from funnel.store.manifest import Manifest

MODES = ("funnel", "rerank", "prefix_ann", "prefix", "exact")


@dataclass(frozen=True)
class Plan:
    """How to search: what was asked, with every default filled in.

    Parameters
    ----------
    mode : str
    k, shortlist, ef : int
    cascade : Cascade or None
        None where nothing is reranked.
    threads : int
    """

    mode: str
    k: int
    shortlist: int
    ef: int
    cascade: Cascade | None
    threads: int


def default_cascade(manifest: Manifest, k: int, shortlist: int) -> Cascade:
    """Return the cascade of an index that was not told or taught a better one.

    A stage must not rank worse than the order it receives. Principal axes rank better
    than any own prefix, so over them the walk's own order cuts the shortlist once;
    over the own prefix, a prefix twice as long as the codes cuts it again.
    """
    full_dim, code_dim = manifest.full_dim, manifest.code_dim
    cut = min(shortlist, max(2 * k, shortlist // 4))
    if manifest.projection == "prefix":
        cut = min(shortlist, max(2 * k, shortlist // 2))
    stages = [Stage(code_dim, cut, space="codes")]
    if manifest.projection == "prefix":
        longer = [d for d in manifest.dims if 2 * code_dim <= d <= full_dim // 2]
        if longer:
            keep = min(cut, max(2 * k, shortlist // 8))
            stages.append(Stage(longer[0], keep))
    return Cascade([*stages, Stage(full_dim, min(k, cut))])


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
