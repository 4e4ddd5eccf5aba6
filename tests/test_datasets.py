"""The data sets: what a spec means, what folders hold, what the makers make."""

from __future__ import annotations

import itertools

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import docstrings, folders, synthetic
from benchmarks.datasets import load
from funnel.errors import InvalidArgumentError

RNG = np.random.default_rng(0)
VECTORS = RNG.normal(size=(60, 20)).astype(np.float32)
QUERIES = RNG.normal(size=(6, 20)).astype(np.float32)


def quietly(spec, cache, **sizes):
    return load(str(spec), cache=cache, progress=False, **sizes)


@pytest.fixture
def beir(tmp_path):
    """A BEIR folder of 60 documents and 6 queries: three test, two train, one spare."""
    folder = tmp_path / "small"
    folder.mkdir()
    np.save(folder / "corpus.npy", VECTORS)
    np.save(folder / "queries.npy", QUERIES)
    folders.write_jsonl(
        folder / "corpus.jsonl", ({"_id": f"d{i}", "text": "…"} for i in range(60))
    )
    folders.write_jsonl(
        folder / "queries.jsonl", ({"_id": f"q{i}", "text": "?"} for i in range(6))
    )
    test = [("q1", "d0", 2), ("q1", "d50", 1), ("q3", "d55", 1), ("q5", "d3", 1)]
    folders.write_qrels(folder / "qrels" / "test.tsv", test)
    train = [("q0", "d1", 1), ("q2", "d2", 1), ("q5", "d9", 1)]
    folders.write_qrels(folder / "qrels" / "train.tsv", train)
    return folder


# Folders


@pytest.mark.parametrize("spec", ["beir:{}", "{}", "small"])
def test_beir__splits_queries_by_their_qrels(spec, beir):
    data = quietly(spec.format(beir), beir.parent)
    assert data.name == "small"
    assert isinstance(data.corpus, np.memmap)
    assert not data.corpus.flags.writeable
    assert np.array_equal(data.corpus, VECTORS)
    assert data.doc_ids == [f"d{i}" for i in range(60)]
    assert data.query_ids == ["q1", "q3", "q5"]
    assert np.array_equal(data.queries, QUERIES[[1, 3, 5]])
    assert np.array_equal(data.tuning_queries, QUERIES[[0, 2]])
    assert data.qrels == {"q1": {"d0": 2, "d50": 1}, "q3": {"d55": 1}, "q5": {"d3": 1}}
    assert data.labels is None
    assert data.dims == (16, 20)


def test_beir__takes_its_vectors_from_parquet(beir, tmp_path):
    (beir / "corpus.npy").unlink()
    pq.write_table(pa.table({"emb": list(VECTORS)}), beir / "embeddings.parquet")
    data = quietly(f"beir:{beir}", tmp_path / "cache")
    assert np.array_equal(data.corpus, VECTORS)
    assert data.doc_ids[59] == "d59"
    assert data.query_ids == ["q1", "q3", "q5"]


def test_labels__come_with_the_queries_and_a_validation_set(tmp_path):
    folder = tmp_path / "labelled"
    folder.mkdir()
    for name, array in {
        "corpus": VECTORS,
        "queries": QUERIES,
        "validation": QUERIES[:4],
        "corpus_labels": np.arange(60) % 3,
        "query_labels": np.arange(6) % 3,
    }.items():
        np.save(folder / f"{name}.npy", array)
    data = quietly(folder, tmp_path, queries=4, n=50)
    assert data.qrels is None
    assert [len(side) for side in data.labels] == [50, 4]
    assert data.tuning_queries.shape == (4, 20)
    assert data.doc_ids[-1] == "49"


def test_cut__drops_queries_that_lose_their_documents(beir):
    data = quietly(beir, beir.parent, n=40, dim=8)
    assert data.corpus.shape == (40, 8)
    assert data.dims == (8,)
    assert data.qrels == {"q1": {"d0": 2}, "q5": {"d3": 1}}
    assert data.query_ids == ["q1", "q5"]
    assert np.array_equal(data.queries, QUERIES[[1, 5], :8])
    assert data.tuning_queries.shape == (2, 8)
    assert quietly(beir, beir.parent, queries=1).query_ids == ["q1"]


