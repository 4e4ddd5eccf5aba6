"""What adaptive classification saves: ``python -m benchmarks.classify``.

Learns thresholds for the heads of a set on its first validation images, and counts
accuracy and dims on the others and on the queries; beside them each head alone, and
the nearest row's label at every prefix. docs/classify.md explains the columns; `--doc`
puts tables and figure between its markers.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console

from benchmarks import machine, marked
from benchmarks.datasets import CACHE, load
from benchmarks.plots import DPI, decimal
from benchmarks.results import write_json
from benchmarks.tables import MISSING, Table, to_markdown, to_rich
from benchmarks.truth import load_or_find, make_workload
from funnel.classify import AdaptiveClassifier
from funnel.classify.report import expected_dims
from funnel.classify.stages import try_all
from funnel.classify.thresholds import GRID, stops

ROOT = Path(__file__).parents[1]
BEGIN = "<!-- results: made by `python -m benchmarks.classify --doc` -->\n"
FIT_ROWS = 3_000
ALPHAS = (0.002, 0.005, 0.01, 0.02)
BESIDE_PAPER = ("best pair (MRL paper)", "risk, α = 0.2%")
NEIGHBOURS = 10
# Kusupati et al. 2022, arXiv:2205.13147, section 4.2.1: ResNet50 on ImageNet-1K.
PAPER = {"dims": 37, "full_dim": 2048, "as_dim": 512, "accuracy": 0.763, "below": 0.008}

Record = dict[str, Any]
Heads = dict[int, tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Labelled:
    """Rows (n, d) and their labels (n,), under a name for the tables."""

    name: str
    rows: np.ndarray
    labels: np.ndarray


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    out = argparse.ArgumentParser(
        prog="python -m benchmarks.classify", description=__doc__.split("\n\n")[1]
    )
    add = out.add_argument
    add("--dataset", default="fashion-mrl", metavar="NAME", help="with heads.npz")
    add("--cache", type=Path, default=CACHE, metavar="DIR", help="where it is")
    add("--out", type=Path, default=ROOT / "results" / "classify.json", metavar="FILE")
    add("--doc", action="store_true", help="replace the figures of docs/classify.md")
    return out


def read_heads(folder: Path) -> Heads:
    """Return weights (c, dim) and biases (c,) by dim."""
    with np.load(folder / "heads.npz") as kept:
        dims = sorted(int(k[4:-2]) for k in kept if k.endswith("_w"))
        return {dim: (kept[f"head{dim}_w"], kept[f"head{dim}_b"]) for dim in dims}


def read_rows(folder: Path, fit_rows: int) -> list[Labelled]:
    """Return the rows for the thresholds; others to test on, apart and together."""
    rows = np.load(folder / "validation.npy")
    labels = np.load(folder / "validation_labels.npy")
    queries = np.load(folder / "queries.npy")
    queries_labels = np.load(folder / "query_labels.npy")
    rest, rest_labels = rows[fit_rows:], labels[fit_rows:]
    return [
        Labelled("thresholds", rows[:fit_rows], labels[:fit_rows]),
        Labelled("validation", rest, rest_labels),
        Labelled("queries", queries, queries_labels),
        Labelled("both", np.r_[rest, queries], np.r_[rest_labels, queries_labels]),
    ]


def policies() -> dict[str, Record]:
    """Return how thresholds are learned, by name."""
    risky = {
        f"risk, α = {alpha:.1%}": {"thresholds": "risk", "alpha": alpha}
        for alpha in ALPHAS
    }
    return {"best pair (MRL paper)": {"thresholds": "best_pair"}} | risky


def measure(heads: Heads, sets: Sequence[Labelled]) -> Record:
    """Fit each policy on the first set and judge it on the others.

    Parameters
    ----------
    heads
        By dim.
    sets
        Those for the thresholds, then those to test on.
    """
    fit, *tests = sets
    found: Record = {"fit_rows": len(fit.rows), "policies": {}, "tests": {}}
    for name, how in policies().items():
        model = AdaptiveClassifier(heads, **how).fit(fit.rows, fit.labels)
        limits = [float(x) if np.isfinite(x) else None for x in model.thresholds_]
        judged = {test.name: judge(model, heads, test) for test in tests}
        found["policies"][name] = {"thresholds": limits, **judged}
    for test in tests:
        report = model.report(test.rows, test.labels)
        found["tests"][test.name] = {
            "rows": report.rows,
            "heads": {stage.dim: stage.head_accuracy for stage in report.stages},
            "curve": [(p.expected_dims.last, p.accuracy) for p in report.curve],
            "shared": shared_curve(model, test),
        }
    return found


def shared_curve(model: AdaptiveClassifier, test: Labelled) -> list[tuple]:
    """Return dims and accuracy where all stages share a threshold, not powers."""
    said = try_all(model.heads_, model.dims_, test.rows, test.labels)
    stages, points = len(model.dims_), []
    for limit in GRID:
        stopped = stops(said.confidences, np.full(stages - 1, limit))
        hit = said.right[np.arange(len(stopped)), stopped]
        points.append((expected_dims(stopped, model.dims_).last, float(hit.mean())))
    return points


def judge(model: AdaptiveClassifier, heads: Heads, test: Labelled) -> Record:
    """Count accuracy, dims, and the loss against full width with its error.

    The error is the standard error of the mean difference, row by row.
    """
    report = model.report(test.rows, test.labels)
    weights, bias = heads[max(heads)]
    logits = test.rows.astype(np.float64) @ weights.T + bias
    full = logits.argmax(axis=1) == test.labels
    loss = full.astype(float) - (model.predict(test.rows) == test.labels)
    alone = {stage.dim: stage.head_accuracy for stage in report.stages}
    return {
        "accuracy": report.accuracy,
        "full_accuracy": report.full_accuracy,
        "loss": float(loss.mean()),
        "loss_error": float(loss.std(ddof=1) / np.sqrt(len(loss))),
        "dims": report.expected_dims.last,
        "cumulative_dims": report.expected_dims.cumulative,
        "fewer": max(heads) / report.expected_dims.last,
        "as_dim": min(d for d, hit in alone.items() if hit >= report.accuracy)
        if report.accuracy <= max(alone.values())
        else None,
        "stopped": {stage.dim: stage.share_stopped for stage in report.stages},
    }


def nearest(args: argparse.Namespace, dims: Sequence[int]) -> dict[int, float]:
    """Return how often the exact nearest row has the query's label, by dim."""
    data = load(args.dataset, cache=args.cache, progress=False)
    truth = load_or_find(
        make_workload(data, tuple(dims)), NEIGHBOURS, args.cache / "cache", lambda _: 0
    )
    corpus_labels, query_labels = data.labels
    return {
        dim: float((corpus_labels[truth.rows[dim][:, 0]] == query_labels).mean())
        for dim in dims
    }


