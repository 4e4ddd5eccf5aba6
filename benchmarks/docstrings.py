"""Real text that every machine already has, made Matryoshka by training.

Documents are the docstrings of the standard library and of the packages that this
project needs; a query is a docstring's first sentence, taken out of its document, so
that each query has one known answer. TF-IDF and SVD embed them, `MatryoshkaAdapter`
learns from the pairs that are neither test nor tuning. Nothing is downloaded or
imported: sources are parsed. Called by `datasets.py`.

n = documents, d = full width.
"""

from __future__ import annotations

import ast
import contextlib
import gc
import hashlib
import importlib.metadata
import importlib.util
import platform
import re
import sysconfig
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from tqdm import tqdm

from benchmarks.folders import make_once, write_jsonl, write_qrels
from funnel.adapt import MatryoshkaAdapter
from funnel.errors import InvalidArgumentError

RECIPE = 1  # part of the cache's name: raise it when texts or vectors change
DIMS = (16, 32, 64, 128, 256, 512, 1024)
TEST_QUERIES, TUNING_QUERIES = 2000, 1000
EPOCHS, LEARNING_RATE = 12, 12e-3
SEED = 0

PACKAGES = {  # name of the distribution: name to import
    "contourpy": "contourpy",
    "cycler": "cycler",
    "faiss-cpu": "faiss",
    "fonttools": "fontTools",
    "joblib": "joblib",
    "llvmlite": "llvmlite",
    "markdown-it-py": "markdown_it",
    "matplotlib": "matplotlib",
    "numba": "numba",
    "numpy": "numpy",
    "packaging": "packaging",
    "pillow": "PIL",
    "psutil": "psutil",
    "pyarrow": "pyarrow",
    "pygments": "pygments",
    "pyparsing": "pyparsing",
    "python-dateutil": "dateutil",
    "rich": "rich",
    "scikit-learn": "sklearn",
    "scipy": "scipy",
    "threadpoolctl": "threadpoolctl",
    "tqdm": "tqdm",
}
NOT_READ = {"test", "tests", "site-packages", "dist-packages"}
SENTENCE_END = re.compile(r"(?<=[.!?])(?<!e\.g\.)(?<!i\.e\.)\s+|\n\s*\n")
WORD = re.compile(r"[A-Za-z]{2,}")


@dataclass(frozen=True)
class Document:
    """A docstring: where it stands, its first sentence (the query), and the rest.

    `query` is empty, and `text` the whole, where the sentence would be no good query.
    """

    id: str
    query: str
    text: str


def make(cache: Path, *, progress: bool = True) -> Path:
    """Make the set once for the packages installed, and return its folder.

    Takes about half a minute on two cores.

    Parameters
    ----------
    cache
        Folder that the set's folder is made in.
    progress
        Show bars.

    Returns
    -------
    Path
        The set's folder.
    """
    versions = installed()
    recipe = repr((RECIPE, DIMS, EPOCHS, LEARNING_RATE, SEED, versions)).encode()
    key = hashlib.blake2b(recipe, digest_size=4).hexdigest()
    return make_once(
        cache / f"docstrings-{key}", lambda folder: _write(folder, versions, progress)
    )


