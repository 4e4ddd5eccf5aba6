"""Seeded vectors shaped like real Matryoshka embeddings, for any n and dim.

Documents hang in a tree (topic, parent, leaf) and live in a latent space of 256 axes.
An embedding repeats that space in blocks of 256 dims, each turned differently: energy
is nearly flat over the dims, a prefix is a sketch of the whole, and the principal axes
are better than the prefix, about as in embeddings of text (`data/README.md`). It is not
Gaussian noise, where truncation loses every neighbour: nobody has such data. Called by
`datasets.py`.

n = rows, d = full width, r = latent axes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from tqdm import tqdm

from benchmarks.folders import make_once, write_qrels, write_rows

RECIPE = 1  # part of the cache's name: raise it when the vectors change
BLOCK_ROWS = 4096  # rows of one stream of random numbers
JUDGED = 200  # most documents judged for one query

LATENT_DIM = 256
LATENT_DECAY = 0.6  # variance of latent axis i falls as i ** -LATENT_DECAY
ENERGY_DECAY = 0.25  # energy of dim j falls as j ** -ENERGY_DECAY
ROWS_PER_LEAF, LEAVES_PER_PARENT, PARENTS_PER_TOPIC = 12, 8, 16  # on average
COMMON = 0.7  # length of the vector that all rows share
TOPIC, PARENT, LEAF = 0.7, 0.5, 0.55  # typical length of each step down the tree
ROW, ROW_SPREAD = 0.75, 0.4  # of the last step, which differs log-normally by leaf
NOISE = 0.45  # drawn for each dim, outside the latent space

TREE, CORPUS, TEST, TUNING = range(4)  # streams of random numbers


@dataclass(frozen=True)
class Generator:
    """Draws any rows of one corpus, the same ones whatever else is drawn.

    Keeps about 90 bytes a row: the centres of the leaves.
    """

    n: int
    dim: int
    seed: int = 0

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Return rows `start` … `stop` - 1 of the corpus, float32 (stop - start, d)."""
        first = start // BLOCK_ROWS
        blocks = [self.block(i) for i in range(first, -(-stop // BLOCK_ROWS))]
        offset = first * BLOCK_ROWS
        return np.concatenate(blocks)[start - offset : stop - offset]

    def block(self, number: int) -> np.ndarray:
        """Return the rows of one block: BLOCK_ROWS of them, fewer in the last one."""
        leaves = self.leaves[number * BLOCK_ROWS : (number + 1) * BLOCK_ROWS]
        return self._embed(np.random.default_rng((self.seed, CORPUS, number)), leaves)

    def queries(self, stream: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Return queries (count, d) and the leaf of each, (count,)."""
        rng = np.random.default_rng((self.seed, stream))
        leaves = self.leaves[rng.integers(0, self.n, count)]
        return self._embed(rng, leaves), leaves

    @property
    def leaves(self) -> np.ndarray:
        """The leaf of each row, (n,)."""
        return self._tree[0]

    @property
    def parents(self) -> np.ndarray:
        """The parent of each leaf, (leaves,)."""
        return self._tree[1]

    def _embed(self, rng: np.random.Generator, leaves: np.ndarray) -> np.ndarray:
        _, _, centres, spread = self._tree
        latent = rng.standard_normal((len(leaves), LATENT_DIM), dtype=np.float32)
        latent *= _axes() * spread[leaves, None]
        latent += centres[leaves]
        noise = rng.standard_normal((len(leaves), self.dim), dtype=np.float32)
        noise *= NOISE / LATENT_DIM**0.5 * self._scale
        return latent @ self._turns.T + noise

    @cached_property
    def _tree(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Leaf of each row, parent of each leaf, centre and spread of each leaf."""
        rng = np.random.default_rng((self.seed, TREE))
        n_leaves = max(1, self.n // ROWS_PER_LEAF)
        n_parents = max(1, n_leaves // LEAVES_PER_PARENT)
        n_topics = max(1, n_parents // PARENTS_PER_TOPIC)

        def steps(count: int, length: float) -> np.ndarray:
            drawn = rng.standard_normal((count, LATENT_DIM), dtype=np.float32)
            return drawn * _axes() * np.float32(length)

        common = rng.standard_normal(LATENT_DIM, dtype=np.float32)
        common *= COMMON / np.linalg.norm(common)
        topics = common + steps(n_topics, TOPIC)
        parents = topics[rng.integers(0, n_topics, n_parents)]
        parents += steps(n_parents, PARENT)
        parent_of = rng.integers(0, n_parents, n_leaves)
        centres = parents[parent_of] + steps(n_leaves, LEAF)
        spread = ROW * np.exp(ROW_SPREAD * rng.standard_normal(n_leaves))
        leaf_of = rng.integers(0, n_leaves, self.n)
        return leaf_of, parent_of, centres, spread.astype(np.float32)

    @cached_property
    def _scale(self) -> np.ndarray:
        """Amplitude of each dim, (d,): their squares average to one."""
        energy = np.arange(1, self.dim + 1) ** -ENERGY_DECAY
        return np.sqrt(energy / energy.mean()).astype(np.float32)

    @cached_property
    def _turns(self) -> np.ndarray:
        """Map from latent axes to dims, (d, r): a rotation for each block of r dims."""
        rng = np.random.default_rng((self.seed, TREE, LATENT_DIM))
        turns = [
            np.linalg.qr(rng.standard_normal((LATENT_DIM, LATENT_DIM)))[0]
            for _ in range(0, self.dim, LATENT_DIM)
        ]
        turn = np.concatenate(turns)[: self.dim].astype(np.float32)
        return turn * self._scale[:, None]


def make(
    cache: Path, n: int, dim: int, queries: int, *, seed: int = 0, progress: bool = True
) -> Path:
    """Make the set once, and return its folder.

    Parameters
    ----------
    cache
        Folder that the set's folder is made in.
    n, dim, queries
        Rows, full width, and test queries; there are as many tuning queries.
    seed
        Another seed, another set.
    progress
        Show a bar.

    Returns
    -------
    Path
        The set's folder.
    """
    generator = Generator(n, dim, seed)
    name = f"synthetic-{n}x{dim}-{queries}q-s{seed}-v{RECIPE}"
    return make_once(
        cache / name, lambda folder: _write(folder, generator, queries, progress)
    )


def _write(folder: Path, generator: Generator, queries: int, progress: bool) -> None:
    n, dim = generator.n, generator.dim
    numbers = range(-(-n // BLOCK_ROWS))
    bar = tqdm(numbers, desc="draw the corpus", unit="block", disable=not progress)
    blocks = (generator.block(number) for number in bar)
    write_rows(folder / "corpus.npy", (n, dim), blocks)
    test, test_leaves = generator.queries(TEST, queries)
    tuning, tuning_leaves = generator.queries(TUNING, queries)
    write_rows(folder / "queries.npy", (2 * queries, dim), (test, tuning))
    qrels = folder / "qrels"
    write_qrels(qrels / "test.tsv", judge(generator, test_leaves, first_query=0))
    write_qrels(qrels / "dev.tsv", judge(generator, tuning_leaves, first_query=queries))
    (folder / "note.txt").write_text(
        f"{n:,} synthetic vectors of {dim} dims, seed {generator.seed}: "
        "a tree of clusters, nearly flat energy over the dims; the same leaf is "
        "relevant (2), the same parent a little (1)\n"
    )


def judge(
    generator: Generator, leaves: np.ndarray, first_query: int
) -> Iterator[tuple[str, str, int]]:
    """Yield (query id, document id, grade): 2 for the same leaf, 1 for its siblings.

    At most JUDGED documents a query, those of its own leaf first.
    """
    rows_by_leaf = _groups(generator.leaves)
    leaves_by_parent = _groups(generator.parents)
    for query, leaf in enumerate(leaves, start=first_query):
        siblings = leaves_by_parent[generator.parents[leaf]]
        near = rows_by_leaf[leaf]
        far = [rows_by_leaf[other] for other in siblings if other != leaf]
        judged = np.concatenate([near, *far])[:JUDGED]
        for place, row in enumerate(judged):
            yield str(query), str(row), 2 if place < len(near) else 1


def _groups(group_of: np.ndarray) -> list[np.ndarray]:
    """Return the positions of each group's members, in order."""
    order = np.argsort(group_of, kind="stable")
    bounds = np.searchsorted(group_of[order], np.arange(1, group_of.max() + 1))
    return np.split(order, bounds)


def _axes() -> np.ndarray:
    """Return the standard deviation of each latent axis, (r,): squares sum to one."""
    variance = np.arange(1, LATENT_DIM + 1) ** -LATENT_DECAY
    return np.sqrt(variance / variance.sum()).astype(np.float32)
