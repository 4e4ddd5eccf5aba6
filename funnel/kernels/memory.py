"""Arrays at addresses: what lets one kernel read any number of segments.

An address is an int64. Whoever hands one over keeps what it points at alive. With
``NUMBA_DISABLE_JIT=1`` each function has a Python twin below. Called by
`kernels/segments.py` and `kernels/rerank.py`.
"""

from __future__ import annotations

import ctypes
from typing import Any

from llvmlite import ir
from numba import carray, types
from numba.extending import intrinsic

from funnel.kernels.jit import COMPILED, kernel
from funnel.kernels.types import Array

if COMPILED:
    from funnel.kernels.jit import ask_for

    @intrinsic
    def pointer(_context, address):  # type: ignore[no-untyped-def]
        """Return an address as a pointer, which `carray` takes."""

        def codegen(_context, builder, _sig, args):  # type: ignore[no-untyped-def]
            return builder.inttoptr(args[0], ir.IntType(8).as_pointer())

        return types.voidptr(types.int64), codegen

    def _prefetcher(nearness: int) -> Any:
        """Return code that asks for a line at an address."""

        def codegen(context, builder, _sig, args):  # type: ignore[no-untyped-def]
            address = builder.inttoptr(args[0], ir.IntType(8).as_pointer())
            ask_for(builder, address, nearness)
            return context.get_dummy_value()

        return codegen

    @intrinsic
    def prefetch_at(_context, address):  # type: ignore[no-untyped-def]
        """Ask for the cache line that holds the byte at an address."""
        return types.void(types.int64), _prefetcher(3)

    @intrinsic
    def prefetch_far_at(_context, address):  # type: ignore[no-untyped-def]
        """Ask for a line as `prefetch_at` does, into the second cache.

        That one waits for more lines at a time than the first.
        """
        return types.void(types.int64), _prefetcher(2)

else:

    def pointer(address: Any) -> Any:
        """Return an address as a pointer, which `carray` takes."""
        return ctypes.c_void_p(int(address))

    def prefetch_at(address: Any) -> None:
        """Do nothing: the twin of the compiled prefetch."""

    def prefetch_far_at(address: Any) -> None:
        """Do nothing: the twin of the compiled prefetch."""


@kernel
def numbers_at(address: int, count: int, like: Array) -> Array:
    """Return the `count` numbers at an address, of the dtype of `like`."""
    found: Array = carray(pointer(address), (count,), like.dtype)
    return found


@kernel
def rows_at(address: int, count: int, width: int, like: Array) -> Array:
    """Return the `count` rows of `width` numbers at an address."""
    found: Array = carray(pointer(address), (count, width), like.dtype)
    return found
