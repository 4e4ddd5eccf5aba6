"""How much memory something takes at its peak, watched from another process.

A thread would see nothing while a library holds Python's lock. The watcher is a bare
Python that reads /proc twenty times a second. Called by
`benchmarks.builds` and `benchmarks.probe`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

WATCHER = """
import select, sys
peak, path = 0, f"/proc/{sys.argv[1]}/status"
while True:
    for line in open(path):
        if line.startswith("RssAnon"):
            peak = max(peak, int(line.split()[1]) * 1024)
    if select.select([sys.stdin], [], [], 0.05)[0]:
        break
print(peak)
"""


def anonymous_bytes() -> int | None:
    """Anonymous resident memory of this process; None where there is no /proc."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    line = next((x for x in status.splitlines() if x.startswith("RssAnon")), None)
    return int(line.split()[1]) * 1024 if line else None


class PeakMemory:
    """Watches this process while a block runs; `added_bytes` is the peak it added."""

    added_bytes: int | None = None

    def __enter__(self) -> PeakMemory:
        self._before = anonymous_bytes()
        self._watcher = None
        if self._before is not None:
            self._watcher = subprocess.Popen(
                [sys.executable, "-S", "-E", "-c", WATCHER, str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        return self

    def __exit__(self, *error: object) -> None:
        if self._watcher is None:
            return
        said, _ = self._watcher.communicate()
        if said.strip().isdigit():
            self.added_bytes = max(0, int(said) - self._before)
