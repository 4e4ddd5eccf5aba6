"""The same corpus gives the same index from whatever it comes in.

Every source is compared with a plain float32 array with ``ids=`` and ``metadata=``: all
rows by `to_arrow`, and the answers to some queries. Then what sources may not hold, and
how much memory an iterator may cost.
"""

from __future__ import annotations

import io
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from damage import (
    answers_of,
    cut,
    overwritten,
    ragged,
    refused,
    temporary,  # noqa: F401 every test uses it
)
from damage import build_small as build

from funnel import FunnelError, FunnelIndex
from funnel.errors import (
    DimensionError,
    DuplicateIdError,
    InvalidArgumentError,
    InvalidTypeError,
    NonFiniteError,
)

ROWS, DIM = 50, 12
FLOATS = pa.list_(pa.float32())
IDS = [f"doc {i}" for i in range(ROWS)]
METADATA = {"year": list(range(1900, 1900 + ROWS)), "title": [f"t{i}" for i in IDS]}


def corpus() -> np.ndarray:
    return np.random.default_rng(11).standard_normal((ROWS, DIM)).astype(np.float32)


X = corpus()
QUERIES = X[:5] + X[5:10]


def table_of(vectors: Any, vector_name: str = "vector") -> pa.Table:
    return pa.table({"id": IDS, vector_name: vectors, **METADATA})


def fixed(kind: Any = None) -> pa.Array:
    values = pa.array(X.reshape(-1), kind or pa.float32())
    return pa.FixedSizeListArray.from_arrays(values, DIM)


def lists(kind: Any = FLOATS) -> pa.Array:
    return pa.array(X.tolist(), kind)


def data_frame() -> pd.DataFrame:
    return pd.DataFrame({"id": IDS, "vector": list(X), **METADATA})


def batches(table: pa.Table, size: int = 7) -> list[pa.RecordBatch]:
    return table.to_batches(max_chunksize=size)


def write_stream(path: Path, table: pa.Table) -> Path:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as w:
        for batch in batches(table):
            w.write_batch(batch)
    return path


def write_file(path: Path, table: pa.Table) -> Path:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as w:
        for batch in batches(table):
            w.write_batch(batch)
    return path


def write_parquet(path: Path, table: pa.Table, **options: Any) -> Path:
    pq.write_table(table, path, row_group_size=8, **options)
    return path


def write_npy(path: Path, x: np.ndarray) -> Path:
    np.save(path, x)
    return path


def parts(
    folder: Path, write: Callable[[Path, Any], Path], whole: Any, end: str
) -> str:
    for i, (start, stop) in enumerate(((0, 20), (20, 21), (21, ROWS))):
        piece = whole[start:stop] if end == "npy" else whole.slice(start, stop - start)
        write(folder / f"part-{i}.{end}", piece)
    return str(folder / f"part-*.{end}")


def nested_folder(folder: Path) -> Path:
    (folder / "a" / "b").mkdir(parents=True)
    write_parquet(folder / "a" / "0.parquet", table_of(fixed()).slice(0, 30))
    write_file(folder / "a" / "b" / "1.arrow", table_of(fixed()).slice(30))
    (folder / "a" / "README.md").write_text("not data")
    return folder


