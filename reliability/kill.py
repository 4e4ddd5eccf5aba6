"""Kill the writer of `workload.py` at each of its calls that change files.

`python -m reliability.kill` counts the calls once, then runs the writer again for each
of them, killed by strace as it makes that one, and checks what it left. The writers are
forks of one warm process: each attempt takes a fraction of a second.

With `--by INT` the writer is interrupted there, as by Ctrl-C; with `--by EIO`,
`ENOSPC` or `EROFS` the call fails, as on a bad, a full or a read-only disk: it then
ends with an exception, and must leave as much. `--failpoints` kills without strace, as
`failpoints.py` says; so does `--by KILL` where strace cannot be used.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import ctypes
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from reliability.failpoints import calls_of, run_stopped
from reliability.trace import cannot_trace, scratch
from reliability.workload import INDEX, LOG, check, promised, run

# A call that opens a file cannot be told from one that makes it: left out.
CALLS = (
    "write", "pwrite64", "writev", "fsync", "fdatasync", "link", "linkat", "unlink",
    "unlinkat", "rename", "renameat", "renameat2", "mkdir", "mkdirat", "rmdir",
    "ftruncate",
)  # fmt: skip
FAULTS = {
    "KILL": "signal=KILL", "INT": "signal=INT", "EIO": "error=EIO",
    "ENOSPC": "error=ENOSPC", "EROFS": "error=EROFS",
}  # fmt: skip
LINE = re.compile(r"(\d+) +(\w+)\((.*)")
ATTACH_S, RUN_S = 20.0, 60.0
PR_SET_PTRACER, ANY = 0x59616D61, -1


@dataclass(frozen=True)
class Point:
    """Where to kill: at the `nth` call of `syscall`, counting from 1."""

    syscall: str
    nth: int


@dataclass(frozen=True)
class Trial:
    """What came of killing at a point.

    Parameters
    ----------
    syscall : str
    nth : int
    outcome : str
        As `check` returns it; "violation: …"; or how else the writer ended.
    """

    syscall: str
    nth: int
    outcome: str

    @property
    def failed(self) -> bool:
        """Tell whether it shows a fault, of the index or of this harness."""
        return self.outcome not in ("absent", "acknowledged", "intended")


# ---- one writer


def run_traced(folder: Path, seed: int, options: list[str]) -> int:
    """Run the workload in a fork, under strace from its first call on.

    Returns
    -------
    int
        Its exit status; minus the signal that killed it.
    """
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        ours.close()
        _write(theirs, folder, seed)
    theirs.close()
    with ours:
        ours.settimeout(ATTACH_S)
        ours.recv(1)  # it may be traced now
        strace = ["strace", "-f", "-qq", "-y", "-s", "0", *options, "-p", str(child)]
        tracer = subprocess.Popen(strace, stderr=subprocess.PIPE)
        try:
            _await_tracer(child, tracer)
            ours.send(b"g")
            return _await_end(child)
        finally:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
            tracer.communicate(timeout=ATTACH_S)


def _write(theirs: socket.socket, folder: Path, seed: int) -> None:
    """Be the writer: wait for strace, follow the script, end."""
    status = 1
    try:
        ctypes.CDLL(None).prctl(PR_SET_PTRACER, ANY, 0, 0, 0)  # where Yama forbids it
        theirs.send(b"r")
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if theirs.recv(1) == b"g":
            run(folder, seed)
            status = 0
    finally:
        os._exit(status)  # nothing of the parent's is to be tidied up here


def _await_tracer(child: int, tracer: subprocess.Popen[bytes]) -> None:
    """Wait until a process is traced."""
    status, end = Path(f"/proc/{child}/status"), time.monotonic() + ATTACH_S
    while "TracerPid:\t0\n" in status.read_text():
        if tracer.poll() is not None or time.monotonic() > end:
            raise RuntimeError(f"strace does not attach to process {child}")
        time.sleep(0.001)


def _await_end(child: int) -> int:
    """Wait until a process ends; return its exit status."""
    end = time.monotonic() + RUN_S
    while time.monotonic() < end:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    raise TimeoutError(f"the writer has not ended after {RUN_S:g} s")


# ---- all points


def points_of(seed: int) -> list[Point]:
    """Run the workload once; return its calls that change an index, in their order."""
    points, counts = [], collections.Counter[str]()
    with tempfile.TemporaryDirectory(prefix="funnel-", dir=scratch()) as made:
        log, folder = Path(made) / "strace", Path(made) / "run"
        folder.mkdir()
        wanted = "trace=" + ",".join(f"?{call}" for call in CALLS)
        status = run_traced(folder, seed, ["-o", str(log), "-e", wanted])
        assert status == 0, f"the writer ended with {status}"
        lines = [LINE.match(line) for line in log.read_text().splitlines()]
        writer = lines[0][1] if lines and lines[0] else ""
    for line in filter(None, lines):
        if line[1] == writer:  # strace counts the calls of each thread
            counts[line[2]] += 1
            if f"{folder}/" in line[3] and LOG not in line[3]:
                points.append(Point(line[2], counts[line[2]]))
    return points


def kill_at(point: Point, seed: int, by: str = "KILL") -> Trial:
    """Run the workload with a fault at a point, and check what is left."""
    wanted = ["-e", f"trace={point.syscall}", "-o", os.devnull]
    wanted += ["-e", f"inject={point.syscall}:{FAULTS[by]}:when={point.nth}"]
    with tempfile.TemporaryDirectory(prefix="funnel-", dir=scratch()) as made:
        status = run_traced(Path(made), seed, wanted)
        return Trial(point.syscall, point.nth, _judged(Path(made), status, by))


def stop_at(name: str, nth: int, seed: int) -> Trial:
    """Run the workload, killed without strace at its n-th call, and check as well."""
    with tempfile.TemporaryDirectory(prefix="funnel-", dir=scratch()) as made:
        status = run_stopped(Path(made), seed, nth)
        return Trial(name, nth, _judged(Path(made), status, "KILL"))


def _judged(folder: Path, status: int, by: str) -> str:
    """Return the outcome of a run that ended with a status."""
    promise = promised(folder / LOG)
    said = promise.acknowledged, promise.intended
    try:
        outcome = check(folder / INDEX, *said)
    except AssertionError as error:
        outcome = f"violation: {error}"
    expected = status == -signal.SIGKILL if by == "KILL" else status >= 0
    if not expected and not outcome.startswith("violation"):
        outcome = f"not killed by {by}: it ended with {status}"
    return outcome


def trials(asked: argparse.Namespace) -> Iterator[Trial]:
    """Run the workload with a fault at each point that is asked for."""
    with tempfile.TemporaryDirectory(prefix="funnel-", dir=scratch()) as made:
        run(Path(made), asked.seed)  # loads what the forks would each load
    if asked.failpoints:
        yield from _stops(asked)
        return
    points = points_of(asked.seed)
    if asked.only:
        points = [point for point in points if point.syscall == asked.only]
    for point in points[asked.every // 2 :: asked.every]:
        yield kill_at(point, asked.seed, asked.by)


def _stops(asked: argparse.Namespace) -> Iterator[Trial]:
    """Run the workload, killed without strace at each call that is asked for."""
    with tempfile.TemporaryDirectory(prefix="funnel-", dir=scratch()) as made:
        names = calls_of(Path(made), asked.seed)
    calls = [(name, at + 1) for at, name in enumerate(names)]
    if asked.only:
        calls = [call for call in calls if call[0] == asked.only]
    for name, nth in calls[asked.every // 2 :: asked.every]:
        yield stop_at(name, nth, asked.seed)


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--every", type=int, default=1, help="take each N-th point")
    parser.add_argument("--only", choices=CALLS, help="points of one call")
    parser.add_argument("--by", choices=FAULTS, default="KILL", help="what happens")
    parser.add_argument("--failpoints", action="store_true", help="kill without strace")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="a JSON line for each trial")
    asked = parser.parse_args()
    if asked.failpoints and asked.by != "KILL":
        parser.error("--failpoints kill: give no other --by")
    return asked


def main() -> int:
    """Kill the workload at its points; return 1 if an index is not what it must be."""
    asked, reason = _asked(), cannot_trace()
    if reason is not None and not asked.failpoints:
        sys.stdout.write(reason + "\n")
        if asked.by != "KILL":
            return 1
        asked.failpoints = True
    lines, failed, outcomes = [], 0, collections.Counter[str]()
    for trial in trials(asked):
        lines.append(json.dumps(asdict(trial)) + "\n")
        failed += trial.failed
        outcomes[trial.outcome.partition(":")[0]] += 1
        if trial.failed:
            sys.stdout.write(lines[-1])
    if asked.out:
        asked.out.write_text("".join(lines))
    counts = ", ".join(f"{n} {kind}" for kind, n in sorted(outcomes.items()))
    sys.stdout.write(f"{len(lines)} by {asked.by}: {counts}; {failed} failures\n")
    return int(failed > 0 or not lines)


if __name__ == "__main__":
    sys.exit(main())
