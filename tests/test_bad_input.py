"""Bad input gives one clear typed error and changes nothing; odd but good input works.

Two tables. A row of the first is a call that must fail: with these classes, saying
these words, leaving disk and answers as they were. A row of the second is a way to
write the same numbers: it must give the answers of contiguous float32, bit for bit.
"""

from __future__ import annotations

import collections
import copy
import datetime
import decimal
import enum
import json
import os
import pickle
import subprocess
import sys
import tempfile
import threading
import uuid
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from damage import (
    PARENTS,
    answers_of,
    everything_in,
    ragged,
    reachable_folder,
    refused,
    temporary,  # noqa: F401 every test uses it
    unprivileged,
)
from damage import build_small as build

import funnel.build.ingest
from funnel import Cascade, FunnelError, FunnelIndex, Stage
from funnel.errors import (
    CascadeError,
    ClosedError,
    CorruptIndexError,
    DimensionError,
    DuplicateIdError,
    IndexExistsError,
    IndexNotFoundError,
    InvalidArgumentError,
    InvalidTypeError,
    LockedError,
    NonFiniteError,
    NotAnIndexError,
    StorageError,
    UnknownIdError,
    UnknownVersionError,
    ZeroVectorError,
)
from funnel.kernels.jit import COMPILED, cache_folder

ROWS, DIM = 60, 16
NAN, INF = float("nan"), float("inf")


def whole_numbers() -> np.ndarray:
    """Rows that every numeric dtype from int8 to float64 holds exactly."""
    rng = np.random.default_rng(7)
    return rng.integers(-100, 101, (ROWS, DIM)).astype(np.float32)


def text_ids(count: int = ROWS) -> list[str]:
    return [f"doc {i}" for i in range(count)]


@dataclass
class World:
    """What a row of the table may use."""

    x: np.ndarray
    folder: Path  # where nothing may appear
    index: FunnelIndex  # int64 ids 100, 101, …
    texts: FunnelIndex  # the same with text ids

    @property
    def target(self) -> Path:
        return self.folder / "new.funnel"

    def build(self, data: Any = None, **options: Any) -> FunnelIndex:
        options.setdefault("path", self.target)
        return build(self.x if data is None else data, **options)

    def having(self, value: float, *rows: int, dtype: str = "f4") -> np.ndarray:
        changed = self.x.astype(dtype)
        changed[list(rows), 3] = value
        return changed

    def zeroed(self, *rows: int) -> np.ndarray:
        changed = self.x.copy()
        changed[list(rows)] = 0
        return changed

    def search(self, queries: Any = None, **options: Any) -> Any:
        return self.index.search(self.x[0] if queries is None else queries, **options)

    def open(self, *mode: Any, **options: Any) -> FunnelIndex:
        return FunnelIndex.open(self.index.path, *mode, **options)

    def state(self) -> list[Any]:
        """What both indexes show: their versions, rows and answers."""
        return [
            [i.versions(), i.to_arrow(vectors=True), answers_of(i, self.x)]
            for i in (self.index, self.texts)
        ]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("bad-input")
    x = whole_numbers()
    with (
        build(
            x,
            ids=np.arange(100, 100 + ROWS),
            metadata={"year": range(ROWS), "word": text_ids(), "share": x[:, 0]},
            path=folder / "numbers",
        ) as index,
        build(x, ids=text_ids(), path=folder / "texts") as texts,
    ):
        yield World(x, folder, index, texts)