class Stream:
    """Speaks the Arrow stream protocol alone, as DuckDB's relations do."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return self._table.__arrow_c_stream__(requested_schema)


class OneBatch:
    """Speaks the Arrow array protocol alone."""

    def __init__(self, table: pa.Table) -> None:
        self._batch = table.combine_chunks().to_batches()[0]

    def __arrow_c_array__(self, requested_schema: Any = None) -> Any:
        return self._batch.__arrow_c_array__(requested_schema)


# ---- the table: sources with ids and metadata of their own

TABLES: dict[str, Callable[[Path], Any]] = {
    "Table of FixedSizeList": lambda _: table_of(fixed()),
    "Table of List": lambda _: table_of(lists()),
    "Table of LargeList of double": lambda _: table_of(
        lists(pa.large_list(pa.float64()))
    ),
    "Table of FixedSizeList of double": lambda _: table_of(fixed(pa.float64())),
    "Table of several chunks": lambda _: pa.Table.from_batches(
        batches(table_of(fixed()))
    ),
    "Table of sliced chunks": lambda _: pa.concat_tables(
        [pa.concat_tables([table_of(fixed())] * 2).slice(ROWS, ROWS)]
    ),
    "Table of sliced lists": lambda _: (
        pa.concat_tables([table_of(lists())] * 2).slice(ROWS, ROWS)
    ),
    "Table with another column first": lambda _: table_of(fixed()).select(
        ["id", "year", "title", "vector"]
    ),
    "Table whose vectors are called embedding": lambda _: table_of(
        fixed(), "embedding"
    ),
    "RecordBatch": lambda _: table_of(fixed()).to_batches()[0],
    "RecordBatchReader": lambda _: pa.RecordBatchReader.from_batches(
        table_of(fixed()).schema, iter(batches(table_of(fixed())))
    ),
    "__arrow_c_stream__": lambda _: Stream(table_of(fixed())),
    "__arrow_c_array__": lambda _: OneBatch(table_of(fixed())),
    "string_view": lambda _: (
        table_of(fixed())
        .set_column(0, "id", pa.array(IDS).cast(pa.string_view()))
        .set_column(3, "title", pa.array(METADATA["title"]).cast(pa.string_view()))
    ),
    "dictionary ids": lambda _: table_of(fixed()).set_column(
        0, "id", pa.array(IDS).dictionary_encode()
    ),
    "pandas": lambda _: data_frame(),
    "pandas, filtered": lambda _: pd.DataFrame(
        {"id": IDS * 2, "vector": list(X) * 2, "year": METADATA["year"] * 2,
         "title": METADATA["title"] * 2}
    ).iloc[ROWS:],
    "polars of lists": lambda _: pl.DataFrame(
        {"id": IDS, "vector": X.tolist(), **METADATA}
    ),
    "polars of arrays": lambda _: pl.DataFrame(
        {"id": IDS, "vector": X, **METADATA},
        schema_overrides={"vector": pl.Array(pl.Float32, DIM)},
    ),
    "parquet": lambda f: write_parquet(f / "a.parquet", table_of(fixed())),
    "parquet as text": lambda f: str(
        write_parquet(f / "a.parquet", table_of(fixed()))
    ),
    "parquet of lists": lambda f: write_parquet(f / "a.parquet", table_of(lists())),
    "parquet by pandas": lambda f: (
        data_frame().to_parquet(f / "a.parquet", row_group_size=9)
        or f / "a.parquet"
    ),
    "parquet by polars": lambda f: (
        pl.DataFrame({"id": IDS, "vector": X, **METADATA}).write_parquet(
            f / "a.parquet", row_group_size=9
        )
        or f / "a.parquet"
    ),
    "arrow file": lambda f: write_file(f / "a.arrow", table_of(fixed())),
    "arrow stream": lambda f: write_stream(f / "a.arrow", table_of(fixed())),
    "feather": lambda f: (
        pa.feather.write_feather(table_of(fixed()), str(f / "a.feather"))
        or f / "a.feather"
    ),
    "glob of parquet": lambda f: parts(f, write_parquet, table_of(fixed()), "parquet"),
    "glob of arrow": lambda f: parts(f, write_file, table_of(fixed()), "arrow"),
    "directory": nested_folder,
    "generator of tables": lambda _: (
        table_of(fixed()).slice(s, 9) for s in range(0, ROWS, 9)
    ),
    "generator of record batches": lambda _: (b for b in batches(table_of(fixed()))),
    "generator of data frames": lambda _: (
        data_frame()[s : s + 9] for s in range(0, ROWS, 9)
    ),
}  # fmt: skip

# Sources of vectors alone; ids and metadata are given beside them.
ARRAYS: dict[str, Callable[[Path], Any]] = {
    "ndarray": lambda _: X,
    "list": lambda _: X.tolist(),
    "FixedSizeListArray": lambda _: fixed(),
    "ListArray": lambda _: lists(),
    "LargeListArray of double": lambda _: lists(pa.large_list(pa.float64())),
    "ChunkedArray": lambda _: pa.chunked_array([fixed()[:20], fixed()[20:]]),
    "sliced FixedSizeListArray": lambda _: pa.concat_arrays([fixed()] * 2)[ROWS:],
    "sliced ListArray": lambda _: pa.concat_arrays([lists()] * 2)[ROWS:],
    "tensor extension": lambda _: pa.FixedShapeTensorArray.from_numpy_ndarray(X),
    "pandas Series of arrays": lambda _: pd.Series(list(X)),
    "polars Series of lists": lambda _: pl.Series("v", X.tolist()),
    "polars Series of arrays": lambda _: pl.Series("v", X),
    "Table of vectors alone": lambda _: pa.table({"anything": fixed()}),
    ".npy": lambda f: write_npy(f / "a.npy", X),
    ".npy, Fortran": lambda f: write_npy(f / "a.npy", np.asfortranarray(X)),
    ".npy, big-endian double": lambda f: write_npy(f / "a.npy", X.astype(">f8")),
    "glob of .npy": lambda f: parts(f, write_npy, X, "npy"),
    "glob of brackets": lambda f: (
        parts(f, write_npy, X, "npy"),
        str(f / "part-[0-9].npy"),
    )[1],
    "generator of arrays": lambda _: (X[s : s + 9] for s in range(0, ROWS, 9)),
    "generator of single rows": lambda _: (X[s : s + 1] for s in range(ROWS)),
    "generator with empty batches": lambda _: iter([X[:0], X[:30], X[:0], X[30:]]),
    "generator that reuses its buffer": lambda _: reused_buffer(),
    "generator of lists": lambda _: (X[s : s + 9].tolist() for s in range(0, ROWS, 9)),
    "map": lambda _: map(np.asarray, (X[:30], X[30:])),
}  # fmt: skip


def reused_buffer() -> Iterator[np.ndarray]:
    buffer = np.empty((10, DIM), np.float32)
    for start in range(0, ROWS, 10):
        buffer[:] = X[start : start + 10]
        yield buffer


def content_of(index: FunnelIndex) -> dict[str, list[Any]]:
    return index.to_arrow(vectors=True).to_pydict()


@pytest.fixture(scope="module")
def plain() -> Iterator[FunnelIndex]:
    with build(X, ids=IDS, metadata=METADATA) as index:
        yield index


@pytest.fixture(scope="module")
def numbered() -> Iterator[FunnelIndex]:
    with build(X) as index:
        yield index


@pytest.mark.parametrize("name", TABLES)
def test_tables__give_the_same_index(
    name: str, plain: FunnelIndex, tmp_path: Path
) -> None:
    with build(TABLES[name](tmp_path)) as index:
        assert content_of(index) == content_of(plain)
        assert answers_of(index, QUERIES) == answers_of(plain, QUERIES)
        one = index.get(["doc 44"], vectors=True).to_pydict()
        assert one == plain.get(["doc 44"], vectors=True).to_pydict()


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays__give_the_same_index_with_ids_and_metadata_beside(
    name: str, plain: FunnelIndex, tmp_path: Path
) -> None:
    with build(ARRAYS[name](tmp_path), ids=IDS, metadata=METADATA) as index:
        assert content_of(index) == content_of(plain)
        assert answers_of(index, QUERIES) == answers_of(plain, QUERIES)


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays__are_numbered_without_ids(
    name: str, numbered: FunnelIndex, tmp_path: Path
) -> None:
    with build(ARRAYS[name](tmp_path)) as index:
        assert index.to_arrow().column("id").to_pylist() == list(range(ROWS))
        assert answers_of(index, QUERIES) == answers_of(numbered, QUERIES)


METADATA_FORMS: dict[str, Callable[[], Any]] = {
    "mapping": lambda: METADATA,
    "pyarrow": lambda: pa.table(METADATA),
    "several chunks": lambda: pa.concat_tables(
        [pa.table(METADATA).slice(0, 13), pa.table(METADATA).slice(13)]
    ),
    "pandas": lambda: pd.DataFrame(METADATA),
    "polars": lambda: pl.DataFrame(METADATA),
    "stream": lambda: Stream(pa.table(METADATA)),
}


@pytest.mark.parametrize("name", METADATA_FORMS)
def test_metadata__comes_back_from_any_form(name: str, plain: FunnelIndex) -> None:
    with build(X, ids=IDS, metadata=METADATA_FORMS[name]()) as index:
        assert content_of(index) == content_of(plain)
        some = ["doc 49", "doc 0"]
        assert index.get(some).to_pydict() == plain.get(some).to_pydict()


def test_ids__given_replace_the_tables_own(plain: FunnelIndex) -> None:
    table = table_of(fixed()).set_column(0, "id", pa.array(range(ROWS)))
    with build(table, ids=IDS) as index:
        assert content_of(index) == content_of(plain)


def test_id_column__is_what_was_asked() -> None:
    table = table_of(fixed()).append_column("key", pa.array(range(500, 500 + ROWS)))
    table = table.drop_columns(["id"])
    with build(table, id_column="key") as index:
        assert index.to_arrow().column("id").to_pylist() == list(range(500, 550))
        assert index.get([503]).column_names == ["id", "year", "title"]


@pytest.mark.parametrize("taken", ["id", "vector"])
def test_columns__named_as_ours_are_never_mistaken_for_ours(taken: str) -> None:
    other = {"id": "key", "vector": "emb"}[taken]
    columns = {"id": IDS, "vector": fixed(), "n": list(range(ROWS))}
    columns = {other if name == taken else name: c for name, c in columns.items()}
    columns[taken] = ["theirs"] * ROWS
    names = {"id_column": "key"} if taken == "id" else {"vector_column": "emb"}
    try:
        index = build(pa.table(columns), **names)
    except InvalidArgumentError as error:
        assert repr(taken) in str(error)  # noqa: PT017 both outcomes are allowed
    else:
        with index:
            got = index.get(["doc 3"], vectors=True)
            assert got.column("id").to_pylist() == ["doc 3"]
            assert got.column("vector").to_pylist() == [X[3].tolist()]


def test_metadata__beside_a_tables_own_columns_loses_neither() -> None:
    table = pa.table({"id": IDS, "vector": fixed(), "year": METADATA["year"]})
    try:
        index = build(table, metadata={"title": METADATA["title"]})
    except InvalidArgumentError as error:
        assert "metadata" in str(error)  # noqa: PT017 both outcomes are allowed
    else:
        with index:
            got = index.get(["doc 3"]).to_pydict()
            assert got == {"id": ["doc 3"], "year": [1903], "title": ["tdoc 3"]}


@pytest.mark.parametrize("both", [IDS, None])
def test_metadata__of_different_dictionaries_a_batch_comes_back(both: Any) -> None:
    def pieces() -> Iterator[pa.Table]:
        for start in range(0, ROWS, 10):
            words = pa.array([f"w{start + i % 3}" for i in range(10)])
            yield pa.table(
                {
                    "vector": fixed()[start : start + 10],
                    "word": words.dictionary_encode(),
                }
            )

    with build(pieces(), ids=both) as index:
        words = index.to_arrow().column("word").to_pylist()
    assert words == [f"w{i - i % 10 + i % 10 % 3}" for i in range(ROWS)]


def test_metadata__of_dictionaries_spans_many_stored_batches(tmp_path: Path) -> None:
    from funnel.store.tables import BATCH_ROWS, MappedTable, TableWriter

    writer = TableWriter(tmp_path / "words.arrow")
    for start in (0, 1, 2):
        words = pa.array([f"w{start}", f"v{start}"] * (BATCH_ROWS // 2))
        writer.append(pa.table({"word": words.dictionary_encode()}))
    entry = writer.finish()
    table = MappedTable(tmp_path / "words.arrow", entry).table
    at = [0, 1, BATCH_ROWS, BATCH_ROWS + 1, 2 * BATCH_ROWS + 1]
    got = table.column("word").take(pa.array(at)).to_pylist()
    assert got == ["w0", "v0", "w1", "v1", "v2"]


# ---- what a source may not hold


def with_null(kind: str) -> pa.Table:
    rows = X.tolist()
    if kind == "row":
        rows[3] = None
    elif kind == "number":
        rows[3][2] = None
    return table_of(pa.array(rows, FLOATS))


def one_short() -> pa.Table:
    return table_of(pa.array(ragged(X), FLOATS))


def one_long_one_short() -> pa.Table:
    """Ragged, but with as many numbers as even rows would have."""
    rows = X.tolist()
    rows[4].append(rows[3].pop())
    return table_of(pa.array(rows, FLOATS))


def pieces(*tables: pa.Table) -> Iterator[Any]:
    return iter(tables)


def first_half() -> pa.Table:
    return table_of(fixed()).slice(0, 25)


def second_half() -> pa.Table:
    return table_of(fixed()).slice(25)


WRONG: dict[str, tuple[Callable[[], Any], dict[str, Any], Any, tuple[str, ...]]] = {
    "a null row": (lambda: with_null("row"), {}, ValueError | TypeError, ("null",)),
    "a null number": (
        lambda: with_null("number"),
        {},
        ValueError | TypeError,
        ("null", "vector"),
    ),
    "null ids": (
        lambda: table_of(fixed()).set_column(0, "id", pa.array([None, *IDS[1:]])),
        {},
        InvalidTypeError,
        ("null", "id"),
    ),
    "float ids": (
        lambda: table_of(fixed()).set_column(0, "id", pa.array(np.arange(50.0))),
        {},
        InvalidTypeError,
        ("double",),
    ),
    "duplicate ids": (
        lambda: table_of(fixed()).set_column(0, "id", pa.array(["a"] * ROWS)),
        {},
        DuplicateIdError,
        ("id", "rows 0 and 1"),
    ),
    "duplicate ids over batches": (
        lambda: pieces(first_half(), first_half()),
        {},
        DuplicateIdError,
        ("doc 0", "rows 0 and 25"),
    ),
    "a short list": (one_short, {}, DimensionError, ("row 3", "11", "12")),
    "ragged lists of the right total": (
        one_long_one_short,
        {},
        DimensionError,
        ("row 3", "11", "12"),
    ),
    "a short list in a later batch": (
        lambda: pieces(first_half(), one_short().slice(3, 5)),
        {},
        DimensionError,
        ("row 25", "11", "12"),
    ),
    "NaN in a list": (
        lambda: table_of(pa.array([[np.nan] * DIM] * ROWS)),
        {},
        NonFiniteError,
        ("row 0",),
    ),
    "lists of text": (
        lambda: table_of(pa.array([["a"] * DIM] * ROWS)),
        {},
        InvalidArgumentError,
        ("vector",),
    ),
    "lists of lists": (
        lambda: table_of(pa.array([[[1.0]] * DIM] * ROWS)),
        {},
        InvalidArgumentError,
        ("vector",),
    ),
    "no vectors": (
        lambda: pa.table({"id": IDS, **METADATA}),
        {},
        InvalidArgumentError,
        ("id, year, title", "vector_column="),
    ),
    "two columns of vectors": (
        lambda: pa.table({"a": fixed(), "b": fixed()}),
        {},
        InvalidArgumentError,
        ("a, b", "vector_column="),
    ),
    "two columns of one name": (
        lambda: pa.table([fixed(), IDS, IDS], names=["vector", "a", "a"]),
        {},
        InvalidArgumentError,
        ("'a'",),
    ),
    "an absent vector_column": (
        lambda: table_of(fixed()),
        {"vector_column": "vectr"},
        InvalidArgumentError,
        ("'vectr'", "vector"),
    ),
    "a vector_column of text": (
        lambda: table_of(fixed()),
        {"vector_column": "title"},
        InvalidArgumentError,
        ("'title'", "vector"),
    ),
    "an absent id_column": (
        lambda: table_of(fixed()),
        {"id_column": "key"},
        InvalidArgumentError,
        ("'key'", "title"),
    ),
    "an id_column of vectors": (
        lambda: table_of(fixed()),
        {"id_column": "vector"},
        InvalidArgumentError,
        ("'vector'",),
    ),
    "an empty table": (
        lambda: table_of(fixed()).slice(0, 0),
        {},
        InvalidArgumentError,
        ("no embeddings",),
    ),
    "columns of numbers": (
        lambda: pd.DataFrame(X, columns=[f"d{i}" for i in range(DIM)]),
        {},
        InvalidArgumentError,
        ("d0, d1", "vector_column="),
    ),
    "ids in the first batch alone": (
        lambda: pieces(first_half(), second_half().drop_columns(["id"])),
        {},
        ValueError | TypeError,
        ("id",),
    ),
    "ids in the second batch alone": (
        lambda: pieces(first_half().drop_columns(["id"]), second_half()),
        {},
        ValueError | TypeError,
        ("id",),
    ),
    "a table, then an array": (
        lambda: pieces(first_half(), X[25:]),
        {},
        ValueError | TypeError,
        ("id",),
    ),
    "text ids, then numbers": (
        lambda: pieces(
            first_half(), second_half().set_column(0, "id", pa.array(range(25)))
        ),
        {},
        ValueError | TypeError,
        ("id",),
    ),
    "a column that ends": (
        lambda: pieces(first_half(), second_half().drop_columns(["year", "title"])),
        {},
        ValueError | TypeError,
        ("year",),
    ),
    "a column that begins": (
        lambda: pieces(first_half().drop_columns(["year", "title"]), second_half()),
        {},
        ValueError | TypeError,
        ("year",),
    ),
    "a column that changes its name": (
        lambda: pieces(first_half(), second_half().rename_columns(
            ["id", "vector", "jahr", "title"])),
        {},
        ValueError | TypeError,
        ("jahr",),
    ),
    "a column that changes its type": (
        lambda: pieces(
            first_half(), second_half().set_column(2, "year", pa.array(["x"] * 25))
        ),
        {},
        ValueError | TypeError,
        ("year",),
    ),
    "vectors that change their width": (
        lambda: pieces(first_half(), X[25:, :4]),
        {},
        ValueError,
        ("4", "12"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_sources__that_do_not_fit_raise_and_leave_nothing(
    name: str, tmp_path: Path
) -> None:
    make, options, kinds, words = WRONG[name]
    with refused(kinds, *words):
        build(make(), path=tmp_path / "x", **options)
    assert not list(tmp_path.iterdir())


def zipped(path: Path) -> Path:
    held = io.BytesIO()
    np.savez(held, X)
    path.write_bytes(held.getvalue())
    return path


def objects(path: Path) -> Path:
    np.save(path, np.array([{"a": 1}], object))
    return path


def empty(path: Path) -> Path:
    path.touch()
    return path


def junk(path: Path) -> Path:
    path.write_bytes(b"not what it seems" * 20)
    return path


DAMAGED: dict[str, Callable[[Path], Path]] = {
    "empty .npy": lambda f: empty(f / "a.npy"),
    "junk .npy": lambda f: junk(f / "a.npy"),
    "cut .npy": lambda f: cut(write_npy(f / "a.npy", X), 0.9),
    "pickled .npy": lambda f: objects(f / "a.npy"),
    ".npz called .npy": lambda f: zipped(f / "a.npy"),
    "1-D .npy": lambda f: write_npy(f / "a.npy", X[0]),
    "complex .npy": lambda f: write_npy(f / "a.npy", X * 1j),
    "empty .parquet": lambda f: empty(f / "a.parquet"),
    "junk .parquet": lambda f: junk(f / "a.parquet"),
    "cut .parquet": lambda f: cut(
        write_parquet(f / "a.parquet", table_of(fixed())), 0.5
    ),
    "damaged pages of .parquet": lambda f: overwritten(
        write_parquet(f / "a.parquet", table_of(fixed())), 100, 1800
    ),
    "empty .arrow": lambda f: empty(f / "a.arrow"),
    "junk .arrow": lambda f: junk(f / "a.arrow"),
    "cut .arrow file": lambda f: cut(write_file(f / "a.arrow", table_of(fixed())), 0.5),
    "cut .arrow stream": lambda f: cut(
        write_stream(f / "a.arrow", table_of(fixed())), 0.7
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGED)
def test_files__that_are_damaged_raise_a_typed_error(name: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    path = DAMAGED[name](tmp_path / "in")
    with refused(FunnelError):
        build(path, path=tmp_path / "out" / "x")
    assert not list((tmp_path / "out").iterdir())


# ---- bad vectors


def spoiled() -> np.ndarray:
    x = X.copy()
    x[[3, 17]] = np.nan
    x[20, 5] = np.inf
    x[49] = 0
    return x


GOOD_ROWS = [i for i in range(ROWS) if i not in (3, 17, 20, 49)]
SPOILED: dict[str, Callable[[], Any]] = {
    "array": spoiled,
    "batches": lambda: (spoiled()[s : s + 9] for s in range(0, ROWS, 9)),
    "a wholly bad batch": lambda: iter(
        [spoiled()[:17], spoiled()[17:18], spoiled()[18:]]
    ),
}


@pytest.mark.parametrize("ids", [None, IDS, list(range(200, 250))])
@pytest.mark.parametrize("name", SPOILED)
def test_drop__leaves_out_bad_rows_with_their_ids_and_metadata(
    name: str, ids: Any
) -> None:
    with build(
        SPOILED[name](), ids=ids, metadata=METADATA, on_bad_vectors="drop"
    ) as index:
        kept = index.to_arrow(vectors=True).to_pydict()
        assert len(index) == len(GOOD_ROWS)
        names = list(range(ROWS)) if ids is None else ids
        assert kept["id"] == [names[i] for i in GOOD_ROWS]
        assert kept["year"] == [METADATA["year"][i] for i in GOOD_ROWS]
        assert kept["vector"] == X[GOOD_ROWS].tolist()
        assert names[3] not in index
        hits = index.search(X[GOOD_ROWS], k=1)
        assert hits.ids[:, 0].tolist() == kept["id"]


def test_drop__leaves_out_a_tables_bad_rows() -> None:
    table = table_of(pa.array(spoiled().tolist(), FLOATS))
    with build(table, on_bad_vectors="drop") as index:
        kept = index.to_arrow().to_pydict()
    assert kept["id"] == [IDS[i] for i in GOOD_ROWS]
    assert kept["title"] == [METADATA["title"][i] for i in GOOD_ROWS]


def test_drop__of_nothing_changes_nothing(plain: FunnelIndex) -> None:
    with build(X, ids=IDS, metadata=METADATA, on_bad_vectors="drop") as index:
        assert content_of(index) == content_of(plain)


def test_drop__counts_what_it_left_out() -> None:
    with build(spoiled(), on_bad_vectors="drop") as index:
        assert index.info["dropped_rows"] == 4


def test_drop__still_refuses_duplicate_ids_and_counts_all_rows() -> None:
    with pytest.raises(DuplicateIdError):
        build(spoiled(), ids=["a"] * ROWS, on_bad_vectors="drop")
    with pytest.raises(InvalidArgumentError, match="46 ids for 50 embeddings"):
        build(spoiled(), ids=range(46), on_bad_vectors="drop")


# ---- iterators


class Torn(Exception):  # noqa: N818 a user's own exception
    """What the user's iterator raises."""


