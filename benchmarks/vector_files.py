"""Plain files of vectors as data sets: an .npy, or Parquet as on Hugging Face.

The rows are copied into one .npy, batch by batch, so that memory stays small and the
corpus can be mapped. Queries are rows held out: seeded, left out of the corpus, as many
again for tuning. Nothing is judged: exact search is the truth. Called by `datasets.py`.

b = rows of a batch, d = full width.
"""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from tqdm import tqdm

from benchmarks.folders import make_once, open_rows, short_name, write_jsonl, write_rows
from funnel.errors import InvalidArgumentError

RECIPE = 1  # part of the cache's name: raise it when the copies change
BATCH_ROWS = 8192
QUERIES = 1000  # held out for the test, where nobody says how many
CORPUS, TEST, TUNING = range(3)  # what a row becomes
ID_COLUMNS = ("_id", "id", "doc_id", "docid")

Batch = tuple[np.ndarray, list[str] | None]  # vectors (b, d); ids, if any


@dataclass(frozen=True)
class Source:
    """Rows that can be read in order: `rows` of them, `dim` wide.

    `origin` is everything that tells these rows from others: files, times, column.
    """

    name: str
    rows: int
    dim: int
    origin: tuple[object, ...]
    batches: Callable[[], Iterator[Batch]]


def npy_source(path: Path) -> Source:
    """Return the rows of an .npy file.

    Raises
    ------
    InvalidArgumentError
        If the file does not hold rows of floating-point numbers.
    """
    rows = open_rows(path)

    def batches() -> Iterator[Batch]:
        for start in range(0, len(rows), BATCH_ROWS):
            yield rows[start : start + BATCH_ROWS], None

    return Source(short_name(path), len(rows), rows.shape[1], _stats([path]), batches)


def parquet_source(place: str, column: str = "") -> Source:
    """Return the rows of a Parquet file, of a folder of them, or of a glob.

    Parameters
    ----------
    place
        The path or pattern.
    column
        The column of vectors; not needed where only one holds lists of floats.

    Returns
    -------
    Source
        With ids if a column is called like one of ID_COLUMNS.

    Raises
    ------
    InvalidArgumentError
        If there is no file, no such column, or more than one.
    """
    paths = _parquet_paths(place)
    files = [pq.ParquetFile(path, memory_map=True) for path in paths]
    schema = files[0].schema_arrow
    vectors = _vector_column(schema, column, place)
    ids = next((name for name in ID_COLUMNS if name in schema.names), None)
    columns = [vectors] if ids is None else [vectors, ids]

    def batches(batch_rows: int = BATCH_ROWS) -> Iterator[Batch]:
        for path, file in zip(paths, files, strict=True):
            for batch in file.iter_batches(batch_rows, columns=columns):
                names = batch.column(ids).cast("string").to_pylist() if ids else None
                yield _matrix(batch.column(vectors), path), names

    first = next((rows for rows, _ in batches(batch_rows=1)), None)
    if first is None:
        raise InvalidArgumentError(f"{place} holds no rows")
    n_rows = sum(file.metadata.num_rows for file in files)
    name = Path(place).stem if Path(place).exists() else paths[0].parent.name
    return Source(name, n_rows, first.shape[1], (*_stats(paths), vectors), batches)


def copy(
    source: Source, cache: Path, n: int | None, queries: int, *, progress: bool = True
) -> Path:
    """Copy rows into a folder of the cache, once, holding out queries.

    Parameters
    ----------
    source
        What is copied.
    cache
        Folder that the copy's folder is made in.
    n
        Rows of the corpus at most; all if None.
    queries
        Rows to hold out as test queries, and again for tuning.
    progress
        Show a bar.

    Returns
    -------
    Path
        A folder of `corpus.npy`, `corpus.jsonl` if the rows have ids, and if rows were
        held out, `queries.npy` and `validation.npy`.

    Raises
    ------
    InvalidArgumentError
        If there are too few rows, or rows of different widths.
    """
    rows = min(source.rows, n + 2 * queries) if n else source.rows
    if rows <= 2 * queries:
        raise InvalidArgumentError(
            f"{source.name} has {rows} rows: too few to hold out {queries} test and "
            f"{queries} tuning queries"
        )
    recipe = repr((RECIPE, source.origin, rows, queries)).encode()
    key = hashlib.blake2b(recipe, digest_size=4).hexdigest()
    role = np.full(rows, CORPUS, dtype=np.int8)
    held = np.random.default_rng(0).permutation(rows)[: 2 * queries]
    role[held[:queries]], role[held[queries:]] = TEST, TUNING
    return make_once(
        cache / f"{source.name}-{key}",
        lambda folder: _write(folder, source, role, progress),
    )


