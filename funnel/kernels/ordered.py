"""A descending list of keys, eight lanes at a time. Arrays and numbers only.

Keys move without a branch that hangs on where they belong, which nobody can foresee:
each lane becomes ``max(itself, min(the one before it, key))``. Written as LLVM's own
vectors, as in `kernels/lanes.py`; each function has a Python twin. Called by
`kernels/pool.py`, which knows what the keys are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from funnel.kernels.jit import COMPILED

KEYS = 8  # that move at once
MERGED = 4  # that are inserted together

if COMPILED:
    from funnel.kernels.lanes import load_lanes

    I8, I32, I64 = (ir.IntType(bits) for bits in (8, 32, 64))

    def _larger(builder: Any, a: Any, b: Any) -> Any:
        return builder.select(builder.icmp_signed(">", a, b), a, b)

    def _smaller(builder: Any, a: Any, b: Any) -> Any:
        return builder.select(builder.icmp_signed("<", a, b), a, b)

    @intrinsic
    def shift_in(_context, keys, at, key):  # type: ignore[no-untyped-def]
        """Make room for `key` among 8 keys of a descending list, from place `at`.

        Keys above it stay, it takes its place, the others move down by one, all
        without a branch: each becomes ``max(itself, min(the one before, key))``.
        Returns how many stayed.
        """
        lanes = ir.VectorType(I64, KEYS)

        def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
            array, at, key = args
            kind = sig.args[0]
            here, pointer = load_lanes(context, builder, kind, array, at, lanes)
            before, _ = load_lanes(
                context, builder, kind, array, builder.sub(at, I64(1)), lanes
            )
            undefined = ir.Constant(lanes, ir.Undefined)
            first = builder.insert_element(undefined, key, I32(0))
            nowhere = ir.Constant(ir.VectorType(I32, KEYS), [0] * KEYS)
            new = builder.shuffle_vector(first, undefined, nowhere)
            stays = builder.icmp_signed(">", here, new)
            moved = builder.select(builder.icmp_signed("<", before, new), before, new)
            stored = builder.store(builder.select(stays, here, moved), pointer)
            stored.align = I64.width // 8
            return builder.zext(builder.ctpop(builder.bitcast(stays, I8)), I64)

        return types.int64(keys, types.int64, types.int64), codegen

    @intrinsic
    def evens(_context, keys, at):  # type: ignore[no-untyped-def]
        """Return which of the 8 keys from place `at` are even, a bit each."""
        lanes = ir.VectorType(I64, KEYS)

        def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
            kind = sig.args[0]
            here, _ = load_lanes(context, builder, kind, args[0], args[1], lanes)
            odd = builder.trunc(here, ir.VectorType(ir.IntType(1), KEYS))
            return builder.zext(builder.not_(builder.bitcast(odd, I8)), I64)

        return types.int64(keys, types.int64), codegen

    @intrinsic
    def lowest_bit(_context, bits):  # type: ignore[no-untyped-def]
        """Return the place of the lowest bit that is set; one is."""

        def codegen(_context, builder, _sig, args):  # type: ignore[no-untyped-def]
            return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

        return types.int64(types.int64), codegen

    @intrinsic
    def merge_in(_context, pool, blocks, keys, at):  # type: ignore[no-untyped-def]
        """Insert ``keys[at : at + 4]`` into a descending list, its first blocks of 8.

        As `shift_in` does, four times for each block before the next one, so that no
        branch hangs on where keys belong. The list begins at place 1. Returns how many
        of it were above all four.
        """
        lanes, wide = ir.VectorType(I64, KEYS), ir.VectorType(I32, KEYS)
        moved = ir.Constant(wide, list(range(KEYS - 1, 2 * KEYS - 1)))

        def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
            first = context.make_array(sig.args[0])(context, builder, args[0]).data
            given = context.make_array(sig.args[2])(context, builder, args[2]).data
            undefined = ir.Constant(lanes, ir.Undefined)
            nowhere, new = ir.Constant(wide, [0] * KEYS), []
            for i in range(MERGED):
                place = builder.gep(given, [builder.add(args[3], I64(i))])
                one = builder.insert_element(undefined, builder.load(place), I32(0))
                new.append(builder.shuffle_vector(one, undefined, nowhere))
            pairs = [_larger(builder, new[i], new[i + 1]) for i in (0, 2)]
            top = _larger(builder, *pairs)
            highest = ir.Constant(lanes, [(1 << 63) - 1] * KEYS)
            before = [cgutils.alloca_once_value(builder, highest) for _ in new]
            above = cgutils.alloca_once_value(builder, I64(0))
            count, one = builder.mul(args[1], I64(KEYS)), I64(1)
            blocks = cgutils.for_range_slice(builder, one, count, I64(KEYS), I64)
            with blocks as (place, _):
                pointer = builder.gep(first, [place])
                pointer = builder.bitcast(pointer, lanes.as_pointer())
                here = builder.load(pointer)
                here.align = I64.width // 8
                stay = builder.bitcast(builder.icmp_signed(">", here, top), I8)
                many = builder.zext(builder.ctpop(stay), I64)
                builder.store(builder.add(builder.load(above), many), above)
                for key, last in zip(new, before, strict=True):
                    shifted = builder.shuffle_vector(builder.load(last), here, moved)
                    builder.store(here, last)
                    comes = _smaller(builder, shifted, key)
                    here = _larger(builder, here, comes)
                stored = builder.store(here, pointer)
                stored.align = I64.width // 8
            return builder.load(above)

        return types.int64(pool, types.int64, keys, types.int64), codegen

else:

    def evens(keys: Any, at: int) -> int:
        """Return which of the 8 keys from place `at` are even, a bit each."""
        return sum(int(key & 1 == 0) << i for i, key in enumerate(keys[at : at + KEYS]))

    def lowest_bit(bits: int) -> int:
        """Return the place of the lowest bit that is set; one is."""
        return (bits & -bits).bit_length() - 1

    def merge_in(pool: Any, blocks: int, keys: Any, at: int) -> int:
        """Insert ``keys[at : at + 4]`` into a descending list, its first blocks."""
        some, new = pool[1 : 1 + KEYS * blocks], keys[at : at + MERGED]
        above = int((some > new.max()).sum())
        for key in new:
            before = np.append(np.iinfo(np.int64).max, some[:-1])
            some[:] = np.maximum(some, np.minimum(before, key))
        return above

    def shift_in(keys: Any, at: int, key: int) -> int:
        """Make room for `key` among 8 keys of a descending list, from place `at`."""
        here, before = keys[at : at + KEYS].copy(), keys[at - 1 : at + KEYS - 1].copy()
        keys[at : at + KEYS] = np.maximum(here, np.minimum(before, key))
        return int((here > key).sum())
