"""Arithmetic on many lanes at once that LLVM's vectoriser does not find by itself.

Each function is written as LLVM's own vectors, which every CPU can run (a wide one as
a few instructions, an older one as more), and has a Python twin below. Called by
`kernels/codes.py` and `kernels/walk.py`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from funnel.kernels.jit import COMPILED

BLOCK = 64  # bytes of codes that are multiplied at once
KEYS = 8  # keys of a sorted list that move at once
SHIFT = 128  # what makes an int8 a byte without sign

if COMPILED:
    I8, I32, I64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)

    def _load(
        context: Any, builder: Any, kind: Any, array: Any, at: Any, to: Any
    ) -> Any:
        """Load a vector `to` from element `at` of a contiguous array."""
        data = context.make_array(kind)(context, builder, array).data
        pointer = builder.bitcast(builder.gep(data, [at]), to.as_pointer())
        loaded = builder.load(pointer)
        loaded.align = to.element.width // 8
        return loaded, pointer

    def _dot_shifted(block: int) -> Any:
        """Return code that multiplies `block` bytes and adds the products up.

        One VNNI instruction multiplies 64 bytes without sign by 64 with one.
        """
        narrow, wide = ir.VectorType(I8, block), ir.VectorType(I32, block)

        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            a, _ = _load(context, builder, sig.args[0], args[0], args[2], narrow)
            b, _ = _load(context, builder, sig.args[1], args[1], args[2], narrow)
            b = builder.xor(b, ir.Constant(narrow, [SHIFT] * block))
            products = builder.mul(builder.sext(a, wide), builder.zext(b, wide))
            kind = ir.FunctionType(I32, [wide])
            name = f"llvm.vector.reduce.add.v{block}i32"
            add = cgutils.get_or_insert_function(builder.module, kind, name)
            return builder.call(add, [products])

        return codegen

    @intrinsic
    def dot_shifted(_context, query, code, at):  # type: ignore[no-untyped-def]
        """Return ``query · (code + 128)`` over the 64 int8 from place `at`."""
        return types.int32(query, code, types.int64), _dot_shifted(BLOCK)

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
            here, pointer = _load(context, builder, kind, array, at, lanes)
            before, _ = _load(
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

else:

    def _product(query: Any, code: Any, at: int, block: int) -> np.int32:
        a, b = query[at : at + block].astype(np.int32), code[at : at + block]
        return np.int32(a @ (b.astype(np.int32) + SHIFT))

    def dot_shifted(query: Any, code: Any, at: int) -> np.int32:
        """Return ``query · (code + 128)`` over the 64 int8 from place `at`."""
        return _product(query, code, at, BLOCK)

    def shift_in(keys: Any, at: int, key: int) -> int:
        """Make room for `key` among 8 keys of a descending list, from place `at`."""
        here, before = keys[at : at + KEYS].copy(), keys[at - 1 : at + KEYS - 1].copy()
        keys[at : at + KEYS] = np.maximum(here, np.minimum(before, key))
        return int((here > key).sum())
