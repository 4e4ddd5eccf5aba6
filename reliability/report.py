"""The page that says what held: `reports/reliability/README.md`, from its JSON lines.

Called by `__main__.py`. Judges nothing that the forms did not.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from reliability.forms import Line

WRITTEN_BY = "`python -m reliability`"
SHARES = ("crash", "hung", "other error", "wrong", "error", "right")
SAID = {
    "kill": "A writer is cut short at each of its calls that change files",
    "powerloss": "A power cut at each of its operations: states of the disk, sampled",
    "soak": "Random changes, killed at random moments and in merges",
    "concurrent": "One writer beside readers: answers against what versions held",
    "quality": "Answers as the index changes",
    "damage": "Spoiled files: what a search does then",
    "compat": "Other libraries' own tests, over shims",
}


def table(header: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """Return a Markdown table; the first column is text, the others are numbers."""
    names = list(header)
    lines = [names, ["---", *["--:"] * (len(names) - 1)]]
    lines += [[said(cell) for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def said(cell: Any) -> str:
    """Return a cell's text; what was not counted is a dash."""
    if cell is None:
        return "–"
    if isinstance(cell, float):
        return f"{cell:.4f}" if 0 < cell < 1 else f"{cell:g}"
    return f"{cell:,}" if isinstance(cell, int) else str(cell)


def _kill(lines: list[Line]) -> str:
    header = ["by", "calls", "as before", "as after", "not there yet", "failures"]
    ended = ("acknowledged", "intended", "absent")
    return table(
        header,
        (
            [one["by"], one["points"], *(one["ended"].get(e, 0) for e in ended),
             one["failed"]]
            for one in lines
        ),
    )  # fmt: skip


def _powerloss(lines: list[Line]) -> str:
    header = [
        "left out", "of them", "noticed", "said twice anyway", "states with all syncs",
        "violations",
    ]  # fmt: skip
    names = ("mutants", "noticed", "doubled", "states", "failed")
    return table(
        header,
        (
            [one.get("left_out", "kinds of sync"), *(one[name] for name in names)]
            for one in lines
        ),
    )


def _soak(lines: list[Line]) -> str:
    header = ["rounds", "kills", "in a merge", "changes", "merges", "violations"]
    names = ("rounds", "kills", "killed_in_a_merge", "operations", "merges", "failed")
    return table(header, ([one[name] for name in names] for one in lines))


def _concurrent(lines: list[Line]) -> str:
    header = [
        "readers", "seconds", "versions", "merges", "answers checked", "wrong",
        "left open", "memory grown, MB", "p99 in a compaction, ms", "otherwise",
    ]  # fmt: skip
    return table(
        header,
        (
            [f"{one['readers']} {'processes' if one['processes'] else 'threads'}",
             one["seconds"], one["versions"], one.get("merges"), one["answers"],
             one["wrong"], one["left_descriptors"] + one["left_maps"],
             _in_mb(one.get("grown_bytes")), one.get("p99_ms_in_compaction"),
             one.get("p99_ms_otherwise")]
            for one in lines
        ),
    )  # fmt: skip


def _in_mb(count: int | None) -> float | None:
    return None if count is None else round(count / 1e6, 1)


def _quality(lines: list[Line]) -> str:
    header = ["change", "rows", "knn_recall@10, fresh", "after", "rows that do not find"
              " themselves"]  # fmt: skip
    names = ("change", "rows", "knn_recall_of_fresh", "knn_recall", "lost")
    return table(header, ([one[name] for name in names] for one in lines))


def _damage(lines: list[Line]) -> str:
    counted = [one for one in lines if "trials" in one]
    kinds: dict[str, list[Line]] = defaultdict(list)
    for one in counted:
        kinds[one["system"]].append(one)
    rows = []
    for system, some in kinds.items():
        trials = sum(one["trials"] for one in some)
        shares = (sum(one.get(name, 0) for one in some) / trials for name in SHARES)
        rows.append([system, trials, *(f"{share:.1%}" for share in shares)])
    page = table(["all kinds", "trials", *SHARES], rows)
    each = [
        [one["system"], one["damage"], one["trials"]]
        + [one.get(name, 0) for name in SHARES]
        for one in counted
    ]
    page += "\n" + table(["system", "kind", "trials", *SHARES], each)
    for one in lines:
        if "files" in one:
            types = ", ".join(f"{name} {count}" for name, count in one["files"].items())
            page += f"\nFiles of `{one['system']}` by type: {types}.\n"
    return page


def _compat(lines: list[Line]) -> str:
    names = ("suite", "outcome", "tests", "reason")
    return table(names, ([one[name] for name in names] for one in lines))


TABLES = {
    "kill": _kill,
    "powerloss": _powerloss,
    "soak": _soak,
    "concurrent": _concurrent,
    "quality": _quality,
    "damage": _damage,
    "compat": _compat,
}


def page(folder: Path) -> str:
    """Return the page of what is in a folder; what was not run is not in it."""
    parts = [f"# What held\n\nMade by {WRITTEN_BY}; `--help` says how to run a part.\n"]
    for name, make in TABLES.items():
        path = folder / f"{name}.jsonl"
        if not path.exists():
            continue
        about, *lines = [json.loads(line) for line in path.read_text().splitlines()]
        when = f"Commit `{about['commit'][:9]}`, {about['date']}, {about['took_s']} s"
        commands = ", ".join(f"`{one}`" for one in about["commands"])
        parts.append(f"## {SAID[name]}\n\n{make(lines)}\n{when}: {commands}.\n")
    return "\n".join(parts)
