"""One layout for every data set: a folder of .npy vectors and BEIR text files.

A folder is read by its contents: `corpus.npy` or `embeddings.npy`, `queries.npy`,
ids from `corpus.jsonl` and `queries.jsonl` (else row numbers), relevance from `qrels/`
or from labels. Makers write such a folder, whole or not at all. No vector is computed
here. Called by `datasets.py` and by the makers beside it.

n = rows of the corpus, q = test queries, t = tuning queries, d = full width.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from funnel.errors import InvalidArgumentError

CORPUS_FILES = ("corpus.npy", "embeddings.npy")
Qrels = dict[str, dict[str, int]]


@dataclass(frozen=True)
class Dataset:
    """Vectors, and what is known to be relevant to what.

    Attributes
    ----------
    name
        Short, fit for a file name.
    corpus
        Unnormalised, (n, d); a read-only memory map where it came from a file.
    queries
        Test queries, (q, d).
    doc_ids, query_ids
        Of the rows of `corpus` and of `queries`.
    dims
        Nested widths: 16, 32, … and the full width.
    qrels
        Grades by query id, then by document id; None where nothing was judged.
    labels
        (corpus labels (n,), query labels (q,)) where relevant means "same label".
    tuning_queries
        (t, d), none of them a test query; None where there are none.
    note
        What the set is, in one line.
    """

    name: str
    corpus: np.ndarray
    queries: np.ndarray
    doc_ids: list[str]
    query_ids: list[str]
    dims: tuple[int, ...]
    qrels: Qrels | None
    labels: tuple[np.ndarray, np.ndarray] | None
    tuning_queries: np.ndarray | None
    note: str


def nested_dims(full_dim: int) -> tuple[int, ...]:
    """Return 16, 32, 64, … below `full_dim`, then `full_dim`."""
    powers = (16 << i for i in range(full_dim.bit_length()))
    return (*(dim for dim in powers if dim < full_dim), full_dim)


def read(folder: Path, corpus_folder: Path | None = None) -> Dataset:
    """Read a folder by its contents.

    Parameters
    ----------
    folder
        Holds queries and relevance, and usually the corpus.
    corpus_folder
        Holds the corpus's vectors, if `folder` does not.

    Returns
    -------
    Dataset
        Test queries are those of `qrels/test.tsv`, or all if nothing was judged.

    Raises
    ------
    InvalidArgumentError
        If a file is missing, or two files do not fit each other.
    """
    corpus = open_rows(corpus_file(corpus_folder or folder))
    queries = open_rows(folder / "queries.npy")
    if corpus.shape[1] != queries.shape[1]:
        raise InvalidArgumentError(
            f"{folder}: the corpus is {corpus.shape[1]} dims wide, "
            f"the queries {queries.shape[1]}"
        )
    query_ids = _ids(folder / "queries.jsonl", len(queries))
    test, tuning, qrels = _splits(folder, query_ids)
    note = folder / "note.txt"
    return Dataset(
        name=folder.name,
        corpus=corpus,
        queries=np.asarray(queries[test]),
        doc_ids=_ids(_beside("corpus.jsonl", corpus_folder, folder), len(corpus)),
        query_ids=[query_ids[row] for row in test],
        dims=nested_dims(corpus.shape[1]),
        qrels=qrels,
        labels=_labels(folder, test),
        tuning_queries=_tuning(folder, queries, tuning),
        note=note.read_text().strip() if note.exists() else f"the folder {folder.name}",
    )


def unjudged(corpus_path: Path, queries_path: Path) -> Dataset:
    """Read two .npy files of which nothing is judged; ids are row numbers."""
    corpus, queries = open_rows(corpus_path), open_rows(queries_path)
    return Dataset(
        name=short_name(corpus_path),
        corpus=corpus,
        queries=np.asarray(queries),
        doc_ids=_ids(None, len(corpus)),
        query_ids=_ids(None, len(queries)),
        dims=nested_dims(corpus.shape[1]),
        qrels=None,
        labels=None,
        tuning_queries=_tuning(queries_path.parent, queries, []),
        note=f"the vectors of {corpus_path.name}, nothing judged",
    )


def short_name(path: Path) -> str:
    """Return a file's name without its ending; a `corpus.npy` goes by its folder's."""
    path = path.absolute()
    return path.parent.name if path.name in CORPUS_FILES else path.stem


def corpus_file(folder: Path) -> Path:
    """Return the file of the corpus's vectors in `folder`.

    Raises
    ------
    InvalidArgumentError
        If there is none.
    """
    for name in CORPUS_FILES:
        if (folder / name).is_file():
            return folder / name
    raise InvalidArgumentError(f"{folder} holds none of {', '.join(CORPUS_FILES)}")


def open_rows(path: Path) -> np.ndarray:
    """Map the rows of an .npy file, read-only, (n, d).

    Raises
    ------
    InvalidArgumentError
        If there is no such file, or it does not hold rows of floating-point numbers.
    """
    if not path.is_file():
        raise InvalidArgumentError(f"there is no {path}")
    try:
        rows = np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        raise InvalidArgumentError(f"{path} is not an .npy file: {error}") from error
    if rows.ndim != 2 or rows.dtype.kind != "f" or not len(rows):
        raise InvalidArgumentError(
            f"{path} holds {rows.dtype} {rows.shape}; needed: rows of floats, (n, d)"
        )
    return rows


def make_once(folder: Path, make: Callable[[Path], None]) -> Path:
    """Return `folder`; if it is not there, let `make` fill it first.

    `make` fills a temporary folder, which is renamed when complete, so that an
    interrupted run leaves nothing half-made.
    """
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        dir=folder.parent, prefix=f".{folder.name}-"
    ) as temporary:
        part = Path(temporary) / folder.name
        part.mkdir()
        make(part)
        try:
            part.rename(folder)
        except OSError:
            if not folder.exists():  # else another process was first: take its folder
                raise
    return folder


def write_rows(
    path: Path, shape: tuple[int, int], blocks: Iterable[np.ndarray]
) -> None:
    """Write blocks of rows, one after the other, as one float32 .npy file."""
    written = 0
    with path.open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for block in blocks:
            file.write(np.ascontiguousarray(block, dtype="<f4").data)
            written += len(block)
    assert written == shape[0], f"{written} rows written, {shape[0]} announced"


def write_jsonl(path: Path, records: Iterable[dict[str, str]]) -> None:
    """Write one JSON object a line."""
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)


def write_qrels(path: Path, judged: Iterable[tuple[str, str, int]]) -> None:
    """Write (query id, document id, grade) as BEIR does."""
    path.parent.mkdir(exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        file.write("query-id\tcorpus-id\tscore\n")
        file.writelines(f"{query}\t{doc}\t{grade}\n" for query, doc, grade in judged)


def read_qrels(path: Path) -> Qrels:
    """Read a BEIR .tsv of judgements; no file, no judgements."""
    qrels: Qrels = {}
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            query, doc, grade = line.split("\t")
            if grade.lstrip("-").isdigit():  # the first line is a header
                qrels.setdefault(query, {})[doc] = int(grade)
    return qrels


def _splits(
    folder: Path, query_ids: list[str]
) -> tuple[list[int], list[int], Qrels | None]:
    """Return the rows of test and tuning queries, and the test queries' qrels."""
    judged = read_qrels(folder / "qrels" / "test.tsv")
    if not judged:
        return list(range(len(query_ids))), [], None
    others = {
        query
        for split in ("dev", "train")
        for query in read_qrels(folder / "qrels" / f"{split}.tsv")
    } - judged.keys()
    test = [row for row, query in enumerate(query_ids) if query in judged]
    if len(test) < len(judged):
        raise InvalidArgumentError(
            f"{folder}: {len(judged) - len(test)} of the {len(judged)} queries in "
            "qrels/test.tsv are not in queries.jsonl"
        )
    tuning = [row for row, query in enumerate(query_ids) if query in others]
    return test, tuning, judged


def _ids(path: Path | None, rows: int) -> list[str]:
    if path is None or not path.exists():
        return [str(row) for row in range(rows)]
    with path.open(encoding="utf-8") as file:
        ids = [str(json.loads(line)["_id"]) for line in file if line.strip()]
    if len(ids) != rows:
        raise InvalidArgumentError(f"{path} names {len(ids)} rows, there are {rows}")
    return ids


def _beside(name: str, *folders: Path | None) -> Path | None:
    """Return the file of that name in the first of `folders` that has it."""
    paths = [folder / name for folder in folders if folder]
    return next((path for path in paths if path.exists()), None)


def _labels(folder: Path, test: list[int]) -> tuple[np.ndarray, np.ndarray] | None:
    corpus, queries = folder / "corpus_labels.npy", folder / "query_labels.npy"
    if not (corpus.exists() and queries.exists()):
        return None
    return np.load(corpus), np.load(queries)[test]


def _tuning(folder: Path, queries: np.ndarray, rows: list[int]) -> np.ndarray | None:
    if rows:
        return np.asarray(queries[rows])
    path = folder / "validation.npy"
    return np.asarray(open_rows(path)) if path.exists() else None
