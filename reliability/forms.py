"""The long forms of all that is here: commands, and what of their output is kept.

Counts alone are kept: a command's own `--out` has a line for each trial. Called by
`__main__.py`; runs nothing itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Line = dict[str, Any]
ENDED_WELL = ("absent", "acknowledged", "intended")


@dataclass(frozen=True)
class Form:
    """A command and what its lines come to.

    Parameters
    ----------
    name : str
        Of the file that its counts go to; forms may share one.
    module : str
        What `python -m` runs.
    options : tuple of str
    quick : tuple of str
        Instead of `options` in a few minutes.
    counted : callable
        Lines → lines of counts.
    """

    name: str
    module: str
    options: tuple[str, ...]
    quick: tuple[str, ...]
    counted: Callable[[list[Line]], list[Line]]


def as_they_are(lines: list[Line]) -> list[Line]:
    """Keep lines that are counts already."""
    return lines


def of_kills(by: str) -> Callable[[list[Line]], list[Line]]:
    """Count what `kill` found, by how it ended."""

    def counted(lines: list[Line]) -> list[Line]:
        ended = Counter(line["outcome"].partition(":")[0] for line in lines)
        calls = Counter(line["syscall"] for line in lines)
        failed = sum(line["outcome"] not in ENDED_WELL for line in lines)
        found = {"by": by, "points": len(lines), "failed": failed}
        return [found | {"ended": dict(ended), "calls": dict(calls)}]

    return counted


def of_power_cuts(lines: list[Line]) -> list[Line]:
    """Count states, and mutants that were noticed."""
    states = [line for line in lines if "state" in line]
    mutants = [line for line in lines if "ignored" in line]
    ended = Counter(line["outcome"].partition(":")[0] for line in states)
    return [
        {
            "states": len(states),
            "failed": len(states) - sum(ended[one] for one in ENDED_WELL),
            "ended": dict(ended),
            "mutants": len(mutants),
            "noticed": sum(line["noticed"] for line in mutants),
            "doubled": sum(line["doubled"] for line in mutants),
        }
    ]


def of_single_syncs(lines: list[Line]) -> list[Line]:
    """Count states, and mutants that lack one sync, not all of a kind."""
    return [one | {"left_out": "single syncs"} for one in of_power_cuts(lines)]


def of_rounds(lines: list[Line]) -> list[Line]:
    """Count the rounds of the soak."""
    killed = [line for line in lines if line["ended"] != 0]
    return [
        {
            "rounds": len(lines),
            "kills": len(killed),
            "operations": sum(line["acknowledged"] for line in lines),
            "merges": sum(line["merges"] for line in lines),
            "killed_in_a_merge": sum(line["in_merge"] for line in killed),
            "failed": sum(line["outcome"] not in ENDED_WELL for line in lines),
        }
    ]


def of_suites(lines: list[Line]) -> list[Line]:
    """Count how other suites' tests ended, and why not."""
    counts = Counter(
        (line["suite"], line["outcome"], line.get("review") or line["reason"])
        for line in lines
    )
    names = ("suite", "outcome", "reason")
    return [
        dict(zip(names, key, strict=True)) | {"tests": count}
        for key, count in sorted(counts.items())
    ]


KILLS = "reliability.kill"
FORMS = (
    *(
        Form("kill", KILLS, ("--by", by), ("--by", by, "--every", "40"), of_kills(by))
        for by in ("KILL", "INT", "EIO", "ENOSPC", "EROFS")
    ),
    Form("kill", KILLS, ("--failpoints",), ("--failpoints", "--every", "40"),
         of_kills("KILL, without strace")),
    Form("powerloss", "reliability.powerloss", ("--states", "6000", "--mutants"),
         ("--states", "50"), of_power_cuts),
    Form("powerloss", "reliability.powerloss", ("--states", "400", "--calls"),
         ("--states", "0", "--calls"), of_single_syncs),
    Form("soak", "reliability.soak", ("--seconds", "300"),
         ("--seconds", "10"), of_rounds),
    Form("concurrent", "reliability.concurrent", ("--seconds", "120", "--slower", "3"),
         ("--seconds", "5", "--readers", "4"), as_they_are),
    Form("concurrent", "reliability.concurrent",
         ("--seconds", "120", "--slower", "3", "--processes"),
         ("--seconds", "5", "--readers", "2", "--processes"), as_they_are),
    Form("damage", "reliability.damage", ("--trials", "400"),
         ("--trials", "30", "--systems", "funnel,funnel-verified"), as_they_are),
    Form("quality", "reliability.quality", (),
         ("--n", "4000", "--rounds", "2"), as_they_are),
    Form("compat", "tests.compat.run", (), (), of_suites),
)  # fmt: skip
