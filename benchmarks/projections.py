"""Which short projection serves real queries: ``python -m benchmarks.projections``.

Rows of a shortlist that hold 99 % of the exact top 10 at 64, 128 and 256 dims, for the
own prefix, the own dims by energy, principal axes, axes of corpus and queries together,
and the two matrices that keep their products best. One half of the queries may fit, the
other judges. benchmarks/README.md explains the columns.

n = rows, q = queries, d = full width, w = width of a projection.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.run import ROOT, positive
from benchmarks.tables import Table, number, share, to_rich, wide_console

SETS = (
    "bible-mrl,bible-minilm,scifact-mrl,scifact-minilm,nfcorpus-mrl,nfcorpus-minilm,"
    "fashion-mrl"
)
SHARES = (0.25, 0.5, 0.75)  # of the queries' moment beside the corpus's
FEW = 200  # queries: as many as people have at hand
SHRINK = 0.1  # of the other side's moment, which makes a moment of few rows regular
JUDGES = 1_000
ADDED = 1_000  # rows at once, to an index that grows
FITTED = 20_000  # rows, as a build fits axes to
SHORTLISTS = (40, 200)  # 200 is the default
REPEATS, TIE = 5, 1e-6
SPACES = {"prefix": "own prefix", "pca": "principal axes"}

Record = dict[str, Any]
Space = tuple[np.ndarray, np.ndarray]
"""What rows and what queries are multiplied by, (d, w) each."""


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    out = argparse.ArgumentParser(
        prog="python -m benchmarks.projections", description=__doc__.split("\n\n")[1]
    )
    add = out.add_argument
    add("--dataset", default=SETS, metavar="SPEC,…", help="as benchmarks.run")
    add("--sample", type=positive, default=62_204, metavar="ROWS",
        help="of a larger corpus, draw so many (%(default)s)")  # fmt: skip
    add("--seed", type=int, default=0, help="draws rows and halves (%(default)s)")
    add("--ageing", action="store_true", help="of an index that grew tenfold, instead")
    add("--out", type=Path, default=Path("results") / "projections", metavar="DIR")
    add("--cache", type=Path, default=ROOT / "data", metavar="DIR", help="made data")
    return out


# ---- projections


def moment(rows: np.ndarray) -> np.ndarray:
    """Return the second moment of unit rows, (d, d) float64; its trace is 1."""
    return (rows.T @ rows).astype(np.float64) / len(rows)


def leading(symmetric: np.ndarray, width: int) -> np.ndarray:
    """Return the eigenvectors of the largest eigenvalues, (d, w), largest first."""
    found: np.ndarray = np.linalg.eigh(symmetric)[1][:, ::-1][:, :width]
    return found


def together(corpus: np.ndarray, queries: np.ndarray, share: float) -> np.ndarray:
    """Return the moment whose axes suit both, which LeanVec-ES takes.

    References
    ----------
    Tepper et al. 2023, *LeanVec: searching vectors faster by making them fit*,
    arXiv:2312.16335, section 2.2.
    """
    return (1 - share) * corpus + share * queries


def best_products(corpus: np.ndarray, queries: np.ndarray, width: int) -> Space:
    """Return the two matrices whose products are nearest to those at full width.

    The least mean squared error of ``(A q)·(B x)`` over all pairs of a query and a row,
    in closed form: the singular vectors of the product of both moments' roots.

    Parameters
    ----------
    corpus, queries : (d, d) float64
        Moments, of full rank.
    """
    (root_x, back_x), (root_q, back_q) = roots(corpus), roots(queries)
    left, sizes, right = np.linalg.svd(root_q @ root_x)
    scale = np.sqrt(sizes[:width])
    return back_x @ right[:width].T * scale, back_q @ left[:, :width] * scale


def roots(symmetric: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the square root of a moment, and the inverse of it."""
    values, vectors = np.linalg.eigh(symmetric)
    values = np.sqrt(np.maximum(values, values[-1] * 1e-9))
    return (vectors * values) @ vectors.T, (vectors / values) @ vectors.T


