"""What projections are measured by: closed forms beside the oracle, a small run."""

from __future__ import annotations

import json

import naive
import numpy as np
import pytest
from conftest import turned_rows

from benchmarks.projections import (
    SHARES,
    best_products,
    leading,
    lifted,
    main,
    moment,
    together,
)
from funnel.vectors import unit


@pytest.fixture(scope="module")
def sides():
    """Give rows, and queries that spread otherwise, float64."""
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((90, 24)) * (1 + np.arange(24)) ** -0.5
    queries = rng.standard_normal((70, 24)) * (1 + np.arange(24)[::-1]) ** -0.5
    return rows, queries


@pytest.mark.parametrize("width", [1, 7, 16])
def test_two_matrices__leave_the_least_error_that_a_rank_can(sides, width):
    rows, queries = sides
    for_rows, for_queries = best_products(moment(rows), moment(queries), width)
    exact = queries @ rows.T
    error = np.square((queries @ for_queries) @ (rows @ for_rows).T - exact).sum()
    sizes = np.linalg.svd(exact, compute_uv=False)
    assert error == pytest.approx(np.square(sizes[width:]).sum(), rel=1e-6)


def test_together__of_one_side_alone_are_its_principal_axes(sides):
    rows, queries = (unit(np.float32(side)) for side in sides)
    for part, side in ((0.0, rows), (1.0, queries)):
        axes = leading(together(moment(rows), moment(queries), part), 5)
        expected = naive.principal_axes(side, 5)
        np.testing.assert_allclose(np.abs((axes * expected).sum(0)), 1, atol=1e-4)


def test_lifted__ranks_as_the_inner_product(sides):
    rows, queries = sides
    high = lifted(rows)
    np.testing.assert_allclose(naive.lengths_of(high), naive.lengths_of(high)[0])
    for query in queries[:5]:
        cosines = naive.prefix_cosines(high, np.append(query, 0), 25)
        assert (np.argsort(cosines) == np.argsort(rows @ query)).all()


@pytest.fixture
def folder(tmp_path):
    """Give a data set of a corpus, queries beside it, and labels."""
    drawn = turned_rows(1560, 300, seed=9)
    (tmp_path / "small").mkdir()
    np.save(tmp_path / "small" / "corpus.npy", drawn[:1500])
    np.save(tmp_path / "small" / "queries.npy", drawn[1500:])
    np.save(tmp_path / "small" / "corpus_labels.npy", np.arange(1500) % 10)
    np.save(tmp_path / "small" / "query_labels.npy", np.arange(60) % 10)
    return tmp_path


def run(folder, *more):
    given = ["--dataset", str(folder / "small"), "--out", str(folder / "out"), *more]
    main([*given, "--cache", str(folder)])
    (path,) = (folder / "out").iterdir()
    return json.loads(path.read_text())


def test_run__says_what_each_projection_needs(folder, capsys):
    found = run(folder)
    assert found["dataset"] == "small"
    assert (found["fitting_queries"], found["judging_queries"]) == (30, 30)
    assert len(found["needed"]) == 5 + len(SHARES)
    for needed in found["needed"].values():
        assert 10 <= needed["256"] <= needed["64"] <= 1500
    assert found["needed"]["principal axes"]["64"] < found["needed"]["own prefix"]["64"]
    assert found["chosen"]["build"]["projection"] == "pca"
    assert "principal axes" in capsys.readouterr().out
    assert str(folder) not in json.dumps(found)


def test_ageing__ends_as_a_fresh_build(folder, capsys):
    found = run(folder, "--ageing", "--sample", "1200")
    states = found["states"]
    assert found["first_rows"] == 120
    for state in states.values():
        assert state.pop("batch_us") > 0
    assert states["after compact()"] == states["built of all rows"]
    assert states["by thousands, never merged"]["segments"] > 1
    assert "an index that grew tenfold" in capsys.readouterr().out
