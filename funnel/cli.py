"""`python -m funnel COMMAND …`: the library's verbs, for a shell.

A command is one function that takes the parsed arguments and writes to standard output,
and one that says what these are; both stand in `COMMANDS`. Bad input is one line on
standard error and exit code 2.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NoReturn

from funnel.adapt.diagnose import diagnose
from funnel.errors import FunnelError
from funnel.vectors import TRANSFORMS
from funnel.version import __version__

BAD_INPUT = 2


class Command(NamedTuple):
    """A command: what it does in a line, what arguments it has, and the doing."""

    summary: str
    describe: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], None]


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"{self.prog}: {message} (see {self.prog} --help)\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code.

    Parameters
    ----------
    arguments : sequence of str, optional
        By default those of the process.
    """
    chosen = _parser().parse_args(arguments)
    try:
        COMMANDS[chosen.command].run(chosen)
    except FunnelError as error:
        text = " ".join(str(error).split())
        sys.stderr.write(f"funnel {chosen.command}: {text}\n")
        return BAD_INPUT
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m funnel", description=__doc__.partition("\n")[0])
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        summary = command.summary
        one = commands.add_parser(name, help=summary, description=summary)
        command.describe(one)
    return parser


def _describe_diagnose(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("file", metavar="FILE", help="a file (.npy, .parquet, .arrow), folder or glob")
    add("--queries", metavar="FILE", help="queries as they will come: choose on them")
    add("--vector-column", metavar="NAME", help="of a table, by default found")
    add("--transform", choices=TRANSFORMS, help="applied to all rows first")
    add("--seed", type=int, default=0, help="draws the sample (default: 0)")
    add("--json", action="store_true", help="print JSON")


def _diagnose(chosen: argparse.Namespace) -> None:
    found = diagnose(
        chosen.file,
        queries=chosen.queries,
        transform=chosen.transform,
        seed=chosen.seed,
        vector_column=chosen.vector_column,
    )
    if chosen.json:
        sys.stdout.write(json.dumps(found.to_dict(), indent=2, allow_nan=False) + "\n")
    else:
        show(found)


def show(found: Any) -> None:
    """Write something by rich, where that is installed and a person reads it."""
    try:
        from rich.console import Console
    except ImportError:
        sys.stdout.write(f"{found}\n")
        return
    if sys.stdout.isatty():
        Console().print(found)
    else:
        sys.stdout.write(f"{found}\n")


COMMANDS = {
    "diagnose": Command(
        "say what an embedding is worth to a funnel, and what to do",
        _describe_diagnose,
        _diagnose,
    ),
}