@given(st.integers(1, 5000))
def test_dims__double_up_to_the_full_width(full_dim):
    dims = folders.nested_dims(full_dim)
    assert dims[-1] == full_dim
    assert all(b == 2 * a for a, b in itertools.pairwise(dims[:-1]))
    assert dims[0] == min(16, full_dim)


# Plain files


def test_npy__holds_out_queries_that_leave_the_corpus(tmp_path):
    np.save(tmp_path / "things.npy", VECTORS.astype(np.float64))
    data = quietly(f"npy:{tmp_path / 'things.npy'}", tmp_path / "cache", queries=7)
    assert data.name == "things"
    assert data.corpus.dtype == np.float32
    assert len(data.queries) == len(data.tuning_queries) == 7
    assert np.array_equal(data.corpus, VECTORS[[int(i) for i in data.doc_ids]])
    parts = np.concatenate([data.corpus, data.queries, data.tuning_queries])
    assert np.array_equal(np.sort(parts[:, 0]), np.sort(VECTORS[:, 0]))
    again = quietly(tmp_path / "things.npy", tmp_path / "elsewhere", queries=7)
    assert np.array_equal(again.queries, data.queries)


def test_npy__takes_the_queries_beside_it(tmp_path):
    np.save(tmp_path / "corpus.npy", VECTORS.astype(np.float16))
    np.save(tmp_path / "queries.npy", QUERIES)
    data = quietly(f"npy:{tmp_path / 'corpus.npy'}", tmp_path / "cache")
    assert data.name == tmp_path.name
    assert data.corpus.dtype == np.float16
    assert np.array_equal(data.queries, QUERIES)
    assert not (tmp_path / "cache").exists()


LISTS = {
    "list<float>": pa.list_(pa.float32()),
    "large_list<double>": pa.large_list(pa.float64()),
    "fixed_size_list<float>": pa.list_(pa.float32(), 20),
    "list<halffloat>": pa.list_(pa.float16()),
}


@pytest.mark.parametrize("kind", LISTS.values(), ids=LISTS)
@pytest.mark.parametrize("place", ["{}", "{}/data", "{}/data/train-*.parquet"])
def test_parquet__reads_hugging_face_layouts(kind, place, tmp_path):
    vectors = VECTORS.astype(np.float16)
    (tmp_path / "data").mkdir()
    for part, rows in enumerate((slice(0, 25), slice(25, 60))):
        table = pa.table(
            {
                "_id": [f"<doc {i}>" for i in range(60)[rows]],
                "title": ["…"] * len(vectors[rows]),
                "some-model-20-embedding": pa.array(list(vectors[rows]), kind),
            }
        )
        pq.write_table(table, tmp_path / "data" / f"train-{part}-of-2.parquet")
    data = quietly(f"parquet:{place.format(tmp_path)}", tmp_path / "cache", queries=5)
    assert data.corpus.shape == (50, 20)
    rows = [int(name[5:-1]) for name in data.doc_ids]
    assert np.array_equal(data.corpus, vectors[rows])
    assert len(data.queries) == len(data.tuning_queries) == 5
    few = quietly(f"parquet:{tmp_path}", tmp_path / "cache", queries=5, n=30)
    assert few.corpus.shape == (30, 20)


def test_parquet__asks_which_column_and_takes_the_answer(tmp_path):
    path = tmp_path / "two.parquet"
    pq.write_table(pa.table({"ada": list(QUERIES), "te3": list(VECTORS[:6])}), path)
    with pytest.raises(InvalidArgumentError, match=r"ada, te3.*#COLUMN"):
        quietly(f"parquet:{path}", tmp_path)
    with pytest.raises(InvalidArgumentError, match="'gist'"):
        quietly(f"parquet:{path}#gist", tmp_path)
    data = quietly(f"parquet:{path}#te3", tmp_path, queries=1)
    assert np.array_equal(data.corpus, VECTORS[[int(i) for i in data.doc_ids]])


