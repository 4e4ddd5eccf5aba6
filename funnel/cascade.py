"""The plan of a rerank as an immutable value: `Stage(dim, keep)` and `Cascade`.

Says when a plan is valid and knows the usual generators. It does not know any index,
run anything, or choose a plan from data. `FunnelIndex.search` takes it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, overload

from funnel.errors import CascadeError, InvalidTypeError, check_whole

Space = Literal["prefix", "codes"]


def _count(name: str, value: object) -> int:
    return check_whole(name, value, error=CascadeError)


@dataclass(frozen=True)
class Stage:
    """One step of a cascade: score at `dim`, then keep the best `keep` rows.

    Parameters
    ----------
    dim : int
        Dims scored, counted from the first: the prefix is renormalised.
    keep : int
        Rows that pass to the next stage.
    space : {"prefix", "codes"}, default "prefix"
        What `dim` counts: dims of the stored embedding, or of the codes that the
        walk has scored already, so that this stage only cuts the shortlist.
    """

    dim: int
    keep: int
    space: Space = "prefix"

    def __post_init__(self) -> None:
        object.__setattr__(self, "dim", _count("Stage.dim", self.dim))
        object.__setattr__(self, "keep", _count("Stage.keep", self.keep))
        if self.space not in ("prefix", "codes"):
            raise CascadeError(
                f"Stage.space must be 'prefix' or 'codes', not {self.space!r}"
            )

    def __repr__(self) -> str:
        space = "" if self.space == "prefix" else f", space={self.space!r}"
        return f"Stage({self.dim}, keep={self.keep}{space})"


@dataclass(frozen=True, init=False, repr=False)
class Cascade:
    """An immutable sequence of stages, each wider and not longer than the one before.

    Parameters
    ----------
    stages : iterable of Stage or of (dim, keep)
        In the order they are run.

    Raises
    ------
    CascadeError
        If there are no stages, dims do not increase, or a stage keeps more rows than
        it receives.

    Examples
    --------
    >>> Cascade([Stage(128, keep=100), Stage(1024, keep=10)])
    Cascade([Stage(128, keep=100), Stage(1024, keep=10)])
    >>> Cascade.halving(shortlist=200, dims=(16, 32, 64, 128, 256, 2048)).keeps
    (200, 100, 50, 25, 10, 10)
    """

    stages: tuple[Stage, ...]

    def __init__(self, stages: Iterable[Stage | tuple[int, int]]) -> None:
        try:
            items = tuple(s if isinstance(s, Stage) else Stage(*s) for s in stages)
        except TypeError as error:
            if isinstance(error, InvalidTypeError):
                raise
            raise InvalidTypeError(
                f"a Cascade is made of Stage(dim, keep), not of {stages!r}"
            ) from None
        if not items:
            raise CascadeError("a Cascade needs at least one stage")
        prefix = [s for s in items if s.space == "prefix"]
        if any(s.space == "codes" for s in items[1:]):
            raise CascadeError("only the first stage can cut by the walk's codes")
        for before, after in itertools.pairwise(prefix):
            if after.dim <= before.dim:
                raise CascadeError(
                    f"dims must increase: {after!r} comes after {before!r}"
                )
        for before, after in itertools.pairwise(items):
            if after.keep > before.keep:
                raise CascadeError(
                    f"{after!r} cannot keep more rows than {before!r} passes on"
                )
        object.__setattr__(self, "stages", items)

    @classmethod
    def halving(cls, shortlist: int, dims: Iterable[int], k: int = 10) -> Cascade:
        """Halve the rows at every stage while the dims grow: the paper's funnel.

        Parameters
        ----------
        shortlist : int
            Rows of the first stage.
        dims : iterable of int
            One stage a dim; ``dims[0]`` is the width that retrieved the shortlist.
        k : int, default 10
            No stage keeps fewer rows.

        Returns
        -------
        Cascade
            With 200 rows and six dims: 200 → 100 → 50 → 25 → 10 → 10. The last stage
            only reorders its `k` rows.

        References
        ----------
        Kusupati et al. 2022, *Matryoshka Representation Learning*, arXiv:2205.13147,
        section 4.3.1 ("funnel retrieval").
        """
        return cls._shrinking(_count("shortlist", shortlist), dims, 0.5, k, reordered=2)

    @classmethod
    def pruning(
        cls, dims: Iterable[int], ratio: float = 0.5, shortlist: int = 200, k: int = 10
    ) -> Cascade:
        """Keep the share `ratio` of the rows at every stage, as Milvus's funnel does.

        Parameters
        ----------
        dims : iterable of int
            One stage a dim; ``dims[0]`` is the width that retrieved the shortlist.
        ratio : float, default 0.5
            Share of the rows that passes from one stage to the next, in (0, 1].
        shortlist : int, default 200
            Rows of the first stage.
        k : int, default 10
            No stage keeps fewer rows.

        Returns
        -------
        Cascade
            One stage for each dim.
        """
        if isinstance(ratio, bool) or not isinstance(ratio, float | int):
            raise InvalidTypeError(f"ratio must be a number, not {ratio!r}")
        if not 0 < ratio <= 1:
            raise CascadeError(f"ratio must be in (0, 1], not {ratio}")
        shortlist = _count("shortlist", shortlist)
        return cls._shrinking(shortlist, dims, ratio, k, reordered=1)

    @classmethod
    def _shrinking(
        cls,
        shortlist: int,
        dims: Iterable[int],
        ratio: float,
        k: int,
        *,
        reordered: int,
    ) -> Cascade:
        """Multiply by `ratio` at every stage; the last `reordered` stages keep `k`."""
        k, widths = _count("k", k), tuple(dims)
        if shortlist < k:
            raise CascadeError(f"a shortlist of {shortlist} cannot hold k = {k} rows")
        keeps = [max(k, int(shortlist * ratio**i)) for i in range(len(widths))]
        for i in range(max(1, len(widths) - reordered), len(widths)):
            keeps[i] = k
        return cls(Stage(d, keep) for d, keep in zip(widths, keeps, strict=True))

    @property
    def dims(self) -> tuple[int, ...]:
        """Dims of the stages, in order."""
        return tuple(stage.dim for stage in self.stages)

    @property
    def keeps(self) -> tuple[int, ...]:
        """Rows that each stage passes on, in order."""
        return tuple(stage.keep for stage in self.stages)

    def __len__(self) -> int:
        return len(self.stages)

    def __iter__(self) -> Iterator[Stage]:
        return iter(self.stages)

    @overload
    def __getitem__(self, at: int) -> Stage: ...
    @overload
    def __getitem__(self, at: slice) -> tuple[Stage, ...]: ...
    def __getitem__(self, at: int | slice) -> Stage | tuple[Stage, ...]:
        return self.stages[at]

    def __repr__(self) -> str:
        return f"Cascade([{', '.join(map(repr, self.stages))}])"
