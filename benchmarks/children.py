"""Runs one task in a process of its own, with a time limit, and says how it ended.

Called by `benchmarks.peers` and `benchmarks.growth`.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.probe import THREAD_VARIABLES

ROOT = Path(__file__).parents[1]
LONGEST_MESSAGE = 300


class ChildError(Exception):
    """A child that raised, crashed or was too slow; `status` says which."""

    def __init__(self, status: str, message: str) -> None:
        super().__init__(message)
        self.status = status


def run_child(
    verb: str,
    task: dict[str, Any],
    *,
    threads: int,
    seconds: float | None = None,
    module: str = "benchmarks.peer_worker",
    last_lines: int = 1,
) -> dict[str, Any]:
    """Return what a worker's `module` found; without `seconds` there is no limit.

    Raises
    ------
    ChildError
        With the last lines of its error, the signal that ended it, or the limit.
    """
    env = os.environ | dict.fromkeys(THREAD_VARIABLES, str(threads))
    with tempfile.TemporaryDirectory() as folder:
        given, out, log = (Path(folder) / name for name in ("task", "out", "log"))
        given.write_text(json.dumps(task))
        command = [sys.executable, "-m", module, verb]
        with log.open("wb") as said:
            child = subprocess.Popen(
                [*command, str(given), str(out)],
                cwd=ROOT,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,
            )
            code = _wait(child, seconds)
        if code is None:
            message = f"{verb} did not end within {(seconds or 0) / 60:g} minutes"
            raise ChildError("timeout", message)
        if code or not out.exists():
            raise ChildError("failed", f"{verb}: {_why(code, log, last_lines)}")
        return json.loads(out.read_text())


def _wait(child: subprocess.Popen[bytes], seconds: float | None) -> int | None:
    """Return the exit code; None if it took too long and was ended."""
    try:
        return child.wait(seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        if child.poll() is None:  # too slow, or we were interrupted
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()


def _why(code: int, log: Path, last_lines: int) -> str:
    """Return the signal, or the last lines that were said."""
    if code < 0:
        return f"ended by {signal.Signals(-code).name}"
    lines = log.read_text(errors="replace").split("\n")
    said = [line.strip() for line in lines if line.strip()]
    last = [line[:LONGEST_MESSAGE] for line in said[-last_lines:]]
    return " / ".join(last) or f"exit code {code}"
