"""Run other suites' unmodified tests over the shims: `python -m tests.compat.run`.

Where their checkouts are is said by environment variables; nothing of them is kept
here. Prints how many tests passed, failed or are not applicable, and why.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from .engine import L2_VARIABLE, l2_as_ip

TESTS = Path(__file__).parents[1]
OUTCOMES = ("passed", "failed", "not applicable")
STARTED = "started"
SECONDS = 600  # a test; the machine may be busy


class Suite(NamedTuple):
    """Somebody's tests.

    Parameters
    ----------
    name : str
    variable : str
        Of the environment, that holds the path of a checkout.
    pattern : str
        Its files with tests, below that path.
    options : tuple of str
        For pytest.
    """

    name: str
    variable: str
    pattern: str
    options: tuple[str, ...] = ()

    @property
    def root(self) -> Path | None:
        """Where the checkout is, if that is said."""
        given = os.environ.get(self.variable)
        return Path(given).resolve() if given else None


class Result(NamedTuple):
    """How one test, or one of its parameters, ended."""

    suite: str
    test: str
    outcome: str
    reason: str


SUITES = (
    # unittest's cases only: a helper there is called test_… too
    Suite("hnswlib", "FUNNEL_HNSWLIB_SUITE", "tests/python/bindings_test*.py",
          ("-o", "python_functions=")),
    Suite("usearch", "FUNNEL_USEARCH_SUITE", "python/scripts/test_index.py"),
)  # fmt: skip
# Failures that were looked at: suite, test, what it said, and why that is as it should.
REVIEWED = (
    ("usearch*", "*::test_index_retrieval[[]*", "*DID NOT RAISE*",
     "wants column-major rows refused; funnel takes rows in any memory order"),
)  # fmt: skip


def review_of(result: Result) -> str:
    """Return why a failure is as it should be, or nothing."""
    for suite, test, said, why in REVIEWED:
        wanted = ((result.suite, suite), (result.test, test), (result.reason, said))
        if all(fnmatch.fnmatchcase(text, pattern) for text, pattern in wanted):
            return why
    return ""


def child(suite: Suite, file: Path, folder: Path, seconds: int) -> None:
    """Run the tests of a file that no child has begun yet, as far as one gets."""
    paths = (str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", ""))
    env = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    command = [
        sys.executable, "-m", "pytest", "-q", "-p", "compat.plugin",
        "-p", "no:cacheprovider", "--import-mode=importlib",
        "-c", str(folder / "pytest.ini"), f"--rootdir={suite.root}",
        f"--compat-lines={folder / 'lines'}", f"--compat-seconds={seconds}",
        *suite.options, str(file),
    ]  # fmt: skip
    (folder / "pytest.ini").write_text("[pytest]\n")
    with (folder / "log").open("wb") as log:
        subprocess.run(
            command, cwd=folder, env=env, stdout=log, stderr=log, check=False
        )


def run_file(suite: Suite, file: Path, seconds: int) -> Iterator[Result]:
    """Yield how the tests of a file ended; a child that died is followed by another."""
    with tempfile.TemporaryDirectory(prefix="funnel-compat-") as name:
        folder, ended, begun = Path(name), {}, -1
        lines = folder / "lines"
        lines.touch()
        while len(ended) > begun:
            begun = len(ended)
            child(suite, file, folder, seconds)
            for text in lines.read_text().splitlines():
                one = json.loads(text)
                ended[one["test"]] = (one["outcome"], one["reason"])
            if STARTED not in (outcome for outcome, _ in ended.values()):
                break
            died = {t: r for t, r in ended.items() if r[0] == STARTED}
            ended |= dict.fromkeys(died, ("failed", "its process ended, or was ended"))
            with lines.open("a") as out:
                for test in died:
                    outcome, reason = ended[test]
                    one = {"test": test, "outcome": outcome, "reason": reason}
                    out.write(json.dumps(one) + "\n")
        if not ended:
            last = (folder / "log").read_text(errors="replace").strip()
            raise RuntimeError(f"{file} ran no test: {last[-500:]}")
    for test, (outcome, reason) in ended.items():
        yield Result(suite.name, test, outcome, reason)


def run_suite(suite: Suite, seconds: int = SECONDS) -> Iterator[Result]:
    """Yield how all tests of a suite ended."""
    files = sorted(suite.root.glob(suite.pattern)) if suite.root else []
    if not files:
        raise FileNotFoundError(f"no {suite.pattern} in {suite.variable}={suite.root}")
    for file in files:
        yield from run_file(suite, file, seconds)


def tables(results: list[Result]) -> str:
    """Return the counts of each suite, and a line for each reason."""
    counts = Counter((one.suite, one.outcome) for one in results)
    lines = ["| suite | " + " | ".join(OUTCOMES) + " |", "| --- | --: | --: | --: |"]
    for suite in dict.fromkeys(one.suite for one in results):
        numbers = " | ".join(str(counts[suite, outcome]) for outcome in OUTCOMES)
        lines.append(f"| {suite} | {numbers} |")
    lines += ["", "| suite | test | outcome | cases | reason |",
              "| --- | --- | --- | --: | --- |"]  # fmt: skip
    groups: Counter[tuple[str, ...]] = Counter()
    for one in results:
        test = one.test.rpartition("/")[2].partition("[")[0]
        review = review_of(one) if one.outcome == "failed" else ""
        reason = f"reviewed: {review}" if review else one.reason.replace("|", "\\|")
        groups[one.suite, test, one.outcome, reason] += 1
    for (suite, test, outcome, reason), cases in groups.items():
        lines.append(f"| {suite} | `{test}` | {outcome} | {cases} | {reason} |")
    return "\n".join(lines)


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(prog="tests.compat.run", description=__doc__)
    parser.add_argument("--out", type=Path, help="write a line of JSON for each test")
    parser.add_argument("--seconds", type=int, default=SECONDS, help="for a test")
    parser.add_argument("--suite", choices=[one.name for one in SUITES])
    parser.add_argument(
        "--l2-as-ip",
        action="store_true",
        help="have squared distances as inner products over one more dim, which the "
        "shims append: not what funnel offers, but its life cycle is tested by more",
    )
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run the suites whose checkouts are given; return 1 if something new failed."""
    asked = parsed(arguments)
    given = [one for one in SUITES if one.root and asked.suite in (None, one.name)]
    if not given:
        names = " or ".join(one.variable for one in SUITES)
        sys.stderr.write(f"say where a checkout is: set {names}\n")
        return 2
    if asked.l2_as_ip:
        os.environ[L2_VARIABLE] = "ip"
    results, label = [], ", l2 as ip" if l2_as_ip() else ""
    with (asked.out or Path(os.devnull)).open("w") as out:
        for suite in given:
            for one in run_suite(suite, asked.seconds):
                results.append(one._replace(suite=one.suite + label))
                review = review_of(one) if one.outcome == "failed" else ""
                said = results[-1]._asdict() | {"review": review}
                out.write(json.dumps(said) + "\n")
                out.flush()
    sys.stdout.write(tables(results) + "\n")
    failed = [one for one in results if one.outcome == "failed"]
    return int(not all(review_of(one) for one in failed))


if __name__ == "__main__":
    sys.exit(main())
