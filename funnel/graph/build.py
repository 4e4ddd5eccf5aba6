"""Let hnswlib or faiss build an HNSW graph, and hand its links on as arrays.

The one door to hnswlib and faiss; `knit.py` and `grow.py` build without them. No object
of either outlives `build_graph`: raw hnswlib answers from wrong widths, crashes on
damaged files and cannot be mapped. What is done with the arrays is `adjacency.py`'s
matter.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from funnel.errors import BuilderMissingError, InvalidArgumentError, check_choice
from funnel.kernels.codes import is_head
from funnel.kernels.types import Floats

BUILDERS = ("auto", "hnswlib", "faiss", "numba")
Int32s = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Links:
    """A graph as arrays.

    Parameters
    ----------
    neighbours : (n, 2 M) int32
        Links of each node on the lowest level, −1 after the last.
    levels : (n,) int32
        Highest level of each node, 0 for most.
    """

    neighbours: Int32s
    levels: Int32s


def is_over_codes(graph_dim: int | None, code_dim: int | None) -> bool:
    """Tell whether a graph of so many dims is over what a walk scores of the codes.

    That is whole codes, or their first dims in lines of 64; the rest is their tail.
    """
    if graph_dim is None:
        return True
    return code_dim is not None and is_head(graph_dim, code_dim)


def choose_builder(builder: str, over_codes: bool = True) -> str:
    """Return the builder to use.

    "auto" is our own, which makes a graph over the codes; where other dims are asked
    for the graph, hnswlib if it is installed, else faiss.
    """
    check_choice("builder", builder, BUILDERS)
    installed = importlib.util.find_spec("hnswlib") is not None
    if builder == "numba" and not over_codes:
        raise InvalidArgumentError(
            "builder='numba' makes the graph over the codes, or their first dims: give "
            "code_dim alone, or a graph_dim below it that is a multiple of 64"
        )
    if builder == "auto":
        library = "hnswlib" if installed else "faiss"
        return "numba" if over_codes else library
    if builder == "hnswlib" and not installed:
        raise BuilderMissingError(
            "builder='hnswlib' needs hnswlib: pip install 'funnel-index[hnswlib]', "
            "or use builder='numba'"
        )
    return builder


def build_graph(
    batches: Iterable[Floats],
    n: int,
    width: int,
    *,
    builder: str,
    M: int,
    ef_construction: int,
    seed: int,
    threads: int,
) -> Links:
    """Build a graph by inner product over `n` vectors that arrive in batches.

    Parameters
    ----------
    batches : iterable of (b, width) float32
        In node order.
    builder : {"hnswlib", "faiss"}
    M, ef_construction : int
        As in the HNSW paper.
    seed, threads : int
        The graph is the same every time only with one thread.

    Returns
    -------
    Links
    """
    make = _with_hnswlib if builder == "hnswlib" else _with_faiss
    return make(batches, n, width, M, ef_construction, seed, threads)


def _with_hnswlib(
    batches: Iterable[Floats],
    n: int,
    width: int,
    M: int,
    ef_construction: int,
    seed: int,
    threads: int,
) -> Links:
    import hnswlib

    index = hnswlib.Index("ip", width)
    index.init_index(n, M=M, ef_construction=ef_construction, random_seed=seed)
    first = 0
    for batch in batches:
        labels = np.arange(first, first + len(batch))
        index.add_items(batch, labels, num_threads=threads)
        first += len(batch)
    return _read_hnswlib(index.__getstate__()[0])


def _read_hnswlib(state: dict[str, Any]) -> Links:
    """Read the links out of hnswlib's own memory layout.

    A record is a count, `max_M0` links, the vector and the label. With more than one
    thread nodes are numbered in another order than they came: labels undo that.
    """
    size, degree = state["size_data_per_element"], state["max_M0"]
    n, at = state["cur_element_count"], state["label_offset"]
    records = state["data_level0"].reshape(-1, size)[:n]
    label_bytes = np.ascontiguousarray(records[:, at : at + 8])
    labels = label_bytes.view(np.uint64)[:, 0].astype(np.int64)
    neighbours = np.full((n, degree), -1, np.int32)
    column = np.arange(degree)[None, :]
    for start in range(0, n, 65_536):
        part = records[start : start + 65_536, : 4 + 4 * degree]
        lists = np.ascontiguousarray(part).view(np.int32)
        used = column < (lists[:, :1] & 0xFFFF)
        links = labels[np.where(used, lists[:, 1:], 0)]
        neighbours[labels[start : start + 65_536]] = np.where(used, links, -1)
    levels = np.empty(n, np.int32)
    levels[labels] = state["element_levels"][:n]
    return Links(neighbours, levels)


def _with_faiss(
    batches: Iterable[Floats],
    n: int,
    width: int,
    M: int,
    ef_construction: int,
    seed: int,
    threads: int,
) -> Links:
    faiss: Any = importlib.import_module("faiss")
    index: Any = faiss.IndexHNSWFlat(width, M, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = ef_construction
    index.hnsw.rng = faiss.RandomGenerator(seed)
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(threads)
    try:
        for batch in batches:
            index.add(batch)
    finally:
        faiss.omp_set_num_threads(before)
    hnsw: Any = index.hnsw
    levels = faiss.vector_to_array(hnsw.levels).astype(np.int32) - 1
    offsets = faiss.vector_to_array(hnsw.offsets).astype(np.int64)
    flat = faiss.vector_to_array(hnsw.neighbors)
    degree = hnsw.nb_neighbors(0)
    return Links(flat[offsets[:n, None] + np.arange(degree)], levels)
