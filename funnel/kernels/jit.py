"""How kernels are compiled: flags, the cache on disk, and the few intrinsics.

The only file that knows Numba's flags. It scores nothing. Every kernel file uses its
`kernel` decorator. With ``NUMBA_DISABLE_JIT=1`` kernels run as plain Python, and each
intrinsic has a Python twin below.
"""

from __future__ import annotations

import hashlib
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import caching, cgutils
from numba.extending import intrinsic

from funnel.version import __version__

# Sums may be reordered and fused, so that they vectorise; NaN and inf keep their
# meaning (`True` would drop them and is no faster).
FASTMATH = {"reassoc", "contract", "nsz"}
COMPILED = not numba.config.DISABLE_JIT
LINE_BYTES = 64

P = ParamSpec("P")
R = TypeVar("R")


def cache_folder() -> Path:
    """Return where compiled kernels are kept: one folder a version and CPU."""
    given = os.environ.get("FUNNEL_CACHE_DIR")
    parts = [__version__, numba.__version__, platform.python_version()]
    parts += [platform.machine(), _cpu_name()]
    key = hashlib.sha256(" ".join(parts).encode()).hexdigest()[:12]
    return (Path(given) if given else _user_cache() / "funnel") / f"kernels-{key}"


def _user_cache() -> Path:
    """Return the user's cache folder; of a user without a home, one that is none."""
    if given := os.environ.get("XDG_CACHE_HOME"):
        return Path(given)
    try:
        return Path.home() / ".cache"
    except RuntimeError:
        return Path(os.devnull)


def _host_features() -> Any:
    from llvmlite import binding

    return binding.get_host_cpu_features()


def _cpu_name() -> str:
    from llvmlite import binding

    features = numba.config.CPU_FEATURES
    if features is None:
        features = _host_features().flatten()
    return f"{numba.config.CPU_NAME or binding.get_host_cpu_name()} {features}"


def _target_features() -> str:
    """Return what LLVM may use: this CPU's features, or those that Numba was told."""
    from numba.core.registry import cpu_target

    return str(cpu_target.target_context.codegen().magic_tuple()[2])


def _sources_stamp() -> str:
    """Digest of all kernel files: a kernel is stale when any file it may call is."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


class _Locator(caching._CacheLocator):  # type: ignore[misc]
    """Tells Numba to cache in our folder, whatever the host's Numba settings."""

    folder = cache_folder()
    stamp = _sources_stamp() if COMPILED else ""

    def __init__(self, function: Callable[..., object]) -> None:
        self._line = function.__code__.co_firstlineno

    def get_cache_path(self) -> str:
        return str(self.folder)

    def get_source_stamp(self) -> str:
        return self.stamp

    def get_disambiguator(self) -> str:
        return str(self._line)

    @classmethod
    def from_function(cls, function: Any, _path: str) -> _Locator:
        return cls(function)


class _Impl(caching.CompileResultCacheImpl):  # type: ignore[misc]
    _locator_classes = (_Locator,)


class _Cache(caching.FunctionCache):  # type: ignore[misc]
    _impl_class = _Impl

    def save_overload(self, sig: object, data: object) -> None:
        """Save what was compiled; a full or read-only disk only costs time."""
        try:
            super().save_overload(sig, data)
        except OSError:
            self.disable()


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


CACHED = COMPILED and _writable(_Locator.folder)
_FEATURES = _target_features() if COMPILED else ""
HAS_VNNI, HAS_AVX2 = "+avx512vnni" in _FEATURES, "+avx2" in _FEATURES
HAS_AVX512 = "+avx512f" in _FEATURES


def kernel(function: Callable[P, R]) -> Callable[P, R]:
    """Compile `function` without the GIL, and keep it on disk where that is possible.

    Serial on purpose: a search runs in threads of its own, Numba's parallel layers
    abort under Python threads or kill forked children. That references are counted is
    said: compiled while a `bare` function is, it would take over that flag.
    """
    return _compiled(function, _nrt=True)


def bare(function: Callable[P, R]) -> Callable[P, R]:
    """Compile as `kernel` does, without counting references.

    For what makes no array, and calls nothing that returns one with an owner: that
    would never be given back. Of every array that a kernel takes up, Numba counts the
    references, each by a locked instruction: 12 % of a search.
    """
    return _compiled(function, _nrt=False)


def inlined(function: Callable[P, R]) -> Callable[P, R]:
    """Compile as `bare` does what is put into its callers, not called by them.

    Numba hands an array over as seven numbers, so that a call with ten arrays takes as
    long as scoring fifty codes.
    """
    return _compiled(function, _nrt=False, forceinline=True)


def spliced(function: Callable[P, R]) -> Callable[P, R]:
    """Put `function` into its callers before types are known.

    So it may return parts of arrays to callers that count no references.
    """
    options = {"nogil": True, "fastmath": FASTMATH, "inline": "always"}
    return cast(Callable[P, R], numba.njit(**options)(function))


def _compiled(function: Callable[P, R], **options: bool) -> Callable[P, R]:
    compiled = numba.njit(nogil=True, fastmath=FASTMATH, **options)(function)
    return _kept(compiled, function)


def _kept(compiled: Any, function: Callable[P, R]) -> Callable[P, R]:
    """Let a compiled function be kept on disk, where that is possible."""
    if CACHED:
        compiled._cache = _Cache(function)
    return cast(Callable[P, R], compiled)


def _has_halves() -> bool:
    """Return whether the CPU that is compiled for widens float16 itself."""
    if platform.machine() not in ("x86_64", "AMD64", "i686"):
        return True
    if numba.config.CPU_FEATURES is not None:
        return "+f16c" in numba.config.CPU_FEATURES
    return bool(_host_features().get("f16c", False))


