"""A writer that is killed, or loses its power, leaves an index that is whole.

Quick forms of `reliability/`, with strace and without, and that its power cuts notice
a sync that is left out.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from reliability.powerloss import (
    Disk,
    explore,
    first_violation,
    mutants_of,
    parts_of,
    recorded,
    states_of,
)
from reliability.trace import (
    ROOT,
    Enter,
    Move,
    Op,
    Sync,
    Trace,
    Write,
    cannot_trace,
    read_line,
)

REASON = cannot_trace()
needs_strace = pytest.mark.skipif(REASON is not None, reason=str(REASON))
REPOSITORY = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def trace() -> Trace:
    return recorded(seed=1, traced=REASON is None)


@needs_strace
@pytest.mark.parametrize(
    ("by", "where", "least"),
    [
        ("KILL", ["--every", "40"], 12),
        ("INT", ["--only", "link"], 8),  # Ctrl-C as a version is published
        ("EIO", ["--only", "fsync", "--every", "12"], 7),
    ],
)
def test_kill__leaves_a_whole_index(
    by: str, where: list[str], least: int, tmp_path: Path
) -> None:
    trials = killed(tmp_path / "trials.jsonl", "--by", by, *where)
    assert len(trials) >= least
    assert {"absent", "acknowledged"} <= {trial["outcome"] for trial in trials}


@pytest.mark.parametrize(
    ("where", "least"),
    [(["--every", "60" if REASON is None else "12"], 8), (["--only", "link"], 8)],
    ids=["all", "link"],
)
def test_kill__without_strace_leaves_a_whole_index(
    where: list[str], least: int, tmp_path: Path
) -> None:
    trials = killed(tmp_path / "trials.jsonl", *where, PATH="")
    assert len(trials) >= least
    assert {"absent", "acknowledged"} <= {trial["outcome"] for trial in trials}


@pytest.mark.parametrize("nth", [1, 3, 5])  # makes a folder, writes, renames
def test_failpoints__end_a_process_at_its_nth_call(nth: int, tmp_path: Path) -> None:
    script = (
        "import os, sys; from pathlib import Path\n"
        "from reliability.failpoints import Failpoints\n"
        f"points = Failpoints({nth}); points.install()\n"
        "folder = Path(sys.argv[1]); folder.mkdir()\n"
        "with (folder / 'a').open('xb') as file:\n"
        "    file.write(b'12'); file.flush(); os.fsync(file.fileno())\n"
        "(folder / 'a').rename(folder / 'b'); (folder / 'b').unlink()\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "x")]
    done = subprocess.run(command, cwd=REPOSITORY, check=False)
    assert done.returncode == -signal.SIGKILL
    left = {path.name: path.read_bytes() for path in tmp_path.glob("x/*")}
    assert left == {1: {}, 3: {"a": b"1"}, 5: {"a": b"12"}}[nth]
    assert (tmp_path / "x").exists() == (nth > 1)


def killed(out: Path, *options: str, **environment: str) -> list[dict[str, Any]]:
    """Run `reliability.kill`, which must find no fault; return its trials."""
    command = [sys.executable, "-m", "reliability.kill", *options]
    done = subprocess.run(
        [*command, "--out", str(out)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | environment,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads(line) for line in out.read_text().splitlines()]


def test_power_cut__leaves_a_whole_index(trace: Trace) -> None:
    assert trace.forbidden == []
    outcomes = [outcome for _, outcome in explore(states_of(trace, 50, 1), set())]
    assert len(outcomes) > 300
    assert set(outcomes) == {"absent", "acknowledged", "intended"}


@pytest.mark.parametrize("role", ["data/", "codes"])
def test_power_cut__shows_that_a_sync_is_needed(trace: Trace, role: str) -> None:
    ignored = mutants_of(trace)[role]
    assert first_violation(states_of(trace, 0, 1, ignored), set()) is not None


def test_trace__has_files_of_every_role(trace: Trace) -> None:
    assert set(mutants_of(trace)) == {
        "vectors0", "norms", "codes", "links", "entries", "node_starts", "node_rows",
        "loose", "ids", "lookup", "metadata", "axes", "deleted", "data/", "FUNNEL",
        "manifest draft", "manifest/", "manifest/ after removal", "index folder",
        "parent",
    }  # fmt: skip


@needs_strace
def test_trace__in_python_is_that_of_strace(trace: Trace) -> None:
    def steps(trace: Trace) -> list[list[str]]:
        ops = [op for op in trace.ops if not isinstance(op, Write)]
        runs = itertools.groupby(ops, lambda op: isinstance(op, Sync))
        return [sorted(map(step, some)) for _, some in runs]  # files sync in any order

    def step(op: Op) -> str:
        return op.role if isinstance(op, Sync) else type(op).__name__

    assert steps(recorded(seed=1, traced=False)) == steps(trace)


# ---- the model of a disk


def test_disk__keeps_what_was_synced_and_may_lose_the_rest() -> None:
    disk = Disk(frozenset({ROOT}), seed=1)
    steps = [Enter(ROOT, "a", 1), Write(1, 0, b"old"), Sync(1, "a"), Sync(ROOT, "")]
    for op in [*steps, Write(1, 3, b" new"), Move(ROOT, "a", "b")]:
        disk.do(op)
    units = disk.units()
    assert disk.tree(units, [0, 0]) == {"a": b"old"}
    assert disk.tree(units, [1, 0]) == {"a": b"old new"}
    assert disk.tree(units, [0, 1]) == {"b": b"old"}
    assert disk.tree(units, [1, 1]) == {"b": b"old new"}


def test_disk__loses_the_bytes_of_a_file_whose_name_it_kept() -> None:
    disk = Disk(frozenset({ROOT}), seed=1)
    for op in (Enter(ROOT, "a", 1), Write(1, 0, b"x" * 700), Sync(ROOT, "")):
        disk.do(op)
    (unit,) = disk.units()
    lost, whole, *parts = (disk.tree([unit], [i])["a"] for i in range(5))
    assert (lost, whole) == (b"", b"x" * 700)
    assert bytes(700) in parts
    assert b"x" * 512 in parts


def test_parts__begin_with_none_and_all_and_do_not_repeat() -> None:
    writes = [Write(1, 4, b"body"), Write(1, 0, b"head")]
    before, whole, *parts = parts_of(b"", writes, random.Random(1))
    assert (before, whole) == (b"", b"headbody")
    assert parts == [bytes(8), bytes(4) + b"body"]


# ---- what strace says


def escaped(text: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in text.encode())


def read(*lines: str) -> Trace:
    """Return what calls on ``/r/f`` do; ``{f}`` is its path, ``{h}`` its descriptor."""
    trace, path = Trace("/r"), escaped("/r/f")
    for line in lines:
        read_line(trace, "7  " + line.format(f=f'"{path}"', h=f"3<{path}>"))
    return trace


MADE = "openat(AT_FDCWD</>, {f}, O_WRONLY|O_CREAT, 0666) = {h}"
WRITTEN = r'write({h}, "\x61\x62", 2) = 2'


def test_read_line__follows_a_file() -> None:
    trace = read(
        MADE, WRITTEN, "lseek({h}, 8, SEEK_SET) = 8", WRITTEN, "fsync({h}) = 0"
    )
    written = [Enter(ROOT, "f", 1), Write(1, 0, b"ab"), Write(1, 8, b"ab")]
    assert trace.ops[:3] == written
    assert [op.owner for op in trace.ops[3:]] == [1]
    assert trace.forbidden == []


@pytest.mark.parametrize(
    "line",
    [
        WRITTEN,
        "ftruncate({h}, 0) = 0",
        "openat(AT_FDCWD</>, {f}, O_WRONLY|O_CREAT|O_TRUNC, 0666) = {h}",
        "mmap(NULL, 8, PROT_READ|PROT_WRITE, MAP_SHARED, {h}, 0) = 0x7f00",
        "copy_file_range({h}, NULL, {h}, NULL, 8, 0) = 8",
        "io_uring_setup(8, 0x7f00) = 4",
    ],
)
def test_read_line__forbids_what_changes_a_synced_file(line: str) -> None:
    assert len(read(MADE, WRITTEN, "fsync({h}) = 0", line).forbidden) == 1


def test_read_line__passes_over_calls_that_fail() -> None:
    failed = (
        "openat(AT_FDCWD</>, {f}, O_WRONLY|O_CREAT) = -1 EACCES (Permission denied)"
    )
    assert read(failed).ops == []
