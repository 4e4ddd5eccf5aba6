"""Inner products of a few queries with sixteen codes at once. Arrays and numbers only.

A tile holds sixteen codes so that four coordinates of each lie in one cache line: each
lane of a vector adds up one code's score, nothing is summed across lanes, and a line
that was loaded once serves up to four queries (`kernels/lanes.py`). Each function has a
Python twin. Called by `kernels/cells.py`, `kernels/choose.py`, `kernels/cluster.py` and
`kernels/query.py`.

n = nodes, t = tiles, w = bytes of a code, a multiple of 64, b = queries.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from funnel.kernels.codes import rows_as_codes
from funnel.kernels.jit import COMPILED, LINE_BYTES, kernel
from funnel.kernels.lanes import SHIFT
from funnel.kernels.types import Array, Floats

LANES = 16  # codes of a tile
QUAD = LINE_BYTES // LANES  # bytes of each that share a line


@kernel
def lay_tiles(codes: Array, members: Array, tiles: Array) -> None:
    """Write the codes of `members` to tiles, in their order.

    Parameters
    ----------
    codes : (n, w) int8
    members : (16 t,) int32
        −1 for none: zeros take its place.
    tiles : (t, 16 w) uint8, out
        `SHIFT` is added to each.
    """
    tiles[:] = 0
    for place in range(len(members)):
        if members[place] < 0:
            continue
        code, tile = codes[members[place]], tiles[place // LANES]
        lane = place % LANES * QUAD
        for j in range(0, len(code), QUAD):
            at = j * LANES + lane
            for i in range(QUAD):
                tile[at + i] = np.uint8((np.int32(code[j + i]) + SHIFT) & 255)


def tiles_of(
    codes: npt.NDArray[np.int8], members: npt.NDArray[np.int32]
) -> npt.NDArray[np.uint8]:
    """Return the codes of `members`, (16 t,) int32, as `lay_tiles` writes them."""
    tiles = np.empty((len(members) // LANES, LANES * codes.shape[1]), np.uint8)
    lay_tiles(codes, members, tiles)
    return tiles


def rows_as_tiles(rows: Floats) -> tuple[npt.NDArray[np.uint8], Floats]:
    """Return (n, d) rows as tiles of int8, each with a unit of its own, and the units.

    Returns
    -------
    tiles : (⌈n / 16⌉, 16 w) uint8
    units : (n,) float32
    """
    codes, units = rows_as_codes(rows)
    members = np.full(-(-len(rows) // LANES) * LANES, -1, np.int32)
    members[: len(rows)] = np.arange(len(rows))
    tiles = tiles_of(codes, members)
    tiles.flags.writeable = False
    return tiles, units


if COMPILED:
    from funnel.kernels.lanes import add_products, call_llvm

    I8, I32, I64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)
    SUMS, BYTES = ir.VectorType(I32, LANES), ir.VectorType(I8, LINE_BYTES)

    def _splat(builder: Any, number: Any) -> Any:
        nothing = ir.Constant(SUMS, ir.Undefined)
        first = builder.insert_element(nothing, number, I32(0))
        return builder.shuffle_vector(first, nothing, ir.Constant(SUMS, [0] * LANES))

    def _data(context: Any, builder: Any, sig: Any, args: Any, i: int) -> Any:
        return context.make_array(sig.args[i])(context, builder, args[i]).data

    def _tile_codegen(count: int) -> Any:
        """Return code that scores a tile for `count` queries."""

        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            queries, who, bounds, tiles, scores = (
                _data(context, builder, sig, args, i) for i in (0, 1, 3, 4, 6)
            )
            width = args[7]
            listed = [builder.gep(who, [builder.add(args[2], I64(i))])
                      for i in range(count)]  # fmt: skip
            ids = [builder.sext(builder.load(place), I64) for place in listed]
            quads = [
                builder.bitcast(
                    builder.gep(queries, [builder.mul(one, width)]), I32.as_pointer()
                )
                for one in ids
            ]
            size = builder.mul(width, I64(LANES))
            tile = builder.gep(tiles, [builder.mul(args[5], size)])
            lines = builder.bitcast(tile, BYTES.as_pointer())
            nothing = ir.Constant(SUMS, [0] * LANES)
            totals = [cgutils.alloca_once_value(builder, nothing) for _ in ids]
            stop = builder.udiv(width, I64(QUAD))
            with cgutils.for_range_slice(builder, I64(0), stop, I64(1), I64) as (at, _):
                line = builder.load(builder.gep(lines, [at]))
                line.align = 1
                for quad, total in zip(quads, totals, strict=True):
                    four = _splat(builder, builder.load(builder.gep(quad, [at])))
                    same, so_far = builder.bitcast(four, BYTES), builder.load(total)
                    more = add_products(builder, so_far, same, line)
                    builder.store(more, total)
            mask = I64(0)
            for i, (one, total) in enumerate(zip(ids, totals, strict=True)):
                found = builder.load(total)
                out = builder.gep(scores, [builder.add(args[8], builder.mul(
                    args[9], I64(i)))])  # fmt: skip
                stored = builder.store(found, builder.bitcast(out, SUMS.as_pointer()))
                stored.align = I32.width // 8
                bound = _splat(builder, builder.load(builder.gep(bounds, [one])))
                above = builder.icmp_signed(">=", found, bound)
                bits = builder.zext(builder.bitcast(above, ir.IntType(LANES)), I64)
                mask = builder.or_(mask, builder.shl(bits, I64(LANES * i)))
            return mask

        return codegen

    def _signature(queries: Any, who: Any, bounds: Any, tiles: Any, scores: Any) -> Any:
        i64 = types.int64
        return i64(queries, who, i64, bounds, tiles, i64, scores, i64, i64, i64)

    @intrinsic
    def score_one(  # type: ignore[no-untyped-def]
        _context, queries, who, first, bounds, tiles, tile, scores, width, at, stride
    ):
        """Do as `score_four` for ``who[first]`` alone."""
        return _signature(queries, who, bounds, tiles, scores), _tile_codegen(1)

    @intrinsic
    def score_two(  # type: ignore[no-untyped-def]
        _context, queries, who, first, bounds, tiles, tile, scores, width, at, stride
    ):
        """Do as `score_four` for ``who[first : first + 2]``."""
        return _signature(queries, who, bounds, tiles, scores), _tile_codegen(2)

    @intrinsic
    def score_four(  # type: ignore[no-untyped-def]
        _context, queries, who, first, bounds, tiles, tile, scores, width, at, stride
    ):
        """Score the codes of a tile for the queries ``who[first : first + 4]``.

        The i-th query's sixteen scores, without its `code_offset`, are written from
        ``scores[at + i * stride]`` on. Returns a bit for each score, sixteen a query,
        that is set where it is at least ``bounds[who[first + i]]``.
        """
        return _signature(queries, who, bounds, tiles, scores), _tile_codegen(4)

    def _scores_at(context: Any, builder: Any, sig: Any, args: Any, at: Any) -> Any:
        place = builder.gep(_data(context, builder, sig, args, 0), [at])
        found = builder.load(builder.bitcast(place, SUMS.as_pointer()))
        found.align = I32.width // 8
        return found

    def _over_all(
        context: Any,
        builder: Any,
        sig: Any,
        args: Any,
        first: int,
        name: str,
        step: Any,
    ) -> Any:
        """Fold all scores, sixteen at a time, and then the lanes."""
        size = context.make_array(sig.args[0])(context, builder, args[0]).nitems
        nothing = ir.Constant(SUMS, [first] * LANES)
        total = cgutils.alloca_once_value(builder, nothing)
        with cgutils.for_range_slice(builder, I64(0), size, I64(LANES), I64) as (at, _):
            here = _scores_at(context, builder, sig, args, at)
            builder.store(step(builder, builder.load(total), here), total)
        reduce = f"llvm.vector.reduce.{name}.v{LANES}i32"
        return call_llvm(builder, reduce, I32, [builder.load(total)])

    @intrinsic
    def count_from(_context, scores, bound):  # type: ignore[no-untyped-def]
        """Return how many scores, of a multiple of sixteen, are at least `bound`."""

        def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
            bound = _splat(builder, args[1])

            def step(builder: Any, total: Any, here: Any) -> Any:
                reached = builder.icmp_signed(">=", here, bound)
                return builder.sub(total, builder.sext(reached, SUMS))

            found = _over_all(context, builder, sig, args, 0, "add", step)
            return builder.sext(found, I64)

        return types.int64(scores, types.int32), codegen

    @intrinsic
    def greatest(_context, scores):  # type: ignore[no-untyped-def]
        """Return the greatest of the scores, a multiple of sixteen."""

        def step(builder: Any, total: Any, here: Any) -> Any:
            return builder.select(builder.icmp_signed(">", here, total), here, total)

        def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
            return _over_all(context, builder, sig, args, -(1 << 31), "smax", step)

        return types.int32(scores), codegen

    @intrinsic
    def bits_from(_context, scores, at, bound):  # type: ignore[no-untyped-def]
        """Return a bit for each of ``scores[at : at + 16]`` from `bound` up."""

        def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
            here = _scores_at(context, builder, sig, args, args[1])
            reached = builder.icmp_signed(">=", here, _splat(builder, args[2]))
            return builder.zext(builder.bitcast(reached, ir.IntType(LANES)), I64)

        return types.int64(scores, types.int64, types.int32), codegen

    @intrinsic
    def lowest_bit(_context, mask):  # type: ignore[no-untyped-def]
        """Return the place of the lowest bit that is set; `mask` is not 0."""

        def codegen(_context, builder, _sig, args):  # type: ignore[no-untyped-def]
            return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

        return types.int64(types.int64), codegen

else:

    def _score(count: int) -> Any:
        def score(
            queries: Any, who: Any, first: int, bounds: Any, tiles: Any, tile: int,
            scores: Any, width: int, at: int, stride: int,
        ) -> int:  # fmt: skip
            """Score the codes of a tile for some queries: the compiled one's twin."""
            bytes_of = tiles[tile] if SHIFT else tiles[tile].view(np.int8)
            laid = bytes_of.reshape(width // QUAD, LANES, QUAD).astype(np.int32)
            codes, mask = laid.transpose(1, 0, 2).reshape(LANES, width), 0
            for i in range(count):
                one = who[first + i]
                found = codes @ queries[one].astype(np.int32)
                scores[at + i * stride : at + i * stride + LANES] = found
                for lane in np.flatnonzero(found >= bounds[one]):
                    mask |= 1 << (LANES * i + int(lane))
            return mask

        return score

    score_one, score_two, score_four = _score(1), _score(2), _score(4)

    def count_from(scores: Any, bound: int) -> int:
        """Return how many scores, of a multiple of sixteen, are at least `bound`."""
        return int((scores >= bound).sum())

    def greatest(scores: Any) -> np.int32:
        """Return the greatest of the scores, a multiple of sixteen."""
        return np.int32(scores.max())

    def bits_from(scores: Any, at: int, bound: int) -> int:
        """Return a bit for each of ``scores[at : at + 16]`` from `bound` up."""
        reached = np.flatnonzero(scores[at : at + LANES] >= bound)
        return sum(1 << int(lane) for lane in reached)

    def lowest_bit(mask: int) -> int:
        """Return the place of the lowest bit that is set; `mask` is not 0."""
        return (mask & -mask).bit_length() - 1