@pytest.fixture
def world(built: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    folder, spare = tmp_path / "folder", tmp_path / "temporary"
    folder.mkdir()
    spare.mkdir()
    (folder / "a file").write_text("not ours")
    (folder / "foreign").mkdir()
    (folder / "foreign" / "README").write_text("not ours either")
    (folder / "dangling").symlink_to(folder / "nowhere")
    (folder / "loop").symlink_to(folder / "loop")
    (folder / "to index").symlink_to(built.index.path)
    monkeypatch.setattr(tempfile, "tempdir", str(spare))
    monkeypatch.chdir(folder)
    return World(built.x, folder, built.index, built.texts)


def run(script: str, path: Path) -> list[Any]:
    """Run a script on an index in a process of its own; return what it printed."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, str(path)],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: list[Any] = json.loads(done.stdout)
    return found


# ---- things that are not arrays of numbers


class NoArray:
    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return "not an array"


class RaisesInArray:
    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        raise RuntimeError("cannot be read just now")


class OnGpu:
    def detach(self) -> OnGpu:
        return self

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")


class GpuCapsule:
    def __dlpack_device__(self) -> tuple[int, int]:
        return (2, 0)

    def __dlpack__(self, **_: Any) -> Any:
        raise BufferError("a CUDA device")


class BrokenCapsule:
    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)

    def __dlpack__(self, **_: Any) -> Any:
        return "not a capsule"


def deep_filter(deep: int) -> dict[str, Any]:
    whole: dict[str, Any] = {"year": 1}
    for _ in range(deep):
        whole = {"$and": [whole]}
    return whole


class Sparse:
    """Looks as scipy's sparse matrices do."""

    nnz, shape = 3, (ROWS, DIM)

    def toarray(self) -> np.ndarray:
        return whole_numbers()


class BytesPath:
    def __fspath__(self) -> bytes:
        return b"new.funnel"


class Promises:
    """Says in its ``__array_interface__`` whatever it likes of 64 bytes."""

    def __init__(self, **said: Any) -> None:
        self._said = {"version": 3, "typestr": "<f4", "data": bytes(64)} | said

    @property
    def __array_interface__(self) -> dict[str, Any]:
        return self._said


def structured() -> np.ndarray:
    return np.zeros(ROWS, dtype=[("a", "f4"), ("b", "f4")])


def masked(x: np.ndarray) -> np.ndarray:
    return np.ma.array(x, mask=x > 50)


def nested(deep: int) -> list[Any]:
    whole: list[Any] = []
    for _ in range(deep):
        whole = [whole]
    return whole


# ---- the table


@dataclass(frozen=True)
class Bad:
    """One row: a call, the classes its error may have, and what it must say."""

    name: str
    call: Callable[[World], Any]
    error: type[Exception] | tuple[type[Exception], ...]
    words: tuple[str, ...]


def bad(
    name: str,
    call: Callable[[World], Any],
    error: type[Exception] | tuple[type[Exception], ...],
    *words: str,
) -> Bad:
    return Bad(name, call, error, words)


VALUES = [
    bad("NaN", lambda w: w.build(w.having(NAN, 4)), NonFiniteError, "row 4", "NaN"),
    bad("inf", lambda w: w.build(w.having(INF, 4, 9)), NonFiniteError, "4, 9"),
    bad("-inf", lambda w: w.build(w.having(-INF, 59)), NonFiniteError, "row 59"),
    bad(
        "many bad rows are counted",
        lambda w: w.build(w.having(NAN, *range(20))),
        NonFiniteError,
        "0, 1, 2",
        "15 more",
        "on_bad_vectors='drop'",
    ),
    bad(
        "NaN under ip",
        lambda w: w.build(w.having(NAN, 4), metric="ip"),
        NonFiniteError,
        "row 4",
    ),
    bad(
        "NaN under layer_norm",
        lambda w: w.build(w.having(NAN, 4), transform="layer_norm"),
        NonFiniteError,
        "row 4",
    ),
    bad(
        "inf under layer_norm",
        lambda w: w.build(w.having(INF, 4), transform="layer_norm"),
        NonFiniteError,
        "row 4",
    ),
    bad(
        "constant rows under layer_norm",
        lambda w: w.build(np.ones((ROWS, DIM)), transform="layer_norm"),
        ZeroVectorError,
        "row 0",
    ),
    bad(
        "float64 beyond float32",
        lambda w: w.build(w.having(1e39, 4, dtype="f8")),
        NonFiniteError,
        "row 4",
        "float32",
    ),
    bad(
        "float32 beyond float16 storage",
        lambda w: w.build(w.having(70_000, 4), dtype="float16"),
        NonFiniteError,
        "row 4",
        "float16",
    ),
    bad("zero", lambda w: w.build(w.zeroed(2, 5)), ZeroVectorError, "2, 5", "cosine"),
    bad(
        "zero once stored as float16",
        lambda w: w.build(np.vstack([w.x, np.full((1, DIM), 1e-9)]), dtype="float16"),
        ZeroVectorError,
        f"row {ROWS}",
    ),
    bad(
        "only bad rows, dropped",
        lambda w: w.build(np.full((3, DIM), NAN), on_bad_vectors="drop"),
        InvalidArgumentError,
        "no embeddings",
    ),
    bad(
        "NaN in a later batch",
        lambda w: w.build(iter([w.x, w.having(NAN, 4)])),
        NonFiniteError,
        f"row {ROWS + 4}",
    ),
]

SHAPES = [
    bad("0-D", lambda w: w.build(np.array(1.0)), DimensionError, "2 axes", "0"),
    bad("1-D", lambda w: w.build(w.x[0]), DimensionError, "2 axes", "(16,)"),
    bad("3-D", lambda w: w.build(w.x[None]), DimensionError, "2 axes", "(1, 60, 16)"),
    bad("no rows", lambda w: w.build(w.x[:0]), InvalidArgumentError, "no embeddings"),
    bad("shape (0,)", lambda w: w.build(np.zeros(0)), InvalidArgumentError, "(0,)"),
    bad("[]", lambda w: w.build([]), InvalidArgumentError, "no embeddings"),
    bad("()", lambda w: w.build(()), InvalidArgumentError, "no embeddings"),
    bad("no dims", lambda w: w.build(np.zeros((3, 0))), DimensionError, "0 dims"),
    bad("[[]]", lambda w: w.build([[]]), DimensionError, "0 dims"),
    bad("ragged", lambda w: w.build(ragged(w.x)), DimensionError, "row 3", "15", "16"),
    bad(
        "batches of two widths",
        lambda w: w.build(iter([w.x, w.x[:, :8]])),
        DimensionError,
        "8 dims",
        "16",
    ),
    bad("1-D batches", lambda w: w.build(iter(w.x)), DimensionError, "2 axes", "(16,)"),
    bad("no batches", lambda w: w.build(iter([])), InvalidArgumentError, "no embed"),
    bad(
        "empty batches",
        lambda w: w.build(iter([w.x[:0], w.x[:0]])),
        InvalidArgumentError,
        "no embeddings",
    ),
]

KINDS = [
    bad("bool", lambda w: w.build(w.x > 0), InvalidTypeError, "bool", "real numbers"),
    bad("complex", lambda w: w.build(w.x * 1j), InvalidTypeError, "complex"),
    bad("object", lambda w: w.build(w.x.astype(object)), InvalidTypeError, "object"),
    bad(
        "None inside",
        lambda w: w.build([[None] * DIM] * 3),
        InvalidTypeError,
        "object",
    ),
    bad("decimals", lambda w: w.build([[decimal.Decimal(1)] * DIM]), InvalidTypeError),
    bad("strings", lambda w: w.build([["1"] * DIM]), InvalidTypeError, "str"),
    bad("bytes inside", lambda w: w.build([[b"1"] * DIM]), InvalidTypeError, "bytes"),
    bad("structured", lambda w: w.build(structured()), InvalidTypeError, "real"),
    bad(
        "datetimes",
        lambda w: w.build(np.zeros((3, DIM), "M8[s]")),
        InvalidTypeError,
        "datetime64",
    ),
    bad(
        "durations",
        lambda w: w.build(np.zeros((3, DIM), "m8[s]")),
        InvalidTypeError,
        "timedelta64",
    ),
    bad("masked", lambda w: w.build(masked(w.x)), InvalidTypeError, "mask", "fill"),
    bad("sparse", lambda w: w.build(Sparse()), InvalidTypeError, ".toarray()"),
    bad("None", lambda w: FunnelIndex.build(None), InvalidTypeError, "NoneType"),
    bad("an int", lambda w: w.build(5), InvalidTypeError, "int"),
    bad("a float", lambda w: w.build(5.0), InvalidTypeError, "float"),
    bad("bytes", lambda w: w.build(b"abc"), InvalidTypeError, "bytes"),
    bad("a dict", lambda w: w.build({"vector": w.x}), InvalidTypeError, "dict"),
    bad("a set", lambda w: w.build({1, 2}), InvalidTypeError, "set"),
    bad("a function", lambda w: w.build(len), InvalidTypeError),
    bad("an object", lambda w: w.build(object()), InvalidTypeError),
    bad("texts from an iterator", lambda w: w.build(iter(["a"])), InvalidTypeError),
    bad(
        "an iterator of iterators",
        lambda w: w.build(iter([iter(w.x)])),
        InvalidTypeError,
    ),
    bad(
        "__array__ gives no array",
        lambda w: w.build(NoArray()),
        (InvalidTypeError, DimensionError),
    ),
    bad("__array__ raises", lambda w: w.build(RaisesInArray()), InvalidTypeError),
    bad("on a GPU", lambda w: w.build(OnGpu()), InvalidTypeError, ".cpu()"),
    bad("a GPU's capsule", lambda w: w.build(GpuCapsule()), InvalidTypeError, ".cpu()"),
    bad("a broken capsule", lambda w: w.build(BrokenCapsule()), InvalidTypeError),
    *[
        bad(
            f"an interface that lies: {name}",
            lambda w, said=said: w.build(Promises(**said)),
            InvalidTypeError,
            *words,
        )
        for name, said, *words in (
            ("rows", {"shape": (60, 16)}, "(60, 16)", "64 bytes"),
            ("one row too many", {"shape": (2, 16)}, "(2, 16)", "64 bytes"),
            ("a view", {"shape": (2, 16), "data": memoryview(bytes(64))}, "64 bytes"),
            ("strides", {"shape": (2, 8), "strides": (4096, 4)}, "64 bytes"),
            ("backwards", {"shape": (2, 8), "strides": (-32, 4)}, "64 bytes"),
            ("offset", {"shape": (1, 16), "offset": 4}, "64 bytes"),
            ("width", {"shape": (1, 16), "typestr": "<f8"}, "64 bytes"),
            ("endless", {"shape": (2**40, 2**40)}),
            ("negative", {"shape": (-1, 16)}),
            ("no shape", {"shape": "16"}),
            ("no type", {"shape": (1, 16), "typestr": "nonsense"}),
            ("no data", {"shape": (1, 16), "data": (0, False)}),
        )
    ],
]

IDS = [
    bad(
        "too few ids",
        lambda w: w.build(ids=range(59)),
        InvalidArgumentError,
        "59 ids",
        "60 embeddings",
    ),
    bad(
        "too many ids",
        lambda w: w.build(ids=text_ids(61)),
        InvalidArgumentError,
        "61 ids",
        "60 embeddings",
    ),
    bad(
        "too few ids for an iterator",
        lambda w: w.build(iter([w.x]), ids=range(59)),
        InvalidArgumentError,
        "59 ids",
        "60 embeddings",
    ),
    bad("no ids", lambda w: w.build(ids=[]), InvalidArgumentError, "0 ids", "60"),
    bad(
        "an id twice",
        lambda w: w.build(ids=[5, *range(1, ROWS)]),
        DuplicateIdError,
        "id 5",
        "rows 0 and 5",
    ),
    bad(
        "a text id twice",
        lambda w: w.build(ids=["doc 7", *text_ids()[1:]]),
        DuplicateIdError,
        "doc 7",
        "rows 0 and 7",
    ),
    bad(
        "an id column with duplicates",
        lambda w: w.build(pa.table({"id": [1] * ROWS, "vector": w.x.tolist()})),
        DuplicateIdError,
        "id 1",
        "rows 0 and 1",
    ),
    bad("floats", lambda w: w.build(ids=np.arange(60.0)), InvalidTypeError, "float64"),
    bad("a float", lambda w: w.build(ids=[1.7] * ROWS), InvalidTypeError, "float"),
    bad("NaN", lambda w: w.build(ids=[NAN] * ROWS), InvalidTypeError, "float"),
    bad("bools", lambda w: w.build(ids=np.ones(ROWS, bool)), InvalidTypeError, "bool"),
    bad(
        "a bool among ints",
        lambda w: w.build(ids=[True, *range(2, ROWS + 1)]),
        InvalidTypeError,
        "bool",
    ),
    bad("np.bool_", lambda w: w.build(ids=[np.True_] * ROWS), InvalidTypeError, "bool"),
    bad(
        "int and str",
        lambda w: w.build(ids=[1, *text_ids()[1:]]),
        InvalidTypeError,
        "int",
        "str",
    ),
    bad("None", lambda w: w.build(ids=[None] * ROWS), InvalidTypeError, "NoneType"),
    bad(
        "bytes",
        lambda w: w.build(ids=[b"a%d" % i for i in range(ROWS)]),
        InvalidTypeError,
        "bytes",
    ),
    bad(
        "NumPy bytes",
        lambda w: w.build(ids=np.array(text_ids(), "S")),
        InvalidTypeError,
        "bytes",
    ),
    bad(
        "UUIDs",
        lambda w: w.build(ids=[uuid.UUID(int=i) for i in range(ROWS)]),
        InvalidTypeError,
        "UUID",
    ),
    bad(
        "dates",
        lambda w: w.build(ids=np.arange(ROWS).astype("M8[D]")),
        InvalidTypeError,
        "datetime64",
    ),
    bad("one text", lambda w: w.build(ids="a" * ROWS), InvalidTypeError, "str"),
    bad("one number", lambda w: w.build(ids=5), InvalidTypeError, "int"),
    bad("a set", lambda w: w.build(ids=set(range(ROWS))), InvalidTypeError, "set"),
    bad(
        "2-D",
        lambda w: w.build(ids=np.arange(ROWS)[:, None]),
        InvalidArgumentError,
        "1 axis",
        "2",
    ),
    bad(
        "beyond int64",
        lambda w: w.build(ids=[2**63, *range(1, ROWS)]),
        InvalidArgumentError,
        str(2**63),
        "int64",
    ),
    bad(
        "below int64",
        lambda w: w.build(ids=[-(2**63) - 1, *range(1, ROWS)]),
        InvalidArgumentError,
        "int64",
    ),
    bad(
        "uint64 beyond int64",
        lambda w: w.build(ids=np.arange(ROWS, dtype="u8") + np.uint64(2**63)),
        InvalidArgumentError,
        "int64",
    ),
    bad(
        "empty text",
        lambda w: w.build(ids=["", *text_ids()[1:]]),
        InvalidArgumentError,
        "empty",
    ),
    bad(
        "very long text",
        lambda w: w.build(ids=["é" * 600, *text_ids()[1:]]),
        InvalidArgumentError,
        "1024 bytes",
    ),
    bad(
        "a lone surrogate",
        lambda w: w.build(ids=["\ud800", *text_ids()[1:]]),
        InvalidArgumentError,
        "not valid text",
    ),
    bad(
        "nulls",
        lambda w: w.build(ids=pa.array([None, *text_ids()[1:]])),
        InvalidTypeError,
        "null",
    ),
    bad(
        "Arrow floats",
        lambda w: w.build(ids=pa.array(np.arange(60.0))),
        InvalidTypeError,
        "double",
    ),
]

METADATA = [
    bad(
        "too few rows",
        lambda w: w.build(metadata={"n": range(59)}),
        InvalidArgumentError,
        "59 rows",
        "60",
    ),
    bad(
        "too many rows",
        lambda w: w.build(metadata={"n": range(61)}),
        InvalidArgumentError,
        "61 rows",
        "60",
    ),
    bad(
        "too few rows for an iterator",
        lambda w: w.build(iter([w.x]), metadata={"n": range(59)}),
        InvalidArgumentError,
        "59 rows",
        "60",
    ),
    bad(
        "too many rows for an iterator",
        lambda w: w.build(iter([w.x]), metadata={"n": range(61)}),
        InvalidArgumentError,
        "61 rows",
        "60",
    ),
    bad(
        "columns of two lengths",
        lambda w: w.build(metadata={"n": range(60), "m": [1]}),
        InvalidArgumentError,
        "60",
        "1",
    ),
    bad("an int", lambda w: w.build(metadata=5), (InvalidArgumentError, TypeError)),
    bad("a text", lambda w: w.build(metadata="n"), (InvalidArgumentError, TypeError)),
    bad(
        "a list of dicts",
        lambda w: w.build(metadata=[{"n": 1}] * ROWS),
        (InvalidArgumentError, TypeError),
    ),
    bad(
        "int and str in a column",
        lambda w: w.build(metadata={"n": [1, "x"] * 30}),
        InvalidArgumentError,
        "metadata",
    ),
    bad(
        "beyond int64",
        lambda w: w.build(metadata={"n": [2**70] * ROWS}),
        InvalidArgumentError,
        "metadata",
    ),
    bad(
        "objects",
        lambda w: w.build(metadata={"n": [object()] * ROWS}),
        InvalidArgumentError,
        "metadata",
    ),
    bad(
        "a column named id",
        lambda w: w.build(metadata={"id": range(ROWS)}),
        InvalidArgumentError,
        "'id'",
    ),
    bad(
        "a column named vector",
        lambda w: w.build(metadata={"vector": range(ROWS)}),
        InvalidArgumentError,
        "'vector'",
    ),
    bad(
        "two columns of one name",
        lambda w: w.build(
            metadata=pa.table([pa.array(range(ROWS))] * 2, names=["n", "n"])
        ),
        InvalidArgumentError,
        "distinct",
    ),
]

METADATA += [
    bad(
        "nested too deep for Arrow",
        lambda w: w.build(metadata={"n": nested(10_000)}),
        InvalidArgumentError,
        "100 deep",
    ),
]

DIMS = [
    bad("decreasing", lambda w: w.build(dims=(8, 4)), InvalidArgumentError, "(8, 4)"),
    bad("repeated", lambda w: w.build(dims=(8, 8)), InvalidArgumentError, "increase"),
    bad("beyond full_dim", lambda w: w.build(dims=(8, 32)), DimensionError, "32", "16"),
    bad(
        "full_dim, then more",
        lambda w: w.build(dims=(16, 32)),
        DimensionError,
        "32",
        "16",
    ),
    bad("zero", lambda w: w.build(dims=(0, 8)), InvalidArgumentError, "dims", "0"),
    bad("negative", lambda w: w.build(dims=(-8, 8)), InvalidArgumentError, "-8"),
    bad("a float", lambda w: w.build(dims=(8.0, 16)), InvalidTypeError, "float 8.0"),
    bad("a bool", lambda w: w.build(dims=(True, 16)), InvalidTypeError, "bool"),
    bad("a text", lambda w: w.build(dims="8,16"), InvalidTypeError, "'8,16'"),
    bad("texts", lambda w: w.build(dims=("8", "16")), InvalidTypeError, "str '8'"),
    bad("one int", lambda w: w.build(dims=8), InvalidTypeError, "8"),
    bad("empty", lambda w: w.build(dims=()), InvalidArgumentError, "empty"),
    bad("300 steps", lambda w: w.build(dims=range(1, 301)), DimensionError, "300"),
    bad("unordered", lambda w: w.build(dims={4, 8}), InvalidTypeError, "set"),
    bad("graph_dim", lambda w: w.build(graph_dim=17), DimensionError, "17", "16"),
    bad("code_dim", lambda w: w.build(code_dim=17), DimensionError, "17", "16"),
    bad("graph_dim 0", lambda w: w.build(graph_dim=0), InvalidArgumentError, "graph"),
    bad("code_dim 8.0", lambda w: w.build(code_dim=8.0), InvalidTypeError, "float"),
    bad("code_dim True", lambda w: w.build(code_dim=True), InvalidTypeError, "bool"),
]

OPTIONS = [
    bad(
        "metric",
        lambda w: w.build(metric="cosin"),
        InvalidArgumentError,
        "'cosin'",
        "did you mean 'cosine'",
    ),
    bad("metric None", lambda w: w.build(metric=None), InvalidTypeError, "'cosine'"),
    bad(
        "projection",
        lambda w: w.build(projection="prefx"),
        InvalidArgumentError,
        "'prefx'",
        "did you mean 'prefix'",
    ),
    bad(
        "dtype",
        lambda w: w.build(dtype="float23"),
        InvalidArgumentError,
        "'float23'",
        "did you mean 'float32'",
    ),
    bad(
        "a NumPy dtype",
        lambda w: w.build(dtype=np.float32),
        InvalidTypeError,
        "'float32'",
    ),
    bad(
        "transform",
        lambda w: w.build(transform="layernorm"),
        InvalidArgumentError,
        "did you mean 'layer_norm'",
    ),
    bad(
        "numba over other dims",
        lambda w: w.build(builder="numba", graph_dim=4, code_dim=8),
        InvalidArgumentError,
        "code_dim alone",
    ),
    bad(
        "builder",
        lambda w: w.build(builder="fais"),
        InvalidArgumentError,
        "did you mean 'faiss'",
    ),
    bad(
        "on_bad_vectors",
        lambda w: w.build(on_bad_vectors="dorp"),
        InvalidArgumentError,
        "did you mean 'drop'",
    ),
    *[
        bad(f"M {m}", lambda w, m=m: w.build(M=m), InvalidArgumentError, "M ", str(m))
        for m in (0, 1, -1, 10**6)
    ],
    bad("M float", lambda w: w.build(M=16.0), InvalidTypeError, "M ", "float"),
    *[
        bad(
            f"ef_construction {ef}",
            lambda w, ef=ef: w.build(ef_construction=ef),
            InvalidArgumentError,
            "ef_construction",
            str(ef),
        )
        for ef in (0, -1, 10**9)
    ],
    bad("seed -1", lambda w: w.build(seed=-1), InvalidArgumentError, "seed", "-1"),
    bad("seed huge", lambda w: w.build(seed=2**64), InvalidArgumentError, "seed"),
    bad("seed float", lambda w: w.build(seed=0.5), InvalidTypeError, "seed", "float"),
    bad("threads 0", lambda w: w.build(threads=0), InvalidArgumentError, "threads"),
    bad("threads -2", lambda w: w.build(threads=-2), InvalidArgumentError, "threads"),
    bad("threads 10**6", lambda w: w.build(threads=10**6), InvalidArgumentError),
    bad("threads '4'", lambda w: w.build(threads="4"), InvalidTypeError, "'4'"),
    bad("threads True", lambda w: w.build(threads=True), InvalidTypeError, "bool"),
    bad("progress 5", lambda w: w.build(progress=5), InvalidTypeError, "progress"),
    bad(
        "progress an array",
        lambda w: w.build(progress=np.arange(3)),
        InvalidTypeError,
        "progress",
        "ndarray",
    ),
    bad(
        "overwrite as text",
        lambda w: w.build(overwrite="no"),
        InvalidTypeError,
        "overwrite",
        "bool",
    ),
    bad(
        "vector_column of an array",
        lambda w: w.build(vector_column="v"),
        InvalidArgumentError,
        "vector_column",
    ),
    bad(
        "id_column of an array",
        lambda w: w.build(id_column="key"),
        InvalidArgumentError,
        "id_column",
    ),
    *[
        bad(
            f"by habit: {theirs}",
            lambda w, theirs=theirs: w.build(**{theirs: 5}),
            InvalidTypeError,
            f"'{theirs}'",
            f"{ours}=",
        )
        for theirs, ours in (
            ("space", "metric"),
            ("distance", "metric"),
            ("m", "M"),
            ("efConstruction", "ef_construction"),
            ("num_threads", "threads"),
            ("labels", "ids"),
            ("metadatas", "metadata"),
            ("graph_dims", "graph_dim"),
        )
    ],
    bad("unheard of", lambda w: w.build(zzz=1), InvalidTypeError, "'zzz'"),
]

PATHS = [
    bad(
        "exists: foreign",
        lambda w: w.build(path=w.folder / "foreign"),
        IndexExistsError,
        "foreign",
        "overwrite=True",
    ),
    bad(
        "overwrite: foreign",
        lambda w: w.build(path=w.folder / "foreign", overwrite=True),
        NotAnIndexError,
        "foreign",
        "README",
    ),
    bad("exists: file", lambda w: w.build(path="a file"), IndexExistsError, "a file"),
    bad(
        "overwrite: file",
        lambda w: w.build(path="a file", overwrite=True),
        NotAnIndexError,
        "is a file",
    ),
    bad(
        "exists: index",
        lambda w: w.build(path=w.index.path),
        IndexExistsError,
        "overwrite=True",
    ),
    bad("exists: dangling", lambda w: w.build(path="dangling"), IndexExistsError),
    bad(
        "overwrite: dangling",
        lambda w: w.build(path="dangling", overwrite=True),
        (NotAnIndexError, IndexNotFoundError),
        "dangling",
    ),
    bad("exists: loop", lambda w: w.build(path="loop"), IndexExistsError, "loop"),
    bad(
        "no parent",
        lambda w: w.build(path="no/such"),
        IndexNotFoundError,
        "no is not a directory",
    ),
    bad("under a file", lambda w: w.build(path="a file/x"), OSError, "a file"),
    bad("empty", lambda w: w.build(path=""), InvalidArgumentError, "''"),
    bad("NUL", lambda w: w.build(path="a\0b"), InvalidArgumentError, "path"),
    bad("bytes", lambda w: w.build(path=b"x"), InvalidTypeError, "bytes"),
    bad("a path of bytes", lambda w: w.build(path=BytesPath()), InvalidTypeError),
    bad("an int", lambda w: w.build(path=5), InvalidTypeError, "int"),
    bad("too long", lambda w: w.build(path="x" * 5000), OSError, "xxx"),
    bad("too deep", lambda w: w.build(path="x" * 99 + "/x" * 5000), OSError, "xxx"),
    bad(
        "a lone surrogate",
        lambda w: w.build(path="\ud800"),
        (InvalidArgumentError, StorageError),
    ),
    bad(
        "an unknown user's home",
        lambda w: w.build(path="~no such user/x"),
        (InvalidArgumentError, IndexNotFoundError),
        "~no such user",
    ),
]

DATA_PATHS = [
    bad("no file", lambda w: w.build("no.npy"), IndexNotFoundError, "no.npy"),
    bad("no match", lambda w: w.build("*.npy"), IndexNotFoundError, "*.npy"),
    bad("nothing to read", lambda w: w.build("foreign"), IndexNotFoundError, "foreign"),
    bad("unknown kind", lambda w: w.build("a file"), InvalidArgumentError, ".parquet"),
    bad("empty", lambda w: w.build(""), (InvalidArgumentError, IndexNotFoundError)),
    bad("NUL", lambda w: w.build("a\0.npy"), (ValueError, OSError)),
    bad("too long", lambda w: w.build("x" * 5000 + ".npy"), OSError, "xxx"),
]

OPENS = [
    bad("nothing", lambda w: FunnelIndex.open("no"), IndexNotFoundError, "no"),
    bad("a file", lambda w: FunnelIndex.open("a file"), NotAnIndexError, "is a file"),
    bad("foreign", lambda w: FunnelIndex.open("foreign"), NotAnIndexError, "README"),
    bad(
        "dangling",
        lambda w: FunnelIndex.open("dangling"),
        (NotAnIndexError, IndexNotFoundError),
        "dangling",
    ),
    bad(
        "loop",
        lambda w: FunnelIndex.open("loop"),
        (NotAnIndexError, IndexNotFoundError, StorageError),
        "loop",
    ),
    bad("under a file", lambda w: FunnelIndex.open("a file/x"), OSError, "a file"),
    bad("empty", lambda w: FunnelIndex.open(""), InvalidArgumentError, "''"),
    bad("NUL", lambda w: FunnelIndex.open("a\0b"), InvalidArgumentError, "path"),
    bad("bytes", lambda w: FunnelIndex.open(b"x"), InvalidTypeError, "bytes"),
    bad("a path of bytes", lambda w: FunnelIndex.open(BytesPath()), InvalidTypeError),
    bad("None", lambda w: FunnelIndex.open(None), InvalidTypeError, "NoneType"),
    bad("too long", lambda w: FunnelIndex.open("x" * 5000), OSError, "xxx"),
    bad(
        "an unknown user's home",
        lambda w: FunnelIndex.open("~no such user/x"),
        (InvalidArgumentError, IndexNotFoundError),
        "~no such user",
    ),
]

OPENS += [
    *[
        bad(f"mode {m!r}", lambda w, m=m: w.open(m), kind, "mode", "'rw'")
        for m, kind in (
            ("w", InvalidArgumentError), ("x", InvalidArgumentError),
            ("RW", InvalidArgumentError), ("", InvalidArgumentError),
            (None, InvalidTypeError), (1, InvalidTypeError), (b"r", InvalidTypeError),
        )
    ],
    *[
        bad(
            f"version {v!r}", lambda w, v=v: w.open(version=v), kind, "version", str(v)
        )
        for v, kind in (
            (0, InvalidArgumentError), (-1, InvalidArgumentError),
            (2**63, InvalidArgumentError), (7, UnknownVersionError),
            ("latest", InvalidTypeError), (1.0, InvalidTypeError),
            (True, InvalidTypeError),
        )
    ],
    bad(
        "an older version for writing",
        lambda w: w.open("rw", version=1),
        InvalidArgumentError,
        "reading only",
    ),
]  # fmt: skip

HANDLES = [  # what `open` and `create` take alike
    bad(f"{verb}: {name} {value!r}", lambda w, o=o, n=name, v=value: o(w, **{n: v}),
        kind, name)
    for verb, o in (
        ("open", lambda w, **how: w.open("rw", **how)),
        ("create", lambda w, **how: FunnelIndex.create(w.target, 16, **how)),
    )
    for name, value, kind in (
        ("durability", "fats", InvalidArgumentError),
        ("durability", None, InvalidTypeError),
        ("durability", True, InvalidTypeError),
        ("lock_timeout", -1, InvalidArgumentError),
        ("lock_timeout", NAN, InvalidArgumentError),
        ("lock_timeout", INF, InvalidArgumentError),
        ("lock_timeout", 10**400, InvalidArgumentError),
        ("lock_timeout", "1", InvalidTypeError),
        ("lock_timeout", None, InvalidTypeError),
        ("lock_timeout", True, InvalidTypeError),
        ("auto_compact", "no", InvalidTypeError),
        ("auto_compact", 1, InvalidTypeError),
        ("auto_compact", None, InvalidTypeError),
    )
]  # fmt: skip

CREATES = [
    *[
        bad(
            f"full_dim {d!r}",
            lambda w, d=d: FunnelIndex.create(w.target, d),
            kind,
            "full_dim",
        )
        for d, kind in (
            (0, InvalidArgumentError), (-1, InvalidArgumentError),
            (2**31, InvalidArgumentError), (2**63, InvalidArgumentError),
            (16.0, InvalidTypeError), ("16", InvalidTypeError),
            (None, InvalidTypeError), (True, InvalidTypeError), (NAN, InvalidTypeError),
        )
    ],
    bad(
        "dims beyond full_dim",
        lambda w: FunnelIndex.create(w.target, 16, dims=(8, 32)),
        DimensionError,
        "32",
    ),
    bad(
        "code_dim beyond full_dim",
        lambda w: FunnelIndex.create(w.target, 16, code_dim=17),
        DimensionError,
        "17",
    ),
    bad(
        "metric",
        lambda w: FunnelIndex.create(w.target, 16, metric="l2"),
        InvalidArgumentError,
        "'l2'",
    ),
    bad(
        "exists",
        lambda w: FunnelIndex.create(w.index.path, 16),
        IndexExistsError,
        "exists",
    ),
]  # fmt: skip

QUERIES = [
    bad("d - 1", lambda w: w.search(w.x[:2, :15]), DimensionError, "15", "16"),
    bad("d + 1", lambda w: w.search(np.ones((2, 17))), DimensionError, "17", "16"),
    bad("a prefix", lambda w: w.search(w.x[0, :8]), DimensionError, "8", "16", "full"),
    bad("no dims", lambda w: w.search(np.ones((2, 0))), DimensionError, "0", "16"),
    bad(
        "no queries of another width",
        lambda w: w.search(np.ones((0, 5))),
        DimensionError,
        "5",
        "16",
    ),
    bad("0-D", lambda w: w.search(np.array(1.0)), DimensionError, "1 or 2 axes", "0"),
    bad("3-D", lambda w: w.search(w.x[None]), DimensionError, "3", "(1, 60, 16)"),
    bad("no queries, 3-D", lambda w: w.search(np.ones((0, 2, 16))), DimensionError),
    bad("ragged", lambda w: w.search(ragged(w.x)), DimensionError, "row 3"),
    bad("NaN", lambda w: w.search(w.having(NAN, 1, 3)), NonFiniteError, "1, 3"),
    bad("inf", lambda w: w.search(w.having(INF, 2)[2]), NonFiniteError, "row 0"),
    bad("1e39", lambda w: w.search(w.having(1e39, 2, dtype="f8")), NonFiniteError, "2"),
    bad("zero", lambda w: w.search(w.zeroed(2)), ZeroVectorError, "row 2", "cosine"),
    bad("bool", lambda w: w.search(w.x > 0), InvalidTypeError, "bool"),
    bad("complex", lambda w: w.search(w.x * 1j), InvalidTypeError, "complex"),
    bad("object", lambda w: w.search(w.x.astype(object)), InvalidTypeError, "object"),
    bad("text", lambda w: w.search("what is a funnel"), InvalidTypeError, "str"),
    bad("texts", lambda w: w.search(["what"]), InvalidTypeError, "str"),
    bad("None", lambda w: w.index.search(None), InvalidTypeError, "NoneType"),
    bad("dict", lambda w: w.search({"q": w.x}), InvalidTypeError, "dict"),
    bad("a generator", lambda w: w.search(iter(w.x)), InvalidTypeError),
    bad("masked", lambda w: w.search(masked(w.x)), InvalidTypeError, "mask"),
    bad("sparse", lambda w: w.search(Sparse()), InvalidTypeError, ".toarray()"),
    bad("on a GPU", lambda w: w.search(OnGpu()), InvalidTypeError, ".cpu()"),
    bad("structured", lambda w: w.search(structured()), InvalidTypeError),
]

SEARCHES = [
    *[
        bad(f"k {k}", lambda w, k=k: w.search(k=k), InvalidArgumentError, "k ", str(k))
        for k in (0, -1, 2**31, 2**63)
    ],
    *[
        bad(f"k {k!r}", lambda w, k=k: w.search(k=k), InvalidTypeError, "k ", "int")
        for k in (2.5, 10.0, "10", True, None, NAN, np.True_, np.float32(3))
    ],
    bad(
        "shortlist < k",
        lambda w: w.search(k=10, shortlist=9),
        InvalidArgumentError,
        "9",
        "10",
    ),
    bad("shortlist 0", lambda w: w.search(shortlist=0), InvalidArgumentError, "short"),
    bad("shortlist NaN", lambda w: w.search(shortlist=NAN), InvalidTypeError, "short"),
    bad("ef_search 0", lambda w: w.search(ef_search=0), InvalidArgumentError, "ef_s"),
    bad("slack -1", lambda w: w.search(slack=-1), InvalidArgumentError, "slack"),
    bad("slack NaN", lambda w: w.search(slack=NAN), InvalidArgumentError, "slack"),
    bad("slack inf", lambda w: w.search(slack=INF), InvalidArgumentError, "slack"),
    bad("slack text", lambda w: w.search(slack="1"), InvalidTypeError, "slack"),
    bad("slack bool", lambda w: w.search(slack=True), InvalidTypeError, "slack"),
    bad("ef_search 1.5", lambda w: w.search(ef_search=1.5), InvalidTypeError, "ef_s"),
    bad(
        "mode",
        lambda w: w.search(mode="funel"),
        InvalidArgumentError,
        "'funel'",
        "did you mean 'funnel'",
    ),
    bad("mode None", lambda w: w.search(mode=None), InvalidTypeError, "'funnel'"),
    bad("threads 0", lambda w: w.search(threads=0), InvalidArgumentError, "threads"),
    bad("threads '4'", lambda w: w.search(threads="4"), InvalidTypeError, "threads"),
    bad("cascade 5", lambda w: w.search(cascade=5), InvalidTypeError, "Stage"),
    bad("cascade text", lambda w: w.search(cascade="abc"), InvalidTypeError, "Stage"),
    bad("cascade []", lambda w: w.search(cascade=[]), CascadeError, "one stage"),
    bad(
        "cascade of one number",
        lambda w: w.search(cascade=[16]),
        InvalidTypeError,
        "Stage",
    ),
    bad(
        "cascade beyond full_dim",
        lambda w: w.search(cascade=[(17, 10)]),
        CascadeError,
        "17",
        "16",
    ),
    bad(
        "cascade that keeps too few",
        lambda w: w.search(cascade=[(8, 20), (16, 5)], k=6),
        CascadeError,
        "5",
        "6",
    ),
    bad(
        "cascade that shrinks dims",
        lambda w: w.search(cascade=[(16, 20), (8, 10)]),
        CascadeError,
        "increase",
    ),
    bad(
        "cascade that grows",
        lambda w: w.search(cascade=[(8, 10), (16, 20)]),
        CascadeError,
        "more rows",
    ),
    bad(
        "codes of another width",
        lambda w: w.search(cascade=[Stage(4, 20, "codes"), Stage(16, 10)]),
        CascadeError,
        "4",
        "8",
    ),
    bad(
        "codes alone",
        lambda w: w.search(cascade=[Stage(8, 20, "codes")]),
        CascadeError,
        "last stage",
    ),
    bad("stage 0", lambda w: Stage(0, 10), CascadeError, "Stage.dim", "0"),
    bad("stage 8.0", lambda w: Stage(8.0, 10), InvalidTypeError, "Stage.dim", "8.0"),
    bad("keep True", lambda w: Stage(8, True), InvalidTypeError, "Stage.keep", "bool"),
    bad("space", lambda w: Stage(8, 10, "code"), CascadeError, "'code'", "'codes'"),
    bad(
        "halving to fewer than k",
        lambda w: Cascade.halving(5, (8, 16), k=10),
        CascadeError,
        "5",
        "10",
    ),
    bad("ratio 2", lambda w: Cascade.pruning((8, 16), 2.0), CascadeError, "ratio"),
    bad("ratio NaN", lambda w: Cascade.pruning((8, 16), NAN), CascadeError, "ratio"),
    bad("ratio '1'", lambda w: Cascade.pruning((8, 16), "1"), InvalidTypeError, "rati"),
    *[
        bad(
            f"cascade with mode {mode}",
            lambda w, mode=mode: w.search(mode=mode, cascade=[(16, 10)]),
            CascadeError,
            mode,
        )
        for mode in ("exact", "prefix", "prefix_ann", "rerank")
    ],
    *[
        bad(
            f"by habit: {theirs}",
            lambda w, theirs=theirs: w.search(**{theirs: 5}),
            InvalidTypeError,
            f"'{theirs}'",
            f"{ours}=",
        )
        for theirs, ours in (
            ("top_k", "k"),
            ("n_results", "k"),
            ("limit", "k"),
            ("ef", "ef_search"),
            ("num_threads", "threads"),
            ("short_list", "shortlist"),
        )
    ],
    bad("where", lambda w: w.search(where={}), InvalidTypeError, "'where'"),
    *[
        bad(
            f"min_score {m!r:.9}",
            lambda w, m=m: w.search(min_score=m),
            kind,
            "min_score",
        )
        for m, kind in (
            (NAN, InvalidArgumentError), (10**400, InvalidArgumentError),
            ("0.5", InvalidTypeError), (True, InvalidTypeError),
            (1j, InvalidTypeError), ([0.5], InvalidTypeError),
            (np.array([0.5, 0.5]), InvalidTypeError),
        )
    ],
]  # fmt: skip

# Of searches and of deletes alike.
FILTERS = [
    bad(f"{name}, in a {verb}", lambda w, c=call, f=given: c(w, f), kind, *words)
    for verb, call in (
        ("search", lambda w, f: w.search(filter=f)),
        ("delete", lambda w, f: w.index.delete(filter=f)),
    )
    for name, given, kind, *words in (
        ("unknown column", {"nope": 1}, InvalidArgumentError, "'nope'", "year"),
        ("unknown column in $in", {"a": {"$in": []}}, InvalidArgumentError, "'a'"),
        ("text for an int", {"year": "1"}, InvalidTypeError, "'year'", "int64"),
        ("an int for text", {"word": {"$gt": 1}}, InvalidTypeError, "'word'"),
        ("NaN for text", {"word": NAN}, InvalidTypeError, "'word'"),
        ("None in a text", {"word": {"$contains": None}}, InvalidTypeError, "'word'"),
        ("NaN in a text", {"word": {"$contains": NAN}}, InvalidTypeError, "'word'"),
        ("$exists None", {"year": {"$exists": None}}, InvalidTypeError, "bool"),
        ("$in None", {"year": {"$in": None}}, InvalidTypeError, "list"),
        ("$in a text", {"word": {"$in": "doc 1"}}, InvalidTypeError, "list"),
        ("$and None", {"$and": None}, InvalidTypeError, "list"),
        ("$not None", {"$not": None}, InvalidTypeError, "dicts"),
        ("a list of None", {"$or": [None]}, InvalidTypeError, "dicts"),
        ("operator", {"year": {"$gtt": 1}}, InvalidArgumentError, "'$gt'"),
        ("a list", {"year": [1, 2]}, InvalidTypeError, "compared"),
        ("an array", {"year": np.arange(3)}, InvalidTypeError, "compared"),
        ("no condition", {"year": {}}, InvalidArgumentError, "empty"),
        ("a column's name", {None: 1}, InvalidTypeError, "None"),
        ("code", "__import__('os').getcwd()", InvalidTypeError, "dict"),
        ("code in a dict", {"__import__('os')": 1}, InvalidArgumentError, "os"),
        ("deep", {"year": {"$in": nested(10_000)}}, InvalidArgumentError, "100 deep"),
        ("deep $and", deep_filter(10_000), InvalidArgumentError, "100 deep"),
        ("deep ids", nested(10_000), InvalidTypeError, "list"),
        ("a mask too short", [True] * 59, DimensionError, "59", "60"),
        ("a mask too long", np.ones(61, bool), DimensionError, "61", "60"),
        ("ids: floats", [1.5, NAN], InvalidTypeError, "float"),
        ("ids: None", [None], InvalidTypeError, "NoneType"),
        ("ids: beyond int64", [2**63], InvalidArgumentError, "int64"),
        ("a number", 5, InvalidTypeError, "int"),
        ("a set", {1, 2}, InvalidTypeError, "set"),
    )
]

READS = [
    bad("unknown", lambda w: w.index.get([100, 99]), UnknownIdError, "99"),
    bad("unknown text", lambda w: w.texts.get(["doc 60"]), UnknownIdError, "doc 60"),
    bad("a text for ints", lambda w: w.index.get(["100"]), UnknownIdError, "'100'"),
    bad("an int for texts", lambda w: w.texts.get([1]), UnknownIdError, "1"),
    bad("a float", lambda w: w.index.get([100.0]), LookupError, "100.0"),
    bad("a bool", lambda w: w.index.get([True]), LookupError, "True"),
    bad("beyond int64", lambda w: w.index.get([2**80]), UnknownIdError, str(2**80)),
    bad("a surrogate", lambda w: w.texts.get(["\ud800"]), UnknownIdError),
    bad("None", lambda w: w.index.get(None), InvalidTypeError, "NoneType"),
    bad("one text", lambda w: w.texts.get("doc 1"), InvalidTypeError, "'doc 1'"),
    bad("one number", lambda w: w.index.get(100), InvalidTypeError, "100"),
    bad("bytes", lambda w: w.index.get(bytearray(b"d")), InvalidTypeError, "bytearray"),
    bad("a view", lambda w: w.index.get(memoryview(b"d")), InvalidTypeError, "view"),
    bad("a set", lambda w: w.index.get({100}), InvalidTypeError, "set"),
    bad(
        "2-D",
        lambda w: w.index.get(np.array([[100, 101]])),
        (InvalidTypeError, DimensionError, InvalidArgumentError),
        "1 axis",
    ),
    bad("level", lambda w: w.index.verify("ful"), InvalidArgumentError, "'full'"),
    bad("level None", lambda w: w.index.verify(None), InvalidTypeError, "'full'"),
]


READS += [
    bad("nested ids", lambda w: w.index.get(nested(10_000)), InvalidArgumentError),
    bad("similar: unknown", lambda w: w.index.similar(99), UnknownIdError, "99"),
    bad("similar: text", lambda w: w.index.similar("100"), UnknownIdError, "'100'"),
    bad("similar: None", lambda w: w.index.similar(None), UnknownIdError, "None"),
    bad("similar: list", lambda w: w.index.similar([100]), UnknownIdError, "[100]"),
    bad("similar: k 0", lambda w: w.index.similar(100, 0), InvalidArgumentError, "k "),
    bad("similar: k 1.5", lambda w: w.index.similar(100, 1.5), InvalidTypeError, "k "),
    *[
        bad(f"{verb}: dim {d!r}", lambda w, f=f, d=d: f(w, d), kind, "dim", str(d))
        for verb, f in (
            ("vectors", lambda w, d: w.index.vectors(d)),
            ("slice", lambda w, d: w.index.slice(d, w.target)),
        )
        for d, kind in (
            (0, InvalidArgumentError), (-1, InvalidArgumentError),
            (17, InvalidArgumentError), (2**63, InvalidArgumentError),
            (8.0, InvalidTypeError), ("8", InvalidTypeError), (True, InvalidTypeError),
        )
    ],
    bad("slice: None", lambda w: w.index.slice(None, w.target), InvalidTypeError),
    bad(
        "slice: dims beyond dim",
        lambda w: w.index.slice(8, w.target, dims=(8, 16)),
        DimensionError,
        "16",
    ),
]  # fmt: skip

# Where nothing may be made: of every call that makes an index.
PLACES = [
    bad(f"{verb}: {name}", lambda w, m=make, p=place: m(w, p(w)), kind, *words)
    for verb, make in (
        ("backup", lambda w, p: w.index.backup(p)),
        ("slice", lambda w, p: w.index.slice(8, p)),
        ("create", lambda w, p: FunnelIndex.create(p, 8)),
        ("build", lambda w, p: w.build(path=p)),
        ("overwrite", lambda w, p: w.build(path=p, overwrite=True)),
    )
    for name, place, kind, *words in (
        ("onto itself", lambda w: w.index.path, IndexExistsError, "exists"),
        ("onto another", lambda w: w.texts.path, IndexExistsError, "exists"),
        ("onto a link to itself", lambda _: "to index", IndexExistsError, "exists"),
        ("onto a file", lambda _: "a file", OSError, "a file"),
        ("onto a directory", lambda _: "foreign", OSError, "foreign"),
        ("onto nothing", lambda _: "dangling", OSError, "dangling"),
        (
            "inside itself", lambda w: w.index.path / "new", InvalidArgumentError,
            "inside the index",
        ),
        (
            "among its files", lambda w: w.index.path / "data" / "new",
            InvalidArgumentError, "inside the index",
        ),
        (
            "inside it by a link", lambda _: "to index/new", InvalidArgumentError,
            "inside the index",
        ),
        (
            "onto its files", lambda w: w.index.path / "data", InvalidArgumentError,
            "inside the index",
        ),
        ("no parent", lambda _: "no/such", IndexNotFoundError, "no is not"),
        ("empty", lambda _: "", InvalidArgumentError, "''"),
        ("a number", lambda _: 5, InvalidTypeError, "int"),
    )
    if verb != "overwrite" or kind is not IndexExistsError
]  # fmt: skip


def changes(verb: str) -> list[Bad]:
    """What neither `add` nor `upsert` takes."""

    def into(w: World, data: Any = None, **how: Any) -> Any:
        how.setdefault("ids", [900, 901])
        return getattr(w.index, verb)(w.x[:2] if data is None else data, **how)

    def texts(w: World, **how: Any) -> Any:
        return getattr(w.texts, verb)(w.x[:2], **how)

    def raising(w: World) -> Iterator[np.ndarray]:
        yield w.x[:1]
        raise InvalidArgumentError("the data's own error")

    def meta(**columns: Any) -> dict[str, Any]:
        return {"metadata": columns}

    return [
        bad(f"{verb}: {name}", lambda w, c=call: c(w), kind, *words)
        for name, call, kind, *words in (
            ("NaN", lambda w: into(w, w.having(NAN, 1)[:2]), NonFiniteError, "row 1"),
            ("inf", lambda w: into(w, w.having(INF, 1)[:2]), NonFiniteError, "row 1"),
            (
                "1e39", lambda w: into(w, w.having(1e39, 1, dtype="f8")[:2]),
                NonFiniteError, "row 1",
            ),
            ("zero", lambda w: into(w, w.zeroed(0)[:2]), ZeroVectorError, "row 0"),
            ("d - 1", lambda w: into(w, w.x[:2, :15]), DimensionError, "15", "16"),
            ("d + 1", lambda w: into(w, np.ones((2, 17))), DimensionError, "17", "16"),
            ("no dims", lambda w: into(w, np.ones((2, 0))), DimensionError, "0"),
            ("1-D", lambda w: into(w, w.x[0]), DimensionError, "2 axes"),
            ("3-D", lambda w: into(w, w.x[None, :2]), DimensionError, "2 axes"),
            ("ragged", lambda w: into(w, ragged(w.x)), DimensionError, "row 3"),
            ("bools", lambda w: into(w, w.x[:2] > 0), InvalidTypeError, "bool"),
            ("complex", lambda w: into(w, w.x[:2] * 1j), InvalidTypeError, "complex"),
            ("texts", lambda w: into(w, [["1"] * DIM] * 2), InvalidTypeError, "str"),
            ("masked", lambda w: into(w, masked(w.x)), InvalidTypeError, "mask"),
            ("sparse", lambda w: into(w, Sparse()), InvalidTypeError, ".toarray()"),
            ("a number", lambda w: into(w, 5), InvalidTypeError, "int"),
            (
                "lies", lambda w: into(w, Promises(shape=(2, 16))), InvalidTypeError,
                "64 bytes",
            ),
            ("no file", lambda w: into(w, "no.npy"), IndexNotFoundError, "no.npy"),
            (
                "a later batch", lambda w: into(w, iter([w.x[:1], w.x[:1, :8]])),
                DimensionError, "8", "16",
            ),
            (
                "data that fails", lambda w: into(w, raising(w)), InvalidArgumentError,
                "own error",
            ),
            ("too few ids", lambda w: into(w, ids=[900]), InvalidArgumentError, "1 id"),
            ("too many", lambda w: into(w, ids=[7, 8, 9]), InvalidArgumentError, "3 "),
            ("ids of none", lambda w: into(w, []), InvalidArgumentError, "2 ids"),
            ("id twice", lambda w: into(w, ids=[9, 9]), DuplicateIdError, "id 9"),
            ("there, twice", lambda w: into(w, ids=[100] * 2), DuplicateIdError, "100"),
            (
                "text twice", lambda w: texts(w, ids=["a", "a"]), DuplicateIdError,
                "id a",
            ),
            ("no ids", lambda w: into(w, ids=None), InvalidArgumentError, "ids="),
            ("no text ids", lambda w: texts(w), InvalidArgumentError, "ids="),
            ("texts for ints", lambda w: into(w, ids=["1", "2"]), InvalidTypeError),
            ("ints for texts", lambda w: texts(w, ids=[1, 2]), InvalidTypeError),
            ("bytes", lambda w: texts(w, ids=[b"a", b"b"]), InvalidTypeError, "bytes"),
            ("one text", lambda w: texts(w, ids="ab"), InvalidTypeError, "str"),
            ("float ids", lambda w: into(w, ids=[1.0, 2.0]), InvalidTypeError, "float"),
            ("bool ids", lambda w: into(w, ids=[True, 2]), InvalidTypeError, "bool"),
            ("2**63", lambda w: into(w, ids=[1, 2**63]), InvalidArgumentError, "int64"),
            ("empty id", lambda w: texts(w, ids=["", "b"]), InvalidArgumentError),
            (
                "too little metadata", lambda w: into(w, **meta(year=[1])),
                InvalidArgumentError, "1 row",
            ),
            (
                "metadata's type", lambda w: into(w, **meta(year=["x", "y"])),
                InvalidTypeError, "'year'",
            ),
            (
                "a column named id", lambda w: into(w, **meta(id=[1, 2])),
                InvalidArgumentError, "'id'",
            ),
            (
                "deep metadata", lambda w: into(w, **meta(more=nested(10_000))),
                InvalidArgumentError, "100 deep",
            ),
            (
                "on_bad_vectors", lambda w: into(w, on_bad_vectors="dorp"),
                InvalidArgumentError, "'drop'",
            ),
            ("progress", lambda w: into(w, progress=5), InvalidTypeError, "progress"),
            ("a column", lambda w: into(w, id_column="a"), InvalidArgumentError),
        )
    ]  # fmt: skip


def named(w: World, ids: Any, **columns: Any) -> Any:
    return w.index.update_metadata(ids, columns)


CHANGES = [
    *changes("add"),
    *changes("upsert"),
    bad(
        "add: an id that is there",
        lambda w: w.index.add(w.x[:2], ids=[900, 100]),
        DuplicateIdError,
        "id 100",
        "upsert",
    ),
    *[
        bad(f"delete: {name}", lambda w, i=ids: w.index.delete(i), kind, *words)
        for name, ids, kind, *words in (
            ("nothing", None, InvalidArgumentError, "either"),
            ("one text", "abc", InvalidTypeError, "str"),
            ("one number", 100, InvalidTypeError, "int"),
            ("bytes", b"abc", InvalidTypeError, "bytes"),
            ("a set", {100}, InvalidTypeError, "set"),
            ("a dict", {"ids": [100]}, InvalidTypeError, "dict"),
            ("floats", [100.0], InvalidTypeError, "float"),
            ("bools", [True], InvalidTypeError, "bool"),
            ("a mask", np.ones(ROWS, bool), InvalidTypeError, "bool"),
            ("None", [None], InvalidTypeError, "NoneType"),
            ("int and str", [100, "100"], InvalidTypeError, "int", "str"),
            ("2-D", np.array([[100]]), InvalidArgumentError, "1 axis"),
            ("beyond int64", [2**63], InvalidArgumentError, "int64"),
            ("nested", nested(10_000), InvalidTypeError, "list"),
        )
    ],
    bad(
        "delete: both",
        lambda w: w.index.delete([100], filter={"year": 1}),
        InvalidArgumentError,
        "either",
    ),
    *[
        bad(
            f"delete: all by {given!r}",
            lambda w, f=given: w.index.delete(filter=f),
            InvalidArgumentError,
            "every row",
            "$exists",
        )
        for given in ({}, {"$and": []}, {"$and": [{}]}, {"$not": {"$or": []}})
    ],
    bad("meta: unknown", lambda w: named(w, [100, 9], year=[1, 2]), UnknownIdError),
    bad("meta: twice", lambda w: named(w, [100] * 2, year=[1, 2]), DuplicateIdError),
    bad("meta: few", lambda w: named(w, [100, 101], year=[1]), InvalidArgumentError),
    bad("meta: type", lambda w: named(w, [100], year=["x"]), InvalidTypeError, "year"),
    bad("meta: id", lambda w: named(w, [100], id=[1]), InvalidArgumentError, "'id'"),
    bad("meta: text", lambda w: named(w, "abc", year=[1] * 3), InvalidTypeError, "str"),
    bad("meta: None", lambda w: w.index.update_metadata([100], None), FunnelError),
    *[
        bad(
            f"compact: {name} {value!r}",
            lambda w, n=name, v=value: w.index.compact(**{n: v}),
            kind,
            name,
        )
        for name, value, kind in (
            ("keep_versions", 0, InvalidArgumentError),
            ("keep_versions", -1, InvalidArgumentError),
            ("keep_versions", 1.0, InvalidTypeError),
            ("keep_versions", True, InvalidTypeError),
            ("keep_versions", None, InvalidTypeError),
            ("threads", 0, InvalidArgumentError),
            ("threads", "4", InvalidTypeError),
            ("progress", 5, InvalidTypeError),
        )
    ],
]


def closed(w: World, mode: str = "r") -> FunnelIndex:
    handle = FunnelIndex.open(w.index.path, mode)
    handle.close()
    handle.close()
    return handle


CLOSED = [
    bad(f"{name}, {mode}", lambda w, c=c, m=mode: c(w, closed(w, m)), ClosedError,
        "closed")
    for mode in ("r", "rw")
    for name, c in (
        ("search", lambda w, i: i.search(w.x[0])),
        ("get", lambda _, i: i.get([100])),
        ("in", lambda _, i: 100 in i),
        ("to_arrow", lambda _, i: i.to_arrow()),
        ("to_batches", lambda _, i: i.to_batches()),
        ("stream", lambda _, i: i.__arrow_c_stream__()),
        ("verify", lambda _, i: i.verify()),
        ("warmup", lambda _, i: i.warmup()),
        ("with", lambda _, i: i.__enter__()),
        ("similar", lambda _, i: i.similar(100)),
        ("vectors", lambda _, i: i.vectors()),
        ("versions", lambda _, i: i.versions()),
        ("refresh", lambda _, i: i.refresh()),
        ("explain", lambda w, i: i.explain(w.x[0])),
        ("add", lambda w, i: i.add(w.x[:1], ids=[900])),
        ("upsert", lambda w, i: i.upsert(w.x[:1], ids=[100])),
        ("delete", lambda _, i: i.delete([100])),
        ("delete by a filter", lambda _, i: i.delete(filter={"year": 1})),
        ("delete by a mask", lambda _, i: i.delete(filter=np.ones(ROWS, bool))),
        ("update_metadata", lambda _, i: i.update_metadata([100], {"year": [1]})),
        ("compact", lambda _, i: i.compact()),
        ("transaction", lambda _, i: i.transaction().__enter__()),
        ("tune", lambda _, i: i.tune()),
        ("backup", lambda w, i: i.backup(w.target)),
        ("slice", lambda w, i: i.slice(8, w.target)),
    )
]  # fmt: skip

TABLE = {
    "values": VALUES, "shapes": SHAPES, "kinds": KINDS, "ids": IDS,
    "metadata": METADATA, "dims": DIMS, "options": OPTIONS, "path": PATHS,
    "data path": DATA_PATHS, "open": OPENS, "queries": QUERIES, "search": SEARCHES,
    "read": READS, "closed": CLOSED, "handle": HANDLES, "create": CREATES,
    "filter": FILTERS, "place": PLACES, "change": CHANGES,
}  # fmt: skip
ROWS_OF_TABLE = [
    pytest.param(row, id=f"{group}: {row.name}")
    for group, rows in TABLE.items()
    for row in rows
]


@pytest.mark.parametrize("row", ROWS_OF_TABLE)
def test_bad_input__raises_one_typed_error_and_changes_nothing(
    row: Bad, world: World, tmp_path: Path
) -> None:
    held = (tmp_path, world.index.path, world.texts.path)
    before, state = everything_in(*held), world.state()
    with refused(row.error, *row.words):
        row.call(world)
    assert everything_in(*held) == before
    assert world.state() == state


def test_bad_input__leaves_no_temporary_index_without_a_path(
    world: World, tmp_path: Path
) -> None:
    before = everything_in(tmp_path)
    with pytest.raises(NonFiniteError):
        build(world.having(NAN, 3))
    assert everything_in(tmp_path) == before


def test_bad_input__is_found_before_anything_is_written(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        pytest.fail("a directory was made for arguments that cannot be used")

    monkeypatch.setattr(Path, "mkdir", refuse)
    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    for call in (
        lambda: world.build(metric="cosin"),
        lambda: world.build(ids=[1.5] * ROWS),
        lambda: world.build(dims=(8, 4)),
        lambda: world.build(progress=5),
        lambda: world.build("no.npy"),
        lambda: build(world.x[0]),
    ):
        with pytest.raises(FunnelError):
            call()


def test_errors__have_ours_and_one_of_pythons_parents() -> None:
    import funnel.errors as errors

    kinds = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, FunnelError)
    ]
    assert len(kinds) > 10
    for kind in kinds:
        if kind is not FunnelError:
            assert issubclass(kind, (*PARENTS, ImportError, MemoryError)), kind


