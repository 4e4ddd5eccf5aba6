"""Put the results into the README: ``python -m benchmarks.readme results/A results/B``.

Reads what `benchmarks.run` wrote and replaces what stands between two markers; copies
the figures it shows to ``docs/figures/``. It measures nothing.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

from benchmarks import marked
from benchmarks.results import curves, effort, label, read_json
from benchmarks.speedups import BATCH, HEADLINE, SINGLE, fastest, speedups
from benchmarks.tables import number, share, size

ROOT = Path(__file__).parent.parent
BEGIN = "<!-- results: made by `python -m benchmarks.readme` -->\n"
FIGURES = {
    "time_ndcg.png": "query time against ndcg@10",
    "time_knn_recall.png": "query time against knn_recall@10",
}
SHOWN = (
    "exact",
    "rerank",
    "funnel",
    "rerank_pca",
    "funnel_pca",
    "funnel_paper",
    "faiss-flat",
    "faiss-hnsw-sq8",
    "hnswlib",
)
HEADER = (
    "| run | effort | one batch, µs/query | single call, µs | knn_recall@10 | ndcg@10 "
    "| map@10 | build, s | RAM | disk |\n"
    "| --- | --: | --: | --: | --: | --: | --: | --: | --: | --: |"
)


def main() -> None:
    """Write the section."""
    args = argparse.ArgumentParser(description=__doc__)
    args.add_argument("folders", nargs="+", type=Path, metavar="DIR")
    folders: list[Path] = args.parse_args().folders
    parts = [section(folder, read_json(folder / "results.json")) for folder in folders]
    readme = ROOT / "README.md"
    text = f"{machine_line(read_json(folders[0] / 'results.json'))}\n" + "".join(parts)
    marked.replace(readme, BEGIN, text)


def machine_line(results: dict[str, Any]) -> str:
    """Say what was measured on what, and what the rows are."""
    machine, versions = results["machine"], results["versions"]
    used = ", ".join(f"{name} {version}" for name, version in versions.items())
    return (
        f"One thread of {machine.get('cpu', 'a CPU')}, {used}, commit "
        f"`{results['commit'][:9]}`. A row is a system's fastest swept point with "
        f"knn_recall@10 ≥ {HEADLINE}, or its best one where none reaches it; *effort* "
        "is its shortlist or ef_search.\n"
    )


def section(folder: Path, results: dict[str, Any]) -> str:
    """Return one data set's table, sentences and figures."""
    grouped = curves(results["sweep"])
    chosen = [best_point(grouped[name]) for name in SHOWN if grouped.get(name)]
    data = results["dataset"]
    name = data if isinstance(data, str) else data["name"]
    lines = [f"**{name}**", "", HEADER, *(row(point) for point in chosen), ""]
    lines += sentences(results)
    for figure, told in FIGURES.items():
        if (folder / figure).exists():
            kept = ROOT / "docs" / "figures" / f"{folder.name}-{figure}"
            kept.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / figure, kept)
            lines += ["", f"![{name}: {told}]({kept.relative_to(ROOT)})"]
    return "\n".join(lines) + "\n\n"


def best_point(curve: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the fastest point that reaches the headline, else the most exact one."""
    found = fastest(curve, HEADLINE, BATCH, 10)
    return found or max(curve, key=lambda point: point["knn_recall@10"])


def row(point: dict[str, Any]) -> str:
    """Return a table row."""
    cells = (
        f"`{label(point)}`",
        effort(point) or "–",
        number(point["batch_us"]),
        number(point["time_us"]["p50"]),
        share(point["knn_recall@10"]),
        share(point["ndcg@10"]),
        share(point["map@10"]),
        number(point["build_s"]),
        size(point["anon_bytes"]),
        size(point["disk_bytes"]),
    )
    return "| " + " | ".join(map(str, cells)) + " |"


def sentences(results: dict[str, Any]) -> list[str]:
    """Return the speed-ups at the headline, a sentence a subject."""
    out = []
    for subject in ("funnel_pca", "funnel"):
        for clock in (BATCH, SINGLE):
            found = speedups(results, clock, HEADLINE, subject)
            if found:
                told = ", ".join(f"{s.times:.1f}× {name}" for name, s in found.items())
                out.append(f"- `{subject}`, {clock.name}: {told}.")
    return out


if __name__ == "__main__":
    main()
