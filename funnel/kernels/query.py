"""Prepare one query: transform, norms, projection, code. Arrays and numbers only.

A batch runs these query by query, so that its answers equal single ones bit for bit.
Called by `kernels/funnel.py`.

d = full dims, p = projected dims, w = bytes of a code (p, padded to 64).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from funnel.kernels.jit import kernel
from funnel.kernels.rerank import dot
from funnel.kernels.types import Array

LAYER_NORM_EPSILON = 1e-5  # torch.nn.functional.layer_norm's default


@kernel
def layer_norm(vector: Array) -> None:
    """Subtract the mean and divide by the standard deviation, in place.

    What nomic-embed-text-v1.5 needs before it is truncated. (d,) float32.
    """
    mean = np.float64(0)
    for j in range(len(vector)):
        mean += np.float64(vector[j])
    mean /= len(vector)
    variance = np.float64(0)
    for j in range(len(vector)):
        variance += (np.float64(vector[j]) - mean) ** 2
    scale = 1.0 / np.sqrt(variance / len(vector) + LAYER_NORM_EPSILON)
    for j in range(len(vector)):
        vector[j] = np.float32((np.float64(vector[j]) - mean) * scale)


@kernel
def layer_norm_rows(rows: Array) -> None:
    """Apply `layer_norm` to each of the (n, d) rows, in place."""
    for i in range(len(rows)):
        layer_norm(rows[i])


@kernel
def norm(vector: Array) -> Any:
    """Return the Euclidean norm, float64, summed in float64."""
    total = np.float64(0)
    for j in range(len(vector)):
        total += np.float64(vector[j]) * np.float64(vector[j])
    return np.sqrt(total)


@kernel
def project(queries: Array, axes: Array, out: Array) -> None:
    """Write the coordinates of some queries on the axes, ``queries @ axes.T``.

    An axis serves all queries while it is in the nearest cache. Each coordinate is one
    `dot`, so that it does not depend on the other queries.

    Parameters
    ----------
    queries : (q, d) float32
    axes : (p, d) float32
    out : (q, p) float32, out
    """
    for t in range(len(axes)):
        axis = axes[t]
        for i in range(len(queries)):
            out[i, t] = dot(queries[i], axis)


@kernel
def quantise(vector: Array, code: Array) -> np.float32:
    """Write `vector` as int8, its largest magnitude at 127; return the scale used."""
    largest = np.float32(0)
    for j in range(len(vector)):
        largest = max(largest, abs(vector[j]))
    scale = np.float32(127) / largest if largest > 0 else np.float32(0)
    code[:] = 0
    for j in range(len(vector)):
        code[j] = np.int8(np.rint(vector[j] * scale))
    return scale
