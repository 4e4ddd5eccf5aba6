"""What `diagnose` finds, beside a build and the oracle; its tables and its command."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import naive
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import turned_rows

import funnel.cli
from funnel import FunnelIndex, diagnose
from funnel.adapt.measures import SHORTLISTS, Judge, energies
from funnel.errors import (
    DimensionError,
    IndexNotFoundError,
    InvalidArgumentError,
    InvalidTypeError,
)
from funnel.nested import nested_dims
from funnel.projection import cheapest, choose_projection
from funnel.vectors import unit

ROOT = Path(funnel.cli.__file__).parents[1]


def rotation(full_dim, seed):
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((full_dim,) * 2))[0]


def ordered_rows(n=1200, full_dim=256, seed=0):
    """Return rows as MRL models give: each dim counts for less, within nested blocks.

    Dims of a block are mixed, so that the principal axes are not the own dims.
    """
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((80, full_dim))
    rows = centres[rng.integers(0, 80, n)] + 0.7 * rng.standard_normal((n, full_dim))
    rows *= (1 + np.arange(full_dim)) ** -0.6
    for start, stop in ((0, 16), (16, 64), (64, 256)):
        block = rows[:, start:stop]
        rows[:, start:stop] = block @ rotation(block.shape[1], stop)
    return rows.astype(np.float32)


def rotated_rows():
    return ordered_rows() @ rotation(256, 1).astype(np.float32)


def noise(n=1200, full_dim=256, seed=2):
    drawn = np.random.default_rng(seed).standard_normal((n, full_dim))
    return drawn.astype(np.float32)


def clusters_anywhere():
    """Return tight clusters around 100 isotropic centres: energy flat, order none."""
    rng = np.random.default_rng(3)
    centres = np.repeat(rng.standard_normal((100, 128)), 12, axis=0)
    return (centres + 0.1 * rng.standard_normal(centres.shape)).astype(np.float32)


SETS = {
    "ordered": (ordered_rows, "matryoshka"),
    "rotated": (rotated_rows, "unordered"),
    "turned": (lambda: turned_rows(1200, 300, 4), "unordered"),
    "clusters-anywhere": (clusters_anywhere, "unordered"),
    "noise": (noise, "unstructured"),
    "copies-of-ordered": (lambda: np.repeat(ordered_rows(400), 4, 0), "matryoshka"),
    "copies-of-rotated": (lambda: np.repeat(rotated_rows()[:400], 4, 0), "unordered"),
    "constant": (lambda: np.ones((500, 64), np.float32), "unknown"),
    "two-rows": (lambda: noise(2, 40), "unknown"),
    "one-dim": (lambda: noise(300, 1), "unknown"),
}


@pytest.fixture(scope="module", params=SETS)
def found(request):
    """Give each set's rows, its diagnosis and what that should say."""
    make, kind = SETS[request.param]
    rows = make()
    return rows, diagnose(rows), kind


# ---- verdicts


def test_verdict__is_right(found):
    _, diagnosis, kind = found
    assert diagnosis.kind == kind, diagnosis


@pytest.mark.parametrize("seed", range(1, 4))
@pytest.mark.parametrize("name", ["ordered", "rotated", "noise"])
def test_verdict__does_not_hang_on_the_draw(name, seed):
    make, kind = SETS[name]
    assert diagnose(make()[:600, :128], seed=seed).kind == kind


HEADS = {
    "matryoshka": "Matryoshka-like: projection",
    "unordered": "not ordered: ",
    "unstructured": "no structure",
    "unknown": "too few distinct rows",
}


def test_verdict__says_what_is_advised_and_by_how_much(found):
    _, diagnosis, kind = found
    assert diagnosis.verdict.startswith(HEADS[kind])
    if kind in ("matryoshka", "unordered"):
        rotate = "rotate first" in diagnosis.verdict
        assert rotate == (kind == "unordered" and diagnosis.projection == "pca")
        assert f"code_dim {diagnosis.code_dim} advised" in diagnosis.verdict
        own, axes = diagnosis.prefix.rows_needed(), diagnosis.axes.rows_needed()
        assert f"{axes[64]:,} against {own[64]:,} at 64 dims" in diagnosis.advice[1]
    if kind == "unstructured":
        assert diagnosis.advice[0].startswith("search with mode='exact'")


