"""What `benchmarks.adaptive` found, as tables, a figure and a part of docs/adaptive.md.

Measures nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks import marked
from benchmarks.pareto import front
from benchmarks.results import read_json
from benchmarks.tables import MISSING, Table, number, share, to_markdown

Record = dict[str, Any]
BEGIN = "<!-- results: made by `python -m benchmarks.adaptive --doc` -->\n"
AHEAD, WIDE, NEAR = 1.3, 50, 0.995
LARGE = 50_000  # rows: a scan of fewer is fast itself
WORK = ("batch_us", "single_p50_us", "single_p99_us", "scored", "reranked")
KINDS = {"fixed": "fixed", "levels": "adaptive"}
NAMES = {"knn_recall": "knn_recall@{k}", "ndcg": "ndcg@{k} of exact"}


def tables(found: Record) -> list[Table]:
    """Return what was found on one data set."""
    return [
        searches(found), ahead(found), equals(found), bounds(found), pruned(found),
        outside(found),
    ]  # fmt: skip


def title(found: Record) -> str:
    """Return the name of a data set, and its shape."""
    return f"{found['dataset']}: {found['rows']:,} × {found['full_dim']:,}"


def searches(found: Record) -> Table:
    """Return searches before and after tuning, on queries that tuning never saw."""
    header = ["search", "knn_recall", "over target", "ndcg of exact", "batch µs",
              "p50 µs", "p99 µs", "scored", "reranked", "kB", "tune, s"]  # fmt: skip
    rows = [_row("not tuned", found["untuned"])]
    rows += [_row(f"tuned for {_target(one)}", one) for one in found["tuned"]]
    exact = found["exact_single_us"]
    rows.append(["exact", "1.000", MISSING, "1.000", MISSING, number(exact),
                 *[MISSING] * 5])  # fmt: skip
    said = f"{found['queries']:,} unseen queries, {found['tuning_queries']:,} to tune"
    return Table(f"{title(found)}, {said}", header, rows)


def _target(one: Record) -> str:
    """Return a target's number, and of what it is if not of knn_recall."""
    of = " of exact's ndcg" if one.get("measure") == "ndcg" else ""
    return f"{one['target']}{of}"


def _row(name: str, one: Record) -> list[str]:
    over = one.get("over_target")
    return [
        name, share(one["knn_recall"]),
        MISSING if over is None else f"{over:+.4f} ± {one['interval']:.4f}",
        MISSING if one["ndcg"] is None else f"{one['ndcg']:.4f}",
        *(number(one[key]) for key in WORK),
        number(one["bytes"] / 1e3), number(one.get("tune_s")),
    ]  # fmt: skip


def ahead(found: Record) -> Table:
    """Return the speed of tuned levels beside that of every fixed count."""
    rows = []
    for measure, held in found["ahead"].items():
        for target, (fixed, levels) in held.items():
            ratio = levels / fixed if fixed and levels else None
            times = MISSING if ratio is None else f"{ratio:.2f}×"
            name = NAMES[measure].format(k=found["k"])
            rows.append([f"{name} {target}", number(fixed), number(levels), times])
    header = ["at", "fixed, QPS", "adaptive, QPS", "ratio"]
    return Table(
        f"{found['dataset']}: adaptive levels beside fixed counts", header, rows
    )


def equals(found: Record) -> Table:
    """Return what the fastest setting of each kind takes where it is good enough."""
    rows = []
    for one in found["equal"]:
        name = NAMES[one["measure"]].format(k=found["k"])
        rows.append(
            [f"{name} ≥ {one['target']}", KINDS[one["kind"]], share(one["knn_recall"]),
             MISSING if one["ndcg"] is None else f"{one['ndcg']:.4f}",
             *(number(one[key]) for key in WORK), number(one["bytes"] / 1e3)]
        )  # fmt: skip
    header = ["at", "fastest of", "knn_recall", "ndcg of exact", "batch µs", "p50 µs",
              "p99 µs", "scored", "reranked", "kB"]  # fmt: skip
    return Table(f"{found['dataset']}: at equal quality", header, rows)


def bounds(found: Record) -> Table:
    """Return how the bounds held over random splits of the unseen queries."""
    rows = []
    for target, one in found["coverage"].items():
        alone = found["one_by_one"][target]
        rows.append([f"one number, {target}", *_bound(one)])
        rows.append([f"each stage alone, {target}", *_bound(alone)])
    header = ["calibrated", "mean loss", "allowed", "kept", "sure at 0.9, of splits",
              "of all, miss", "may", "kept"]  # fmt: skip
    return Table(f"{found['dataset']}: the bound over 200 random splits", header, rows)


def _bound(one: Record) -> list[str]:
    """Return how a bound on the mean fared, and one that is kept by most splits."""
    missed, may = one["missed_when_sure"], one["may_miss"]
    return [
        f"{one['mean_loss']:.4f}", f"{one['allowed']:.4f} + {one['two_errors']:.4f}",
        _kept(one["kept"]), f"{one['sure_of']:.0%}", f"{missed:.3f}", f"{may:.3f}",
        _kept(missed <= may),
    ]  # fmt: skip


