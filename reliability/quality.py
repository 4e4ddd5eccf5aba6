"""Answers do not get worse as an index changes: `python -m reliability.quality`.

Rounds of upserts, each compacted, beside a fresh build of the same rows; thousands of
copies of one vector; and whether each row that is left finds itself. Rows are drawn in
clusters, of fewer directions than dims; nothing is timed.

n = rows, d = dims, q = queries.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from funnel import FunnelIndex

DIM, RANK, CLUSTERS = 128, 48, 200
K, SHORTLIST = 10, 14  # so short that a worse graph shows
SHARE, WORSE = 0.1, 0.005  # of the rows, a round; of knn_recall, at most
SELF, BATCH = 1 - 1e-5, 4_096
Found = dict[str, Any]


class Rows:
    """Vectors in clusters that follow one another from one seed."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._basis = np.linalg.qr(self._rng.standard_normal((DIM, RANK)))[0].T
        self._centres = self._rng.standard_normal((CLUSTERS, RANK))
        self._spread = (1 + np.arange(RANK)) ** -0.5

    def draw(self, n: int) -> np.ndarray:
        """Return (n, d) float32."""
        near = self._centres[self._rng.integers(0, CLUSTERS, n)]
        near = (near + 0.7 * self._rng.standard_normal((n, RANK))) * self._spread
        return (near @ self._basis).astype(np.float32)


def knn_recall(index: FunnelIndex, queries: np.ndarray) -> float:
    """Return the share of answers that are as near as the k-th best by a full scan.

    Of copies, any will do: they are told by their scores.
    """
    found = index.search(queries, K, shortlist=SHORTLIST)
    last = index.search(queries, K, mode="exact").scores[:, -1:]
    return float((found.scores >= last - 1e-6).mean())


def lost_rows(index: FunnelIndex) -> int:
    """Return how many rows a search by their own vector does not find."""
    lost, vectors = 0, index.vectors()
    for start in range(0, len(index), BATCH):
        best = index.search(vectors[start : start + BATCH], 1).scores[:, 0]
        lost += int((best < SELF).sum())
    return lost


def judged(index: FunnelIndex, queries: np.ndarray) -> tuple[float, int]:
    """Return what `knn_recall` and `lost_rows` say of an index."""
    return knn_recall(index, queries), lost_rows(index)


def compared(
    change: str, n: int, fresh: tuple[float, int], after: tuple[float, int]
) -> Found:
    """Return what a change did to what `judged` says, as a JSON line holds it."""
    return {
        "change": change,
        "rows": n,
        "knn_recall_of_fresh": fresh[0],
        "knn_recall": after[0],
        "lost_of_fresh": fresh[1],
        "lost": after[1],
    }


def upserts(folder: Path, n: int, rounds: int, seed: int) -> Found:
    """Replace a tenth of the rows and compact, `rounds` times."""
    rows, rng = Rows(seed), np.random.default_rng(seed + 1)
    index = FunnelIndex.build(rows.draw(n), path=folder / "index", projection="pca")
    index.close()
    with FunnelIndex.open(folder / "index", "rw", auto_compact=False) as index:
        for _ in range(rounds):
            ids = rng.choice(n, int(SHARE * n), replace=False)
            index.upsert(rows.draw(len(ids)), ids=ids)
            index.compact()
        fresh_path, queries = folder / "fresh", rows.draw(1_000)
        with FunnelIndex.build(
            index.vectors(), path=fresh_path, projection="pca"
        ) as fresh:
            before = judged(fresh, queries)
        after = judged(index, queries)
    change = f"{rounds} rounds of upserts of {SHARE:.0%}, each compacted"
    return compared(change, n, before, after)


def copies(folder: Path, n: int, count: int, seed: int) -> Found:
    """Add `count` copies of one vector and compact."""
    rows = Rows(seed)
    base, queries = rows.draw(n), rows.draw(1_000)
    with FunnelIndex.build(base, path=folder / "index", projection="pca") as index:
        before = judged(index, queries)
    with FunnelIndex.open(folder / "index", "rw", auto_compact=False) as index:
        index.add(np.repeat(base[:1], count, axis=0), ids=range(n, n + count))
        index.compact()
        after = judged(index, queries)
    return compared(f"{count:,} copies of one vector", n, before, after)


def has_failed(found: Found) -> bool:
    """Tell whether answers became worse, or a row cannot find itself."""
    return found["lost"] > 0 or (
        found["knn_recall"] < found["knn_recall_of_fresh"] * (1 - WORSE)
    )


def main() -> int:
    """Run as a command; return 1 if quality is lost."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--n", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--copies", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="a JSON line for each change")
    args = parser.parse_args()
    runs: list[Callable[[Path], Found]] = [
        lambda folder: upserts(folder, args.n, args.rounds, args.seed),
        lambda folder: copies(folder, args.n, args.copies, args.seed),
    ]
    lines = []
    for one in runs:
        with tempfile.TemporaryDirectory(prefix="funnel-") as folder:
            found = one(Path(folder))
        found["failed"] = has_failed(found)
        lines.append(json.dumps(found) + "\n")
        sys.stdout.write(lines[-1])
    if args.out:
        args.out.write_text("".join(lines))
    return int(any(json.loads(line)["failed"] for line in lines))


if __name__ == "__main__":
    sys.exit(main())
