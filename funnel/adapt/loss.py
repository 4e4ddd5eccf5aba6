"""The Matryoshka loss over paired rows, and its gradient: plain NumPy, no state.

Called by `adapter.py`, which trains with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Float32s = NDArray[np.float32]


def matryoshka_loss(
    queries: Floats, documents: Floats, dims: Sequence[int], temperature: float
) -> float:
    """Return the Matryoshka loss of paired rows: InfoNCE at every prefix, summed.

    At each of `dims` both sides are truncated and normalised; a row's partner must
    score higher than every other row of the batch, asked from both sides. All prefixes
    weigh the same, as in Kusupati et al. 2022 (arXiv 2205.13147), section 3.

    Parameters
    ----------
    queries, documents
        Row i of both sides belongs together, shape (b, dims[-1]).
    dims
        The nested widths.
    temperature
        What cosines are divided by.

    Returns
    -------
    float
        In nats, 0 at best.
    """
    total = 0.0
    for dim in dims:
        scores = unit(queries[:, :dim]) @ unit(documents[:, :dim]).T / temperature
        for one_way in (scores, scores.T):
            missed = np.logaddexp.reduce(one_way, axis=1) - one_way.diagonal()
            total += 0.5 * float(missed.mean())
    return total


def matryoshka_gradient(
    queries: Floats, documents: Floats, dims: Sequence[int], temperature: float
) -> tuple[Floats, Floats]:
    """Return the gradient of `matryoshka_loss` by each of its sides.

    Parameters
    ----------
    queries, documents, dims, temperature
        As for the loss.

    Returns
    -------
    tuple of ndarray
        By the queries and by the documents, each (b, dims[-1]).
    """
    by_queries, by_documents = np.zeros_like(queries), np.zeros_like(documents)
    for dim in dims:
        q, d = unit(queries[:, :dim]), unit(documents[:, :dim])
        scores = q @ d.T / temperature
        by_scores = _softmax(scores) + _softmax(scores.T).T
        by_scores[np.diag_indices_from(by_scores)] -= 2
        by_scores /= 2 * temperature * len(scores)
        by_queries[:, :dim] += _through_unit(by_scores @ d, queries[:, :dim])
        by_documents[:, :dim] += _through_unit(by_scores.T @ q, documents[:, :dim])
    return by_queries, by_documents


def _lengths(x: Floats) -> Floats:
    """Return the length of each row, (b, 1), kept off zero."""
    lengths: Floats = np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-6)
    return lengths


def unit(x: Floats) -> Any:
    """Return the rows at length one; zero rows stay zero."""
    return x / _lengths(x)


def _through_unit(by_unit: Floats, x: Floats) -> Floats:
    """Turn a gradient by the normalised rows into one by the rows `x`."""
    lengths = _lengths(x)
    direction = x / lengths
    radial: Floats = np.einsum("ij,ij->i", by_unit, direction)[:, None]
    return (by_unit - radial * direction) / lengths


def _softmax(scores: Floats) -> Floats:
    grown: Floats = np.exp(scores - scores.max(axis=1, keepdims=True))
    grown /= grown.sum(axis=1, keepdims=True)
    return grown
