"""Make any embedding a Matryoshka one: a linear map trained with the Matryoshka loss.

NumPy alone: the loss, its gradient by hand, Adam. It does not embed text, search, or
choose dims; it knows nothing of indexes. Called by users and by the benchmarks.

n = pairs, b = pairs of a batch, d = width of the input.
"""

from __future__ import annotations

import itertools
import math
import operator
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self
from zipfile import BadZipFile

import numpy as np
from numpy.typing import ArrayLike, NDArray

from funnel.adapt.loss import Float32s, Floats, matryoshka_gradient, unit
from funnel.errors import (
    DimensionError,
    IndexNotFoundError,
    InvalidArgumentError,
    InvalidTypeError,
    NonFiniteError,
    NotAnIndexError,
    StorageError,
)
from funnel.progress import Progress

WARM_UP_STEPS = 30
UNREADABLE = (OSError, ValueError, TypeError, LookupError, EOFError, BadZipFile)
SETTINGS = ("temperature", "epochs", "batch_size", "learning_rate", "seed")


class MatryoshkaAdapter:
    """A linear map after which every prefix of a vector is an embedding of its own.

    Trained on pairs that belong together (a question and its answer, a title and its
    text). A held-out share of the pairs should judge the result: prefixes of the
    training pairs look better than those of new ones.

    Parameters
    ----------
    dims
        The nested widths, increasing; the last one is the width of the output.
    temperature
        What cosines are divided by before the softmax of the loss.
    epochs
        Passes over the pairs.
    batch_size
        Pairs a step; each is told from the others of its batch. All pairs where there
        are fewer.
    learning_rate
        The highest rate of Adam, reached after a short warm-up, then falling to zero
        along a cosine.
    seed
        Of the first map and of the order of the pairs.
    progress
        Show a bar while fitting, where tqdm is installed.

    Raises
    ------
    InvalidArgumentError
        If `dims` do not increase or a setting is out of range.
    InvalidTypeError
        If a count is not an integer.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> documents = rng.normal(size=(200, 24))
    >>> queries = documents + 0.1 * rng.normal(size=documents.shape)
    >>> adapter = MatryoshkaAdapter((4, 8, 16), epochs=3).fit(queries, documents)
    >>> adapter.transform(documents).shape
    (200, 16)
    """

    def __init__(
        self,
        dims: Sequence[int],
        *,
        temperature: float = 0.07,
        epochs: int = 12,
        batch_size: int = 512,
        learning_rate: float = 2e-3,
        seed: int = 0,
        progress: bool = False,
    ) -> None:
        self.dims = _increasing(dims)
        self.temperature = _positive("temperature", temperature)
        self.epochs = _count("epochs", epochs, least=1)
        self.batch_size = _count("batch_size", batch_size, least=2)
        self.learning_rate = _positive("learning_rate", learning_rate)
        self.seed = _count("seed", seed, least=0)
        self.progress = progress
        self.matrix: Float32s | None = None  # (d, dims[-1]) once fitted

    def __repr__(self) -> str:
        width = "not fitted" if self.matrix is None else f"from {len(self.matrix)} dims"
        return f"MatryoshkaAdapter({self.dims}, {width})"

    def fit(self, queries: ArrayLike, documents: ArrayLike) -> Self:
        """Train the map on pairs; row i of both sides belongs together.

        Costs about ``epochs * n * (4 * d * dims[-1] + 3 * batch_size * sum(dims))``
        multiplications.

        Parameters
        ----------
        queries, documents
            Floating-point rows of any length, shape (n, d). Zero rows teach nothing.

        Returns
        -------
        MatryoshkaAdapter
            This one.

        Raises
        ------
        DimensionError
            If the two sides differ in rows or width, or hold fewer than two pairs.
        NonFiniteError
            If a value is NaN or infinite.
        InvalidTypeError
            If an array is not of floating-point numbers.
        """
        q, d = _rows("queries", queries, axes=(2,)), _rows("documents", documents, (2,))
        if q.shape != d.shape:
            raise DimensionError(
                f"queries {q.shape} and documents {d.shape} are not pairs: "
                "give as many rows of the same width, partners at the same row"
            )
        if len(q) < 2:
            raise DimensionError(f"training needs at least 2 pairs, got {len(q)}")
        self.matrix = self._train(unit(q), unit(d))
        return self

    def _train(self, queries: Float32s, documents: Float32s) -> Float32s:
        rng = np.random.default_rng(self.seed)
        matrix = _orthonormal(rng, queries.shape[1], self.dims[-1])
        batch = min(self.batch_size, len(queries))
        steps = self.epochs * (len(queries) // batch)
        adam = _Adam(matrix, self.learning_rate, steps)
        batches = _batches(rng, len(queries), batch, steps)
        with Progress(self.progress).step("train the adapter", steps) as advance:
            for rows in batches:
                q, d = queries[rows], documents[rows]
                by_q, by_d = matryoshka_gradient(
                    q @ matrix, d @ matrix, self.dims, self.temperature
                )
                adam.step(q.T @ by_q + d.T @ by_d)
                advance(1)
        return matrix

    def transform(self, x: ArrayLike) -> Float32s:
        """Map rows to Matryoshka vectors; they are not normalised.

        Parameters
        ----------
        x
            Floating-point rows (n, d), or one row (d,).

        Returns
        -------
        ndarray
            float32, shape (n, dims[-1]), or (dims[-1],) for one row.

        Raises
        ------
        InvalidArgumentError
            If the adapter has not been fitted.
        DimensionError
            If the rows are not as wide as those of the training.
        NonFiniteError, InvalidTypeError
            As `fit`.
        """
        matrix = self._fitted()
        rows = _rows("x", x, axes=(1, 2))
        if rows.shape[-1] != len(matrix):
            raise DimensionError(
                f"x is {rows.shape[-1]} dims wide, the adapter was fitted on "
                f"{len(matrix)}"
            )
        return rows @ matrix

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the map and its settings to one .npz file, whole or not at all.

        Parameters
        ----------
        path
            Taken as it is, replaced if it exists.

        Raises
        ------
        InvalidArgumentError
            If the adapter has not been fitted.
        StorageError
            If the file cannot be written.
        """
        matrix, target = self._fitted(), Path(path)
        part = target.with_name(f".{target.name}.{os.getpid()}")
        parts: dict[str, Any] = {name: getattr(self, name) for name in SETTINGS}
        parts |= {"matrix": matrix, "dims": np.asarray(self.dims)}
        try:
            with part.open("wb") as file:
                np.savez(file, **parts)
            part.replace(target)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise StorageError(f"cannot write {target}: {error}") from error

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read an adapter that `save` wrote; nothing is unpickled.

        Parameters
        ----------
        path
            The file.

        Returns
        -------
        MatryoshkaAdapter
            Fitted, with the settings that it was fitted with.

        Raises
        ------
        IndexNotFoundError
            If there is no such file.
        NotAnIndexError
            If the file is not an adapter's.
        """
        if not Path(path).exists():
            raise IndexNotFoundError(f"no adapter at {path}")
        try:
            with (
                Path(path).open("rb") as file,
                np.load(file, allow_pickle=False) as parts,
            ):
                settings = {name: parts[name].item() for name in SETTINGS}
                adapter = cls(parts["dims"].tolist(), **settings)
                matrix = _rows("matrix", parts["matrix"], axes=(2,))
            if matrix.shape[1] != adapter.dims[-1]:
                raise ValueError(f"a map to {matrix.shape[1]} dims, not {adapter.dims}")
        except UNREADABLE as error:
            raise NotAnIndexError(f"{path} is no adapter's file: {error}") from error
        adapter.matrix = matrix
        return adapter

    def _fitted(self) -> Float32s:
        if self.matrix is None:
            raise InvalidArgumentError(
                "the adapter is not fitted: call fit(queries, documents), "
                "or MatryoshkaAdapter.load(path)"
            )
        return self.matrix


class _Adam:
    """Adam on one array, in place; warm-up, then a cosine down to zero."""

    def __init__(self, array: Float32s, learning_rate: float, steps: int) -> None:
        self.array, self.learning_rate, self.steps = array, learning_rate, steps
        self.warm_up = min(WARM_UP_STEPS, max(1, steps // 10))
        self.mean, self.square = np.zeros_like(array), np.zeros_like(array)
        self.taken = 0

    def step(self, gradient: Floats) -> None:
        self.taken += 1
        self.mean += 0.1 * (gradient - self.mean)
        self.square += 0.001 * (gradient * gradient - self.square)
        cosine = 0.5 * (1 + math.cos(math.pi * (self.taken - 1) / self.steps))
        rate = self.learning_rate * min(1.0, self.taken / self.warm_up) * cosine
        size = np.sqrt(self.square / (1 - 0.999**self.taken)) + 1e-8
        self.array -= rate / (1 - 0.9**self.taken) * self.mean / size


def _orthonormal(rng: np.random.Generator, inputs: int, outputs: int) -> Float32s:
    """Draw a map with orthonormal rows or columns, shape (inputs, outputs)."""
    tall = rng.normal(size=(max(inputs, outputs), min(inputs, outputs)))
    basis = np.linalg.qr(tall)[0].astype(np.float32)
    return np.ascontiguousarray(basis if inputs >= outputs else basis.T)


def _batches(
    rng: np.random.Generator, n: int, batch: int, steps: int
) -> Iterator[NDArray[np.int64]]:
    """Yield `steps` full batches of row numbers, shuffled anew in each pass."""
    per_pass = n // batch
    for _ in range(steps // per_pass):
        order = rng.permutation(n)
        for start in range(0, per_pass * batch, batch):
            yield order[start : start + batch]


def _rows(name: str, x: ArrayLike, axes: tuple[int, ...]) -> Float32s:
    """Return `x` as finite float32 with one of the numbers of `axes`, or raise."""
    try:
        array = np.asarray(x)
    except ValueError as error:
        raise InvalidTypeError(f"{name} is not an array: {error}") from error
    if array.dtype.kind != "f":
        raise InvalidTypeError(
            f"{name} holds {array.dtype}; embeddings are floating-point numbers"
        )
    if array.ndim not in axes:
        needed = " or ".join(map(str, axes))
        raise DimensionError(f"{name} has shape {array.shape}; needed: {needed} axes")
    with np.errstate(over="ignore"):
        rows = np.asarray(array, dtype=np.float32, order="C")
    bad = np.flatnonzero(~np.isfinite(np.atleast_2d(rows)).all(axis=1))
    if len(bad):
        raise NonFiniteError(
            f"{name} holds NaN or infinity in {len(bad)} rows, first {bad[:5].tolist()}"
        )
    return rows


def _increasing(dims: Sequence[int]) -> tuple[int, ...]:
    try:
        counts = tuple(_count("dims", dim, least=1) for dim in dims)
    except TypeError as error:
        raise InvalidTypeError(f"dims must be integers, not {dims!r}") from error
    if not counts or any(a >= b for a, b in itertools.pairwise(counts)):
        raise InvalidArgumentError(f"dims must increase, e.g. (64, 256); got {dims!r}")
    return counts


def _count(name: str, value: int, least: int) -> int:
    if isinstance(value, bool | np.bool_):
        raise InvalidTypeError(f"{name} must be an integer, not {value!r}")
    try:
        count = operator.index(value)
    except TypeError as error:
        raise InvalidTypeError(f"{name} must be an integer, not {value!r}") from error
    if count < least:
        raise InvalidArgumentError(f"{name} must be at least {least}, got {count}")
    return count


def _positive(name: str, value: float) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise InvalidTypeError(f"{name} must be a number, not {value!r}") from error
    if not (math.isfinite(number) and number > 0) or isinstance(value, bool):
        raise InvalidArgumentError(f"{name} must be above 0, got {value!r}")
    return number