def _write(folder: Path, source: Source, role: np.ndarray, progress: bool) -> None:
    ids: list[str] = []
    held: dict[int, list[np.ndarray]] = {TEST: [], TUNING: []}
    named = False

    def corpus() -> Iterator[np.ndarray]:
        nonlocal named
        for start, vectors, names in _tracked(source, len(role), progress):
            roles = role[start : start + len(vectors)]
            for part, blocks in held.items():
                blocks.append(vectors[roles == part])
            chosen = np.flatnonzero(roles == CORPUS)
            ids.extend(names[i] if names else str(start + i) for i in chosen)
            named |= names is not None
            yield vectors[chosen]

    n_corpus = int((role == CORPUS).sum())
    write_rows(folder / "corpus.npy", (n_corpus, source.dim), corpus())
    if named or n_corpus < len(role):
        write_jsonl(folder / "corpus.jsonl", ({"_id": name} for name in ids))
    if n_corpus < len(role):
        np.save(folder / "queries.npy", np.concatenate(held[TEST]).astype(np.float32))
        tuning = np.concatenate(held[TUNING]).astype(np.float32)
        np.save(folder / "validation.npy", tuning)
    (folder / "note.txt").write_text(
        f"{n_corpus:,} vectors of {source.dim} dims from {source.name}; queries are "
        "rows held out\n"
    )


def _tracked(
    source: Source, rows: int, progress: bool
) -> Iterator[tuple[int, np.ndarray, list[str] | None]]:
    """Yield (first row, vectors, ids) of the first `rows` rows, with a bar."""
    start = 0
    with tqdm(total=rows, desc="copy", unit="row", disable=not progress) as bar:
        for vectors, names in source.batches():
            if vectors.shape[1] != source.dim:
                raise InvalidArgumentError(
                    f"{source.name}: row {start} begins a batch of {vectors.shape[1]} "
                    f"dims, the first row has {source.dim}"
                )
            yield start, vectors[: rows - start], names
            start += len(vectors)
            bar.update(len(vectors))
            if start >= rows:
                return


def _stats(paths: Sequence[Path]) -> tuple[object, ...]:
    """Return what changes when a file does: path, size, time of change."""
    return tuple(
        (str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns)
        for path in paths
    )


def _parquet_paths(place: str) -> list[Path]:
    if Path(place).is_dir():
        found = Path(place).rglob("*.parquet")
        paths = sorted(path for path in found if not path.name.startswith("queries"))
    else:
        paths = [Path(path) for path in sorted(glob.glob(place))]  # noqa: PTH207
    if not paths:
        raise InvalidArgumentError(f"there is no Parquet file at {place}")
    return paths


def _vector_column(schema: pa.Schema, wanted: str, place: str) -> str:
    """Return the column of vectors: the wanted one, else the only list of floats."""
    found = [field.name for field in schema if _holds_vectors(field.type)]
    if wanted in found:
        return wanted
    if len(found) == 1 and not wanted:
        return str(found[0])
    raise InvalidArgumentError(
        f"{place} has no column of vectors {wanted!r}"
        if wanted
        else f"{place} has {len(found)} columns of vectors"
        + (f" ({', '.join(found)}): name one, parquet:PATH#COLUMN" if found else "")
    )


def _holds_vectors(kind: pa.DataType) -> bool:
    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(is_list(kind) for is_list in lists) and pa.types.is_floating(
        kind.value_type
    )


def _matrix(column: pa.Array, path: Path) -> np.ndarray:
    """Return a column of equally long lists as rows, (b, d)."""
    flat, widths = column.flatten(), pc.list_value_length(column).unique().to_pylist()
    if len(widths) != 1 or widths[0] in (None, 0) or flat.null_count:
        raise InvalidArgumentError(
            f"{path} holds vectors that are missing, or not all of one width"
        )
    return np.asarray(flat.to_numpy(zero_copy_only=False)).reshape(-1, widths[0])
