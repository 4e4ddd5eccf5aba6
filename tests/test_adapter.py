"""The Matryoshka adapter: its gradient, what training buys, its file, its errors."""

from __future__ import annotations

import io

import numpy as np
import pytest

from funnel.adapt import MatryoshkaAdapter
from funnel.adapt.loss import matryoshka_gradient, matryoshka_loss
from funnel.errors import (
    DimensionError,
    FunnelError,
    IndexNotFoundError,
    InvalidArgumentError,
    InvalidTypeError,
    NonFiniteError,
    NotAnIndexError,
    StorageError,
)

DIMS = (2, 4, 8)
RNG = np.random.default_rng(0)
Q, D = RNG.normal(size=(2, 40, 12))
FITTED = MatryoshkaAdapter(DIMS, epochs=2, batch_size=16).fit(Q, D)


def pairs(n, seed):
    """Queries and documents that agree in the last 8 of 48 dims, the quietest ones."""
    rng = np.random.default_rng(seed)
    topic = rng.normal(size=(n, 8))
    sides = (rng.normal(size=(n, 48)) for _ in range(2))
    loud = np.r_[np.full(40, 1.0), np.full(8, 0.2)]
    return [side * loud + np.pad(topic, ((0, 0), (40, 0))) * 0.6 for side in sides]


def share_found(queries, documents, dim):
    """Share of the queries whose partner scores best at a prefix."""
    q, d = queries[:, :dim], documents[:, :dim]
    scores = (q / np.linalg.norm(q, axis=1, keepdims=True)) @ (
        d / np.linalg.norm(d, axis=1, keepdims=True)
    ).T
    return float((scores.argmax(axis=1) == np.arange(len(q))).mean())


@pytest.mark.parametrize("dims", [(5,), (1, 5), (2, 3, 5)], ids=str)
@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_gradient__equals_finite_differences(dims, temperature):
    rng = np.random.default_rng(len(dims))
    sides = rng.normal(size=(2, 6, dims[-1]))
    gradient = np.stack(matryoshka_gradient(*sides, dims, temperature))
    step, numeric = 1e-6, np.empty_like(sides)
    for at in np.ndindex(sides.shape):
        nudge = np.zeros_like(sides)
        nudge[at] = step
        above = matryoshka_loss(*(sides + nudge), dims, temperature)
        below = matryoshka_loss(*(sides - nudge), dims, temperature)
        numeric[at] = (above - below) / (2 * step)
    np.testing.assert_allclose(gradient, numeric, rtol=1e-5, atol=1e-6)


def test_loss__is_the_sum_over_dims_of_two_cross_entropies():
    q, d = RNG.normal(size=(2, 5, 4))
    expected = 0.0
    for dim in (2, 4):
        for row in range(5):
            cosine = [
                [
                    a[:dim]
                    @ b[:dim]
                    / np.linalg.norm(a[:dim])
                    / np.linalg.norm(b[:dim])
                    for b in d
                ]
                for a in q
            ]
            odds = np.exp(np.array(cosine) / 0.5)
            asked = odds[row, row] / odds[row].sum()
            answered = odds[row, row] / odds[:, row].sum()
            expected -= (np.log(asked) + np.log(answered)) / 10
    assert matryoshka_loss(q, d, (2, 4), 0.5) == pytest.approx(expected)


def test_fit__makes_short_prefixes_find_partners_of_new_pairs():
    adapter = MatryoshkaAdapter(
        (4, 8, 16), epochs=20, batch_size=128, learning_rate=0.02
    )
    adapter.fit(*pairs(1000, seed=1))
    queries, documents = pairs(200, seed=2)
    q, d = adapter.transform(queries), adapter.transform(documents)
    for dim in (4, 8, 16):
        before = share_found(queries, documents, dim)
        assert share_found(q, d, dim) > before + 0.15
    assert matryoshka_loss(q, d, (4, 8), 0.07) < matryoshka_loss(
        queries, documents, (4, 8), 0.07
    )