def test_choice__is_that_of_a_build(found):
    rows, diagnosis, _ = found
    with FunnelIndex.build(rows, threads=1, dims="auto", graph_dim="auto") as index:
        info, shown = index.info, repr(index)
    chosen = f"{diagnosis.projection} {diagnosis.graph_dim}/{diagnosis.code_dim}"
    assert chosen in shown
    assert info["dims"] == diagnosis.dims
    spaces = {"prefix": diagnosis.prefix, "pca": diagnosis.axes}
    for key, needed in info["shortlist_needed"].items():
        kind, width = key.split()
        # Of isotropic rows any axes are principal ones, to the last bit of a sum.
        mine = spaces[kind].rows_needed()[int(width)]
        assert mine == pytest.approx(needed, rel=0.02)


def test_choice__is_that_of_a_build_on_a_part_of_the_rows(monkeypatch):
    monkeypatch.setattr("funnel.build.sample.SAMPLE_ROWS", 700)
    rows = ordered_rows(1100)
    diagnosis = diagnose(rows, seed=5)
    with FunnelIndex.build(rows, threads=1, seed=5) as index:
        needed = index.info["shortlist_needed"]
    assert (diagnosis.rows, diagnosis.sample_rows) == (1100, 700)
    assert needed["pca 64"] == diagnosis.axes.rows_needed()[64]


FIGURES = {
    # What rows of a corpus need at 64, 128, 256 dims by prefix and axes; what is best
    # for its real queries (benchmarks/projections.py).
    "nfcorpus-mrl": ((55, 21, 13), (32, 15, 10), ("pca", 128)),
    "nfcorpus-minilm": ((359, 101, 23), (29, 15, 11), ("pca", 128)),
    "scifact-mrl": ((112, 31, 14), (61, 20, 11), ("pca", 128)),
    "scifact-minilm": ((528, 132, 33), (63, 21, 11), ("pca", 128)),
    "bible-mrl": ((1627, 215, 27), (187, 27, 11), ("pca", 128)),
    "bible-minilm": ((2701, 582, 55), (203, 31, 13), ("pca", 128)),
    "fashion-mrl": ((47, 45, 25), (11, 10, 10), ("pca", 64)),
    # Queries that the corpus's axes lose, as below.
    "lost by the axes": ((12, 11, 10), (600, 300, 90), ("prefix", 64)),
    "as good": ((12, 11, 10), (12, 11, 10), ("prefix", 64)),
}


@pytest.mark.parametrize("name", FIGURES)
def test_choice__is_the_best_for_real_queries(name):
    *needed, best = FIGURES[name]
    measured = {
        space: dict(zip((64, 128, 256), rows, strict=True))
        for space, rows in zip(("prefix", "pca"), needed, strict=True)
    }
    assert cheapest(measured) == best


def questions(seed):
    """Return a corpus in clusters, and queries that lie anywhere in its space."""
    rng = np.random.default_rng(seed)
    spread = (1 + np.arange(160)) ** -0.25
    centres = rng.standard_normal((60, 160))
    near = centres[rng.integers(0, 60, 3000)] + 0.5 * rng.standard_normal((3000, 160))
    rows = near * spread
    asked = 0.5 * rows[rng.choice(3000, 300)] + 0.7 * rng.standard_normal((300, 160))
    basis = rotation(256, seed)[:160]
    return np.float32(rows @ basis), np.float32(asked @ basis)


@pytest.mark.parametrize("seed", range(3))
def test_choice__by_rows_serves_queries_unlike_them(seed):
    rows, asked = questions(seed)
    told = diagnose(rows, queries=asked)

    def recall(index):
        last = index.search(asked, mode="exact").scores[:, -1:] - 1e-6
        return float((index.search(asked).scores >= last).mean())

    with FunnelIndex.build(rows, threads=1) as index:
        assert index.projection == told.projection == "pca"
        assert index.info["code_dim"] == told.code_dim == 128
        assert recall(index) > 0.99
        needed = index.info["shortlist_needed"]["pca 64"]
        assert needed < 40 < told.axes.rows_needed()[64]


@pytest.mark.parametrize("name", ["ordered", "rotated", "turned"])
def test_choice__is_not_misled_by_copies(name):
    """A verse that comes 70 times stands before most others, at any width."""
    rows = SETS[name][0]()
    copied = np.insert(rows, np.full(80, 40), rows[40], axis=0)
    alone, told = diagnose(rows), diagnose(copied)
    assert (told.projection, told.code_dim) == (alone.projection, alone.code_dim)
    assert told.axes.rows_needed() == alone.axes.rows_needed()
    with FunnelIndex.build(copied, threads=1) as index:
        assert index.projection == alone.projection
        assert index.info["code_dim"] == alone.code_dim
        needed = index.info["shortlist_needed"]
    assert needed["pca 128"] == alone.axes.rows_needed()[128]