# ---- rights


@pytest.fixture
def shared_folder() -> Iterator[Path]:
    with reachable_folder() as folder:
        yield folder


def test_build__in_an_unwritable_directory_says_so(
    world: World, shared_folder: Path
) -> None:
    shared_folder.chmod(0o555)
    with unprivileged(), pytest.raises(StorageError, match="not writable"):
        world.build(path=shared_folder / "x")
    assert not list(shared_folder.iterdir())


def test_build__over_an_index_in_an_unwritable_directory_keeps_it(
    world: World, shared_folder: Path
) -> None:
    world.build(path=shared_folder / "x").close()
    before = everything_in(shared_folder)
    shared_folder.chmod(0o555)
    with unprivileged(), pytest.raises(StorageError, match="not writable"):
        world.build(path=shared_folder / "x", overwrite=True)
    assert everything_in(shared_folder) == before


@pytest.mark.parametrize("locked", ["", "FUNNEL", "manifest", "data"])
def test_open__of_what_may_not_be_read_is_a_storage_error(
    world: World, shared_folder: Path, locked: str
) -> None:
    world.build(path=shared_folder / "x").close()
    (shared_folder / "x" / locked).chmod(0)
    with unprivileged(), refused(StorageError, "x"):
        FunnelIndex.open(shared_folder / "x")


