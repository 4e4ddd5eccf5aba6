"""Run every long form and write what held: `python -m reliability`.

Takes about half an hour; ``--quick`` a few minutes. Each form is a command of its own,
which ends by itself; counts go to `reports/reliability/`, with a page of tables. Talks
to nobody.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import machine
from reliability.forms import FORMS, Form, Line
from reliability.report import page

REPOSITORY = Path(__file__).parent.parent
NAMES = tuple(dict.fromkeys(form.name for form in FORMS))
SUITES = ("FUNNEL_HNSWLIB_SUITE", "FUNNEL_USEARCH_SUITE")


def run(form: Form, *, quick: bool) -> tuple[int, list[Line]]:
    """Run a form; return its exit status and its counts."""
    options = form.quick if quick else form.options
    with tempfile.TemporaryDirectory(prefix="funnel-") as folder:
        out = Path(folder) / "lines"
        command = [sys.executable, "-m", form.module, *options, "--out", str(out)]
        done = subprocess.run(command, cwd=REPOSITORY, check=False)
        lines = out.read_text().splitlines() if out.exists() else []
    return done.returncode, form.counted([json.loads(line) for line in lines])


def run_all(name: str, folder: Path, *, quick: bool) -> int:
    """Run the forms of a name and write their counts; return how many failed."""
    forms = [form for form in FORMS if form.name == name]
    began, failed, lines = time.monotonic(), 0, []
    for form in forms:
        status, counts = run(form, quick=quick)
        failed += status != 0
        lines += counts
    options = ((f.module, *(f.quick if quick else f.options)) for f in forms)
    about = {
        "commands": ["python -m " + " ".join(words) for words in options],
        "commit": machine.commit(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "took_s": round(time.monotonic() - began),
        "failed": failed,
    }
    written = "".join(json.dumps(line) + "\n" for line in (about, *lines))
    (folder / f"{name}.jsonl").write_text(written)
    return failed


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as a command; return 1 if a form failed."""
    parser = argparse.ArgumentParser(prog="python -m reliability", description=__doc__)
    parser.add_argument("--only", default=",".join(NAMES), metavar="NAME,…")
    parser.add_argument("--quick", action="store_true", help="a few trials of each")
    default = Path("reports") / "reliability"
    parser.add_argument("--out", type=Path, default=default, metavar="DIR")
    asked = parser.parse_args(arguments)
    wanted = [name.strip() for name in asked.only.split(",")]
    if unknown := set(wanted) - set(NAMES):
        parser.error(f"no form is called {sorted(unknown)[0]!r}: {', '.join(NAMES)}")
    asked.out.mkdir(parents=True, exist_ok=True)
    failed = 0
    for name in wanted:
        if name == "compat" and not any(os.environ.get(one) for one in SUITES):
            sys.stdout.write(f"compat: set {' or '.join(SUITES)} to a checkout\n")
            continue
        sys.stdout.write(f"== {name}\n")
        sys.stdout.flush()
        failed += run_all(name, asked.out, quick=asked.quick)
    (asked.out / "README.md").write_text(page(asked.out))
    sys.stdout.write(f"{failed} forms failed; written to {asked.out}/\n")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
