"""Kill a writer of `workload.py` at its n-th call that changes files, without strace.

For `kill.py`, where strace cannot be used: the calls are those that Python makes, which
are replaced in a forked process. A write is cut in half, all others are not done. What
Arrow writes by itself goes through a file of Python's here; what other code of C
changes is not seen. For `powerloss.py` the same calls are recorded.
"""

from __future__ import annotations

import io
import os
import pickle
import signal
from pathlib import Path
from typing import Any

import pyarrow as pa

from reliability.trace import Note, Trace
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

    def did(self, name: str, paths: list[str], handle: int = -1) -> None:
        """Take in a call that changed names, opened or synced a file."""

    def wrote(self, file: Any, at: int, data: bytes) -> None:
        """Take in what was written to a file."""

    def noted(self, line: bytes) -> None:
        """Take in a line of the writer's log."""

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
            self.did("fsync", [path_of(handle)])

        os.fsync = fsync

    def _noted(self, name: str, real: Any) -> Any:
        def noted(*given: Any, **named: Any) -> Any:
            self.note(name)
            real(*given, **named)
            above = path_of(named["dir_fd"]) if named.get("dir_fd") is not None else ""
            paths = [one for one in given if isinstance(one, str | os.PathLike)]
            self.did(name, [str(Path(above, one)) for one in paths])

        return noted

    def _replace_opening(self) -> None:
        """Replace what opens files; those for writing count what is written to them."""
        open_handle, open_path, of_handle = os.open, Path.open, os.fdopen

        def opened(path: Any, flags: int, *given: Any, **named: Any) -> int:
            if flags & MAKES:
                self.note("open")
            handle = open_handle(path, flags, *given, **named)
            if flags & MAKES:
                self.did("open", [str(path)], handle)
            return handle

        def path_opened(path: Path, mode: str = "r", *given: Any, **named: Any) -> Any:
            writes = mode.strip("rbt") != ""
            if writes and path.name != LOG:
                self.note("open")
            file = open_path(path, mode, *given, **named)
            if path.name == LOG:
                self._logs.add(file.fileno())
                return Logged(file, self)
            if writes:
                self.did("open", [str(path)], file.fileno())
            return Halved(file, self) if writes else file

        def arrow_opened(path: str, mode: str) -> pa.NativeFile:
            self.note("open")
            file = io.FileIO(path, mode)
            self.did("open", [path], file.fileno())
            return pa.PythonFile(Halved(file, self), mode="w")

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
        at = self._file.tell()
        count = int(self._file.write(piece))
        self._points.wrote(self._file, at, bytes(data[:count]))
        return count

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


class Logged(Halved):
    """The writer's log, which is not counted."""

    def write(self, piece: Any) -> int:
        """Write a line."""
        self._points.noted(piece)
        return int(self._file.write(piece))


class Recorder(Failpoints):
    """Ends nothing; keeps what the calls do to files as `trace.py` does.

    Parameters
    ----------
    root : str
        The folder that holds the index.
    """

    def __init__(self, root: str) -> None:
        super().__init__(0)
        self.trace = Trace(root)

    def did(self, name: str, paths: list[str], handle: int = -1) -> None:
        """Take in a call that changed names, opened or synced a file."""
        trace = self.trace
        if not all(map(trace.within, paths)):
            return
        if name == "fsync":
            trace.sync(paths[0])
        elif name == "open":
            trace.open(handle, paths[0], "")
        elif name == "mkdir":
            trace.make(paths[0], folder=True)
        elif name == "rename":
            trace.rename(*paths)
        elif name == "link":
            inode = trace.inode(paths[0])
            assert inode is not None, f"{paths[0]} is linked, which was never made"
            trace.link(paths[1], inode)
        else:
            trace.remove(paths[0])

    def wrote(self, file: Any, at: int, data: bytes) -> None:
        """Take in what was written to a file."""
        path = path_of(file.fileno())
        if self.trace.within(path):
            self.trace.write(file.fileno(), path, data, at)

    def noted(self, line: bytes) -> None:
        """Take in a line of the writer's log."""
        self.trace.ops.append(Note(line))


def path_of(handle: int) -> str:
    """Return the path of what a descriptor has open."""
    return str(Path(f"/proc/self/fd/{handle}").readlink())


def end() -> None:
    """Kill this process: nothing is tidied up."""
    os.kill(os.getpid(), signal.SIGKILL)


def run_with(points: Failpoints, folder: Path, seed: int, out: Path) -> int:
    """Run the workload in a fork with its calls replaced; return how it ended.

    If it was not killed, `out` holds the points, pickled.
    """
    child = os.fork()
    if child == 0:
        status = 1
        try:
            with out.open("wb") as file:
                points.install()
                run(folder, seed)
                pickle.dump(points, file)
            status = 0
        finally:
            os._exit(status)  # nothing of the parent's is to be tidied up here
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def run_stopped(folder: Path, seed: int, nth: int) -> int:
    """Run the workload in a fork, killed at its n-th call; return how it ended."""
    return run_with(Failpoints(nth), folder, seed, folder / "points")


def calls_of(folder: Path, seed: int) -> list[str]:
    """Run the workload in an empty folder; return its calls that change files."""
    out = folder / "points"
    status = run_with(Failpoints(0), folder, seed, out)
    assert status == 0, f"the writer ended with {status}"
    return list(pickle.loads(out.read_bytes()).names)


def record(folder: Path, seed: int) -> Trace:
    """Run the workload in `folder`, which is empty, and return what it did there."""
    folder = folder.resolve()
    out = folder.with_name(folder.name + ".points")
    status = run_with(Recorder(str(folder)), folder, seed, out)
    assert status == 0, f"the writer ended with {status}"
    trace: Trace = pickle.loads(out.read_bytes()).trace
    return trace