def test_open__of_an_unreadable_foreign_directory_is_typed(shared_folder: Path) -> None:
    (shared_folder / "x").mkdir()
    (shared_folder / "x").chmod(0o311)  # may be entered, not listed
    with unprivileged(), refused(OSError, "x"):
        FunnelIndex.open(shared_folder / "x")


# ---- handles


def test_close__is_idempotent_and_keeps_len_and_repr(world: World) -> None:
    handle = closed(world)
    assert len(handle) == ROWS
    assert "closed" in repr(handle)


def test_close__of_one_handle_leaves_others_alone(world: World) -> None:
    one, other = FunnelIndex.open(world.index.path), FunnelIndex.open(world.index.path)
    one.close()
    assert answers_of(other, world.x) == answers_of(world.index, world.x)


def test_close__while_searching_gives_answers_or_a_closed_error(world: World) -> None:
    expected = world.search(world.x, k=5).ids.tolist()
    for _ in range(10):
        handle, failures = FunnelIndex.open(world.index.path), []

        def work(handle: FunnelIndex = handle, failures: list[Any] = failures) -> None:
            try:
                for _ in range(50):
                    if handle.search(world.x, k=5, threads=2).ids.tolist() != expected:
                        failures.append("wrong answers")  # noqa: PERF401
            except ClosedError:
                pass
            except BaseException as error:
                failures.append(repr(error))

        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads:
            thread.start()
        handle.close()
        for thread in threads:
            thread.join()
        assert not failures