def _kept(kept: bool) -> str:
    return "yes" if kept else "no"


def pruned(found: Record) -> Table:
    """Return how many rows of a shortlist the bounds of "certified" spare."""
    rows = [
        [f"shortlist {n}", number(one["reranked"]),
         f"{max(0.0, 1 - one['reranked'] / min(int(n), found['rows'])):.0%}",
         number(one["batch_us"])]
        for n, one in found["certified"].items()
    ]  # fmt: skip
    header = ["certified", "rows reranked", "spared", "batch µs"]
    return Table(f"{found['dataset']}: what bounds spare", header, rows)


def outside(found: Record) -> Table:
    """Return what the norms outside a projection alone would rule out."""
    shares = found["ruled_out"]
    title = f"{found['dataset']}: of a shortlist of 200, ruled out by what lies outside"
    return Table(title, ["", *shares], [["share", *map(share, shares.values())]])


def verdicts(records: list[Record]) -> Table:
    """Return what was aimed at, and what was seen."""
    rows = []
    for found in records:
        fixed, levels = found["ahead"]["knn_recall"]["0.99"]
        ratio = levels / fixed if fixed and levels else 0.0
        rows.append([found["dataset"], f"adaptive ≥ {AHEAD}× fixed at knn_recall .99",
                     f"{ratio:.2f}×", _holds(ratio >= AHEAD)])  # fmt: skip
        for one in found["tuned"]:
            over, around = one["over_target"], one["interval"]
            good = over + around >= 0 and over <= 0.01
            name = f"target {_target(one)} met, at most .01 over"
            said = f"{over:+.4f} ± {around:.4f}"
            rows.append([found["dataset"], name, said, _holds(good)])
        rows += _wide(found) if found["rows"] >= LARGE else []
    return Table("Aimed at", ["data", "target", "seen", ""], rows)


def _wide(found: Record) -> list[list[str]]:
    """Return how far the fastest search that ranks nearly as exact is ahead of it."""
    near = [
        one
        for one in [found["untuned"], *found["tuned"]]
        if one["ndcg"] is not None and one["ndcg"] >= NEAR
    ]
    if not near:
        return []
    best = min(near, key=lambda one: float(one["single_p50_us"]))
    times = found["exact_single_us"] / best["single_p50_us"]
    name = f"ndcg within .5 % of exact, single calls ≥ {WIDE}× as fast"
    said = f"{times:,.0f}×, {best['ndcg']:.4f}"
    return [[found["dataset"], name, said, _holds(times >= WIDE)]]


def _holds(good: bool) -> str:
    return "holds" if good else "missed"


def draw(records: list[Record], path: Path) -> None:
    """Draw time against knn_recall: fixed counts and adaptive levels."""
    figure = Figure(figsize=(4.4 * len(records), 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    for i, found in enumerate(records):
        axes = figure.add_subplot(1, len(records), i + 1)
        for kind, look, name in (
            ("fixed", "o--", "fixed counts"),
            ("levels", "s-", "adaptive levels"),
        ):
            points = [(one["knn_recall"], 1e6 / one["us"]) for one in found[kind]]
            best = [point for point in front(points) if point[0] >= 0.85]
            recalls, qps = [p[0] for p in best], [p[1] for p in best]
            axes.plot([1e6 / one for one in qps], recalls, look, ms=4, label=name)
        axes.set(xscale="log", xlabel="µs a query, one thread, batch",
                 title=found["dataset"], ylim=(0.85, 1.002))  # fmt: skip
        axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.axes[0].set_ylabel("knn_recall@10, unseen queries")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def write(folder: Path, doc: Path) -> None:
    """Put the figures of a folder's data sets between the markers of a document."""
    records = [read_json(path) for path in sorted(folder.glob("*.json"))]
    records = [one for one in records if "ahead" in one]
    figure = doc.parent / "figures" / "adaptive.png"
    draw(records, figure)
    marked.replace(doc, BEGIN, section(records, figure, doc))


def section(records: list[Record], figure: Path, doc: Path) -> str:
    """Return what stands between the markers."""
    about = records[0]["machine"]
    commits = sorted({str(one["commit"] or "unknown") for one in records})
    said = ", ".join(f"`{one[:9]}{one[40:]}`" for one in commits)
    found = [table for one in records for table in tables(one)]
    settings = "/".join(sorted({str(len(one["fixed"])) for one in records}))
    lines = [
        f"{about['cpu']}, one thread, commit {said}. *Over target*: knn_recall, or "
        "ndcg (of which no query's share is above 1), less the target, with its 95 % "
        f"interval. *Fixed*: the best of {settings} settings of shortlist, list and a "
        "stage between. *Scored*: codes a query; *reranked*: rows at full width; *kB*: "
        "of codes and vectors. *Sure*: splits whose calibration certifies a level with "
        "confidence 0.9; of all, *may* miss: a tenth, and two standard errors.\n",
        *(to_markdown(table) for table in [verdicts(records), *found]),
        f"![Time against knn_recall]({figure.relative_to(doc.parent)})\n",
    ]
    return "\n".join(lines)