def tables(found: Record) -> list[Table]:
    """Return the figures as tables."""
    return [policy_table(found, name) for name in found["tests"]] + [
        paper_table(found),
        dims_table(found),
    ]


def policy_table(found: Record, name: str) -> Table:
    """Return what each policy does on a test set."""
    test = found["tests"][name]
    full_dim = max(test["heads"])
    full = f"{test['heads'][full_dim]:.4f}"
    rows = [["full width", full, MISSING, str(full_dim), str(full_dim), "1×"]]
    for policy, judged in found["policies"].items():
        one = judged[name]
        rows.append(
            [policy, f"{one['accuracy']:.4f}",
             f"{one['loss'] * 100:+.2f} ± {one['loss_error'] * 100:.2f}",
             f"{one['dims']:.1f}", f"{one['cumulative_dims']:.1f}",
             f"{one['fewer']:.1f}×"]
        )  # fmt: skip
    header = ["thresholds", "accuracy", "loss, points", "dims", "of all heads", "fewer"]
    title = f"{found['dataset']}, {name}: {test['rows']:,} rows"
    return Table(title, header, rows)


def paper_table(found: Record) -> Table:
    """Return the paper's figure beside ours."""
    rows = [
        ["MRL paper, ImageNet-1K, ResNet50", f"{PAPER['accuracy']:.4f}",
         f"{PAPER['below'] * 100:+.2f}", f"~{PAPER['dims']}", str(PAPER["as_dim"]),
         f"{PAPER['full_dim'] / PAPER['dims']:.1f}×"]
    ]  # fmt: skip
    for name in found["tests"]:
        for policy in BESIDE_PAPER:
            one = found["policies"][policy][name]
            rows.append(
                [f"{found['dataset']}, {name}: {policy}", f"{one['accuracy']:.4f}",
                 f"{one['loss'] * 100:+.2f}", f"{one['dims']:.1f}",
                 str(one["as_dim"] or "more than any"), f"{one['fewer']:.1f}×"]
            )  # fmt: skip
    header = ["", "accuracy", "loss, points", "dims", "as accurate as", "fewer"]
    notes = [
        "*As accurate as*: the fewest dims whose head alone is; in the paper, a model "
        "trained for that width, and its loss is against one trained for full width."
    ]
    return Table("Beside the paper", header, rows, notes)