def spaces_of(sample: np.ndarray, queries: np.ndarray, width: int) -> dict[str, Space]:
    """Return every projection that is tried, by name.

    Parameters
    ----------
    sample : (s, d) float32, unit norm
        Of the corpus.
    queries : (q, d) float32, unit norm
        Those that may be fitted to.
    """
    from funnel.projection import principal_axes

    full_dim, corpus, asked = sample.shape[1], moment(sample), moment(queries)
    own = np.eye(full_dim)
    by_energy = np.argsort(-np.diag(corpus), kind="stable")
    one = {
        "own prefix": own[:, :width],
        "own dims by energy": own[:, by_energy[:width]],
        "principal axes": principal_axes(sample, width).T,
    }
    for part in SHARES:
        mixed = together(corpus, asked, part)
        one[f"corpus and queries {part}"] = leading(mixed, width)
    few = together(corpus, moment(queries[:FEW]), 0.5)
    one[f"the same 0.5 of {FEW} queries"] = leading(few, width)
    two = best_products(
        together(corpus, asked, SHRINK), together(asked, corpus, SHRINK), width
    )
    return {name: (axes, axes) for name, axes in one.items()} | {"two matrices": two}


def lifted(rows: np.ndarray) -> np.ndarray:
    """Return rows with one more coordinate, after which all have one norm.

    The cosine of a query that has 0 there ranks as the inner product does.
    """
    squares = np.square(rows).sum(axis=1, keepdims=True)
    return np.hstack([rows, np.sqrt(np.maximum(squares.max() - squares, 0))])


# ---- what they are worth


def needed(judge: Any, space: Space, widths: Sequence[int]) -> dict[str, int]:
    """Return for each width the rows that hold 99 % of the exact top 10.

    Both sides are renormalised after truncation, as the engine does; two matrices keep
    inner products instead, and are judged by those.
    """
    from funnel.adapt.measures import rows_needed

    rows = judge.rows @ space[0].astype(np.float32)
    queries = judge.queries @ space[1].astype(np.float32)
    found = {}
    for width in widths:
        short, asked = rows[:, :width], queries[:, :width]
        if space[0] is not space[1]:
            short = lifted(short)
            asked = np.hstack([asked, np.zeros((len(asked), 1), np.float32)])
        found[str(width)] = rows_needed(judge.ranks(short, asked), len(rows))
    return found


def loaded(name: str, args: argparse.Namespace) -> tuple[Any, ...]:
    """Return a data set's rows, both halves of its queries, and the rows' labels.

    Returns
    -------
    rows : (n, d) float32, unit norm
    fitting, judging : (q, d) float32, unit norm
    labels : (n,) or None
    """
    from benchmarks import datasets
    from funnel.vectors import unit

    data = datasets.load(name, cache=args.cache)
    rng, n = np.random.default_rng(args.seed), len(data.corpus)
    drawn = np.sort(rng.choice(n, min(n, args.sample), replace=False))
    more = [] if data.tuning_queries is None else [data.tuning_queries]
    queries = np.concatenate([data.queries, *more])
    queries = unit(np.float32(queries[rng.permutation(len(queries))]))
    half = len(queries) // 2
    rows = unit(np.float32(data.corpus[drawn]))
    labels = None if data.labels is None else data.labels[0][drawn]
    return rows, queries[:half], queries[half:][:JUDGES], labels


def measure(name: str, args: argparse.Namespace) -> Record:
    """Return what each projection needs, and what is chosen."""
    from funnel.adapt.measures import Judge
    from funnel.build.sample import Reservoir
    from funnel.projection import WIDTHS

    rows, fitting, judging, _ = loaded(name, args)
    widths = [width for width in WIDTHS if width <= rows.shape[1]]
    reservoir = Reservoir(rows.shape[1], args.seed)  # as a build draws it
    reservoir.offer(rows)
    sample = reservoir.rows
    judge, probes = Judge(rows, judging, None), Judge.of_sample(rows, args.seed)
    spaces = spaces_of(sample, fitting, widths[-1])
    found = {key: needed(judge, space, widths) for key, space in spaces.items()}
    return {
        "dataset": Path(name).name,
        "rows": len(rows),
        "full_dim": rows.shape[1],
        "sample_rows": len(sample),
        "fitting_queries": len(fitting),
        "judging_queries": len(judging),
        "needed": found,
        "needed_by_rows": {
            key: needed(probes, spaces[key], widths) for key in SPACES.values()
        },
        "chosen": chosen(rows, fitting, judging, found, args.seed),
    }


