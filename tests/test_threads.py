"""How a batch is cut into pieces and shared among threads."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from funnel.errors import ClosedError
from funnel.kernels.knobs import TOGETHER
from funnel.threads import LAST, Threads, pieces


@given(st.integers(1, 20_000), st.integers(2, 64))
def test_pieces__are_all_queries_in_ever_shorter_slices(count: int, threads: int):
    cut = list(pieces(count, threads))
    edges = [cut[0][0], *(stop for _, stop in cut)]
    assert (edges[0], edges[-1]) == (0, count)
    assert [(a, b) for a, b in itertools.pairwise(edges)] == cut
    sizes = [stop - start for start, stop in cut]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] <= max(1, count // (2 * threads)) + TOGETHER
    assert sizes[-1] <= count // (LAST * threads) + TOGETHER
    if count >= 2 * TOGETHER * threads:
        assert all(size % TOGETHER == 0 for size in sizes[:-1])
        assert len(sizes) >= 2 * threads


def test_share__runs_every_piece_once_in_any_thread():
    pool = Threads()
    found = pool.share(1000, 2, lambda start, stop: range(start, stop))
    assert sorted(itertools.chain(*found)) == list(range(1000))
    assert pool.share(7, 1, lambda start, stop: (start, stop)) == [(0, 7)]
    pool.close()
    with pytest.raises(ClosedError):
        pool.share(1000, 2, lambda start, stop: None)


def test_share__raises_what_a_piece_raised():
    pool = Threads()

    def work(start: int, stop: int) -> None:
        raise ValueError(start)

    with pytest.raises(ValueError, match=r"\d"):
        pool.share(1000, 2, work)
    pool.close()