def dims_table(found: Record) -> Table:
    """Return each dim: its head alone, who stops there, and the nearest row."""
    first = next(iter(found["policies"].values()))
    limits = [f"{one:.3f}" for one in first["thresholds"]] + [MISSING]
    names = list(found["tests"])
    rows = []
    for at, dim in enumerate(found["tests"][names[0]]["heads"]):
        rows.append(
            [str(dim)]
            + [f"{found['tests'][name]['heads'][dim]:.4f}" for name in names]
            + [limits[at], f"{first[names[0]]['stopped'][dim]:.4f}",
               f"{found['nearest'][dim]:.4f}"]
        )  # fmt: skip
    header = ["dims", *(f"head alone, {name}" for name in names)]
    header += ["best-pair threshold", f"stop here, {names[0]}", "k-NN top-1, queries"]
    return Table("Every dim", header, rows)


def draw(found: Record, path: Path) -> None:
    """Draw accuracy against dims on the first test set."""
    name, test = next(iter(found["tests"].items()))
    figure = Figure(figsize=(8.6, 5.2))
    axes = figure.subplots()
    dims, hits = zip(*sorted(test["heads"].items()), strict=True)
    axes.plot(dims, hits, "o--", color="0.6", label="one head for all rows")
    axes.plot(*zip(*test["curve"], strict=True), color="#0072B2", lw=1.6,
              label="thresholds the powers of a level, 0 to 1")  # fmt: skip
    axes.plot(*zip(*test["shared"], strict=True), color="#56B4E9", lw=1, ls=":",
              label="one threshold for all stages, 0 to 1")  # fmt: skip
    for (policy, judged), mark in zip(found["policies"].items(), "*svD^", strict=True):
        one = judged[name]
        axes.plot(one["dims"], one["accuracy"], mark, ms=9, color="#D55E00",
                  mfc="#D55E00" if mark == "*" else "none", label=policy)  # fmt: skip
    axes.axhline(hits[-1], color="0.8", lw=1, zorder=0)
    axes.set_xscale("log", base=2)
    decimal(axes.xaxis)
    axes.set_xlabel("expected dims a row: of the last head used")
    axes.set_ylabel(f"accuracy on {test['rows']:,} rows of {name}")
    axes.legend(fontsize=8, loc="lower right")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure).print_figure(path, dpi=DPI)


def section(found: Record, figure: Path, doc: Path) -> str:
    """Return what stands between the markers."""
    about, versions = found["machine"], found["versions"]
    used = ", ".join(f"{k} {v}" for k, v in versions.items() if v)
    commit, _, changes = (found["commit"] or "unknown").partition("+")
    commit = commit[:9] + (f"+{changes}" if changes else "")
    lines = [
        f"{about['cpu']}, {used}, commit `{commit}`. Thresholds were learned on "
        f"{found['fit_rows']:,} validation images, which no figure below counts. "
        "*Loss*: accuracy of full width less that of the cascade, with the standard "
        "error of the difference. *Dims*: of the last head used, a row; *of all "
        "heads*: of all up to it; *fewer*: full width over dims. *k-NN top-1*: label "
        "of the nearest of all corpus rows by the cosine of the prefixes.\n",
        *(to_markdown(table) for table in tables(found)),
        f"![Accuracy against expected dims]({figure.relative_to(doc.parent)})\n",
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, show and store."""
    args = parser().parse_args(arguments)
    folder = args.cache / args.dataset
    heads = read_heads(folder)
    found = {"dataset": args.dataset, **measure(heads, read_rows(folder, FIT_ROWS))}
    found["nearest"] = nearest(args, list(heads))
    found["machine"], found["commit"] = machine.describe(1, 1), machine.commit()
    found["versions"] = machine.versions(("numpy", "scikit-learn"))
    console = Console(width=120)
    for table in tables(found):
        console.print(to_rich(table))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(found, args.out)
    if args.doc:
        doc = ROOT / "docs" / "classify.md"
        figure = doc.parent / "figures" / f"classify-{args.dataset}.png"
        draw(found, figure)
        marked.replace(doc, BEGIN, section(found, figure, doc))


if __name__ == "__main__":
    main()