def chosen(
    rows: np.ndarray,
    fitting: np.ndarray,
    judging: np.ndarray,
    found: Mapping[str, Any],
    seed: int,
) -> Record:
    """Return what a build chooses, what `diagnose` does with queries, and what is best.

    Parameters
    ----------
    rows, fitting, judging : (n or q, d) float32, unit norm
    found : mapping of str to dict of str to int
        What each projection needs with the queries that judge.
    """
    from funnel import FunnelIndex, diagnose
    from funnel.projection import cheapest

    told = diagnose(rows, queries=fitting, seed=seed)
    best = cheapest(
        {kind: {int(w): n for w, n in found[key].items()}
         for kind, key in SPACES.items()}
    )  # fmt: skip
    with FunnelIndex.build(rows, threads=1, seed=seed) as index:
        built = index.projection, index.info["code_dim"]
        worth = {built: knn_recall(index, judging)}
    choices = {"build": built, "diagnose": (told.projection, told.code_dim),
               "best": best}  # fmt: skip
    for kind, width in set(choices.values()) - {built}:
        how = {"projection": kind, "code_dim": width, "seed": seed}
        with FunnelIndex.build(rows, threads=1, **how) as index:
            worth[kind, width] = knn_recall(index, judging)
    return {
        who: {"projection": one[0], "dims": one[1], "knn_recall": worth[one],
              "needed": found[SPACES[one[0]]][str(one[1])]}
        for who, one in choices.items()
    }  # fmt: skip


def knn_recall(index: Any, queries: np.ndarray, **how: Any) -> float:
    """Return knn_recall@10 of an index, as it is searched by default."""
    last = index.search(queries, 10, mode="exact").scores[:, -1:] - TIE
    return float((index.search(queries, 10, **how).scores >= last).mean())


def batch_us(index: Any, queries: np.ndarray) -> float:
    """Return the median of some default searches, µs a query, one thread."""
    spent = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        index.search(queries, 10, threads=1)
        spent.append((time.perf_counter() - began) * 1e6 / len(queries))
    return float(np.median(spent))


# ---- age


def aged(name: str, args: argparse.Namespace) -> Record:
    """Return what an index is worth that grew tenfold by other topics.

    It begins with a tenth of the rows: those of some labels, or else the first.
    """
    from funnel.adapt.measures import Judge
    from funnel.projection import WIDTHS, principal_axes

    rows, _, judging, labels = loaded(name, args)
    if labels is not None:
        rows = rows[np.argsort(labels, kind="stable")]
    first = len(rows) // 10
    judge = Judge(rows, judging, None)
    widths = [width for width in WIDTHS if width <= rows.shape[1]]
    drawn = np.random.default_rng(args.seed).permutation(len(rows))[:FITTED]
    fitted = {"block": rows[:first], "all": rows[drawn]}
    axes = {key: principal_axes(some, widths[-1]).T for key, some in fitted.items()}
    folder = Path(tempfile.mkdtemp(prefix="funnel-"))
    try:
        states = grown(rows, first, folder, judge)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return {
        "dataset": Path(name).name,
        "rows": len(rows),
        "full_dim": rows.shape[1],
        "first_rows": first,
        "judging_queries": len(judging),
        "needed": {key: needed(judge, (one, one), widths) for key, one in axes.items()},
        "states": states,
    }


def grown(rows: np.ndarray, first: int, folder: Path, judge: Any) -> Record:
    """Return the states of indexes that grew in some ways, and of a fresh one."""
    from funnel import FunnelIndex

    states = {}
    grow(rows, first, folder / "hand", ADDED, alone=True)
    states["by thousands, never merged"] = state(folder / "hand", judge)
    for how, added in (("by thousands", ADDED), ("by tenths", first)):
        grow(rows, first, folder / how, added, alone=False)
        states[how] = state(folder / how, judge)
    with FunnelIndex.open(folder / "hand", "rw") as index:
        index.compact()
    states["after compact()"] = state(folder / "hand", judge)
    FunnelIndex.build(rows, path=folder / "fresh", threads=1).close()
    states["built of all rows"] = state(folder / "fresh", judge)
    return states