# ---- queries


def test_queries__that_are_given_make_the_choice():
    """Questions live where the corpus has little energy: its axes lose them."""
    rng = np.random.default_rng(6)
    loud = 3 * rng.standard_normal((900, 1)) * rng.standard_normal((1, 192))
    corpus = np.concatenate([0.7 * rng.standard_normal((900, 64)), loud], axis=1)
    corpus[:, 64:] += 0.75 * rng.standard_normal((900, 192))
    asked = np.concatenate([rng.standard_normal((300, 64)), np.zeros((300, 192))], 1)
    asked += 1e-3 * rng.standard_normal(asked.shape)
    alone, given = diagnose(corpus), diagnose(corpus, queries=asked)
    assert (alone.queries_given, given.queries_given) == (False, True)
    assert given.queries == 256
    assert given.projection == "prefix"
    assert given.prefix.needed != alone.prefix.needed
    assert "default" not in given.advice[0]


def test_queries__that_are_rows_find_themselves_first():
    rows = ordered_rows(600)
    given = diagnose(rows, queries=rows[:50])
    assert given.queries == 50
    assert given.prefix.recall[-1][SHORTLISTS.index(10)] > 0.9


def test_queries__of_another_width_are_refused():
    with pytest.raises(DimensionError, match="queries have 8 dims"):
        diagnose(noise(30, 16), queries=noise(3, 8))


def test_queries__that_are_all_bad_decide_nothing():
    diagnosis = diagnose(ordered_rows(300), queries=np.zeros((4, 256)))
    assert (diagnosis.kind, diagnosis.queries) == ("unknown", 0)


# ---- counts


def test_bad_rows__are_counted_and_left_out():
    rows = rotated_rows()
    bad = np.insert(rows, [3, 50, 700], [[np.nan], [np.inf], [0.0]], axis=0)
    diagnosis, clean = diagnose(bad), diagnose(rows)
    assert (diagnosis.non_finite, diagnosis.zero, diagnosis.rows) == (2, 1, 1203)
    assert diagnosis.prefix == clean.prefix
    assert diagnosis.verdict == clean.verdict
    assert any("on_bad_vectors='drop'" in said for said in diagnosis.advice)


@pytest.mark.parametrize("value", [np.nan, 0.0, np.inf])
def test_bad_rows__may_be_all_there_is(value):
    diagnosis = diagnose(np.full((40, 24), value))
    assert (diagnosis.kind, diagnosis.sample_rows) == ("unknown", 0)
    assert diagnosis.contrast is None
    json.dumps(diagnosis.to_dict(), allow_nan=False)
    assert "too few" in str(diagnosis)


def test_copies__are_counted_in_all_rows(found):
    rows, diagnosis, _ = found
    assert diagnosis.copies == len(rows) - len(np.unique(rows, axis=0))
    said = any("are copies" in sentence for sentence in diagnosis.advice)
    assert said == (diagnosis.copies > len(rows) / 10)


def test_norms__are_those_of_the_rows(found):
    rows, diagnosis, _ = found
    lengths = naive.lengths_of(rows)
    expected = (lengths.min(), np.median(lengths), lengths.max())
    np.testing.assert_allclose(diagnosis.norms, expected, rtol=1e-5)


# ---- figures, against the oracle


