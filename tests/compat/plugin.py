"""A pytest plugin: puts the shims in place, and writes down how each test ended.

Loaded into a child process by `run.py`, with ``-p``. A line of JSON is written before
and after each test, so that a child that is ended names the test that it was in.
"""

from __future__ import annotations

import faulthandler
import json
import signal
import sys
import types
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from . import hnswlib_shim, limits, usearch_eval_shim, usearch_shim

STARTED = "started"
LONGEST_REASON = 200


def install() -> None:
    """Let ``import hnswlib`` and ``import usearch.index`` find the shims."""
    usearch = types.ModuleType("usearch")
    usearch.index, usearch.eval = usearch_shim, usearch_eval_shim
    sys.modules |= {
        "hnswlib": hnswlib_shim,
        "usearch": usearch,
        "usearch.index": usearch_shim,
        "usearch.eval": usearch_eval_shim,
    }


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--compat-lines", type=Path)
    parser.addoption("--compat-seconds", type=int)


def pytest_configure(config: pytest.Config) -> None:
    install()
    config.pluginmanager.register(Recorder(config), "compat-recorder")


class Recorder:
    """Runs each test within a time limit and notes how it ended.

    Parameters
    ----------
    config : pytest.Config
    """

    def __init__(self, config: pytest.Config) -> None:
        self.lines = config.getoption("compat_lines")
        self.seconds = config.getoption("compat_seconds")

    def note(self, test: str, outcome: str, reason: str = "") -> None:
        line = {"test": test, "outcome": outcome, "reason": reason}
        with self.lines.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Leave out the tests that an earlier child has begun."""
        done = {json.loads(line)["test"] for line in self.lines.open()}
        items[:] = [item for item in items if item.nodeid not in done]

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.note(report.nodeid, "failed", last_line(report.longreprtext))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """Interrupt a test that is late; end the process where that is of no use."""
        limits.said.clear()
        self.note(item.nodeid, STARTED)
        signal.signal(signal.SIGALRM, too_slow)
        signal.alarm(self.seconds)
        faulthandler.dump_traceback_later(
            2 * self.seconds, exit=True, file=sys.__stderr__
        )
        try:
            return (yield)
        finally:
            signal.alarm(0)
            faulthandler.cancel_dump_traceback_later()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        if report.when == "call" or report.outcome != "passed":
            self.note(item.nodeid, *judged(report))
        return report


def too_slow(number: int, frame: types.FrameType | None) -> None:
    """Raise, in whatever test runs."""
    raise TimeoutError("took too long")


def judged(report: pytest.TestReport) -> tuple[str, str]:
    """Return a test's outcome and the reason for it.

    A test in which a shim had to say no is not applicable, even if it expected any
    exception and took that one for its own.
    """
    if limits.said:
        return "not applicable", limits.said[0]
    if report.outcome == "skipped":
        why = report.longrepr[2] if isinstance(report.longrepr, tuple) else ""
        return "not applicable", f"its suite skips it: {why.removeprefix('Skipped: ')}"
    if report.outcome == "passed":
        return "passed", ""
    crash = getattr(report.longrepr, "reprcrash", None)
    said = crash.message if crash is not None else report.longreprtext
    return "failed", said.strip().split("\n")[0][:LONGEST_REASON]


def last_line(text: str) -> str:
    """Return the last line that says anything."""
    return ([line for line in text.split("\n") if line.strip()] or [""])[-1].strip()