def grow(rows: np.ndarray, first: int, path: Path, added: int, *, alone: bool) -> None:
    """Build an index of the first rows and add the others, some at a time.

    Parameters
    ----------
    added : int
        Rows at a time.
    alone : bool
        Whether nothing merges its segments; else all is merged that should be.
    """
    from funnel import FunnelIndex
    from funnel.merging import first_to_merge
    from funnel.store.commit import newest_manifest

    FunnelIndex.build(rows[:first], path=path, threads=1).close()
    with FunnelIndex.open(path, "rw", auto_compact=not alone) as index:
        for start in range(first, len(rows), added):
            index.add(rows[start : start + added])
            while not alone and first_to_merge(newest_manifest(path)) is not None:
                time.sleep(0.1)


def state(path: Path, judge: Any) -> Record:
    """Return what an index consists of, and how well it finds."""
    from funnel import FunnelIndex
    from funnel.store.commit import DATA, newest_manifest
    from funnel.store.segment import map_file

    m = newest_manifest(path)
    axes = np.eye(m.full_dim)[:, : m.code_dim]
    if m.projection == "pca":
        axes = np.array(map_file(path / DATA, m.files["axes"])).T
    with FunnelIndex.open(path) as index:
        index.warmup()
        recalls = {str(s): knn_recall(index, judge.queries, shortlist=s)
                   for s in SHORTLISTS}  # fmt: skip
        took = batch_us(index, judge.queries)
    return {
        "segments": len(m.segments),
        "projection": m.projection,
        "dims": m.code_dim,
        "needed": needed(judge, (axes, axes), [m.code_dim])[str(m.code_dim)],
        "knn_recall": recalls,
        "batch_us": took,
    }


# ---- showing


def tables(found: Record) -> list[Table]:
    """Return what was found of a data set as tables."""
    shape = f"{found['dataset']}: {found['rows']:,} × {found['full_dim']}"
    dims = next(iter(found["needed"].values())).keys()
    header = ["rows needed at", *dims]
    rows = [[k, *map(str, one.values())] for k, one in found["needed"].items()]
    if "states" in found:
        rows = [[f"axes of the {key}" if key == "block" else f"axes of {key}", *more]
                for key, *more in rows]  # fmt: skip
        return [Table(shape, header, rows), _states(found["states"])]
    rows += [
        [f"{key}, by rows as queries", *map(str, one.values())]
        for key, one in found["needed_by_rows"].items()
    ]
    choices = [
        [who, one["projection"], str(one["dims"]), str(one["needed"]),
         share(one["knn_recall"])]
        for who, one in found["chosen"].items()
    ]  # fmt: skip
    ahead = ["chosen by", "projection", "dims", "rows needed", "knn_recall"]
    return [Table(shape, header, rows), Table("what is chosen", ahead, choices)]


def _states(states: Record) -> Table:
    ahead = ["index", "segments", "projection", "dims", "rows needed",
             *(f"knn_recall, shortlist {s}" for s in SHORTLISTS), "µs"]  # fmt: skip
    rows = [
        [name, str(one["segments"]), one["projection"], str(one["dims"]),
         str(one["needed"]), *map(share, one["knn_recall"].values()),
         number(one["batch_us"])]
        for name, one in states.items()
    ]  # fmt: skip
    return Table("an index that grew tenfold", ahead, rows)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure each data set, write and show."""
    from benchmarks import machine
    from benchmarks.results import write_json

    args = parser().parse_args(argv)
    console = wide_console()
    args.out.mkdir(parents=True, exist_ok=True)
    for name in args.dataset.split(","):
        found = aged(name, args) if args.ageing else measure(name, args)
        found |= {
            "machine": machine.describe(1, 1),
            "versions": machine.versions(),
            "commit": machine.commit(),
        }
        what = "-ageing" if args.ageing else ""
        write_json(found, args.out / f"{found['dataset']}{what}.json")
        for table in tables(found):
            console.print(to_rich(table))
    print(f"written to {args.out}/")


if __name__ == "__main__":
    main()