@pytest.mark.parametrize("full_dim", [1, 2, 7, 31, 64, 97])
@pytest.mark.parametrize("given", [False, True], ids=["own", "given"])
def test_figures__equal_the_oracle(full_dim, given):
    rows = unit(noise(60, full_dim, seed=full_dim))
    judge = Judge.of_sample(rows, seed=0)
    if given:
        judge = Judge(rows, unit(noise(9, full_dim, seed=1)), None)
    owns = [-1] * len(judge.queries) if judge.own is None else judge.own.tolist()
    dims = sorted({1, max(1, full_dim // 2), full_dim})
    figures = judge.figures("prefix", rows, judge.queries, dims)
    np.testing.assert_allclose(figures.energy, naive.energy_shares(rows, dims), 1e-5)
    for width, recall in zip(dims, figures.recall, strict=True):
        if width == 1:  # all cosines are 1 or −1: ties, which float32 breaks anyhow
            continue
        for shortlist, share in zip(SHORTLISTS, recall, strict=True):
            oracle = naive.prefix_recall(rows, judge.queries, owns, width, shortlist)
            assert share == pytest.approx(oracle, abs=0.02)
    contrast = naive.relative_contrast(rows, judge.queries, owns)
    assert judge.contrast() == (contrast and pytest.approx(contrast, rel=1e-4))


def test_needed__is_the_shortlist_that_holds_the_target(found):
    _, diagnosis, _ = found
    for figures in (diagnosis.prefix, diagnosis.axes):
        assert len(figures.dims) == len(figures.needed) == len(figures.recall)
        for recall, needed in zip(figures.recall, figures.needed, strict=True):
            assert list(recall) == sorted(recall)
            for shortlist, share in zip(SHORTLISTS, recall, strict=True):
                if diagnosis.kind != "unknown":
                    assert (share >= 0.99) == (needed <= shortlist) or share > 0.985


def test_energy__of_axes_is_the_most_that_there_is(found):
    _, diagnosis, _ = found
    for width, most in zip(diagnosis.axes.dims, diagnosis.axes.energy, strict=True):
        at = diagnosis.prefix.dims.index(width)
        assert diagnosis.prefix.energy[at] <= most + 1e-4


def test_energies__of_no_rows_are_zero():
    assert energies(noise(0, 8), [2, 8]) == (0.0, 0.0)


def test_judge__agrees_with_the_probes_of_a_build():
    rows = unit(rotated_rows())
    chosen = choose_projection(rows, "auto", None, None, seed=3)
    judge = Judge.of_sample(rows, seed=3)
    own = judge.figures("prefix", rows, judge.queries, [64, 128, 256]).rows_needed()
    assert {f"prefix {w}": n for w, n in own.items()}.items() <= chosen.needed.items()


# ---- dims="auto"


@pytest.mark.parametrize(
    ("needed", "expected"),
    [
        ({16: 94, 32: 82, 64: 47, 128: 45, 256: 25}, (16, 64, 256, 512)),
        ({16: 5000, 32: 1000, 64: 667, 128: 666}, (32, 128, 512)),
        ({64: 4000, 512: 10}, (512,)),
        ({}, (512,)),
    ],
)
def test_nested_dims__are_those_worth_a_stage(needed, expected):
    assert nested_dims(needed, 512) == expected


def test_auto__of_widths_is_the_default():
    rows = rotated_rows()
    one = FunnelIndex.build(rows, graph_dim="auto", code_dim="auto", threads=1)
    other = FunnelIndex.build(rows, threads=1)
    with one, other:
        for name in ("projection", "graph_dim", "code_dim", "dims"):
            assert one.info[name] == other.info[name]


def test_auto__of_an_empty_index_is_the_default(tmp_path):
    auto = {"dims": "auto", "graph_dim": "auto", "code_dim": "auto"}
    with FunnelIndex.create(tmp_path / "made.funnel", 64, **auto) as index:
        assert index.dims == (16, 32, 64)
        assert index.add(noise(30, 64)) == 30


def test_auto__passes_bad_rows_by():
    rows = rotated_rows()[:600]
    rows[4] = np.nan
    how = {"dims": "auto", "on_bad_vectors": "drop", "threads": 1}
    with FunnelIndex.build(rows, **how) as index:
        assert index.dims == diagnose(rows).dims


# ---- sources and errors


def test_sources__give_the_same(tmp_path):
    rows = ordered_rows(300, 64)
    np.save(tmp_path / "rows.npy", rows)
    table = pa.table({"vector": rows.tolist(), "title": ["t"] * 300})
    pq.write_table(table, tmp_path / "rows.parquet")
    expected = diagnose(rows).to_dict()
    halves = iter([rows[:120], rows[120:]])
    for data in (
        tmp_path / "rows.npy", str(tmp_path / "*.npy"), tmp_path / "rows.parquet",
        table, rows.tolist(), rows.astype(">f8"), np.asfortranarray(rows), halves,
    ):  # fmt: skip
        assert diagnose(data).to_dict() == expected


def test_transform__is_applied():
    rows = ordered_rows(300, 64) + 5
    by_hand = np.array([naive.layer_norm(row) for row in rows])
    applied, before = diagnose(rows, transform="layer_norm"), diagnose(by_hand)
    np.testing.assert_allclose(applied.prefix.energy, before.prefix.energy, 1e-3)


@pytest.mark.parametrize(
    ("data", "how", "error", "words"),
    [
        (np.zeros((0, 8)), {}, InvalidArgumentError, "no embeddings"),
        ([], {}, InvalidArgumentError, "no embeddings"),
        (iter([]), {}, InvalidArgumentError, "no embeddings"),
        (np.zeros(8), {}, DimensionError, "2 axes"),
        (np.zeros((3, 0)), {}, DimensionError, "0 dims"),
        (iter([np.ones((2, 8)), np.ones((2, 9))]), {}, DimensionError, "from 8 to 9"),
        ("nowhere.npy", {}, IndexNotFoundError, "nowhere.npy"),
        ({"a": 1}, {}, InvalidTypeError, "dict"),
        (np.eye(8), {"queries": []}, InvalidArgumentError, "no queries"),
        (np.eye(8), {"seed": -1}, InvalidArgumentError, "seed"),
        (np.eye(8), {"transform": "pca"}, InvalidArgumentError, "layer_norm"),
        (np.eye(8), {"vector_column": "v"}, InvalidArgumentError, "vector_column"),
        (np.eye(8), {"progress": 3}, InvalidTypeError, "progress"),
    ],
)
def test_bad_input__is_one_clear_error(data, how, error, words):
    with pytest.raises(error, match=words):
        diagnose(data, **how)


def test_progress__is_reported():
    steps = []
    diagnose(ordered_rows(100, 32), progress=lambda *step: steps.append(step))
    assert [step[0] for step in steps] == ["reading embeddings", "measuring"]


# ---- how it is shown


def test_table__is_plain_ascii_and_narrow(found):
    _, diagnosis, _ = found
    text = str(diagnosis)
    assert text.isascii()
    assert max(map(len, text.splitlines()[1:])) <= 96
    assert text.startswith(diagnosis.verdict)


def test_html__escapes_and_holds_all(found):
    _, diagnosis, _ = found
    html = diagnosis._repr_html_()
    assert "&#x27;pca&#x27;" in html or "'" not in html
    assert html.count("<table>") == html.count("</table>") == 3


def test_dict__survives_json(found):
    _, diagnosis, _ = found
    told = json.loads(json.dumps(diagnosis.to_dict(), allow_nan=False))
    assert told["verdict"] == diagnosis.verdict
    assert told["prefix"]["needed"] == list(diagnosis.prefix.needed)
    assert told["shortlists"] == list(SHORTLISTS)


def test_rich__prints_the_same_numbers():
    rich = pytest.importorskip("rich.console")
    diagnosis = diagnose(ordered_rows(300, 64))
    console = rich.Console(width=120, file=io.StringIO())
    console.print(diagnosis)
    text = console.file.getvalue()
    assert diagnosis.verdict in text
    assert f"{diagnosis.axes.energy[0]:.3f}" in text


# ---- the command


@pytest.fixture
def saved(tmp_path):
    np.save(tmp_path / "rows.npy", ordered_rows(300, 64))
    return str(tmp_path / "rows.npy")


def test_command__prints_the_table(saved, capsys):
    assert funnel.cli.main(["diagnose", saved]) == 0
    assert capsys.readouterr().out == f"{diagnose(saved)}\n"


def test_command__prints_json(saved, capsys):
    arguments = ["diagnose", saved, "--json", "--queries", saved, "--seed", "2"]
    assert funnel.cli.main(arguments) == 0
    expected = diagnose(saved, queries=saved, seed=2).to_dict()
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(expected))


@pytest.mark.parametrize("rich", [True, False], ids=["rich", "no-rich"])
def test_command__shows_people_what_rich_can(saved, capsys, monkeypatch, rich):
    if rich:
        pytest.importorskip("rich")
    else:
        monkeypatch.setitem(sys.modules, "rich.console", None)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert funnel.cli.main(["diagnose", saved]) == 0
    out = capsys.readouterr().out
    assert "own prefix" in out
    assert (out == f"{diagnose(saved)}\n") != rich


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["diagnose", "nowhere.npy"], "no file at nowhere.npy"),
        (["diagnose", __file__], "cannot build from"),
        (["diagnose", "{saved}", "--queries", "nowhere.npy"], "nowhere.npy"),
        (["diagnose", "{saved}", "--seed", "-1"], "seed"),
        (["diagnose", "{saved}", "--seed", "x"], "invalid int value"),
        (["diagnose"], "required: FILE"),
        (["diagnos", "x"], "invalid choice"),
        ([], "COMMAND"),
    ],
)
def test_command__refuses_bad_input_in_one_line(saved, capsys, arguments, words):
    arguments = [one.format(saved=saved) for one in arguments]
    try:
        code = funnel.cli.main(arguments)
    except SystemExit as stop:
        code = stop.code
    said = capsys.readouterr()
    assert (code, said.out, said.err.count("\n")) == (2, "", 1)
    assert words in said.err
    assert "Traceback" not in said.err


def test_module__runs(saved):
    done = subprocess.run(
        [sys.executable, "-m", "funnel", "diagnose", saved, "--json"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert json.loads(done.stdout)["rows"] == 300
    assert done.stderr == ""
