"""What the system refuses: memory, and writing. And that memory does not grow."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from funnel import FunnelIndex

ROWS = np.random.default_rng(0).standard_normal((400, 32)).astype(np.float32)

OUT_OF_MEMORY = textwrap.dedent(
    """
    import json, resource, sys
    import numpy as np
    from funnel import FunnelError, FunnelIndex

    rows = np.random.default_rng(1).standard_normal((120_000, 32)).astype(np.float32)
    with FunnelIndex.open(sys.argv[1], "rw", auto_compact=False) as index:
        index.add(rows[:5_000])  # all that is needed is compiled and loaded
        index.delete(filter={"id": {"$gte": 400}})
        before = index.versions()[-1], len(index)
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        found = []
        for spare_mb in (1, 4, 16):
            limit = used + (spare_mb << 20)
            resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
            try:
                index.add(rows)
            except FunnelError as error:
                found.append(type(error).__name__)
            no_limit = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
            resource.setrlimit(resource.RLIMIT_AS, no_limit)
            found.append((index.versions()[-1], len(index)) == before)
        index.add(rows[:10], ids=range(10_000, 10_010))
        index.verify("full")
        found.append(len(index) == before[1] + 10)
    print(json.dumps(found))
    """
)

READ_ONLY = textwrap.dedent(
    """
    import json, os, sys
    import numpy as np
    from funnel import FunnelError, FunnelIndex

    rows = np.random.default_rng(0).standard_normal((400, 32)).astype(np.float32)
    with FunnelIndex.open(sys.argv[1]) as index:
        index.warmup()
    if os.geteuid() == 0:  # nothing is read-only for root
        os.setresuid(65534, 65534, 65534)
    found = []
    with FunnelIndex.open(sys.argv[1]) as index:
        found.append(index.search(rows[:3], 1).ids[:, 0].tolist())
        index.verify("full")
        found.append(index.refresh())
    for change in (
        lambda: FunnelIndex.open(sys.argv[1], "rw").add(rows[:1]),
        lambda: FunnelIndex.build(rows, path=sys.argv[1], overwrite=True),
    ):
        try:
            change()
        except FunnelError as error:
            found.append(type(error).__name__)
    print(json.dumps(found))
    """
)


def run(script: str, path: Path) -> list[object]:
    """Run a script on an index in a process of its own; return what it printed."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, str(path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    found: list[object] = json.loads(done.stdout)
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="limits differ elsewhere")
def test_memory_limit__is_an_error_and_changes_nothing(tmp_path: Path) -> None:
    FunnelIndex.build(ROWS, path=tmp_path / "x").close()
    found = run(OUT_OF_MEMORY, tmp_path / "x")
    *limited, works_again = found
    assert works_again is True
    assert limited[1::2] == [True] * 3, found
    assert set(limited[::2]) <= {"OutOfMemoryError", "StorageError"}


@pytest.mark.skipif(not hasattr(os, "setresuid"), reason="no permissions here")
def test_read_only__is_read_and_not_written(tmp_path: Path) -> None:
    path = tmp_path / "x"
    FunnelIndex.build(ROWS, path=path).close()
    for one in (path, *path.rglob("*")):
        one.chmod(0o555 if one.is_dir() else 0o444)
    for one in (tmp_path, *tmp_path.parents):  # others may pass through
        if one.stat().st_uid == os.geteuid() and one != Path("/"):
            one.chmod(one.stat().st_mode | 0o055)
    tmp_path.chmod(0o555)
    before = {one: one.stat().st_mtime_ns for one in path.rglob("*")}
    try:
        assert run(READ_ONLY, path) == [
            [0, 1, 2],
            False,
            "StorageError",
            "StorageError",
        ]
        assert {one: one.stat().st_mtime_ns for one in path.rglob("*")} == before
    finally:
        for one in (tmp_path, path, *(p for p in path.rglob("*") if p.is_dir())):
            one.chmod(0o755)


def anonymous_bytes() -> int:
    """Return this process's own memory."""
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Anonymous:"):
            return int(line.split()[1]) << 10
    raise AssertionError("the kernel does not say")


@pytest.mark.skipif(
    not Path("/proc/self/smaps_rollup").exists(), reason="the system does not say"
)
def test_memory__stays_flat_while_versions_come_and_go(tmp_path: Path) -> None:
    rng, held = np.random.default_rng(2), []
    FunnelIndex.build(ROWS, path=tmp_path / "x").close()
    with (
        FunnelIndex.open(tmp_path / "x", "rw", auto_compact=False) as index,
        FunnelIndex.open(tmp_path / "x") as reader,
    ):
        for step in range(240):
            rows = rng.standard_normal((20, 32)).astype(np.float32)
            index.upsert(rows, ids=range(400, 420))
            if step % 20 == 19:
                index.compact(keep_versions=2)
            reader.refresh()
            reader.search(rows, filter={"id": {"$gte": int(rng.integers(400))}})
            if step in (119, 239):
                held.append(anonymous_bytes())
    assert held[1] - held[0] < 4 << 20, f"{held[1] - held[0]:,} bytes more"