def test_fit__gives_the_same_map_for_the_same_seed_only():
    same = MatryoshkaAdapter(DIMS, epochs=2, batch_size=16).fit(Q, D)
    other = MatryoshkaAdapter(DIMS, epochs=2, batch_size=16, seed=1).fit(Q, D)
    assert np.array_equal(same.matrix, FITTED.matrix)
    assert not np.allclose(other.matrix, FITTED.matrix)


@pytest.mark.parametrize("rows", [2, 3, 40])
def test_fit__takes_fewer_pairs_than_a_batch(rows):
    adapter = MatryoshkaAdapter(DIMS, epochs=1).fit(Q[:rows], D[:rows])
    assert np.isfinite(adapter.transform(Q)).all()


def test_fit__ignores_the_lengths_of_rows_and_survives_zero_rows():
    lengths = np.r_[0.0, np.geomspace(1e-3, 1e3, 39)][:, None]
    scaled = MatryoshkaAdapter(DIMS, epochs=2).fit(Q * lengths, D)
    unit = MatryoshkaAdapter(DIMS, epochs=2).fit(Q * np.sign(lengths), D)
    np.testing.assert_allclose(scaled.matrix, unit.matrix, atol=1e-4)


@pytest.mark.parametrize("width", [4, 8, 20])
def test_fit__maps_to_narrower_and_to_wider_vectors(width):
    adapter = MatryoshkaAdapter((4, width) if width > 4 else (4,), epochs=1)
    assert adapter.fit(Q, D).transform(Q).shape == (40, width)


def test_fit__shows_a_bar_when_asked(capsys):
    shown = MatryoshkaAdapter(DIMS, epochs=2, batch_size=16, progress=True).fit(Q, D)
    assert "train the adapter" in capsys.readouterr().err
    assert np.array_equal(shown.matrix, FITTED.matrix)


