"""The data sets by name: one spec in, one `Dataset` out.

Finds what a spec means and cuts the set to size. Sets that have to be made (docstrings,
synthetic, copies of Parquet) become folders of the cache; `folders.py` reads them all.
Nothing is downloaded. Called by `benchmarks.run`, and by whoever measures something.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks import docstrings, synthetic, vector_files
from benchmarks.folders import CORPUS_FILES, Dataset, read, unjudged
from funnel.errors import InvalidArgumentError

__all__ = ["CACHE", "Dataset", "load"]

CACHE = Path(__file__).parents[1] / "data"
SYNTHETIC_ROWS, SYNTHETIC_DIM, SYNTHETIC_QUERIES = 100_000, 1024, 1000

UNDERSTOOD = """\
  docstrings    docstrings of Python and of the packages used here, made Matryoshka
  synthetic     vectors shaped like real ones, of any n and dim
  beir:PATH     a BEIR folder with corpus.npy, embeddings.npy or *.parquet, queries.npy
  npy:PATH      an .npy of vectors; queries.npy beside it, or rows held out
  parquet:PATH  a Parquet file, folder or glob; PATH#COLUMN where columns differ
  PATH or NAME  one of these, told by its contents; a NAME is a folder of the cache"""


@dataclass(frozen=True)
class Wanted:
    """What the caller asked for: sizes, where to keep what is made, bars or not."""

    cache: Path
    n: int | None
    dim: int | None
    queries: int | None
    progress: bool

    def __post_init__(self) -> None:
        for name in ("n", "dim", "queries"):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < 1):
                raise InvalidArgumentError(f"{name} must be at least 1, not {value!r}")


def load(
    spec: str,
    *,
    cache: Path = CACHE,
    n: int | None = None,
    dim: int | None = None,
    queries: int | None = None,
    progress: bool = True,
) -> Dataset:
    """Load a data set, making it first if need be.

    Parameters
    ----------
    spec
        `docstrings`, `synthetic`, `beir:PATH`, `npy:PATH`, `parquet:PATH`, or a path or
        a name in the cache, told by its contents.
    cache
        Folder that made sets are kept in.
    n
        Rows of the corpus: of a synthetic set exactly, of others the first `n` at most.
    dim
        Full width: of a synthetic set, of others a shorter prefix to cut to.
    queries
        Test queries at most; as many are held out from a set that has none.
    progress
        Show bars.

    Returns
    -------
    Dataset
        Its corpus is a memory map wherever it comes from an .npy file.

    Raises
    ------
    InvalidArgumentError
        If the spec means nothing (the message lists what is understood), or the set is
        damaged or too small.
    """
    wanted = Wanted(cache, n, dim, queries, progress)
    kind, place = _understand(spec, cache)
    data = KINDS[kind](place, wanted)
    return cut(data, n, dim, queries)


def cut(data: Dataset, n: int | None, dim: int | None, queries: int | None) -> Dataset:
    """Return the set with at most `n` rows and `queries` test queries, `dim` dims.

    A judged query that has no relevant document left goes too.

    Raises
    ------
    InvalidArgumentError
        If the vectors are not `dim` wide.
    """
    if dim and dim > data.corpus.shape[1]:
        raise InvalidArgumentError(
            f"{data.name} is {data.corpus.shape[1]} dims wide, {dim} were asked for"
        )
    if dim and dim < data.corpus.shape[1]:
        data = _cut_dims(data, dim)
    if n and n < len(data.corpus):
        data = _cut_rows(data, n)
    if queries and queries < len(data.queries):
        data = _keep_queries(data, list(range(queries)))
    return data


def _cut_dims(data: Dataset, dim: int) -> Dataset:
    tuning = data.tuning_queries
    return replace(
        data,
        corpus=data.corpus[:, :dim],
        queries=data.queries[:, :dim],
        dims=(*(width for width in data.dims if width < dim), dim),
        tuning_queries=None if tuning is None else tuning[:, :dim],
    )


def _cut_rows(data: Dataset, n: int) -> Dataset:
    data = replace(
        data,
        corpus=data.corpus[:n],
        doc_ids=data.doc_ids[:n],
        labels=data.labels and (data.labels[0][:n], data.labels[1]),
    )
    if data.qrels is None:
        return data
    left = set(data.doc_ids)
    qrels = {
        query: {doc: grade for doc, grade in judged.items() if doc in left}
        for query, judged in data.qrels.items()
    }
    answered = [any(grade > 0 for grade in qrels[q].values()) for q in data.query_ids]
    rows = [row for row, some in enumerate(answered) if some]
    return _keep_queries(replace(data, qrels=qrels), rows)


def _keep_queries(data: Dataset, rows: list[int]) -> Dataset:
    ids = [data.query_ids[row] for row in rows]
    return replace(
        data,
        queries=data.queries[rows],
        query_ids=ids,
        qrels=data.qrels and {query: data.qrels[query] for query in ids},
        labels=data.labels and (data.labels[0], data.labels[1][rows]),
    )


def _docstrings(place: str, wanted: Wanted) -> Dataset:
    folder = docstrings.make(wanted.cache, progress=wanted.progress)
    return replace(read(folder), name="docstrings")


def _synthetic(place: str, wanted: Wanted) -> Dataset:
    folder = synthetic.make(
        wanted.cache,
        wanted.n or SYNTHETIC_ROWS,
        wanted.dim or SYNTHETIC_DIM,
        wanted.queries or SYNTHETIC_QUERIES,
        progress=wanted.progress,
    )
    return replace(read(folder), name="synthetic")


def _beir(place: str, wanted: Wanted) -> Dataset:
    folder = Path(place)
    if any((folder / name).exists() for name in CORPUS_FILES):
        return read(folder)
    source = vector_files.parquet_source(place)
    return read(
        folder,
        vector_files.copy(source, wanted.cache, None, 0, progress=wanted.progress),
    )


def _npy(place: str, wanted: Wanted) -> Dataset:
    path = Path(place)
    queries = path.with_name("queries.npy")
    if queries.exists() and path != queries:
        return unjudged(path, queries)
    return _held_out(vector_files.npy_source(path), wanted)


def _parquet(place: str, wanted: Wanted) -> Dataset:
    path, _, column = place.partition("#")
    return _held_out(vector_files.parquet_source(path, column), wanted)


def _held_out(source: vector_files.Source, wanted: Wanted) -> Dataset:
    rows = min(source.rows, wanted.n or source.rows)
    queries = wanted.queries or min(vector_files.QUERIES, max(1, rows // 10))
    folder = vector_files.copy(
        source, wanted.cache, wanted.n, queries, progress=wanted.progress
    )
    return replace(read(folder), name=source.name)


KINDS: dict[str, Callable[[str, Wanted], Dataset]] = {
    "docstrings": _docstrings,
    "synthetic": _synthetic,
    "beir": _beir,
    "npy": _npy,
    "parquet": _parquet,
}


def _understand(spec: str, cache: Path) -> tuple[str, str]:
    """Return the kind of set that a spec means, and the place it names."""
    if spec in ("docstrings", "synthetic"):
        return spec, ""
    kind, _, place = spec.partition(":")
    if kind == "parquet" and not Path(place).exists():
        return kind, place  # a glob, or a column after "#"
    if kind not in ("beir", "npy", "parquet"):
        kind, place = "", spec
    for path in (Path(place), cache / place):
        if place and path.exists():
            return kind or _kind_of(path), str(path)
    made = sorted({path.parent.name for path in cache.glob("*/queries.npy")})
    raise InvalidArgumentError(
        f"no data set {spec!r}" + (f": there is no {place}" if kind else "") + ". "
        f"Understood are\n{UNDERSTOOD}\nIn {cache} are: {', '.join(made) or 'none'}"
    )


def _kind_of(path: Path) -> str:
    """Tell what a path holds by its contents."""
    if path.suffix in (".npy", ".parquet") and path.is_file():
        return path.suffix[1:]
    if (path / "queries.npy").exists():
        return "beir"
    if path.is_dir() and any(path.rglob("*.parquet")):
        return "parquet"
    raise InvalidArgumentError(
        f"{path} holds no data set that is known. Understood are\n{UNDERSTOOD}"
    )