HALVES = _has_halves()


def _widened_by_bits(builder: Any, bits: Any) -> Any:
    """Widen a float16 by moving its bits and scaling: for CPUs that cannot.

    Scaling is exact, for subnormal numbers too; inf and NaN get all bits of a float32's
    exponent instead.
    """
    i32, f32 = ir.IntType(32), ir.FloatType()
    wide = builder.zext(bits, i32)
    magnitude = builder.shl(builder.and_(wide, i32(0x7FFF)), i32(13))
    scaled = builder.fmul(builder.bitcast(magnitude, f32), f32(2.0**112))
    finite = builder.icmp_unsigned("<", magnitude, i32(0x7C00 << 13))
    endless = builder.or_(magnitude, i32(0x7F800000))
    bits = builder.select(finite, builder.bitcast(scaled, i32), endless)
    sign = builder.shl(builder.and_(wide, i32(0x8000)), i32(16))
    return builder.bitcast(builder.or_(bits, sign), f32)


if COMPILED:

    def ask_for(builder: Any, address: Any, nearness: int) -> None:
        """Ask for the line at an address: 3 for the nearest cache, 2 for the next."""
        i32 = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [address.type, i32, i32, i32])
        ask = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        builder.call(ask, [address, i32(0), i32(nearness), i32(1)])

    def _prefetcher(nearness: int) -> Any:
        """Return code that asks for a line of an array."""

        def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
            array = context.make_array(sig.args[0])(context, builder, args[0])
            stride = cgutils.unpack_tuple(builder, array.strides)[0]
            wide = [
                a if a.type == stride.type else builder.sext(a, stride.type)
                for a in args[1:]
            ]
            offset = builder.add(builder.mul(wide[0], stride), wide[1])
            pointer = ir.IntType(8).as_pointer()
            address = builder.gep(builder.bitcast(array.data, pointer), [offset])
            ask_for(builder, address, nearness)
            return context.get_dummy_value()

        return codegen

    @intrinsic
    def prefetch(_context, rows, row, byte):  # type: ignore[no-untyped-def]
        """Ask for the cache line that holds byte `byte` of ``rows[row]``."""
        return types.void(rows, row, byte), _prefetcher(3)

    @intrinsic
    def prefetch_row(_context, rows, row):  # type: ignore[no-untyped-def]
        """Ask for every cache line of ``rows[row]``, which begins one.

        Most rows are of one line or two: a loop would take longer than what it asks.
        """

        def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
            i64, line = ir.IntType(64), ir.IntType(64)(LINE_BYTES)
            array = context.make_array(sig.args[0])(context, builder, args[0])
            stride = cgutils.unpack_tuple(builder, array.strides)[0]
            row = args[1] if args[1].type == i64 else builder.sext(args[1], i64)
            first = builder.bitcast(array.data, ir.IntType(8).as_pointer())
            first = builder.gep(first, [builder.mul(row, stride)])
            ask_for(builder, first, 3)
            with builder.if_then(builder.icmp_signed(">", stride, line)):
                ask_for(builder, builder.gep(first, [line]), 3)
                third = i64(2 * LINE_BYTES)
                more = builder.icmp_signed(">", stride, third)
                with (
                    builder.if_then(more, likely=False),
                    cgutils.for_range_slice(builder, third, stride, line, i64) as (
                        at,
                        _,
                    ),
                ):
                    ask_for(builder, builder.gep(first, [at]), 3)
            return context.get_dummy_value()

        return types.void(rows, row), codegen

    @intrinsic
    def prefetch_far(_context, rows, row, byte):  # type: ignore[no-untyped-def]
        """Ask for a line as `prefetch` does, into the second cache.

        That one waits for more lines at a time than the first.
        """
        return types.void(rows, row, byte), _prefetcher(2)

    @intrinsic
    def widen(_context, value):  # type: ignore[no-untyped-def]
        """Return a stored number as float32; uint16 holds the bits of a float16."""

        def codegen(_context, builder, sig, args):  # type: ignore[no-untyped-def]
            if sig.args[0] != types.uint16:
                return args[0]
            if not HALVES:
                return _widened_by_bits(builder, args[0])
            half = builder.bitcast(args[0], ir.HalfType())
            return builder.fpext(half, ir.FloatType())

        return types.float32(value), codegen

    @intrinsic
    def ticks(_context):  # type: ignore[no-untyped-def]
        """Return a count that grows evenly with time; its unit is the CPU's."""
        name = "llvm.readcyclecounter"
        if platform.machine() in ("arm64", "aarch64"):
            name = "llvm.readsteadycounter"  # the other one is privileged there

        def codegen(_context, builder, _sig, _args):  # type: ignore[no-untyped-def]
            kind = ir.FunctionType(ir.IntType(64), [])
            read = cgutils.get_or_insert_function(builder.module, kind, name)
            return builder.call(read, [])

        return types.int64(), codegen

else:

    def prefetch(rows: Any, row: int, byte: int) -> None:
        """Do nothing: the twin of the compiled prefetch."""

    def prefetch_row(rows: Any, row: int) -> None:
        """Do nothing: the twin of the compiled prefetch."""

    def prefetch_far(rows: Any, row: int, byte: int) -> None:
        """Do nothing: the twin of the compiled prefetch."""

    def widen(value: Any) -> np.float32:
        """Return a stored number as float32; uint16 holds the bits of a float16."""
        if isinstance(value, np.uint16):
            return np.float32(np.asarray(value).view(np.float16)[()])
        return np.float32(value)

    def ticks() -> np.int64:
        """Return nanoseconds: the twin of the compiled counter."""
        return np.int64(time.perf_counter_ns())
