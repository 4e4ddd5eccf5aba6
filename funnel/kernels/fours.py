"""Inner products of one code with four others at once. Arrays and numbers only.

Four sums across the lanes of a vector take little longer than one when they are made
together. Written as LLVM's own vectors: where the CPU has AVX-512 VNNI, one instruction
a line, with AVX2 a few, elsewhere code by code (`kernels/lanes.py`). Each function has
a Python twin. Called by `kernels/walk.py`, `kernels/grow.py` and `kernels/query.py`.

n = nodes, w = bytes of a code, a multiple of 64.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from funnel.kernels.jit import COMPILED, HAS_AVX2, HAS_VNNI, LINE_BYTES
from funnel.kernels.lanes import SHIFT

FOUR = 4

if COMPILED:
    from funnel.kernels.lanes import add_products, sum_of_products

    I8, I32, I64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)
    LINE = ir.VectorType(I8, LINE_BYTES)
    LANES, SUMS = ir.VectorType(I32, LINE_BYTES // 4), ir.VectorType(I32, FOUR)
    SHIFTS = ir.Constant(LINE, [SHIFT] * LINE_BYTES)

    def _shuffle(builder: Any, a: Any, b: Any, places: list[int]) -> Any:
        kind = ir.VectorType(I32, len(places))
        return builder.shuffle_vector(a, b, ir.Constant(kind, places))

    def _interleave(builder: Any, a: Any, b: Any, run: int) -> Any:
        """Add each half of `a` to its other half, and of `b`, within 128 bits.

        Lanes of the result come from `a` and `b` in turn, `run` lanes each.
        """
        low, count = [], LANES.count
        for lane in range(0, count, 4):
            for at in range(2 // run):
                first = [lane + at * run + i for i in range(run)]
                low += first + [count + i for i in first]
        high = [place + 2 for place in low]
        parts = [_shuffle(builder, a, b, places) for places in (low, high)]
        return builder.add(*parts)

    def _fold(builder: Any, a: Any) -> Any:
        """Add the upper half of a vector's lanes to the lower."""
        half = a.type.count // 2
        parts = [_shuffle(builder, a, a, list(range(i, i + half))) for i in (0, half)]
        return builder.add(*parts)

    def _four_sums(builder: Any, a: list[Any]) -> Any:
        """Return the sums over the lanes of four vectors."""
        pairs = [_interleave(builder, a[i], a[i + 1], 1) for i in (0, 2)]
        return _fold(
            builder, _fold(builder, _interleave(builder, pairs[0], pairs[1], 2))
        )

    def _load(builder: Any, address: Any, at: Any) -> Any:
        place = builder.bitcast(builder.gep(address, [at]), LINE.as_pointer())
        line = builder.load(place)
        line.align = 1
        return line

    def _add_sum(builder: Any, total: Any, query: Any, code: Any) -> Any:
        """Add the sum of a line's products to a number."""
        return builder.add(total, sum_of_products(builder, query, code))

    def _products(builder: Any, query: Any, codes: list[Any], width: Any) -> Any:
        """Return the inner products of a query with four shifted codes."""
        in_lanes = HAS_VNNI or HAS_AVX2
        add = add_products if in_lanes else _add_sum
        nothing = ir.Constant(LANES, [0] * LANES.count) if in_lanes else I32(0)
        totals = [cgutils.alloca_once_value(builder, nothing) for _ in codes]
        step = I64(LINE_BYTES)
        with cgutils.for_range_slice(builder, I64(0), width, step, I64) as (at, _):
            line = _load(builder, query, at)
            for code, total in zip(codes, totals, strict=True):
                shifted = builder.xor(_load(builder, code, at), SHIFTS)
                more = add(builder, builder.load(total), line, shifted)
                builder.store(more, total)
        found = [builder.load(total) for total in totals]
        if in_lanes:
            return _four_sums(builder, found)
        sums = ir.Constant(SUMS, ir.Undefined)
        for i, one in enumerate(found):
            sums = builder.insert_element(sums, one, I32(i))
        return sums

    def _data(context: Any, builder: Any, kind: Any, array: Any) -> Any:
        return context.make_array(kind)(context, builder, array).data

    def _score(
        context: Any, builder: Any, sig: Any, args: Any, nodes: list[Any], out: Any
    ) -> Any:
        """Write the scores of four nodes; the first arguments are query and codes."""
        query = _data(context, builder, sig.args[0], args[0])
        codes = context.make_array(sig.args[1])(context, builder, args[1])
        width = cgutils.unpack_tuple(builder, codes.shape)[1]
        each = [builder.gep(codes.data, [builder.mul(one, width)]) for one in nodes]
        sums = _products(builder, query, each, width)
        nothing = ir.Constant(SUMS, ir.Undefined)
        offset = builder.insert_element(nothing, args[-2], I32(0))
        sums = builder.add(sums, _shuffle(builder, offset, offset, [0] * FOUR))
        stored = builder.store(sums, builder.bitcast(out, SUMS.as_pointer()))
        stored.align = I32.width // 8
        return context.get_dummy_value()

    @intrinsic
    def score_listed(_context, query, codes, nodes, at, offset, scores):  # type: ignore[no-untyped-def]
        """Score the codes of ``nodes[at : at + 4]``, write ``scores[at : at + 4]``."""

        def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
            listed = _data(context, builder, sig.args[2], args[2])
            places = [builder.add(args[3], I64(i)) for i in range(FOUR)]
            found = [builder.load(builder.gep(listed, [at])) for at in places]
            wide = [builder.sext(one, I64) for one in found]
            scores = _data(context, builder, sig.args[5], args[5])
            out = builder.gep(scores, [args[3]])
            return _score(context, builder, sig, args, wide, out)

        at, offset = types.int64, types.int32
        return types.void(query, codes, nodes, at, offset, scores), codegen

    @intrinsic
    def score_next(_context, query, codes, node, offset, scores):  # type: ignore[no-untyped-def]
        """Score the codes of four nodes from `node` on, write ``scores[:4]``."""

        def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
            nodes = [builder.add(args[2], I64(i)) for i in range(FOUR)]
            out = _data(context, builder, sig.args[4], args[4])
            return _score(context, builder, sig, args, nodes, out)

        return types.void(query, codes, types.int64, types.int32, scores), codegen

else:

    def score_listed(
        query: Any, codes: Any, nodes: Any, at: int, offset: int, scores: Any
    ) -> None:
        """Score the codes of ``nodes[at : at + 4]``, write ``scores[at : at + 4]``."""
        score_next(query, codes[nodes[at : at + FOUR]], 0, offset, scores[at:])

    def score_next(query: Any, codes: Any, node: int, offset: int, scores: Any) -> None:
        """Score the codes of four nodes from `node` on, write ``scores[:4]``."""
        some = codes[node : node + FOUR].astype(np.int32) + SHIFT
        scores[:FOUR] = some @ query.astype(np.int32) + offset
