"""Make the golden index of the present format version: ``python make_golden.py [DIR]``.

Each version of the format keeps one, made once by the version of the library that
introduced it and never again; `tests/test_golden.py` opens them all. Beside the index
lie the answers that it gave, and the rows that it was built from. With one thread and
faiss, the same library gives the same index, but for names, dates and durations.
"""

from __future__ import annotations

import sys
from pathlib import Path
from unittest import mock

import numpy as np

from funnel import FunnelIndex
from funnel.store.manifest import MAJOR

ROWS, DIM, QUERIES, K = 90, 12, 6, 5
MODES = ("funnel", "rerank", "prefix_ann", "prefix", "exact")


def rows() -> np.ndarray:
    """Return clustered rows, ten of them twice, so that the index has every file."""
    rng = np.random.default_rng(2024)
    centres = rng.standard_normal((9, DIM))
    x = centres[rng.integers(0, 9, ROWS)] + 0.4 * rng.standard_normal((ROWS, DIM))
    x[-10:] = x[:10]
    return x.astype(np.float16)


def main(folder: Path) -> None:
    """Write the index and its answers to `folder`, which must not exist."""
    x = rows()
    queries = x[:QUERIES].astype(np.float32) + np.float32(0.05)
    folder.mkdir()
    # So few rows would be scanned: a graph over them keeps the files small.
    with mock.patch("funnel.build.segment.SCAN_ROWS", 50):
        index = FunnelIndex.build(
            x,
            ids=[f"d{i}" for i in range(ROWS)],
            metadata={"parity": np.arange(ROWS, dtype=np.int8) % 2},
            path=folder / "index",
            dims=(4, 8, DIM),
            graph_dim=8,
            code_dim=8,
            projection="pca",
            dtype="float16",
            M=4,
            ef_construction=40,
            builder="faiss",
            seed=0,
            threads=1,
        )
    answers = {"queries": queries, "rows": x}
    with index:
        for mode in MODES:
            hits = index.search(queries, k=K, mode=mode, threads=1)
            answers[f"{mode}_ids"] = hits.ids.astype(str)
            answers[f"{mode}_scores"] = hits.scores
    np.savez_compressed(folder / "answers.npz", **answers)


if __name__ == "__main__":
    here = Path(__file__).parent / f"v{MAJOR}"
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else here)