def test_search__survives_deletion_of_the_directory(
    world: World, tmp_path: Path
) -> None:
    import shutil

    handle = world.build(path=tmp_path / "gone")
    before = answers_of(handle, world.x)
    shutil.rmtree(tmp_path / "gone")
    assert answers_of(handle, world.x) == before
    with pytest.raises((IndexNotFoundError, CorruptIndexError)):
        handle.verify("size")


def test_pickle__of_a_handle_reopens_or_says_why_not(world: World) -> None:
    try:
        again = pickle.loads(pickle.dumps(FunnelIndex.open(world.index.path)))
    except InvalidTypeError as error:
        assert "open" in str(error)  # noqa: PT017 both outcomes are allowed
    else:
        assert answers_of(again, world.x) == answers_of(world.index, world.x)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_copy__of_a_handle_is_independent_or_says_why_not(
    world: World, copied: Callable[[FunnelIndex], FunnelIndex]
) -> None:
    first = FunnelIndex.open(world.index.path)
    try:
        second = copied(first)
    except InvalidTypeError as error:
        assert "open" in str(error)  # noqa: PT017 both outcomes are allowed
    else:
        first.close()
        assert answers_of(second, world.x) == answers_of(world.index, world.x)


# ---- accepted input


class TorchLike:
    """A tensor that records gradients: gives its numbers only once detached."""

    def __init__(self, x: np.ndarray, attached: bool = True) -> None:
        self._x, self._attached = x, attached

    def detach(self) -> TorchLike:
        return TorchLike(self._x, attached=False)

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        if self._attached:
            raise RuntimeError("Can't call numpy() on Tensor that requires grad")
        return self._x if dtype is None else self._x.astype(dtype)


