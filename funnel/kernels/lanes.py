"""Arithmetic on many lanes at once that LLVM's vectoriser does not find by itself.

Each function is written as LLVM's own vectors, which every CPU can run (a wide one as
a few instructions, an older one as more), and has a Python twin below. `add_products`
is what `kernels/fours.py` and `kernels/tiles.py` make their code of. Called by
`kernels/codes.py` and `kernels/walk.py`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from funnel.kernels.jit import COMPILED, HAS_AVX2, HAS_VNNI

BLOCK = 64  # bytes of codes that are multiplied at once
# What makes an int8 a byte without sign, which AVX-512 VNNI multiplies by one with a
# sign. Elsewhere codes are taken as they are.
SHIFT = 128 if HAS_VNNI else 0

if COMPILED:
    I8, I16, I32, I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
    LINE, SUMS = ir.VectorType(I8, BLOCK), ir.VectorType(I32, BLOCK // 4)

    def call_llvm(builder: Any, name: str, out: Any, args: list[Any]) -> Any:
        """Call an intrinsic of LLVM by name."""
        kind = ir.FunctionType(out, [one.type for one in args])
        function = cgutils.get_or_insert_function(builder.module, kind, name)
        return builder.call(function, args)

    def _part(builder: Any, vector: Any, places: range) -> Any:
        kind = ir.VectorType(I32, len(places))
        taken = ir.Constant(kind, list(places))
        return builder.shuffle_vector(vector, vector, taken)

    def add_products(builder: Any, total: Any, query: Any, code: Any) -> Any:
        """Add to each of 16 int32 the products of four int8 of a query and a code.

        `code` is a line of 64 bytes that `SHIFT` was added to.
        """
        if HAS_VNNI:
            lines = [builder.bitcast(one, SUMS) for one in (code, query)]
            name = "llvm.x86.avx512.vpdpbusd.512"
            return call_llvm(builder, name, SUMS, [total, *lines])
        multiply = _signed_products if HAS_AVX2 else _plain_products
        return builder.add(total, multiply(builder, query, code))

    def _signed_products(builder: Any, query: Any, code: Any) -> Any:
        """Multiply by AVX2: magnitudes of one side, the other with the product's sign.

        Two products of at most 127 × 127 fit into 16 bits; codes do not hold −128.
        """
        half, halves = ir.VectorType(I8, BLOCK // 2), []
        short, word = ir.VectorType(I16, BLOCK // 4), ir.VectorType(I32, BLOCK // 8)
        ones = ir.Constant(short, [1] * short.count)
        for start in (0, half.count):
            places = range(start, start + half.count)
            a, b = (_part(builder, one, places) for one in (query, code))
            sign = "llvm.x86.avx2.psign.b"
            sides = [call_llvm(builder, sign, half, [one, a]) for one in (a, b)]
            pairs = call_llvm(builder, "llvm.x86.avx2.pmadd.ub.sw", short, sides)
            name = "llvm.x86.avx2.pmadd.wd"
            halves.append(call_llvm(builder, name, word, [pairs, ones]))
        places = ir.Constant(SUMS, list(range(SUMS.count)))
        return builder.shuffle_vector(*halves, places)

    def _plain_products(builder: Any, query: Any, code: Any) -> Any:
        """Multiply in 16 bits: LLVM finds `pmaddwd` in this."""
        wide, sums = ir.VectorType(I16, BLOCK), ir.VectorType(I32, BLOCK // 2)
        a, b = (builder.sext(one, wide) for one in (query, code))
        odd = []
        for first in (0, 1):
            x, y = (_part(builder, one, range(first, BLOCK, 2)) for one in (a, b))
            odd.append(builder.mul(builder.sext(x, sums), builder.sext(y, sums)))
        pairs = builder.add(*odd)
        ends = [_part(builder, pairs, range(at, BLOCK // 2, 2)) for at in (0, 1)]
        return builder.add(*ends)

    def load_lanes(
        context: Any, builder: Any, kind: Any, array: Any, at: Any, to: Any
    ) -> Any:
        """Load a vector `to` from element `at` of a contiguous array."""
        data = context.make_array(kind)(context, builder, array).data
        pointer = builder.bitcast(builder.gep(data, [at]), to.as_pointer())
        loaded = builder.load(pointer)
        loaded.align = to.element.width // 8
        return loaded, pointer

    def sum_of_products(builder: Any, query: Any, code: Any) -> Any:
        """Return the inner product of a query and a code, lines of 64 bytes.

        One VNNI instruction multiplies 64 bytes without sign by 64 with one.
        """
        if HAS_AVX2 and not HAS_VNNI:
            nothing = ir.Constant(SUMS, [0] * SUMS.count)
            products = add_products(builder, nothing, query, code)
        else:
            wide = ir.VectorType(I32, BLOCK)
            widen = builder.zext if SHIFT else builder.sext
            products = builder.mul(builder.sext(query, wide), widen(code, wide))
        name = f"llvm.vector.reduce.add.v{products.type.count}i32"
        return call_llvm(builder, name, I32, [products])

    @intrinsic
    def dot_shifted(_context, query, code, at):  # type: ignore[no-untyped-def]
        """Return ``query · (code + SHIFT)`` over the 64 int8 from place `at`."""

        def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
            a, _ = load_lanes(context, builder, sig.args[0], args[0], args[2], LINE)
            b, _ = load_lanes(context, builder, sig.args[1], args[1], args[2], LINE)
            b = builder.xor(b, ir.Constant(LINE, [SHIFT] * BLOCK))
            return sum_of_products(builder, a, b)

        return types.int32(query, code, types.int64), codegen

else:

    def _product(query: Any, code: Any, at: int, block: int) -> np.int32:
        a, b = query[at : at + block].astype(np.int32), code[at : at + block]
        return np.int32(a @ (b.astype(np.int32) + SHIFT))

    def dot_shifted(query: Any, code: Any, at: int) -> np.int32:
        """Return ``query · (code + SHIFT)`` over the 64 int8 from place `at`."""
        return _product(query, code, at, BLOCK)
