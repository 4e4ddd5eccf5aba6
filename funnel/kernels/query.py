"""Prepare one query: transform, norms, projection, code. Arrays and numbers only.

A batch runs these query by query, so that its answers equal single ones bit for bit.
Called by `kernels/funnel.py`.

d = full dims, p = projected dims, w = bytes of a code (p, padded to 64).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from funnel.kernels.jit import kernel
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
def project(query: Array, axes: Array, out: Array) -> None:
    """Write the coordinates of `query` on the axes, ``query @ axes``.

    Dims are the outer loop, eight at a time, so that nothing is summed across lanes.

    Parameters
    ----------
    query : (d,) float32
    axes : (d, p) float32
    out : (p,) float32, out
    """
    out[:] = 0
    whole = len(query) - len(query) % 8
    width = len(out)
    for j in range(0, whole, 8):
        q0, q1, q2, q3 = query[j], query[j + 1], query[j + 2], query[j + 3]
        q4, q5, q6, q7 = query[j + 4], query[j + 5], query[j + 6], query[j + 7]
        a0, a1, a2, a3 = axes[j], axes[j + 1], axes[j + 2], axes[j + 3]
        a4, a5, a6, a7 = axes[j + 4], axes[j + 5], axes[j + 6], axes[j + 7]
        for t in range(width):
            out[t] += ((q0 * a0[t] + q1 * a1[t]) + (q2 * a2[t] + q3 * a3[t])) + (
                (q4 * a4[t] + q5 * a5[t]) + (q6 * a6[t] + q7 * a7[t])
            )
    for j in range(whole, len(query)):
        row = axes[j]
        for t in range(width):
            out[t] += query[j] * row[t]


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
