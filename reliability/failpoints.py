"""Kill a writer of `workload.py` at its n-th call that changes files, without strace.

For `kill.py`, where strace cannot be used: the calls are those that Python makes, which
are replaced in a forked process. A write is cut in half, all others are not done. What
Arrow writes by itself goes through a file of Python's here; what other code of C
changes is not seen.
"""

from __future__ import annotations

import io
import json
import os
import signal
from pathlib import Path
from typing import Any

import pyarrow as pa

from reliability.workload import LOG, run

NAMING = ("link", "mkdir", "rename", "rmdir", "unlink")
MAKES = os.O_CREAT | os.O_WRONLY | os.O_RDWR


class Failpoints:
    """Counts this process's calls that change files, and ends it at one of them.

    Parameters
    ----------
    nth : int
        Counting from 1; 0 for none.
    """

    def __init__(self, nth: int) -> None:
        self.nth = nth
        self.names: list[str] = []
        self._logs: set[int] = set()  # descriptors of the writer's log, not counted

    def is_here(self, name: str) -> bool:
        """Count a call; tell whether it is the one."""
        self.names.append(name)
        return len(self.names) == self.nth

    def note(self, name: str) -> None:
        """Count a call; be killed in its place if it is the one."""
        if self.is_here(name):
            end()

    def install(self) -> None:
        """Replace the calls of this process, for good."""
        for name in NAMING:
            setattr(os, name, self._noted(name, getattr(os, name)))
        self._replace_opening()
        sync = os.fsync

        def fsync(handle: int) -> None:
            if handle not in self._logs:
                self.note("fsync")
            sync(handle)

        os.fsync = fsync

    def _noted(self, name: str, real: Any) -> Any:
        def noted(*given: Any, **named: Any) -> Any:
            self.note(name)
            return real(*given, **named)

        return noted

    def _replace_opening(self) -> None:
        """Replace what opens files; those for writing count what is written to them."""
        open_handle, open_path, of_handle = os.open, Path.open, os.fdopen

        def opened(path: Any, flags: int, *given: Any, **named: Any) -> int:
            if flags & MAKES:
                self.note("open")
            return open_handle(path, flags, *given, **named)

        def path_opened(path: Path, mode: str = "r", *given: Any, **named: Any) -> Any:
            writes = mode.strip("rbt") != ""
            if writes and path.name != LOG:
                self.note("open")
            file = open_path(path, mode, *given, **named)
            if path.name == LOG:
                self._logs.add(file.fileno())
                return file
            return Halved(file, self) if writes else file

        def arrow_opened(path: str, mode: str) -> pa.NativeFile:
            self.note("open")
            return pa.PythonFile(Halved(io.FileIO(path, mode), self), mode="w")

        os.open = opened
        Path.open = path_opened  # type: ignore[assignment, method-assign]
        os.fdopen = lambda *given, **named: Halved(of_handle(*given, **named), self)
        pa.OSFile = arrow_opened


class Halved:
    """A file of which the n-th write is cut in half, and the writer with it."""

    def __init__(self, file: Any, points: Failpoints) -> None:
        self._file, self._points = file, points

    def write(self, piece: Any) -> int:
        """Write a piece, or its half and no more."""
        data = memoryview(piece).cast("B")
        if self._points.is_here("write"):
            self._file.write(data[: len(data) // 2])
            self._file.flush()
            end()
        return int(self._file.write(piece))

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def end() -> None:
    """Kill this process: nothing is tidied up."""
    os.kill(os.getpid(), signal.SIGKILL)


def run_stopped(folder: Path, seed: int, nth: int) -> int:
    """Run the workload in a fork that is killed at its n-th call; return how it ended.

    What it called is in the file ``calls`` if it was not killed.
    """
    child = os.fork()
    if child == 0:
        status = 1
        try:
            points = Failpoints(nth)
            calls = os.open(folder / "calls", os.O_WRONLY | os.O_CREAT)
            points.install()
            run(folder, seed)
            os.write(calls, json.dumps(points.names).encode())
            status = 0
        finally:
            os._exit(status)  # nothing of the parent's is to be tidied up here
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def calls_of(folder: Path, seed: int) -> list[str]:
    """Run the workload in an empty folder; return its calls that change files."""
    status = run_stopped(folder, seed, 0)
    assert status == 0, f"the writer ended with {status}"
    names: list[str] = json.loads((folder / "calls").read_bytes())
    return names
