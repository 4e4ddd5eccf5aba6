"""Seeded corpora and small built indexes that the tests share.

Corpora are float32, deterministic, and of a few hundred to a few thousand rows. Below
1,000 nodes an index scans its codes instead of walking a graph: there are both kinds.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field
from typing import Any

import hypothesis
import naive
import numpy as np
import pyarrow as pa
import pytest

import funnel.build.segment
from funnel import FunnelIndex

funnel.build.segment.SCAN_ROWS = 1_000  # small corpora have graphs too

hypothesis.settings.register_profile(
    "seeded", derandomize=True, deadline=None, database=None, max_examples=40
)
hypothesis.settings.load_profile("seeded")

FLOAT32 = 2e-6  # how far float32 sums of a few hundred unit products may be off
HNSWLIB = importlib.util.find_spec("hnswlib") is not None
needs_hnswlib = pytest.mark.skipif(not HNSWLIB, reason="hnswlib is not installed")


def turned_rows(n, full_dim, seed, *, clusters=60, rank=40, lengths=0.3):
    """Return (n, full_dim) rows in clusters, energy falling over turned directions.

    Each own dim holds about as much energy as the next, and the principal axes are
    not the own dims: so an axis taken for a dim is noticed.
    """
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.standard_normal((full_dim, rank)))[0]
    spread = (1 + np.arange(rank)) ** -0.5
    centres = rng.standard_normal((clusters, rank))
    near = centres[rng.integers(0, clusters, n)] + 0.6 * rng.standard_normal((n, rank))
    rows = (near * spread) @ basis.T + 0.02 * rng.standard_normal((n, full_dim))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return (rows * rng.lognormal(0, lengths, (n, 1))).astype(np.float32)


def flat_rows(n, full_dim, seed):
    """Return (n, full_dim) unit rows, energy nearly flat over dims: the hard case."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((n, full_dim)) * (1 + np.arange(full_dim)) ** -0.2
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def near_rows(corpus, count, seed, noise=0.05):
    """Return `count` queries: rows of the corpus, moved a little."""
    rng = np.random.default_rng(seed)
    rows = corpus[rng.choice(len(corpus), count, replace=len(corpus) < count)]
    return rows + (noise * rng.standard_normal(rows.shape)).astype(np.float32)


@dataclass(frozen=True)
class Case:
    """An index to build: its corpus's shape, and the options that differ."""

    name: str
    projection: str
    metric: str
    n: int = 1500
    full_dim: int = 150
    dims: tuple[int, ...] = (16, 48, 97, 150)
    options: dict[str, Any] = field(default_factory=dict)

    def as_param(self):
        marks = [needs_hnswlib] if self.options.get("builder") == "hnswlib" else []
        return pytest.param(self, id=self.name, marks=marks)


HALF, WITH_HNSWLIB = {"dtype": "float16"}, {"builder": "hnswlib"}
WITH_NUMBA = {"builder": "numba", "graph_dim": 72}
BLOCKS = {"n": 1100, "full_dim": 256, "dims": (64, 128, 256)}
SMALL = {"n": 300, "full_dim": 97, "dims": (31, 97)}
GRAPHS = (
    Case("prefix-cosine", "prefix", "cosine"),
    Case("prefix-ip", "prefix", "ip"),
    Case("pca-cosine", "pca", "cosine"),
    Case("pca-ip", "pca", "ip"),
    Case("prefix-cosine-float16", "prefix", "cosine", options=HALF),
    Case("pca-ip-float16", "pca", "ip", options=HALF),
    Case("prefix-ip-hnswlib", "prefix", "ip", options=WITH_HNSWLIB),
    Case("pca-cosine-hnswlib", "pca", "cosine", options=WITH_HNSWLIB),
    Case("prefix-ip-numba", "prefix", "ip", options=WITH_NUMBA),
    Case("pca-cosine-numba", "pca", "cosine", options=WITH_NUMBA),
    Case("prefix-cosine-two-blocks", "prefix", "cosine", **BLOCKS),
)
SCANS = (
    Case("prefix-cosine-no-graph", "prefix", "cosine", **SMALL),
    Case("pca-ip-no-graph", "pca", "ip", **SMALL),
)


@dataclass(frozen=True)
class Built:
    """An index, and what the oracle needs to judge it."""

    index: FunnelIndex
    rows: np.ndarray  # (n, d) float64, as stored
    queries: np.ndarray  # (q, d) float32
    axes: np.ndarray | None  # (d, code_dim) float64, or None for the own prefix
    tolerance: float

    def final(self, i):
        """Return query i's scores at full width."""
        return naive.final_scores(self.rows, self.queries[i], self.index.metric)

    def short(self, i):
        """Return query i's scores at the codes' width."""
        query, metric = self.queries[i], self.index.metric
        if self.axes is None:
            return naive.stage_scores(self.rows, query, self.index.code_dim, metric)
        return naive.axis_scores(self.rows, query, self.axes, metric)