# Synthetic


def test_synthetic__gives_the_same_rows_whatever_the_range():
    n = synthetic.BLOCK_ROWS + 300
    generator = synthetic.Generator(n, 24)
    rows = generator.rows(0, n)
    assert rows.dtype == np.float32
    bounds = [0, 1, 777, synthetic.BLOCK_ROWS - 1, synthetic.BLOCK_ROWS + 5, n]
    fresh = synthetic.Generator(n, 24)
    parts = [fresh.rows(*pair) for pair in itertools.pairwise(bounds)]
    assert np.array_equal(np.concatenate(parts), rows)


def test_synthetic__is_made_from_its_seed_alone(tmp_path):
    one, same, other = (
        synthetic.make(tmp_path / name, 500, 32, 20, seed=seed, progress=False)
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    for name in ("corpus.npy", "queries.npy", "qrels/test.tsv", "qrels/dev.tsv"):
        assert (one / name).read_bytes() == (same / name).read_bytes()
        assert (one / name).read_bytes() != (other / name).read_bytes()


def test_synthetic__has_nearly_flat_energy():
    rows = synthetic.Generator(1000, 3072).rows(0, 1000)
    energy = np.cumsum(rows**2, axis=1) / (rows**2).sum(axis=1, keepdims=True)
    assert 0.12 < energy[:, 255].mean() < 0.20
    assert 0.02 < energy[:, 31].mean() < 0.06
    assert 0.4 < energy[:, 1535].mean() < 0.65


def test_synthetic__keeps_neighbours_in_prefixes_as_embeddings_of_text_do():
    generator = synthetic.Generator(20_000, 512)
    corpus, (queries, _) = generator.rows(0, 20_000), generator.queries(2, 60)
    corpus /= np.linalg.norm(corpus, axis=1, keepdims=True)
    exact = np.argsort(-queries @ corpus.T, axis=1)[:, :10]

    def kept(dim, shortlist):
        prefix = corpus[:, :dim] / np.linalg.norm(
            corpus[:, :dim], axis=1, keepdims=True
        )
        best = np.argpartition(-queries[:, :dim] @ prefix.T, shortlist)[:, :shortlist]
        return np.mean([np.isin(*pair) for pair in zip(exact, best, strict=True)])

    assert 0.3 < kept(16, 200) < 0.6
    assert 0.4 < kept(64, 10) < 0.7
    assert kept(64, 200) > 0.85
    assert kept(256, 50) > 0.98


def test_synthetic__judges_leaf_over_siblings(tmp_path):
    data = quietly("synthetic", tmp_path, n=3000, dim=32, queries=40)
    generator = synthetic.Generator(3000, 32)
    parent_of = generator.parents[generator.leaves]
    _, leaves = generator.queries(synthetic.TEST, 40)
    assert data.name == "synthetic"
    assert data.corpus.shape == (3000, 32)
    assert data.queries.shape == data.tuning_queries.shape == (40, 32)
    for query, leaf in zip(data.query_ids, leaves, strict=True):
        judged = data.qrels[query]
        assert 0 < len(judged) <= synthetic.JUDGED
        leaf_rows = set(map(str, np.flatnonzero(generator.leaves == leaf)))
        assert {doc for doc, grade in judged.items() if grade == 2} == leaf_rows
        siblings = [int(doc) for doc, grade in judged.items() if grade == 1]
        assert (parent_of[siblings] == generator.parents[leaf]).all()


# Docstrings

SPLIT = {
    "one line": ("Return the sum of all rows.\n\nAnd " + "more " * 20, True),
    "inside a line": ("Return the sum of all rows. It is " + "long " * 20, True),
    "over two lines": ("Return the sum of\nall rows.\n\nIt is " + "long " * 20, True),
    "an example": ("Return the sum of, e.g. 3,\nall rows. " + "More " * 20, True),
    "no end": ("Return the sum of all rows " + "and more " * 30, False),
    "nothing left": ("Return the sum of all rows.\n\nThat is it.", False),
    "a heading": ("=====\n\n" + "Return the sum of all rows. " * 5, False),
    "two words": ("Do it.\n\n" + "Return the sum of all rows. " * 5, False),
}


@pytest.mark.parametrize(("docstring", "is_query"), SPLIT.values(), ids=SPLIT)
def test_split__takes_the_first_sentence_out(docstring, is_query):
    query, text = docstrings.split(docstring)
    assert bool(query) == is_query
    if is_query:
        assert query.startswith("Return the sum of")
        assert query.endswith("all rows.")
        assert " ".join(f"{query} {text}".split()) == " ".join(docstring.split())
    else:
        assert text == docstring


@pytest.fixture
def package(tmp_path):
    """A package of which four docstrings are of use; two begin with one sentence."""
    root = tmp_path / "package"
    (root / "tests").mkdir(parents=True)
    long = "Its text goes on for quite a while, " * 5
    (root / "__init__.py").write_text(f'"""Say what the package is. {long}"""\n')
    (root / "broken.py").write_text('def f(:\n    """Never read at all."""')
    (root / "tests" / "test_it.py").write_text(f'"""A test of the package. {long}"""')
    (root / "code.py").write_text(
        f'def f():\n    """Say the same thing twice. One {long}"""\n\n'
        f'class C:\n    """Say the same thing twice. Two {long}"""\n\n'
        f'    if True:\n        def g(self):\n            r"""Say \\w once. {long}"""\n'
        '    def h(self):\n        """Short."""\n'
    )
    return root


def test_collect__reads_each_text_once_and_no_ambiguous_query(package):
    found = {document.id: document for document in docstrings.collect([package])}
    places = {"__init__.py:1", "code.py:1", "code.py:4", "code.py:8"}
    assert set(found) == {f"package/{place}" for place in places}
    assert found["package/__init__.py:1"].query == "Say what the package is."
    assert found["package/code.py:1"].query == ""
    assert found["package/code.py:1"].text.startswith("Say the same thing twice. One")


def test_embed__leaves_out_texts_without_a_shared_word():
    words = [f"{a}word" for a in "abcdefghij"]
    found = [
        docstrings.Document(str(i), words[i % 10], " ".join(np.roll(words, i)[:5]))
        for i in range(30)
    ]
    found.append(docstrings.Document("alone", "", "unshared vocabulary"))
    documents, corpus, queries = docstrings.embed(found, 8)
    assert [document.id for document in documents] == [str(i) for i in range(30)]
    assert corpus.shape == queries.shape == (30, 8)
    assert corpus.dtype == queries.dtype == np.float32
    assert corpus.any(axis=1).all()


def test_docstrings__are_a_beir_folder_made_once(tmp_path, monkeypatch):
    words = [f"{a}{b}word" for a in "abcde" for b in "abcde"]
    source = ""
    for i, chosen in enumerate(RNG.choice(words, size=(40, 30))):
        first, rest = " ".join(chosen[:4]), " ".join(chosen[2:])
        source += f'def f{i}():\n    """Do {first}.\n\n    {rest}"""\n\n'
    (tmp_path / "made.py").write_text(source)
    for name, value in {
        "DIMS": (4, 8),
        "TEST_QUERIES": 6,
        "TUNING_QUERIES": 3,
        "_roots": lambda versions: [tmp_path / "made.py"],
    }.items():
        monkeypatch.setattr(docstrings, name, value)
    data = quietly("docstrings", tmp_path / "cache")
    assert data.name == "docstrings"
    assert data.corpus.shape == (40, 8)
    assert [len(data.queries), len(data.tuning_queries)] == [6, 3]
    assert data.qrels == {query: {query[2:]: 1} for query in data.query_ids}
    assert set(data.doc_ids) >= {query[2:] for query in data.query_ids}
    monkeypatch.delattr(docstrings, "_write")
    again = quietly("docstrings", tmp_path / "cache")
    assert np.array_equal(again.corpus, data.corpus)


def test_installed__names_python_and_numpy():
    versions = docstrings.installed()
    assert versions["numpy"] == np.__version__
    assert set(versions) <= {"python", *docstrings.PACKAGES}


# The cache and errors


def test_make_once__leaves_nothing_half_made(tmp_path):
    def fail(folder):
        (folder / "corpus.npy").touch()
        raise KeyboardInterrupt

    def succeed(folder):
        (folder / "done").touch()

    with pytest.raises(KeyboardInterrupt):
        folders.make_once(tmp_path / "set", fail)
    assert list(tmp_path.iterdir()) == []
    assert (folders.make_once(tmp_path / "set", succeed) / "done").exists()
    folders.make_once(tmp_path / "set", fail)  # is there: not made again
    assert list(tmp_path.iterdir()) == [tmp_path / "set"]


def save(name, array):
    return lambda folder: np.save(folder / name, array)


def write_parquet(**columns):
    return lambda folder: pq.write_table(pa.table(columns), folder / "x.parquet")


def append(name, line):
    def write(folder):
        path = folder / name
        path.write_text(path.read_text() + line)

    return write


BAD = {
    "unknown": ("docstring", None, "docstrings .*synthetic .*beir:PATH.*small"),
    "nothing": ("", None, "beir:PATH"),
    "no folder": ("beir:missing", None, "there is no missing"),
    "no file": ("npy:missing.npy", None, "there is no missing.npy"),
    "no glob": ("parquet:missing/*.parquet", None, "no Parquet file"),
    "a bare folder": ("small/qrels", None, "holds no data set"),
    "no corpus": ("small", lambda f: (f / "corpus.npy").unlink(), "no Parquet file"),
    "widths": ("small", save("queries.npy", QUERIES[:, :5]), "20 dims wide.*5"),
    "corpus ids": ("small", append("corpus.jsonl", '{"_id": "x"}\n'), "61.*60"),
    "query ids": ("small", append("queries.jsonl", '{"_id": "x"}\n'), "7.*6"),
    "unknown query": ("small", append("qrels/test.tsv", "q9\td1\t1\n"), "1 of the 4"),
    "integers": ("npy:small/x.npy", save("x.npy", np.ones((9, 4), int)), "int64"),
    "one axis": ("npy:small/x.npy", save("x.npy", np.ones(9)), r"\(9,\)"),
    "no .npy": ("npy:small/corpus.jsonl", None, "not an .npy file"),
    "no vectors": ("parquet:small", write_parquet(id=[1, 2]), "0 columns"),
    "ragged": ("parquet:small", write_parquet(v=[[1.0], [1.0, 2.0]] * 9), "one width"),
    "missing": ("parquet:small", write_parquet(v=[[1.0], None] * 9), "one width"),
    "no rows": (
        "parquet:small",
        write_parquet(v=pa.array([], LISTS["list<float>"])),
        "no",
    ),
    "too few": ("parquet:small", write_parquet(v=[[1.0, 2.0]]), "too few"),
}


@pytest.mark.parametrize(("spec", "spoil", "words"), BAD.values(), ids=BAD)
def test_bad_sets__give_one_clear_error(spec, spoil, words, beir, monkeypatch):
    monkeypatch.chdir(beir.parent)
    if spoil:
        spoil(beir)
    with pytest.raises(InvalidArgumentError, match=f"(?s){words}"):
        quietly(spec, beir.parent)


@pytest.mark.parametrize(
    "sizes", [{"n": 0}, {"queries": -1}, {"dim": True}, {"dim": 21}]
)
def test_bad_sizes__give_one_clear_error(sizes, beir):
    with pytest.raises(InvalidArgumentError, match=r"at least 1|20 dims wide"):
        quietly("small", beir.parent, **sizes)