def test_transform__is_linear_float32_and_keeps_one_row_one_row():
    rows = FITTED.transform(Q)
    assert rows.dtype == np.float32
    assert FITTED.transform(Q[3]).shape == (8,)
    assert FITTED.transform(Q[:0]).shape == (0, 8)
    np.testing.assert_allclose(FITTED.transform(Q[3]), rows[3], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(FITTED.transform(2 * Q), 2 * rows, rtol=1e-5, atol=1e-6)


def read_only(x):
    copy = x.copy()
    copy.flags.writeable = False
    return copy


LAYOUTS = {
    "float32": lambda x: x.astype(np.float32),
    "big-endian": lambda x: x.astype(">f8"),
    "fortran": np.asfortranarray,
    "strided": lambda x: np.repeat(x, 2, axis=1)[:, ::2],
    "read-only": read_only,
    "list": lambda x: x.tolist(),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_layouts__give_the_same_map_and_rows(layout):
    adapter = MatryoshkaAdapter(DIMS, epochs=2, batch_size=16)
    adapter.fit(layout(Q), layout(D))
    np.testing.assert_allclose(adapter.matrix, FITTED.matrix, atol=1e-5)
    np.testing.assert_allclose(
        adapter.transform(layout(Q)), FITTED.transform(Q), rtol=1e-4, atol=1e-4
    )


def test_save__then_load_gives_the_same_adapter(tmp_path):
    path = tmp_path / "adapter"
    FITTED.save(path)
    loaded = MatryoshkaAdapter.load(path)
    assert np.array_equal(loaded.transform(Q), FITTED.transform(Q))
    assert repr(loaded) == repr(FITTED) == "MatryoshkaAdapter((2, 4, 8), from 12 dims)"
    again = MatryoshkaAdapter(loaded.dims, epochs=loaded.epochs, batch_size=16)
    assert loaded.batch_size == 16
    assert np.array_equal(again.fit(Q, D).matrix, FITTED.matrix)
    assert list(tmp_path.iterdir()) == [path]


def with_value(x, value):
    bad = x.copy()
    bad[7, 3] = value
    return bad


def new(*args, **kwargs):
    return MatryoshkaAdapter(*(args or (DIMS,)), **kwargs)


BAD = {
    "not paired": (lambda: new().fit(Q, D[:-1]), DimensionError, "40.*39"),
    "widths differ": (lambda: new().fit(Q, D[:, :-1]), DimensionError, "12.*11"),
    "one pair": (lambda: new().fit(Q[:1], D[:1]), DimensionError, "2 pairs"),
    "one axis": (lambda: new().fit(Q[0], D[0]), DimensionError, "axes"),
    "three axes": (lambda: FITTED.transform(Q[None]), DimensionError, "axes"),
    "nan": (lambda: new().fit(with_value(Q, np.nan), D), NonFiniteError, r"\[7\]"),
    "inf": (lambda: new().fit(Q, with_value(D, np.inf)), NonFiniteError, "documents"),
    "beyond float32": (lambda: FITTED.transform(Q * 1e300), NonFiniteError, "x holds"),
    "ints": (lambda: new().fit(Q.astype(int), D), InvalidTypeError, "int64"),
    "bools": (lambda: new().fit(Q, D > 0), InvalidTypeError, "bool"),
    "complex": (lambda: FITTED.transform(Q * 1j), InvalidTypeError, "complex"),
    "objects": (lambda: FITTED.transform(Q.astype(object)), InvalidTypeError, "object"),
    "ragged": (lambda: FITTED.transform([[1.0], [1.0, 2.0]]), InvalidTypeError, "x is"),
    "not fitted": (lambda: new().transform(Q), InvalidArgumentError, "not fitted"),
    "saved unfitted": (lambda: new().save("x"), InvalidArgumentError, "not fitted"),
    "wrong width": (lambda: FITTED.transform(Q[:, :5]), DimensionError, "5 dims.*12"),
    "equal dims": (lambda: new((4, 4)), InvalidArgumentError, "increase"),
    "falling dims": (lambda: new((8, 4)), InvalidArgumentError, "increase"),
    "no dims": (lambda: new(()), InvalidArgumentError, "increase"),
    "zero dim": (lambda: new((0, 4)), InvalidArgumentError, "at least 1"),
    "float dims": (lambda: new((4.0, 8.0)), InvalidTypeError, "integer"),
    "bool dims": (lambda: new((True, 8)), InvalidTypeError, "integer"),
    "dims a number": (lambda: new(64), InvalidTypeError, "64"),
    "temperature 0": (lambda: new(temperature=0), InvalidArgumentError, "above 0"),
    "temperature a word": (lambda: new(temperature="warm"), InvalidTypeError, "number"),
    "no rate": (lambda: new(learning_rate=np.nan), InvalidArgumentError, "above 0"),
    "no epochs": (lambda: new(epochs=0), InvalidArgumentError, "epochs"),
    "batch of 1": (lambda: new(batch_size=1), InvalidArgumentError, "batch_size"),
    "seed below 0": (lambda: new(seed=-1), InvalidArgumentError, "seed"),
}


@pytest.mark.parametrize(("act", "error", "words"), BAD.values(), ids=BAD)
def test_bad_input__gives_one_clear_error(act, error, words):
    with pytest.raises(error, match=words) as raised:
        act()
    assert isinstance(raised.value, FunnelError)
    assert isinstance(raised.value, ValueError | TypeError)


def cut_file(path):
    FITTED.save(path)
    path.write_bytes(path.read_bytes()[:-200])


def npz(**arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


FOREIGN = {
    "text": lambda path: path.write_text("not an adapter"),
    "empty": lambda path: path.touch(),
    "a folder": lambda path: path.mkdir(),
    "cut": cut_file,
    "pickled": lambda path: path.write_bytes(npz(matrix=np.array([{}]))),
    "other arrays": lambda path: path.write_bytes(npz(x=Q)),
}


@pytest.mark.parametrize("write", FOREIGN.values(), ids=FOREIGN)
def test_load__refuses_foreign_and_damaged_files(write, tmp_path):
    path = tmp_path / "adapter.npz"
    write(path)
    with pytest.raises(NotAnIndexError, match="no adapter's file"):
        MatryoshkaAdapter.load(path)


def test_load__says_when_nothing_is_there(tmp_path):
    with pytest.raises(IndexNotFoundError, match="no adapter at"):
        MatryoshkaAdapter.load(tmp_path / "missing.npz")


def test_save__says_when_the_disk_refuses(tmp_path):
    with pytest.raises(StorageError, match="cannot write"):
        FITTED.save(tmp_path / "missing" / "adapter.npz")