def stored_axes(index):
    """Return an index's principal axes, read from its file by Arrow, or None."""
    files = list((index.path / "data").glob("*.axes.arrow"))
    if not files:
        return None
    with pa.memory_map(str(files[0])) as source:
        column = pa.ipc.open_file(source).read_all()["axis"].combine_chunks()
        axes = column.flatten().to_numpy().reshape(-1, index.full_dim)
        return axes[: index.code_dim].T.astype(np.float64)


def judged(index, corpus, queries):
    """Return `Built` for an index whose rows are `corpus`."""
    dtype = np.dtype(index.info["dtype"])
    rows = corpus.astype(dtype).astype(np.float64)
    scale = 1.0
    if index.metric == "ip":
        scale = naive.lengths_of(rows).max() * naive.lengths_of(queries).max()
    return Built(index, rows, queries, stored_axes(index), FLOAT32 * scale)


@pytest.fixture(scope="session")
def make_index(tmp_path_factory):
    """Build indexes into folders of their own, with one thread; close them at the end.

    ``make_index(data, **options)`` takes what `FunnelIndex.build` takes.
    """
    opened = []

    def make(data, **options):
        options = {"builder": "faiss", "threads": 1, **options}
        path = tmp_path_factory.mktemp("index") / "made.funnel"
        opened.append(FunnelIndex.build(data, path=path, **options))
        return opened[-1]

    yield make
    for index in opened:
        index.close()


def build_case(make, case):
    drawn = turned_rows(case.n + 8, case.full_dim, seed=1)
    corpus, fresh = drawn[:-8], drawn[-8:]
    queries = np.concatenate([near_rows(corpus, 16, seed=3), fresh])
    widths = {"graph_dim": min(40, case.full_dim), "code_dim": 72}
    index = make(
        corpus,
        dims=case.dims,
        projection=case.projection,
        metric=case.metric,
        **(widths | case.options),
    )
    return judged(index, corpus, queries)


@pytest.fixture(scope="session", params=[case.as_param() for case in GRAPHS + SCANS])
def built(request, make_index):
    """Give each kind of index: projection, metric, dtype, builder, blocks, no graph."""
    return build_case(make_index, request.param)


@pytest.fixture(scope="session", params=[case.as_param() for case in GRAPHS])
def graph(request, make_index):
    """Give each kind of index that walks a graph."""
    return build_case(make_index, request.param)


@pytest.fixture(scope="session", params=[GRAPHS[0].as_param(), GRAPHS[3].as_param()])
def either(request, make_index):
    """Give one index over the own prefix, cosine, and one over axes, inner product."""
    return build_case(make_index, request.param)


@pytest.fixture(scope="session", params=[300, 1200], ids=["no-graph", "graph"])
def clustered(request, make_index):
    """Give an index, of all defaults, over 30 tight clusters."""
    rng = np.random.default_rng(5)
    centres = flat_rows(30, 128, seed=6)
    rows = centres[rng.integers(0, 30, request.param)]
    corpus = rows + (0.03 * rng.standard_normal(rows.shape)).astype(np.float32)
    return judged(make_index(corpus), corpus, near_rows(corpus, 20, 7, noise=0.01))


@pytest.fixture(scope="session", params=[200, 1100], ids=["no-graph", "graph"])
def duplicated(request, make_index):
    """Give an index with 300 copies of row 0, over the own prefix."""
    corpus = flat_rows(request.param, 96, seed=8)
    corpus = np.concatenate([corpus, np.repeat(corpus[:1], 299, axis=0)])
    corpus = corpus[np.random.default_rng(9).permutation(len(corpus))]
    index = make_index(corpus, projection="prefix", graph_dim=48, code_dim=48)
    return judged(index, corpus, near_rows(corpus, 12, 10))


@pytest.fixture(scope="session")
def one_row(make_index):
    """Give an index of one row."""
    corpus = flat_rows(1, 24, seed=11)
    return judged(make_index(corpus, projection="prefix"), corpus, corpus)


@pytest.fixture(scope="session", params=["prefix", "pca"])
def few_rows(request, make_index):
    """Give an index of seven rows of 33 dims."""
    corpus = flat_rows(7, 33, seed=12)
    index = make_index(corpus, projection=request.param)
    return judged(index, corpus, near_rows(corpus, 9, 13))
