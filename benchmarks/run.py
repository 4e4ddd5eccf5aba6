"""The main job: ``python -m benchmarks.run --shortlist 200``.

Reads the arguments, loads a data set, has everything measured and writes the results.
What is measured, and how, is in `benchmarks.experiment` and the files it names.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.systems import MAIN, NAMES, PEERS

ROOT = Path(__file__).parents[1]
SWEEP = (10, 14, 20, 28, 40, 56, 80, 112, 160, 200, 280, 400, 800)
ROUNDS, PEER_ROUNDS = 3, 5

ABOUT = """\
Measure funnel retrieval against exact search and other libraries, on one machine, in
one run: query time (single calls and one batch), ndcg@10, map@10, knn_recall@10, work,
memory, building and start-up.

Every system gets the same normalised vectors, the same threads and a warm-up; all are
measured in turn, round by round, and a figure is the median of the rounds. Rows of the
first table are at --shortlist (a peer's ef_search is set to the same number); the
speed-ups compare points of the --sweep that reach the same knn_recall@10.
"""
EXAMPLES = """\
examples:
  python -m benchmarks.run --shortlist 200
      the default: docstrings of the installed packages (made once, about a minute)
  python -m benchmarks.run --dataset beir:PATH
      a folder in the BEIR layout with embeddings beside it
  python -m benchmarks.run --dataset synthetic --n 2000 --dim 64 --queries 50
      a small run to see that everything works
  python -m benchmarks.run --systems funnel,hnswlib --sweep 20,50,100 --rounds 5
      some systems, other points, more rounds
  python -m benchmarks.run --peers --dataset NAME
      funnel beside every peer, each in processes of its own
  python -m benchmarks.report results/docstrings
      show the report of an earlier run again

It writes to --out: results.json, results.csv, sweep.csv, dims.json, report.md,
runs/*.trec, and figures (PNG); with --peers a JSON file a peer.
benchmarks/README.md explains every column.
"""


def numbers(text: str) -> tuple[int, ...]:
    """Read ``"10,20,40"``."""
    try:
        found = tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        found = ()
    if not found or found[0] < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list such as 10,20,40")
    return found


def positive(text: str) -> int:
    """Read a whole number of at least 1."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


def system_names(text: str) -> tuple[str, ...]:
    """Read ``"funnel,hnswlib"``; every name must be known."""
    names = tuple(text.split(","))
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        known = ", ".join(NAMES)
        raise argparse.ArgumentTypeError(f"unknown {', '.join(unknown)}: take {known}")
    return names


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line; its help is the manual."""
    out = argparse.ArgumentParser(
        prog="python -m benchmarks.run",
        description=ABOUT,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _data_arguments(out.add_argument_group("data"))
    _search_arguments(out.add_argument_group("what is measured"))
    _timing_arguments(out.add_argument_group("how it is timed"))
    _peer_arguments(out.add_argument_group("beside every peer"))
    _other_arguments(out.add_argument_group("output and kept indexes"))
    return out


def _data_arguments(group: Any) -> None:
    group.add_argument(
        "--dataset",
        default="docstrings",
        metavar="SPEC",
        help="docstrings, synthetic, beir:PATH, npy:PATH, parquet:PATH, or the name of "
        "a folder below data/ (default: %(default)s)",
    )
    group.add_argument(
        "--n", type=positive, metavar="ROWS", help="corpus rows (default: all)"
    )
    group.add_argument(
        "--dim", type=positive, help="full width (only for synthetic data)"
    )
    group.add_argument(
        "--queries",
        type=positive,
        default=1000,
        metavar="Q",
        help="at most this many queries (%(default)s)",
    )
    group.add_argument(
        "--dims",
        type=numbers,
        metavar="D,D,…",
        help="nested dims of the embedding, for the index and the table of prefixes "
        "(default: those of the data set)",
    )


def _search_arguments(group: Any) -> None:
    group.add_argument(
        "--k", type=positive, default=10, help="neighbours (%(default)s)"
    )
    group.add_argument(
        "--shortlist",
        type=positive,
        default=200,
        metavar="S",
        help="effort of the first table: rows that the graph passes on to the "
        "rerank, and the ef_search of every system (%(default)s)",
    )
    group.add_argument(
        "--sweep",
        type=numbers,
        default=SWEEP,
        metavar="S,S,…",
        help="efforts of the curves and of the speed-ups; a curve ends once its "
        f"knn_recall reaches 0.998 ({','.join(map(str, SWEEP))})",
    )
    group.add_argument(
        "--systems",
        type=system_names,
        metavar="NAME,…",
        help=f"some of {', '.join(NAMES)} (default: {', '.join(MAIN)}; with --peers "
        "all but funnel, which is always measured there)",
    )


def _timing_arguments(group: Any) -> None:
    group.add_argument(
        "--threads",
        type=positive,
        default=1,
        help="threads of every search (%(default)s)",
    )
    group.add_argument(
        "--build-threads",
        type=positive,
        metavar="T",
        help="threads of every build (default: all cores)",
    )
    group.add_argument(
        "--rounds",
        type=positive,
        help="interleaved rounds (3, with --peers 5)",
    )


def _peer_arguments(group: Any) -> None:
    group.add_argument(
        "--peers",
        action="store_true",
        help="measure funnel beside every peer that is installed, one process a peer",
    )
    group.add_argument(
        "--peer-threads",
        type=numbers,
        default=(1, 2),
        metavar="T,T,…",
        help="threads of the searches, measured one after the other (1,2)",
    )
    group.add_argument(
        "--build-limit",
        type=positive,
        default=40,
        metavar="MIN",
        help="minutes that a build may take (%(default)s)",
    )
    group.add_argument(
        "--measure-limit",
        type=positive,
        default=20,
        metavar="MIN",
        help="minutes after which no further round begins (%(default)s)",
    )
    group.add_argument(
        "--drop-indexes",
        action="store_true",
        help="delete a peer's index once it is measured",
    )


def _other_arguments(group: Any) -> None:
    group.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="default: results/<data set>; with "
        "--peers results/peers, for a folder a data set",
    )
    group.add_argument(
        "--machine",
        metavar="NAME",
        help="a short name of this machine, for --peers on a second one: the folder "
        "becomes <data set>-NAME, and so does the section of the page",
    )
    group.add_argument(
        "--cache",
        type=Path,
        default=ROOT / "data",
        metavar="DIR",
        help="where made data and built indexes are kept (default: data/)",
    )
    group.add_argument(
        "--rebuild", action="store_true", help="build every index again, and time it"
    )
    group.add_argument(
        "--any-source",
        action="store_true",
        help="keep funnel's indexes although its source has changed (to work on the "
        "search alone)",
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark and write everything."""
    arguments = parser()
    args = arguments.parse_args(argv)
    if args.shortlist < args.k:
        arguments.error(f"--shortlist {args.shortlist} cannot hold --k {args.k}")
    from benchmarks.children import ChildError  # after --help: they take a second
    from funnel.errors import InvalidArgumentError

    try:
        if args.peers:
            measure_peers(args)
        else:
            measure_and_write(args)
    except InvalidArgumentError as error:
        arguments.error(str(error))
    except ChildError as error:
        sys.exit(f"{arguments.prog}: {error}")


def load_data(args: argparse.Namespace) -> Any:
    """Load the data set, and check that what was asked fits it."""
    from benchmarks import datasets
    from funnel.errors import InvalidArgumentError

    data = datasets.load(
        args.dataset,
        cache=args.cache,
        n=args.n,
        dim=args.dim,
        queries=args.queries,
        progress=True,
    )
    n_rows, full_dim = data.corpus.shape
    if args.dims and args.dims[-1] > full_dim:
        raise InvalidArgumentError(f"--dims: {data.name} is {full_dim} dims wide")
    if args.k > n_rows:
        raise InvalidArgumentError(f"--k {args.k}: {data.name} has {n_rows} rows")
    return data


def measure_and_write(args: argparse.Namespace) -> None:
    """Load, measure, write, show. Imports wait until the arguments are known good."""
    from benchmarks import machine
    from benchmarks.experiment import Experiment, Plan
    from benchmarks.progress import Steps
    from benchmarks.report import show
    from benchmarks.systems import available
    from benchmarks.truth import make_workload

    systems, missing = available(args.systems or MAIN)
    data = load_data(args)
    plan = Plan(
        k=args.k,
        shortlist=min(args.shortlist, len(data.corpus)),
        sweep=args.sweep,
        rounds=args.rounds or ROUNDS,
        threads=args.threads,
        build_threads=args.build_threads or machine.cores(),
    )
    workload = make_workload(data, args.dims)
    build = build_or_find(args, workload, plan.build_threads)
    with Steps() as steps:
        experiment = Experiment(workload, systems, plan, steps, build)
        results = experiment.run(args.cache / "cache")
    results["machine"]["left_out"] = missing
    folder, dims = args.out or Path("results") / data.name, experiment.dims()
    write(folder, results, dims, experiment)
    show(results, dims)
    print(f"\nwritten to {folder}/")


def build_or_find(
    args: argparse.Namespace, workload: Any, threads: int
) -> Callable[[Any], Any]:
    """Return what finds a system's index, or builds it in a process of its own."""
    from benchmarks.builds import Builder, build_apart
    from benchmarks.children import ChildError
    from benchmarks.systems import BuildSettings

    settings = BuildSettings(threads, workload.dims)
    flags = {"rebuild": args.rebuild, "any_source": args.any_source}
    builder = Builder(workload, args.cache / "cache", settings, **flags)
    given = given_data(args)

    def build(system: Any) -> Any:
        if found := builder.find(system):
            return found
        try:
            return build_apart(system.key, given, threads=threads, **flags)
        except ChildError as error:
            raise ChildError(error.status, f"{system.key}: {error}") from error

    return build


def given_data(args: argparse.Namespace) -> dict[str, Any]:
    """Return how a process of its own loads the same data."""
    given = {"spec": args.dataset, "cache": str(args.cache.resolve())}
    names = ("n", "dim", "queries", "dims")
    return given | {name: getattr(args, name) for name in names}


def measure_peers(args: argparse.Namespace) -> None:
    """Measure every peer in processes of its own, write a file each, show a table."""
    from benchmarks import machine
    from benchmarks.peer_report import show
    from benchmarks.peer_results import read_folder
    from benchmarks.peers import PeerPlan, PeerRun
    from benchmarks.progress import Steps
    from benchmarks.truth import load_or_find, make_workload

    data = load_data(args)
    workload = make_workload(data, args.dims)
    with Steps() as steps, steps.step("find exact answers", len(data.corpus)) as step:
        load_or_find(workload, args.k, args.cache / "cache", step.advance)
    plan = PeerPlan(
        k=args.k,
        sweep=args.sweep,
        rounds=args.rounds or PEER_ROUNDS,
        threads=args.peer_threads,
        build_threads=args.build_threads or machine.cores(),
        build_s=60.0 * args.build_limit,
        measure_s=60.0 * args.measure_limit,
        rebuild=args.rebuild,
        any_source=args.any_source,
        drop=args.drop_indexes,
    )
    name = f"{data.name}-{args.machine}" if args.machine else data.name
    folder = (args.out or Path("results") / "peers") / name
    run = PeerRun(workload, given_data(args), plan, folder, say)
    run.run(args.systems or PEERS)
    show(read_folder(folder))
    print(f"\nwritten to {folder}/")


def say(line: str) -> None:
    """Show what is under way."""
    print(line, file=sys.stderr, flush=True)


def write(
    folder: Path, results: dict[str, Any], dims: list[dict[str, Any]], experiment: Any
) -> None:
    """Write results, report, run files and figures into `folder`."""
    from benchmarks.plots import draw
    from benchmarks.report import markdown
    from benchmarks.results import write_csv, write_json, write_trec

    runs = folder / "runs"
    runs.mkdir(parents=True, exist_ok=True)
    write_json(results, folder / "results.json")
    write_csv(results["rows"], folder / "results.csv")
    write_csv(results["sweep"], folder / "sweep.csv")
    (folder / "dims.json").write_text(json.dumps(dims, indent=1) + "\n")
    figures = draw(results, dims, folder)
    (folder / "report.md").write_text(markdown(results, dims, figures))
    for point, rows in experiment.chosen_runs():
        tag = f"{point.system.name}-{point.run}"
        write_trec(experiment.judge.run(rows), tag, runs / f"{tag}.trec")


if __name__ == "__main__":
    main()