def torn(after: int) -> Iterator[np.ndarray]:
    for _ in range(after):
        yield X
    raise Torn("the network went away")


@pytest.mark.parametrize("after", [0, 1, 3])
@pytest.mark.parametrize("kept", [True, False])
def test_iterator__that_raises_leaves_nothing_and_its_own_exception(
    after: int, kept: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(Torn, match="network"):
        build(torn(after), path=tmp_path / "x" if kept else None)
    assert not list(tmp_path.iterdir())


def test_iterator__that_raises_leaves_the_index_it_was_to_replace(
    tmp_path: Path,
) -> None:
    build(X, path=tmp_path / "x").close()
    with pytest.raises(Torn):
        build(torn(2), path=tmp_path / "x", overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["x"]
    with FunnelIndex.open(tmp_path / "x") as index:
        index.verify("full")
        assert len(index) == ROWS


def test_iterator__is_read_one_batch_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("funnel.store.matrix.HUGE_PAGE_BYTES", 8192)  # held at most
    sizes = []

    def watched() -> Iterator[np.ndarray]:
        for _ in range(6):
            files = (tmp_path).rglob("*.vectors0.arrow")
            sizes.append(sum(path.stat().st_size for path in files))
            yield np.random.default_rng(len(sizes)).random((2000, DIM), np.float32)

    build(watched(), path=tmp_path / "x").close()
    assert len(sizes) == 6
    assert sizes[-1] >= 4 * 2000 * DIM * 4  # earlier batches are on disk by then


MEMORY = """
import threading, time
import numpy as np
from funnel import FunnelIndex

def anonymous():
    for line in open("/proc/self/status"):
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1024

DIM, BATCH, COUNT = 512, 2048, 75
rng = np.random.default_rng(0)
pool = rng.standard_normal((600, DIM)).astype(np.float32)  # too few for a graph

def batches():
    for i in range(COUNT):
        yield pool[rng.integers(0, {distinct}, BATCH)]

options = dict(projection="prefix", graph_dim=32, code_dim=32, threads=1)
FunnelIndex.build(pool, **options).search(pool[:3])
peak, done, base = [0.0], threading.Event(), anonymous()

def watch():
    while not done.is_set():
        peak[0] = max(peak[0], anonymous())
        time.sleep(0.002)

thread = threading.Thread(target=watch)
thread.start()
index = FunnelIndex.build(batches(), path={path!r}, **options)
done.set()
thread.join()
assert len(index) == BATCH * COUNT
assert index.search(pool[0], k=3).scores[2] > 0.9999
print(peak[0] - base)
"""


@pytest.mark.slow
@pytest.mark.parametrize("distinct", [600, 1], ids=["600 distinct rows", "all equal"])
def test_iterator__of_300_mb_is_built_in_half_of_that(
    distinct: int, tmp_path: Path
) -> None:
    if not Path("/proc/self/status").exists():
        pytest.skip("anonymous memory is read from /proc")
    script = textwrap.dedent(MEMORY).format(path=str(tmp_path / "x"), distinct=distinct)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 150, f"{done.stdout.strip()} MB of anonymous memory"


def test_batch__holds_what_measured_dims_are_measured_on() -> None:
    from funnel.nested import SAMPLE_ROWS
    from funnel.sources import rows_a_batch

    assert rows_a_batch(4 * 768) >= SAMPLE_ROWS


# ---- progress


def test_progress__callable_hears_each_step_to_its_end() -> None:
    heard: list[tuple[str, int, int | None]] = []
    build(
        np.random.default_rng(0).standard_normal((1500, DIM)),
        progress=lambda *step: heard.append(step),
    ).close()
    assert {"writing", "graph"} <= {name for name, _, _ in heard}
    last = {name: (done, total) for name, done, total in heard}
    for name in ("writing", "graph"):
        done = [d for n, d, _ in heard if n == name]
        assert done == sorted(done), "what is done never shrinks"
        assert last[name] == (1500, 1500)


class Bars:
    """What `build` uses of tqdm."""

    made: list[Bars] = []  # noqa: RUF012 shared on purpose

    def __init__(self, **options: Any) -> None:
        self.options, self.done, self.closed = options, 0, False
        Bars.made.append(self)

    def __enter__(self) -> Bars:
        return self

    def __exit__(self, *_: object) -> None:
        self.closed = True

    def update(self, more: int) -> None:
        self.done += more


def test_progress__takes_a_class_like_tqdm() -> None:
    Bars.made.clear()
    build(X, progress=Bars).close()
    assert Bars.made
    assert all(bar.closed for bar in Bars.made)
    writing = next(bar for bar in Bars.made if bar.options["desc"] == "writing")
    assert (writing.done, writing.options["total"]) == (ROWS, ROWS)


def test_progress__takes_tqdm_itself_and_true(
    capsys: pytest.CaptureFixture[str],
) -> None:
    tqdm = pytest.importorskip("tqdm", reason="progress bars need tqdm")
    for progress in (True, tqdm.tqdm):
        build(X, progress=progress).close()
        assert "writing" in capsys.readouterr().err


@pytest.mark.parametrize("progress", [False, None])
def test_progress__is_silent_unless_asked(
    progress: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    build(X, progress=progress).close()
    out = capsys.readouterr()
    assert out.out == out.err == ""


def test_progress__that_raises_leaves_nothing(tmp_path: Path) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(X, path=tmp_path / "x", progress=stop)
    assert not list(tmp_path.iterdir())