def installed() -> dict[str, str]:
    """Return the versions of Python and of those PACKAGES that are installed."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def collect(roots: Iterable[Path], *, progress: bool = False) -> list[Document]:
    """Read every docstring below `roots` that is long enough, each text once.

    A sentence that begins several docstrings asks for none of them: it is no query.
    """
    files = [(root, path) for root in roots for path in python_files(root)]
    places: dict[str, str] = {}
    with _collector_paused():
        bar = tqdm(files, desc="read docstrings", unit="file", disable=not progress)
        for root, path in bar:
            for line, docstring in docstrings(path):
                places.setdefault(docstring, f"{_place(root, path)}:{line}")
    asked = Counter(split(docstring)[0] for docstring in places)
    documents: dict[str, Document] = {}
    for docstring, place in places.items():
        query, text = split(docstring)
        if asked[query] > 1:
            query, text = "", docstring
        documents.setdefault(text, Document(place, query, text))
    return list(documents.values())


def split(docstring: str) -> tuple[str, str]:
    """Return the first sentence and the rest, or "" and all where either is no use."""
    sentence, text = [*SENTENCE_END.split(docstring, maxsplit=1), ""][:2]
    sentence = " ".join(sentence.split())
    is_query = len(WORD.findall(sentence)) >= 3 and len(sentence) < 200
    return (sentence, text) if is_query and len(text) > 80 else ("", docstring)


def docstrings(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line, docstring) of what a Python file defines, if over 120 characters."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # other people's invalid escapes
            tree = ast.parse(path.read_text(encoding="utf-8", errors="ignore"))
    except (SyntaxError, ValueError):
        return
    nodes: list[ast.AST] = [tree]
    while nodes:
        node = nodes.pop()
        if isinstance(
            node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        ):
            docstring = ast.get_docstring(node)
            if docstring and len(docstring) > 120:
                yield getattr(node, "lineno", 1), docstring
        for part in ("body", "orelse", "handlers", "finalbody"):  # not expressions
            inner = getattr(node, part, [])
            nodes.extend(inner if isinstance(inner, list) else [])


def python_files(root: Path) -> list[Path]:
    """Return the Python files below `root`, sorted; no tests, no other packages."""
    if root.is_file():
        return [root]
    files = (path.relative_to(root) for path in root.rglob("*.py"))
    return [root / path for path in sorted(files) if not NOT_READ & set(path.parts)]


def embed(
    documents: list[Document], dim: int
) -> tuple[list[Document], np.ndarray, np.ndarray]:
    """Embed texts and queries by TF-IDF and SVD.

    Singular values are damped (to the power 3/4), so that rare topics count.

    Returns
    -------
    documents : list of Document
        Without those of which no word occurs in a second one.
    corpus : ndarray
        Their texts, float32 (n, dim).
    queries : ndarray
        Their queries, float32 (n, dim); zero without a query, or without known words.
    """
    words = TfidfVectorizer(
        sublinear_tf=True, min_df=2, stop_words="english", dtype=np.float32
    )
    counts = words.fit_transform([document.text for document in documents])
    known = np.flatnonzero(counts.getnnz(axis=1))
    documents, counts = [documents[row] for row in known], counts[known]
    svd = TruncatedSVD(
        dim, n_iter=2, power_iteration_normalizer="LU", random_state=SEED
    ).fit(counts)
    damping = np.maximum(svd.singular_values_, 1e-6).astype(np.float32) ** -0.25
    queries = words.transform([document.query for document in documents])
    return documents, svd.transform(counts) * damping, svd.transform(queries) * damping


def _write(folder: Path, versions: dict[str, str], progress: bool) -> None:
    found = collect(_roots(versions), progress=progress)
    with tqdm(total=1, desc="embed (TF-IDF, SVD)", disable=not progress) as bar:
        documents, corpus, queries = embed(found, DIMS[-1])
        bar.update()
    rows = np.random.default_rng(SEED).permutation(np.flatnonzero(queries.any(axis=1)))
    held = TEST_QUERIES + TUNING_QUERIES
    if len(rows) < 2 * held:
        raise InvalidArgumentError(
            f"only {len(rows)} docstrings begin with a query, {2 * held} are needed: "
            "is the source of the standard library installed?"
        )
    asked, training = rows[:held], rows[held:]
    adapter = MatryoshkaAdapter(
        DIMS, epochs=EPOCHS, learning_rate=LEARNING_RATE, seed=SEED, progress=progress
    ).fit(queries[training], corpus[training])
    adapter.save(folder / "adapter.npz")
    for name, vectors in (("corpus", corpus), ("queries", queries[asked])):
        np.save(folder / f"{name}.npy", adapter.transform(vectors))
    _write_texts(folder, documents, [documents[row] for row in asked])
    (folder / "note.txt").write_text(
        f"{len(documents):,} docstrings of Python {versions['python']} and "
        f"{len(versions) - 1} packages; a query is a docstring's first sentence\n"
    )


def _write_texts(
    folder: Path, documents: list[Document], asked: list[Document]
) -> None:
    """Write the BEIR files; the first TEST_QUERIES of `asked` are the test."""
    texts = ({"_id": d.id, "title": "", "text": d.text} for d in documents)
    write_jsonl(folder / "corpus.jsonl", texts)
    queries = ({"_id": f"q:{d.id}", "text": d.query} for d in asked)
    write_jsonl(folder / "queries.jsonl", queries)
    for part, start, stop in (("test", 0, TEST_QUERIES), ("dev", TEST_QUERIES, None)):
        judged = ((f"q:{d.id}", d.id, 1) for d in asked[start:stop])
        write_qrels(folder / "qrels" / f"{part}.tsv", judged)


def _roots(versions: dict[str, str]) -> list[Path]:
    """Return where the sources are: the standard library, then each package."""
    roots = [Path(sysconfig.get_path("stdlib"))]
    for distribution, module in PACKAGES.items():
        spec = importlib.util.find_spec(module) if distribution in versions else None
        if spec is not None and spec.origin:
            path = Path(spec.origin)
            roots.append(path.parent if path.name == "__init__.py" else path)
    return roots


def _place(root: Path, path: Path) -> str:
    """Return a file's name below its package, as in `numpy/linalg/_linalg.py`."""
    is_package = (root / "__init__.py").exists()
    base = root.parent if is_package or root.is_file() else root
    return path.relative_to(base).as_posix()


@contextlib.contextmanager
def _collector_paused() -> Iterator[None]:
    """Stop cyclic garbage collection: walking syntax trees is a third of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
