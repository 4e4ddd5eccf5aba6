"""Indexes of every format version open in this one and answer as they did.

`golden/make_golden.py` makes the one of the present version. The old ones are never
made again: that they open is the promise.
"""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from funnel import FunnelIndex
from funnel.store.commit import newest_manifest
from funnel.store.manifest import MAJOR, FileEntry

GOLDEN = Path(__file__).parent / "golden"
VERSIONS = sorted(path.name for path in GOLDEN.glob("v*"))
MODES = ("funnel", "rerank", "prefix_ann", "prefix", "exact")


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest) -> Path:
    return GOLDEN / request.param


@pytest.fixture
def golden(version: Path) -> Iterator[FunnelIndex]:
    with FunnelIndex.open(version / "index") as index:
        yield index


@pytest.fixture
def answers(version: Path) -> dict[str, Any]:
    with np.load(version / "answers.npz") as file:
        return dict(file)


def maker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("maker", GOLDEN / "make_golden.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_golden__has_an_index_of_every_format_version() -> None:
    assert [f"v{i}" for i in range(1, MAJOR + 1)] == VERSIONS


def test_golden__is_small(version: Path) -> None:
    size = sum(path.stat().st_size for path in version.rglob("*") if path.is_file())
    assert size < 100_000


def test_golden__is_whole(golden: FunnelIndex) -> None:
    golden.verify("full")


@pytest.mark.parametrize("mode", MODES)
def test_golden__answers_as_it_did(
    mode: str, golden: FunnelIndex, answers: dict[str, Any]
) -> None:
    expected = answers[f"{mode}_scores"]
    hits = golden.search(answers["queries"], k=expected.shape[1], mode=mode)
    assert hits.ids.tolist() == answers[f"{mode}_ids"].tolist()
    np.testing.assert_allclose(hits.scores, expected, atol=1e-5)


def test_golden__holds_the_rows_it_was_built_from(
    golden: FunnelIndex, answers: dict[str, Any]
) -> None:
    x = answers["rows"]
    table = golden.to_arrow(vectors=True)
    assert table.column_names == ["id", "parity", "vector"]
    assert table.column("id").to_pylist() == [f"d{i}" for i in range(len(x))]
    assert table.column("parity").to_pylist() == [i % 2 for i in range(len(x))]
    stored = table.column("vector").combine_chunks().flatten()
    np.testing.assert_array_equal(
        stored.to_numpy(zero_copy_only=False).reshape(x.shape), x
    )
    assert golden.get(["d5"]).to_pydict() == {"id": ["d5"], "parity": [1]}


def test_golden__walks_a_graph_over_shared_nodes(golden: FunnelIndex) -> None:
    info = golden.info
    assert info["graph"]["builder"] == "faiss"
    assert info["nodes"] == info["rows"] - 10
    assert (info["projection"], info["dtype"]) != ("prefix", "float32")


def shapes(files: dict[str, FileEntry]) -> dict[str, tuple[int | None, int, str]]:
    """Return rows, width and type of each file; entries may be as many as one likes."""
    return {
        role: (None if role == "entries" else file.rows, file.width, file.dtype)
        for role, file in files.items()
    }


def test_golden__generator_makes_files_of_the_same_shape(
    version: Path, tmp_path: Path
) -> None:
    """What we write today is what the checked-in index of our version looks like."""
    if version.name != f"v{MAJOR}":
        pytest.skip("older formats are read, not written")
    maker().main(tmp_path / "made")
    old, new = (newest_manifest(p / "index") for p in (version, tmp_path / "made"))
    for before, after in (
        (old.files, new.files),
        (old.segments[0].files, new.segments[0].files),
    ):
        assert shapes(before) == shapes(after)
    with (
        np.load(version / "answers.npz") as a,
        np.load(tmp_path / "made" / "answers.npz") as b,
    ):
        np.testing.assert_array_equal(a["exact_ids"], b["exact_ids"])
        np.testing.assert_allclose(a["exact_scores"], b["exact_scores"], atol=1e-5)


def test_golden__generator_never_overwrites(version: Path, tmp_path: Path) -> None:
    shutil.copytree(version, tmp_path / "made")
    with pytest.raises(FileExistsError):
        maker().main(tmp_path / "made")