class ArrayLike:
    def __init__(self, x: np.ndarray) -> None:
        self._x = x

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return self._x if dtype is None else self._x.astype(dtype)


class Capsule:
    """Speaks DLPack alone."""

    def __init__(self, x: np.ndarray) -> None:
        self._x = x

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._x.__dlpack_device__()

    def __dlpack__(self, **options: Any) -> Any:
        return self._x.__dlpack__(**options)


def unaligned(x: np.ndarray) -> np.ndarray:
    raw = b"\1" + x.tobytes()
    out = np.frombuffer(raw, np.uint8)[1:].view(np.float32).reshape(x.shape)
    assert not out.flags.aligned
    return out


def strided(x: np.ndarray) -> np.ndarray:
    wide = np.full((len(x), 3 * x.shape[1]), NAN, np.float32)
    wide[:, ::3] = x
    return wide[:, ::3]


def every_other_row(x: np.ndarray) -> np.ndarray:
    tall = np.full((2 * len(x), x.shape[1]), NAN, np.float32)
    tall[::2] = x
    return tall[::2]


def backwards(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x[::-1, ::-1])[::-1, ::-1]


def read_only(x: np.ndarray) -> np.ndarray:
    out = x.copy()
    out.flags.writeable = False
    return out


def mapped(x: np.ndarray, mode: str = "r") -> np.ndarray:
    with tempfile.NamedTemporaryFile(suffix=".npy") as file:
        np.save(file, x)
        file.flush()
        return np.load(file.name, mmap_mode=mode)


def matrix(x: np.ndarray) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PendingDeprecationWarning)
        return np.matrix(x)


def bfloat16(x: np.ndarray) -> np.ndarray:
    types = pytest.importorskip("ml_dtypes", reason="bfloat16 needs ml_dtypes")
    return x.astype(types.bfloat16)  # exact: 100 needs 7 bits


def interface(x: np.ndarray) -> Promises:
    return Promises(shape=x.shape, data=x.tobytes())


def backwards_interface(x: np.ndarray) -> Promises:
    """Rows from the last to the first, of a buffer that just holds them."""
    width = x.strides[0]
    return Promises(
        shape=x.shape, strides=(-width, 4), data=x[::-1].tobytes(),
        offset=width * (len(x) - 1),
    )  # fmt: skip


GOOD: dict[str, Callable[[np.ndarray], Any]] = {
    "contiguous": lambda x: x,
    "big-endian": lambda x: x.astype(">f4"),
    "big-endian float64": lambda x: x.astype(">f8"),
    "Fortran": np.asfortranarray,
    "strided dims": strided,
    "strided rows": every_other_row,
    "negative strides": backwards,
    "transposed twice": lambda x: np.ascontiguousarray(x.T).T,
    "unaligned": unaligned,
    "read-only": read_only,
    "mapped": mapped,
    "mapped copy-on-write": lambda x: mapped(x, "c"),
    "float16": lambda x: x.astype(np.float16),
    "float64": lambda x: x.astype(np.float64),
    "longdouble": lambda x: x.astype(np.longdouble),
    "int8": lambda x: x.astype(np.int8),
    "int32": lambda x: x.astype(np.int32),
    "int64": lambda x: x.astype(np.int64),
    "bfloat16": bfloat16,
    "list of lists": lambda x: x.tolist(),
    "list of ints": lambda x: x.astype(int).tolist(),
    "list of rows": list,
    "tuple of tuples": lambda x: tuple(map(tuple, x.tolist())),
    "deque of rows": collections.deque,
    "np.matrix": matrix,
    "masked array without a mask": np.ma.array,
    "__array__": ArrayLike,
    "__array_interface__": interface,
    "__array_interface__ backwards": backwards_interface,
    "__dlpack__": Capsule,
    "needs detach()": TorchLike,
    "memoryview": memoryview,
}


@pytest.fixture(scope="module")
def expected(built: World) -> list[Any]:
    with build(built.x) as index:
        return answers_of(index, built.x)


@pytest.mark.parametrize("name", GOOD)
def test_build__takes_the_same_numbers_in_any_form(
    name: str, built: World, expected: list[Any]
) -> None:
    data = GOOD[name](built.x.copy())
    with build(data) as index:
        assert answers_of(index, built.x) == expected
        stored = index.get(range(ROWS), vectors=True).column("vector")
    np.testing.assert_array_equal(np.array(stored.to_pylist(), "f4"), built.x)


@pytest.mark.parametrize("mode", ["funnel", "exact", "prefix"])
@pytest.mark.parametrize("name", GOOD)
def test_search__takes_the_same_numbers_in_any_form(
    name: str, mode: str, built: World
) -> None:
    plain = built.search(built.x[:5], k=4, mode=mode)
    odd = built.search(GOOD[name](built.x[:5].copy()), k=4, mode=mode)
    np.testing.assert_array_equal(odd.ids, plain.ids)
    np.testing.assert_array_equal(odd.scores, plain.scores)


ONE_DIMENSIONAL = {
    "big-endian": lambda q: q.astype(">f4"),
    "strided": lambda q: np.repeat(q, 2)[::2],
    "backwards": lambda q: q[::-1].copy()[::-1],
    "unaligned": lambda q: unaligned(q[None])[0],
    "read-only": read_only,
    "float64": lambda q: q.astype(np.float64),
    "int8": lambda q: q.astype(np.int8),
    "list": lambda q: q.tolist(),
    "tuple": lambda q: tuple(q.tolist()),
    "__array__": ArrayLike,
    "__dlpack__": Capsule,
    "needs detach()": TorchLike,
}


@pytest.mark.parametrize("name", ONE_DIMENSIONAL)
def test_search__of_one_query_gives_one_dimensional_hits(
    name: str, built: World
) -> None:
    batch = built.search(built.x[3:4], k=4)
    ids, scores = built.search(ONE_DIMENSIONAL[name](built.x[3].copy()), k=4)
    assert ids.shape == scores.shape == (4,)
    np.testing.assert_array_equal(ids, batch.ids[0])
    np.testing.assert_array_equal(scores, batch.scores[0])


def test_build__takes_a_broadcast_array() -> None:
    row = np.arange(1, DIM + 1, dtype=np.float32)
    with build(np.broadcast_to(row, (5, DIM))) as index:
        hits = index.search(np.broadcast_to(row, (3, DIM)), k=5)
    assert sorted(hits.ids[0].tolist()) == list(range(5))
    np.testing.assert_allclose(hits.scores, 1, atol=1e-6)


@pytest.mark.parametrize("kind", ["f4", "f8", "f2", ">f4"])
def test_input__is_never_changed(kind: str, built: World) -> None:
    data = built.x.astype(kind)
    before = data.copy()
    with build(data, transform="layer_norm") as index:
        index.search(data[:3])
        index.search(data[0], mode="exact")
    np.testing.assert_array_equal(data, before)


@pytest.mark.parametrize("mode", ["funnel", "rerank", "prefix_ann", "prefix", "exact"])
def test_search__with_k_beyond_n_gives_every_row_once(mode: str, built: World) -> None:
    for k in (ROWS - 1, ROWS, ROWS + 1, 2**31 - 1):
        hits = built.search(built.x[:3], k=k, mode=mode)
        assert hits.ids.shape == hits.scores.shape == (3, min(k, ROWS))
        for ids in hits.ids:
            assert len(set(ids.tolist()) & set(range(100, 160))) == min(k, ROWS)


@pytest.mark.parametrize("mode", ["funnel", "rerank", "prefix_ann", "prefix", "exact"])
@pytest.mark.parametrize("none", [[], np.zeros((0, DIM)), np.zeros(0)])
def test_search__without_queries_gives_empty_hits(
    mode: str, none: Any, built: World
) -> None:
    for index in (built.index, built.texts):
        hits = index.search(none, k=5, mode=mode)
        assert hits.ids.shape == hits.scores.shape == (0, 5)
        assert hits.ids.dtype == index.search(built.x[:1], k=5).ids.dtype
        assert hits.scores.dtype == np.float32


def test_search__raises_ef_to_the_shortlist(built: World) -> None:
    low = built.search(built.x[:3], k=5, shortlist=20, ef_search=1)
    plain = built.search(built.x[:3], k=5, shortlist=20)
    np.testing.assert_array_equal(low.ids, plain.ids)


def test_search__accepts_numpy_ints_for_k(built: World) -> None:
    assert built.search(k=np.int64(3), shortlist=np.uint8(9)).ids.shape == (3,)


@pytest.mark.parametrize("mode", ["funnel", "exact"])
def test_search__takes_a_million_queries(mode: str, built: World) -> None:
    times = (1_000_000 if COMPILED else 600) // ROWS + 1
    hits = built.search(np.tile(built.x, (times, 1)), k=1, mode=mode, shortlist=4)
    assert hits.ids.shape == hits.scores.shape == (times * ROWS, 1)
    expected = np.arange(100, 100 + ROWS)
    assert (hits.ids.reshape(times, ROWS) == expected).all()


def test_filter__ids_may_be_repeated_or_unknown(built: World) -> None:
    plain = built.search(k=5, filter=[103, 107])
    for some in (
        [107, 103, 103, 107, 107], [103, -1, 107, 99, 2**63 - 1, 0],
        np.repeat([103, 107], 200_000), pa.array([107, 107, 103]),
    ):  # fmt: skip
        hits = built.search(k=5, filter=some)
        assert hits.ids.tolist() == plain.ids.tolist()
        assert hits.scores.tolist() == plain.scores.tolist()
    assert sorted(plain.ids.tolist()) == [103, 107]
    hits = built.texts.search(built.x[0], k=5, filter=["doc 3", "no", "doc 3"])
    assert hits.ids.tolist() == ["doc 3"]
    for none in ([], [99, 99], ["doc 3"]):  # ids of another kind are unknown too
        assert built.search(k=5, filter=none).ids.shape == (0,)


# ---- what changes under our hands


@pytest.mark.parametrize("verb", ["build", "add", "upsert", "add a batch"])
def test_change__stores_the_numbers_that_it_checked(
    verb: str, built: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another thread spoils array and ids just after they were looked at."""
    look, spoilt = funnel.build.ingest.bad_rows, []

    def then_spoil(*given: Any, **how: Any) -> Any:
        found = look(*given, **how)
        data[:], ids[:] = np.nan, 0
        spoilt.append(1)
        return found

    data, ids = built.x.copy(), np.arange(1000, 1000 + ROWS)
    with build(built.x[:1], ids=[0]) as index:
        monkeypatch.setattr(funnel.build.ingest, "bad_rows", then_spoil)
        made = index
        if verb == "build":
            made = build(data, ids=ids)
        elif verb == "add a batch":
            index.add(iter([data]), ids=ids)
        else:
            getattr(index, verb)(data, ids=ids)
        assert spoilt
        rows = made.get(range(1000, 1000 + ROWS), vectors=True).column("vector")
        np.testing.assert_array_equal(np.array(rows.to_pylist(), "f4"), built.x)
        assert len(made) == ROWS + (made is index)
        made.verify("full")
        made.close()


def test_add__of_an_array_that_changes_all_the_while_stores_no_nan(
    built: World,
) -> None:
    data, ended, outcomes = built.x.copy(), threading.Event(), set()

    def spoil() -> None:
        while not ended.is_set():
            data[7, 3] = np.nan
            data[7, 3] = built.x[7, 3]

    other = threading.Thread(target=spoil)
    with build(built.x[:1]) as index:
        other.start()
        try:
            for _ in range(8):
                try:
                    outcomes.add(index.add(data))
                except NonFiniteError as error:
                    assert "row 7" in str(error)  # noqa: PT017 both are allowed
        finally:
            ended.set()
            other.join()
        assert outcomes <= {ROWS}
        assert np.isfinite(index.vectors()).all()
        index.verify("full")


# ---- changes that say nothing


def test_change__of_nothing_makes_no_version(built: World) -> None:
    before = built.state()
    for index in (built.index, built.texts):
        for verb in (index.add, index.upsert):
            for none in (built.x[:0], [], (), iter([]), iter([built.x[:0]])):
                assert verb(none, ids=[]) == 0
                assert verb(none) == 0
        for none in ([], (), np.empty(0, np.int64), pa.array([], pa.string())):
            assert index.delete(none) == 0
        assert index.delete(["unknown", "too"]) == 0
        assert index.delete([-1, 2**63 - 1, 99, 99]) == 0
        assert index.delete(filter=np.zeros(ROWS, bool)) == 0
        assert index.update_metadata([], {}) == 0
        index.compact()
    assert built.state() == before


def test_delete__counts_an_id_once(built: World) -> None:
    with build(built.x) as index:
        assert index.delete([3, 3, 4, 1000, 3]) == 2
        assert index.delete(np.array([3, 4, 5, 5])) == 1
        assert index.add(built.x[3:5], ids=[3, 4]) == 2
        assert len(index) == ROWS - 1


# ---- other processes


HOLDS_THE_LOCK = """
import sys
from funnel import FunnelIndex
index = FunnelIndex.open(sys.argv[1], "rw")
with index.transaction():
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.mark.parametrize("killed", [False, True])
def test_change__while_another_process_writes_is_refused(
    built: World, tmp_path: Path, *, killed: bool
) -> None:
    index = build(built.x, path=tmp_path / "x")
    writer = FunnelIndex.open(index.path, "rw", lock_timeout=0.02)
    other = subprocess.Popen(
        [sys.executable, "-c", HOLDS_THE_LOCK, str(index.path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with other, writer, index:
        assert other.stdin is not None
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        before, answers = everything_in(index.path), answers_of(writer, built.x)
        for change in (
            lambda: writer.add(built.x[:1]),
            lambda: writer.upsert(built.x[:1], ids=[3]),
            lambda: writer.delete([3]),
            lambda: writer.delete(filter={"id": 3}),
            lambda: writer.update_metadata([3], {"n": [1]}),
            lambda: writer.compact(),
            lambda: writer.transaction().__enter__(),
        ):
            with refused(LockedError, "somebody else", "0.02 s", str(index.path)):
                change()
        assert everything_in(index.path) == before
        assert answers_of(writer, built.x) == answers
        with FunnelIndex.open(index.path) as reader:
            assert answers_of(reader, built.x) == answers
        if killed:
            other.kill()
        else:
            other.stdin.write("end\n")
            other.stdin.flush()
        other.wait()
        assert writer.delete([3]) == 1


OPENS_WITHOUT_MEMORY = """
import gc, json, os, resource, sys
import numpy as np
from funnel import FunnelError, FunnelIndex

query = np.ones(512, np.float32)
with FunnelIndex.open(sys.argv[1]) as index:
    expected = index.search(query).ids.tolist()
    del index
gc.collect()
found = []
files = len(os.listdir("/proc/self/fd"))
for mode in ("r", "rw"):
    for spare_kb in (0, 64, 1_000, 4_000):
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        limit = used + (spare_kb << 10)
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
        try:
            FunnelIndex.open(sys.argv[1], mode)
            found.append("opened")
        except (FunnelError, MemoryError) as error:
            found.append(type(error).__name__)
            assert isinstance(error, (OSError, MemoryError)), error
            del error
        finally:
            no_limit = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
            resource.setrlimit(resource.RLIMIT_AS, no_limit)
gc.collect()
found.append(len(os.listdir("/proc/self/fd")) == files)
found.append(FunnelIndex.open(sys.argv[1]).search(query).ids.tolist() == expected)
print(json.dumps(found))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits differ elsewhere")
@pytest.mark.skipif(not COMPILED, reason="so large an index takes minutes to build")
def test_open__without_memory_is_an_error_and_leaves_nothing_open(
    tmp_path: Path,
) -> None:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((8_000, 512)).astype(np.float32)  # 16 MB
    build(rows, path=tmp_path / "x").close()
    before = everything_in(tmp_path)
    *outcomes, closed_all, works_again = run(OPENS_WITHOUT_MEMORY, tmp_path / "x")
    assert closed_all is True
    assert works_again is True
    assert set(outcomes) <= {"StorageError", "MemoryError"}, outcomes
    assert everything_in(tmp_path) == before


SEARCHES_ONCE = """
import json, sys, warnings
import numpy as np
from funnel import FunnelIndex
from funnel.kernels.jit import CACHED
with FunnelIndex.open(sys.argv[1]) as index:
    hits = index.search(np.arange(1, 17, dtype="f4"), k=3, mode="exact")
    print(json.dumps([CACHED, hits.ids.tolist()]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="nobody writes to /proc")
@pytest.mark.parametrize("folder", ["a file", "/dev/null", "/proc", "/proc/1/x"])
def test_search__needs_no_folder_for_kernels(
    folder: str, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FUNNEL_CACHE_DIR", folder)  # "a file" is in world.folder
    before = everything_in(world.folder)
    cached, ids = run(SEARCHES_ONCE, world.index.path)
    assert cached is False
    query = np.arange(1, 17, dtype=np.float32)
    assert ids == world.index.search(query, k=3, mode="exact").ids.tolist()
    assert everything_in(world.folder) == before


def test_kernels__of_a_user_without_a_home_are_kept_nowhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("FUNNEL_CACHE_DIR", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    assert cache_folder().is_relative_to(os.devnull)


# ---- numbers at the edge of float32


@pytest.mark.parametrize("projection", ["prefix", "pca"])
@pytest.mark.parametrize("exponent", [-36, -30, -20, 20, 30, 36])
def test_build__cosine_answers_do_not_depend_on_scale(
    exponent: int, projection: str, built: World
) -> None:
    scaled = built.x * np.float32(10.0**exponent)
    exact = built.search(built.x, k=3, mode="exact").scores
    with build(scaled, projection=projection) as index:
        for queries in (built.x, scaled):
            for mode in ("funnel", "rerank", "prefix_ann", "prefix", "exact"):
                hits = index.search(queries, k=3, mode=mode)
                np.testing.assert_array_equal(hits.ids[:, 0], np.arange(ROWS))
                if mode in ("rerank", "exact"):
                    np.testing.assert_allclose(hits.scores, exact, atol=1e-4)


@pytest.mark.parametrize("mode", ["funnel", "rerank", "prefix_ann", "prefix", "exact"])
def test_build__of_denormal_rows_is_refused_or_scores_at_most_one(
    mode: str, built: World
) -> None:
    tiny = np.full((ROWS, DIM), 1e-42, np.float32) * built.x
    try:
        index = build(tiny)
    except ZeroVectorError as error:
        assert "row" in str(error)  # noqa: PT017 both outcomes are allowed
    else:
        scores = index.search(built.x, k=5, mode=mode).scores
        assert np.isfinite(scores).all()
        assert np.abs(scores).max() < 1.02


@pytest.mark.parametrize("metric", ["cosine", "ip"])
def test_build__keeps_rows_whose_prefix_is_zero(metric: str, built: World) -> None:
    rows = built.x.copy()
    rows[5:8, :8] = 0  # all that the codes hold
    with build(rows, metric=metric) as index:
        for mode in ("funnel", "exact", "rerank"):
            hits = index.search(rows[5:8], k=3, mode=mode)
            exact = index.search(rows[5:8], k=3, mode="exact")
            np.testing.assert_allclose(hits.scores, exact.scores, rtol=1e-4)


def test_build__under_ip_takes_zero_rows_and_queries(built: World) -> None:
    rows = built.x.copy()
    rows[5] = 0
    with build(rows, metric="ip") as index:
        for mode in ("funnel", "rerank", "prefix_ann", "prefix", "exact"):
            scores = index.search(np.zeros((2, DIM)), k=3, mode=mode).scores
            assert (scores == 0).all()
            assert np.isfinite(index.search(rows, k=ROWS, mode=mode).scores).all()


# ---- ids that are kept as they are


class Colour(enum.IntEnum):
    RED = 3


STRANGE_TEXTS = [
    "😀", "e\u0301", "é", "שלום", "👨‍👩‍👧", "a\0b", "a", "a\0", " ", "../../etc/passwd",
    "a/b", "CON", "\n", "1", "x" * 1024,
]  # fmt: skip


def test_ids__keep_every_byte_of_strange_texts(built: World) -> None:
    count = len(STRANGE_TEXTS)
    with build(built.x[:count], ids=STRANGE_TEXTS) as index:
        assert index.to_arrow().column("id").to_pylist() == STRANGE_TEXTS
        assert index.get(STRANGE_TEXTS).column("id").to_pylist() == STRANGE_TEXTS
        assert index.search(built.x[:count], k=1).ids[:, 0].tolist() == STRANGE_TEXTS
        assert 1 not in index


def test_ids__keep_every_int64(built: World) -> None:
    ids = [-(2**63), -1, 0, 2**63 - 1, Colour.RED, np.int8(-5), np.uint64(77)]
    with build(built.x[: len(ids)], ids=ids) as index:
        assert index.to_arrow().column("id").to_pylist() == [int(i) for i in ids]
        assert index.search(built.x[: len(ids)], k=1).ids[:, 0].tolist() == ids
        assert "0" not in index
        assert 0.0 not in index
        assert True not in index
        assert None not in index
        assert [0] not in index
        assert 2**80 not in index


@pytest.mark.parametrize(
    "ids",
    [
        np.array(text_ids()),
        np.array(text_ids(), object),
        tuple(text_ids()),
        (text for text in text_ids()),
        dict.fromkeys(text_ids()).keys(),
        pa.array(text_ids()),
        pa.chunked_array([text_ids()[:7], text_ids()[7:]]),
        pa.array(text_ids()).cast(pa.large_string()),
        pa.array(text_ids()).cast(pa.string_view()),
        pa.array(text_ids()).dictionary_encode(),
    ],
    ids=lambda ids: f"{type(ids).__name__} {getattr(ids, 'type', '')}",
)
def test_ids__take_texts_in_any_form(ids: Any, built: World) -> None:
    with build(built.x, ids=ids) as index:
        assert index.to_arrow().column("id").to_pylist() == text_ids()


def test_get__in_order_with_repeats_and_of_nothing(built: World) -> None:
    for index, some in ((built.index, [103, 101, 103]), (built.texts, ["doc 2"] * 2)):
        assert index.get(some).column("id").to_pylist() == some
        assert index.get(np.array(some)).column("id").to_pylist() == some
        assert index.get([]).num_rows == 0
        for vectors in (False, True):
            whole = index.to_arrow(vectors=vectors).schema
            assert index.get([], vectors=vectors).schema == whole
            assert index.get(some, vectors=vectors).schema == whole


def test_path__may_be_beside_what_is_named_as_a_marker(
    built: World, tmp_path: Path
) -> None:
    (tmp_path / "FUNNEL").write_text("for oil")
    with build(built.x, path=tmp_path / "x") as index:
        assert len(index) == ROWS


def test_path__relative_is_resolved_once(
    built: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").mkdir()
    monkeypatch.chdir(tmp_path / "a")
    with build(built.x, path="index/") as index:
        monkeypatch.chdir(tmp_path)
        assert index.path == tmp_path / "a" / "index"
        index.verify("full")
    with FunnelIndex.open("a/index/") as again:
        assert len(again) == ROWS


def test_path__tilde_is_home(
    built: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    build(built.x, path="~/index").close()
    with FunnelIndex.open("~/index") as index:
        assert index.path == tmp_path / "index"


def test_path__may_be_as_long_as_the_file_system_allows(
    built: World, tmp_path: Path
) -> None:
    with build(built.x, path=tmp_path / ("x" * 255)) as index:
        assert len(index) == ROWS


def test_open__follows_a_link(built: World, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(built.index.path)
    with FunnelIndex.open(tmp_path / "link") as index:
        assert answers_of(index, built.x) == answers_of(built.index, built.x)


def test_metadata__dates_and_missing_values_come_back(built: World) -> None:
    columns = {
        "when": [datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)] * ROWS,
        "maybe": [None, 1.5] * (ROWS // 2),
        "nested": [{"a": [1, 2]}] * ROWS,
        "": ["no name"] * ROWS,
        "a.b$": ["dots"] * ROWS,
    }
    with build(built.x, metadata=columns) as index:
        got = index.get([0, 59]).to_pydict()
    assert {name: got[name] for name in columns} == {
        name: [values[0], values[59]] for name, values in columns.items()
    }
