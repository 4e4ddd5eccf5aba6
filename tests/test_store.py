"""The files: valid Arrow, whole or refused, and damage that never crashes.

Three small indexes cover every kind of file between them. Damage is done to copies, and
where it may crash the process, in children of a process of its own.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import itertools
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import textwrap
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pytest
import xxhash
from damage import (
    build_small,
    everything_in,
    flip,
    numbers_of,
    reachable_folder,
    refused,
    resized,
    temporary,  # noqa: F401 every test uses it
    unprivileged,
)

from funnel import FunnelError, FunnelIndex
from funnel.errors import (
    CorruptIndexError,
    FormatVersionError,
    IndexExistsError,
    NotAnIndexError,
    OutOfMemoryError,
    StorageError,
)
from funnel.store.commit import newest_manifest
from funnel.store.lock import writer_lock
from funnel.store.manifest import Manifest
from funnel.store.matrix import BODY_OFFSET, MatrixWriter, map_body

ROWS, DIM, BODY = 1_200, 32, 4096

# Role: its column, as FORMAT.md says, and the index below that has it.
ROLES = {
    "vectors0": ("vector", "rows"),
    "vectors1": ("vector", "blocks"),
    "norms": ("norm", "rows"),
    "codes": ("code", "rows"),
    "links": ("node", "rows"),
    "entries": ("node", "rows"),
    "node_starts": ("start", "rows"),
    "node_rows": ("row", "rows"),
    "lookup": ("key_row", "texts"),
    "axes": ("axis", "texts"),
    "ids": ("id", "blocks"),
    "metadata": (None, "texts"),
    "text ids": (None, "texts"),
}
MATRICES = [role for role, (column, _) in ROLES.items() if column]

build = functools.partial(
    build_small, graph_dim=16, code_dim=16, M=4, ef_construction=40, builder="faiss"
)


def corpus(dim: int = DIM) -> np.ndarray:
    rng = np.random.default_rng(5)
    centres = rng.standard_normal((40, dim))
    x = centres[rng.integers(0, 40, ROWS)] + 0.5 * rng.standard_normal((ROWS, dim))
    return x.astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Built:
    """An index on disk, and what it was built from."""

    path: Path
    x: np.ndarray
    ids: list[Any]

    def file(self, role: str) -> Path:
        manifest = newest_manifest(self.path)
        files = {**manifest.files, **manifest.segments[0].files}
        return self.path / "data" / files["ids" if role == "text ids" else role].name


@pytest.fixture(scope="module")
def indexes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Built]:
    folder = tmp_path_factory.mktemp("store")
    x = corpus()
    x[-100:] = x[:100]  # duplicates share nodes
    wide = corpus(256)
    texts = [f"doc {i}" for i in range(ROWS)]
    numbers = [7 * i - 50 for i in range(ROWS)]
    metadata = {"year": range(ROWS), "title": texts}
    build(x, path=folder / "rows").close()
    build(
        x,
        path=folder / "texts",
        ids=texts,
        metadata=metadata,
        projection="pca",
    ).close()
    build(
        wide,
        path=folder / "blocks",
        ids=numbers,
        dims=(64, 128, 256),
        dtype="float16",
        metric="ip",
    ).close()
    return {
        "rows": Built(folder / "rows", x, list(range(ROWS))),
        "texts": Built(folder / "texts", x, texts),
        "blocks": Built(folder / "blocks", wide.astype("f2").astype("f4"), numbers),
    }


@pytest.fixture
def place(tmp_path: Path, indexes: dict[str, Built]) -> Callable[[str], Built]:
    """Copy an index to where it may be damaged."""

    def placed(name: str) -> Built:
        shutil.copytree(indexes[name].path, tmp_path / name)
        return dataclasses.replace(indexes[name], path=tmp_path / name)

    return placed


# ---- the files are Arrow's


def test_roles__are_all_that_an_index_is_made_of(indexes: dict[str, Built]) -> None:
    found = set()
    for built in indexes.values():
        manifest = newest_manifest(built.path)
        named = {entry.name for entry in manifest.all_files()}
        assert named == {path.name for path in (built.path / "data").iterdir()}
        assert sorted(p.name for p in built.path.iterdir() if p.name != "LOCK") == [
            "FUNNEL",
            "data",
            "manifest",
        ]
        found |= {*manifest.files, *manifest.segments[0].files}
    assert found == set(ROLES) - {"text ids"}


@pytest.mark.parametrize("role", MATRICES)
def test_matrix__is_an_arrow_file_whose_numbers_start_at_4096(
    role: str, indexes: dict[str, Built]
) -> None:
    column, name = ROLES[role]
    built = indexes[name]
    manifest = newest_manifest(built.path)
    entry = {**manifest.files, **manifest.segments[0].files}[role]
    path = built.path / "data" / entry.name
    with pa.ipc.open_file(path) as file:
        assert file.num_record_batches == 1
        batch = file.get_batch(0)
    batch.validate(full=True)
    number = pa.from_numpy_dtype(np.dtype(entry.dtype))
    (field,) = batch.schema
    assert field.name == column
    assert not field.nullable
    assert pa.types.is_fixed_size_list(field.type)
    assert (field.type.list_size, field.type.value_type) == (entry.width, number)
    assert batch.num_rows == entry.rows
    assert batch.column(0).null_count == 0
    values = batch.column(0).flatten().to_numpy()
    data = path.read_bytes()
    assert len(data) == entry.size
    raw = np.frombuffer(data, entry.dtype, entry.rows * entry.width, BODY)
    assert values.tobytes() == raw.tobytes()


@pytest.mark.parametrize("name", ["rows", "texts", "blocks"])
def test_vectors__are_stored_once_and_equal_what_get_gives(
    name: str, indexes: dict[str, Built]
) -> None:
    built = indexes[name]
    manifest = newest_manifest(built.path)
    blocks = manifest.segments[0].blocks
    parts = []
    for i, (start, stop) in enumerate(itertools.pairwise(blocks)):
        with pa.ipc.open_file(built.file(f"vectors{i}")) as file:
            parts.append(numbers_of(file.read_all()))
        assert parts[-1].shape == (ROWS, stop - start)
    stored = np.concatenate(parts, axis=1)
    np.testing.assert_array_equal(stored.astype("f4"), built.x)
    with FunnelIndex.open(built.path) as index:
        got = numbers_of(index.get(built.ids, vectors=True))
    np.testing.assert_array_equal(got, stored)


def test_tables__are_arrow_files_in_batches_of_65536(
    indexes: dict[str, Built],
) -> None:
    built = indexes["texts"]
    with pa.ipc.open_file(built.file("ids")) as file:
        table = file.read_all()
    table.validate(full=True)
    assert table.schema == pa.schema([("id", pa.large_string())])
    assert table.column("id").to_pylist() == built.ids
    with pa.ipc.open_file(built.file("metadata")) as file:
        table = file.read_all()
    table.validate(full=True)
    assert table.to_pydict() == {"year": list(range(ROWS)), "title": built.ids}


def test_tables__are_cut_every_65536_rows(tmp_path: Path) -> None:
    from funnel.store.tables import TableWriter

    writer = TableWriter(tmp_path / "t.arrow")
    for size in (1, 65_535, 65_537, 70_000, 3):
        writer.append(pa.table({"n": np.arange(size)}))
    entry = writer.finish()
    with pa.ipc.open_file(tmp_path / "t.arrow") as file:
        sizes = [file.get_batch(i).num_rows for i in range(file.num_record_batches)]
    assert sizes == [65_536, 65_536, 65_536, 4_468]
    assert (entry.rows, entry.size) == (
        sum(sizes),
        (tmp_path / "t.arrow").stat().st_size,
    )


# ---- the manifest


@pytest.mark.parametrize("name", ["rows", "texts", "blocks"])
def test_manifest__round_trips(name: str, indexes: dict[str, Built]) -> None:
    manifest = newest_manifest(indexes[name].path)
    again = Manifest.from_bytes(manifest.to_bytes(), "again")
    assert again == manifest
    assert again.to_bytes() == manifest.to_bytes()


def manifest_path(folder: Path) -> Path:
    (path,) = (folder / "manifest").iterdir()
    return path


def sealed(body: bytes, major: str = "1") -> bytes:
    digest = xxhash.xxh3_128_hexdigest(body)
    return f"FUNNEL-MANIFEST {major} {len(body)} {digest}\n".encode() + body


def edit(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change a manifest and seal it again, as an enemy or a later version would."""
    edit_file(manifest_path(folder), change)


def edit_file(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Do so in a file."""
    document = json.loads(path.read_bytes().split(b"\n", 1)[1])
    changed = change(document)
    body = json.dumps(document if changed is None else changed).encode()
    path.write_bytes(sealed(body))


@pytest.mark.parametrize("mask", [0x01, 0x20, 0xFF])
def test_manifest__with_any_byte_changed_is_refused(
    mask: int, place: Callable[[str], Built]
) -> None:
    built = place("texts")
    path = manifest_path(built.path)
    data = path.read_bytes()
    for at in range(len(data)):
        damaged = bytearray(data)
        damaged[at] ^= mask
        with pytest.raises((CorruptIndexError, FormatVersionError)):
            Manifest.from_bytes(bytes(damaged), path.name)
        if at % 41 == 0:
            path.write_bytes(damaged)
            with pytest.raises((CorruptIndexError, FormatVersionError)):
                FunnelIndex.open(built.path)


def test_manifest__cut_or_lengthened_is_refused(place: Callable[[str], Built]) -> None:
    built = place("rows")
    path = manifest_path(built.path)
    data = path.read_bytes()
    for damaged in (*resized(data), b"\0" * len(data), b"\n"):
        path.write_bytes(damaged)
        with pytest.raises((CorruptIndexError, FormatVersionError)):
            FunnelIndex.open(built.path)


@pytest.mark.parametrize("mask", [0x01, 0x80, 0xFF])
def test_marker__with_any_byte_changed_is_refused(
    mask: int, place: Callable[[str], Built]
) -> None:
    path = place("rows").path / "FUNNEL"
    assert path.stat().st_size == 64
    for at in range(64):
        flip(path, at, mask)
        with pytest.raises((NotAnIndexError, CorruptIndexError, FormatVersionError)):
            FunnelIndex.open(path.parent)
        flip(path, at, mask)
    FunnelIndex.open(path.parent).close()


def test_marker__cut_or_lengthened_is_refused(place: Callable[[str], Built]) -> None:
    path = place("rows").path / "FUNNEL"
    data = path.read_bytes()
    for damaged in (*resized(data), data[:8]):
        path.write_bytes(damaged)
        with pytest.raises((NotAnIndexError, CorruptIndexError)):
            FunnelIndex.open(path.parent)


def marker(major: int, minor: int, uuid: bytes) -> bytes:
    body = struct.pack("<8sHH16s32x", b"FUNNELv1", major, minor, uuid)
    return body + struct.pack("<I", zlib.crc32(body))


def test_format__newer_major_in_the_marker_asks_for_an_upgrade(
    place: Callable[[str], Built],
) -> None:
    path = place("rows").path / "FUNNEL"
    path.write_bytes(marker(2, 0, path.read_bytes()[12:28]))
    with pytest.raises(FormatVersionError, match=r"format 2.*upgrade"):
        FunnelIndex.open(path.parent)


def test_format__newer_magic_asks_for_an_upgrade(place: Callable[[str], Built]) -> None:
    path = place("rows").path / "FUNNEL"
    body = b"FUNNELv2" + marker(2, 0, path.read_bytes()[12:28])[8:-4]
    path.write_bytes(body + struct.pack("<I", zlib.crc32(body)))
    with pytest.raises(FormatVersionError, match="upgrade"):
        FunnelIndex.open(path.parent)


def test_format__newer_major_in_the_manifest_asks_for_an_upgrade(
    place: Callable[[str], Built],
) -> None:
    path = manifest_path(place("rows").path)
    body = path.read_bytes().split(b"\n", 1)[1]
    path.write_bytes(sealed(body, major="2"))
    with pytest.raises(FormatVersionError, match=r"format 2.*upgrade"):
        FunnelIndex.open(path.parent.parent)


def test_format__unknown_reader_feature_is_refused_by_name(
    place: Callable[[str], Built],
) -> None:
    built = place("rows")
    edit(built.path, lambda d: d["format"]["reader_features"].append("zip"))
    with pytest.raises(FormatVersionError, match=r"zip.*upgrade"):
        FunnelIndex.open(built.path)


def test_format__unknown_writer_feature_does_not_stop_readers(
    place: Callable[[str], Built],
) -> None:
    built = place("rows")
    edit(built.path, lambda d: d["format"]["writer_features"].append("zip"))
    with FunnelIndex.open(built.path) as index:
        assert index.search(built.x[3], k=1).scores[0] > 0.999


def test_format__unknown_writer_feature_stops_writers_by_name(
    place: Callable[[str], Built], tmp_path: Path
) -> None:
    built = place("rows")
    before = dict(everything_in(built.path))
    writer = FunnelIndex.open(built.path, "rw")  # open before somebody newer wrote
    newer = built.path / "manifest" / f"{2:020d}.fm"
    shutil.copy(newer.with_name(f"{1:020d}.fm"), newer)

    def later(document: dict[str, Any]) -> None:
        document["version"], document["parent"] = 2, 1
        document["format"]["writer_features"] += ["zip", "zap"]

    edit_file(newer, later)
    before[str(newer)] = newer.read_bytes()
    for change in (
        lambda: FunnelIndex.open(built.path, "rw"),
        lambda: writer.delete([3]),
        lambda: writer.add(built.x[:2]),
        lambda: writer.compact(),
        lambda: writer.transaction().__enter__(),
        lambda: writer.update_metadata([], {}),
        lambda: FunnelIndex.open(built.path).backup(tmp_path / "copy"),
    ):
        with pytest.raises(FormatVersionError, match=r"zap, zip.*mode='r'.*upgrade"):
            change()
    writer.close()
    (built.path / "LOCK").unlink()  # there before or not: it holds nothing
    before.pop(str(built.path / "LOCK"), None)
    assert dict(everything_in(built.path)) == before
    assert not (tmp_path / "copy").exists()
    with FunnelIndex.open(built.path) as index:
        assert index.search(built.x[3], k=1).scores[0] > 0.999


def test_format__newer_minor_with_fields_we_do_not_know_is_read(
    place: Callable[[str], Built],
) -> None:
    built = place("rows")

    def later(document: dict[str, Any]) -> None:
        document["format"]["minor"] = 7
        document["more"] = [1]
        document["segments"][0]["more"] = 1
        document["segments"][0]["files"]["codes"]["more"] = "x"

    edit(built.path, later)
    with FunnelIndex.open(built.path) as index:
        assert index.search(built.x[3], k=1).scores[0] > 0.999


def reached(document: Any, path: str) -> tuple[Any, str]:
    """Return what holds the last step of a path such as "segments.0.rows", and it."""
    *front, last = path.split(".")
    for step in front:
        document = document[int(step) if isinstance(document, list) else step]
    return document, last


def setting(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        at, last = reached(document, path)
        at[last] = value

    return change


def dropping(*names: str) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        for name in names:
            at, last = reached(document, name)
            del at[last]

    return change


FILES = "segments.0.files"
HOSTILE: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a list": lambda _: [],
    "a number": lambda _: 5,
    "no format": dropping("format"),
    "no rows": dropping("rows"),
    "no segments": dropping("segments"),
    "segments empty": setting("segments", []),
    "segments a text": setting("segments", "abc"),
    "rows a text": setting("rows", "many"),
    "rows negative": setting("rows", -1),
    "rows unlike the segment's": setting("rows", 2 * ROWS),
    "segment's rows beyond its files": setting("segments.0.rows", 10**12),
    "nodes beyond its files": setting("segments.0.nodes", 10**12),
    "full_dim beyond its files": setting("full_dim", 4 * DIM),
    "full_dim huge": setting("full_dim", 2**62),
    "blocks that overlap": setting("segments.0.blocks", [0, 64]),
    "blocks a number": setting("segments.0.blocks", 5),
    "code_dim beyond the codes": setting("code_dim", 4096),
    "norm_dims beyond the norms": setting("norm_dims", [4, 8, 16, 24, 32]),
    "a metric unheard of": setting("metric", "l2"),
    "an id kind unheard of": setting("id_kind", "uuid"),
    "a projection without axes": setting("projection", "pca"),
    "no codes": dropping(f"{FILES}.codes"),
    "no norms": dropping(f"{FILES}.norms"),
    "no vectors": dropping(f"{FILES}.vectors0"),
    "links without entries": dropping(f"{FILES}.entries"),
    "starts without rows": dropping(f"{FILES}.node_rows"),
    "width beyond the file": setting(f"{FILES}.codes.width", 1 << 20),
    "rows beyond the file": setting(f"{FILES}.codes.rows", 1 << 40),
    "rows short of the nodes": setting(f"{FILES}.codes.rows", 5),
    "links short of the nodes": setting(f"{FILES}.links.rows", 5),
    "norms short of the rows": setting(f"{FILES}.norms.rows", 5),
    "node_rows short of the rows": setting(f"{FILES}.node_rows.rows", 5),
    "node_starts short of the nodes": setting(f"{FILES}.node_starts.rows", 5),
    "vectors short of the rows": setting(f"{FILES}.vectors0.rows", 5),
    "a width of another": setting(f"{FILES}.vectors0.width", 8),
    "rows negative in a file": setting(f"{FILES}.codes.rows", -5),
    "a dtype unheard of": setting(f"{FILES}.codes.dtype", "float99"),
    "a dtype of objects": setting(f"{FILES}.codes.dtype", "object"),
    "another dtype": setting(f"{FILES}.links.dtype", "int64"),
    "a file above": setting(f"{FILES}.codes.name", "../FUNNEL"),
    "an absolute name": setting(f"{FILES}.codes.name", "/etc/passwd"),
    "a name with NUL": setting(f"{FILES}.codes.name", "a\0b"),
    "a name that is a number": setting(f"{FILES}.codes.name", 5),
    "an empty name": setting(f"{FILES}.codes.name", ""),
    "no size": dropping(f"{FILES}.codes.size"),
    "version unlike the name": setting("version", 9),
    "another uuid": setting("uuid", "00000000-0000-0000-0000-000000000000"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_manifest__sealed_but_senseless_is_refused(
    name: str, place: Callable[[str], Built]
) -> None:
    built = place("rows")
    edit(built.path, HOSTILE[name])
    with pytest.raises((CorruptIndexError, FormatVersionError)):
        FunnelIndex.open(built.path)


@pytest.mark.parametrize(
    "body",
    [b"", b"null", b"{", b"\xff\xfe", b"[" * 100_000, b'{"a":1,"a":2}', b"NaN"],
    ids=["empty", "null", "cut", "not UTF-8", "deep", "key twice", "NaN"],
)
def test_manifest__sealed_but_not_ours_is_refused(
    body: bytes, place: Callable[[str], Built]
) -> None:
    built = place("rows")
    manifest_path(built.path).write_bytes(sealed(body))
    with pytest.raises((CorruptIndexError, FormatVersionError)):
        FunnelIndex.open(built.path)


def test_manifest__newest_version_counts(place: Callable[[str], Built]) -> None:
    built = place("rows")
    first = newest_manifest(built.path)
    second = dataclasses.replace(first, version=2, parent=1, notes={"second": 1})
    later = built.path / "manifest" / f"{2:020d}.fm"
    later.write_bytes(second.to_bytes())
    (built.path / "manifest" / ".tmp-half-written").write_bytes(b"FUNNEL")
    (built.path / "data" / "named-by-nobody.arrow").write_bytes(b"?")
    with FunnelIndex.open(built.path) as index:
        assert index.info["second"] == 1
        index.verify("full")
    flip(later, 200)
    with pytest.raises(CorruptIndexError, match=later.name):
        FunnelIndex.open(built.path)


# ---- data files


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(
    "harm", ["missing", "empty", "shorter", "longer", "directory", "dangling link"]
)
def test_open__refuses_a_data_file_of_another_size_by_name(
    harm: str, role: str, place: Callable[[str], Built]
) -> None:
    built = place(ROLES[role][1])
    path = built.file(role)
    data = path.read_bytes()
    path.unlink()
    if harm == "directory":
        path.mkdir()
    elif harm == "dangling link":
        path.symlink_to(path.with_name("nowhere"))
    elif harm != "missing":
        kept = {"empty": b"", "shorter": data[:-1], "longer": data + b"\0"}
        path.write_bytes(kept[harm])
    with pytest.raises(CorruptIndexError, match=path.name):
        FunnelIndex.open(built.path)


@pytest.mark.parametrize("name", ["FUNNEL", "manifest", "data"])
@pytest.mark.parametrize("harm", ["missing", "other kind"])
def test_open__refuses_an_index_without_its_parts(
    name: str, harm: str, place: Callable[[str], Built]
) -> None:
    part = place("rows").path / name
    if part.is_dir():
        shutil.rmtree(part)
        if harm == "other kind":
            part.write_bytes(b"")
    else:
        part.unlink()
        if harm == "other kind":
            part.mkdir()
    with pytest.raises((CorruptIndexError, NotAnIndexError)):
        FunnelIndex.open(part.parent)


def test_open__refuses_an_empty_manifest_directory(
    place: Callable[[str], Built],
) -> None:
    built = place("rows")
    manifest_path(built.path).unlink()
    with pytest.raises(CorruptIndexError, match="no manifest"):
        FunnelIndex.open(built.path)


def test_open__refuses_a_manifest_that_is_a_directory(
    place: Callable[[str], Built],
) -> None:
    built = place("rows")
    path = manifest_path(built.path)
    path.unlink()
    path.mkdir()
    with pytest.raises(CorruptIndexError, match=path.name):
        FunnelIndex.open(built.path)


def test_open__refuses_another_indexs_manifest(place: Callable[[str], Built]) -> None:
    one, other = place("rows"), place("texts")
    manifest_path(one.path).write_bytes(manifest_path(other.path).read_bytes())
    with pytest.raises(CorruptIndexError, match="another index"):
        FunnelIndex.open(one.path)


def test_open__refuses_swapped_files(place: Callable[[str], Built]) -> None:
    built = place("rows")
    codes, links = built.file("codes"), built.file("links")
    assert codes.stat().st_size != links.stat().st_size
    spare = codes.with_name("spare")
    codes.rename(spare)
    links.rename(codes)
    spare.rename(links)
    with pytest.raises(CorruptIndexError, match="bytes"):
        FunnelIndex.open(built.path)


def test_verify__notices_a_file_of_another_index_of_the_same_size(
    place: Callable[[str], Built], tmp_path: Path
) -> None:
    built = place("rows")
    build(built.x[::-1].copy(), path=tmp_path / "other").close()
    other = dataclasses.replace(built, path=tmp_path / "other")
    assert (
        other.file("vectors0").stat().st_size == built.file("vectors0").stat().st_size
    )
    shutil.copy(other.file("vectors0"), built.file("vectors0"))
    with FunnelIndex.open(built.path) as index:
        index.verify("size")
        with pytest.raises(CorruptIndexError, match="checksum"):
            index.verify("full")


@pytest.mark.parametrize("name", ["rows", "texts", "blocks"])
def test_verify__passes_on_an_intact_index(
    name: str, indexes: dict[str, Built]
) -> None:
    with FunnelIndex.open(indexes[name].path) as index:
        index.verify()
        index.verify("size")
        index.verify("full")


@pytest.mark.parametrize(
    "place_in_file", ["first byte", "framing", "body", "last byte"]
)
@pytest.mark.parametrize("role", ROLES)
def test_verify__notices_one_flipped_bit_in_every_kind_of_file(
    role: str, place_in_file: str, place: Callable[[str], Built]
) -> None:
    built = place(ROLES[role][1])
    path = built.file(role)
    size = path.stat().st_size
    at = {"first byte": 0, "framing": 700, "body": size // 2, "last byte": size - 1}
    with FunnelIndex.open(built.path) as index:
        flip(path, at[place_in_file] % size, 0x10)
        index.verify("size")
        with pytest.raises(CorruptIndexError, match=path.name):
            index.verify("full")
    # An entry that is no node is noticed at opening already.
    with (
        pytest.raises(CorruptIndexError, match=path.name),
        FunnelIndex.open(built.path) as index,
    ):
        index.verify("full")


@pytest.mark.parametrize("part", ["FUNNEL", "manifest"])
def test_verify__notices_damage_beside_the_data(
    part: str, place: Callable[[str], Built]
) -> None:
    built = place("rows")
    path = built.path / "FUNNEL" if part == "FUNNEL" else manifest_path(built.path)
    with FunnelIndex.open(built.path) as index:
        flip(path, 40)
        for level in ("size", "full"):
            with pytest.raises(CorruptIndexError, match=path.name):
                index.verify(level)


def test_verify__names_a_file_that_went_missing(place: Callable[[str], Built]) -> None:
    built = place("rows")
    with FunnelIndex.open(built.path) as index:
        path = built.file("norms")
        path.unlink()
        with pytest.raises(CorruptIndexError, match=path.name):
            index.verify("full")


def test_tables__are_hashed_before_arrow_parses_them(
    place: Callable[[str], Built],
) -> None:
    for role, read in (
        ("metadata", lambda index: index.get(["doc 3"])),
        ("text ids", lambda index: index.search(corpus()[0])),
    ):
        built = place("texts")
        path = built.file(role)
        flip(path, path.stat().st_size // 2)
        with (
            FunnelIndex.open(built.path) as index,
            pytest.raises(CorruptIndexError, match=path.name),
        ):
            read(index)
        shutil.rmtree(built.path)


# ---- what is not an index

FOREIGN: dict[str, list[str]] = {
    "empty": [],
    "a README": ["README.md"],
    "hnswlib": ["index.bin", "index_meta.json"],
    "faiss": ["index.faiss", "index.pkl"],
    "lance": ["_transactions/0-a.txn", "_versions/1.manifest", "data/0.lance"],
    "chroma": ["chroma.sqlite3", "6f3a/data_level0.bin", "6f3a/header.bin"],
    "an empty FUNNEL": ["FUNNEL"],
    "data and manifest alone": ["data/x.arrow", "manifest/1.fm"],
}


@pytest.fixture(params=FOREIGN)
def foreign(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    folder = tmp_path / "foreign"
    folder.mkdir()
    for name in FOREIGN[request.param]:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"")
    return folder


def test_open__names_what_a_foreign_directory_holds(foreign: Path) -> None:
    names = [path.name for path in foreign.iterdir()]
    with refused(NotAnIndexError, "not a funnel index", *names):
        FunnelIndex.open(foreign)


def test_build__never_touches_a_foreign_directory(foreign: Path) -> None:
    before = everything_in(foreign.parent)
    with pytest.raises(IndexExistsError):
        build(corpus(), path=foreign)
    with pytest.raises(NotAnIndexError):
        build(corpus(), path=foreign, overwrite=True)
    assert everything_in(foreign.parent) == before


@pytest.mark.parametrize("where", ["FUNNEL", "manifest/1.fm"])
def test_open__does_not_wait_for_a_pipe(
    where: str, place: Callable[[str], Built]
) -> None:
    built = place("rows")
    path = built.path / "FUNNEL" if where == "FUNNEL" else manifest_path(built.path)
    path.unlink()
    os.mkfifo(path)
    outcome: list[Any] = []

    def attempt() -> None:
        try:
            FunnelIndex.open(built.path)
        except FunnelError as error:
            outcome.append(error)

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(2)
    waiting = thread.is_alive()
    if waiting:
        with path.open("wb"):  # let it go
            pass
        thread.join()
    assert not waiting, "open waits for a pipe that nobody writes to"
    assert isinstance(outcome[0], (NotAnIndexError, CorruptIndexError))


# ---- half-built indexes


def test_build__that_fails_in_the_graph_leaves_the_path_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise MemoryError("no room for a graph")

    with monkeypatch.context() as patch:
        patch.setattr(faiss, "IndexHNSWFlat", fail)
        with pytest.raises(OutOfMemoryError, match="no room"):
            build(corpus(), path=tmp_path / "x")
    assert not list(tmp_path.iterdir())
    build(corpus(), path=tmp_path / "x").close()


KILLED = """
import os, sys
import numpy as np
from funnel import FunnelIndex

folder, step = sys.argv[1:]
x = np.random.default_rng(0).standard_normal((5000, 32)).astype("f4")

def stop(name, done, total):
    if name == step:
        os._exit(9)

FunnelIndex.build(
    x, path=folder + "/x", projection="prefix", threads=1, builder="faiss",
    overwrite=True, ids=list(range(5000)), progress=stop,
)
"""


@pytest.mark.parametrize("replacing", [False, True])
@pytest.mark.parametrize("step", ["writing", "graph"])
def test_build__that_is_killed_is_never_openable(
    step: str, replacing: bool, tmp_path: Path
) -> None:
    if replacing:
        build(corpus(), path=tmp_path / "x").close()
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path), step],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 9, done.stderr
    left = [path for path in tmp_path.iterdir() if path.name != "x"]
    assert left, "the killed build had written nothing yet"
    for path in left:
        with pytest.raises(NotAnIndexError):
            FunnelIndex.open(path)
    if replacing:
        with FunnelIndex.open(tmp_path / "x") as index:
            index.verify("full")
            assert len(index) == ROWS
    else:
        assert not (tmp_path / "x").exists()
        build(corpus(), path=tmp_path / "x").close()


def test_matrix__holds_more_than_two_billion_numbers(tmp_path: Path) -> None:
    rows, width, path = (1 << 31) // 64 + 5, 64, tmp_path / "codes.arrow"
    writer = MatrixWriter(path, "code", width, "int8")
    with path.open("r+b") as file:  # holes: they take no room on the disk
        file.seek(BODY_OFFSET + (rows - 1) * width)
        file.write(bytes(range(width)))
    writer.rows, writer._held = rows, bytearray()
    writer._file.seek(0, os.SEEK_END)
    entry = writer.finish()
    assert entry.rows == rows
    assert map_body(path, rows, width, "int8")[-1].tolist() == list(range(width))
    with pa.memory_map(str(path)) as source:
        column = pa.ipc.open_file(source).get_batch(0).column(0)
        assert len(column) == rows
        assert column[rows - 1].as_py() == list(range(width))


@pytest.mark.parametrize("pieces", [[3000], [1, 1, 2998], [700] * 4 + [200], [1] * 90])
def test_matrix__is_the_same_written_in_any_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pieces: list[int]
) -> None:
    rows = np.random.default_rng(0).integers(0, 99, (sum(pieces), 13)).astype(np.int8)
    whole = MatrixWriter(tmp_path / "whole.arrow", "code", 13, "int8")
    whole.append(rows)
    expected = whole.finish()
    monkeypatch.setattr("funnel.store.matrix.HUGE_PAGE_BYTES", 8192)
    writer, ends = MatrixWriter(tmp_path / "parts.arrow", "code", 13, "int8"), []
    plain = writer._write
    monkeypatch.setattr(
        writer, "_write", lambda piece: (plain(piece), ends.append(writer._at))
    )
    for piece in np.split(rows, np.cumsum(pieces)[:-1]):
        writer.append(piece)
    assert all(end % 8192 == 0 for end in ends)
    np.testing.assert_array_equal(writer.flushed(), rows)
    found = writer.finish()
    assert (found.size, found.xxh3) == (expected.size, expected.xxh3)


def test_build__removes_what_a_killed_one_left(tmp_path: Path) -> None:
    old, young, held = (tmp_path / f".funnel-{i}.building" for i in range(3))
    for left in (old, young, held):
        (left / "data").mkdir(parents=True)
        (left / "data" / "vectors").write_bytes(b"0" * 99)
    with writer_lock(held, 0):
        for left in (old, held):
            os.utime(left, (0, 0))
        build(corpus(), path=tmp_path / "x").close()
    assert not old.exists(), "nobody holds it, and it is old"
    assert young.exists(), "whoever made it may be about to lock it"
    assert held.exists(), "somebody is building in it"


def test_build__without_its_marker_is_never_openable(
    place: Callable[[str], Built],
) -> None:
    built = place("rows")
    (built.path / "FUNNEL").unlink()
    with pytest.raises(NotAnIndexError):
        FunnelIndex.open(built.path)


def test_build__into_a_place_taken_meanwhile_replaces_nothing(tmp_path: Path) -> None:
    def batches() -> Iterator[np.ndarray]:
        yield corpus()
        (tmp_path / "x").mkdir()
        (tmp_path / "x" / "theirs").write_text("mine")
        yield corpus()

    with pytest.raises(IndexExistsError):
        build(batches(), path=tmp_path / "x")
    assert [p.name for p in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x" / "theirs").read_text() == "mine"


def test_overwrite__of_what_was_replaced_meanwhile_by_a_foreign_directory(
    tmp_path: Path,
) -> None:
    build(corpus()[:50], path=tmp_path / "x").close()

    def batches() -> Iterator[np.ndarray]:
        yield corpus()
        shutil.rmtree(tmp_path / "x")
        (tmp_path / "x").mkdir()
        (tmp_path / "x" / "theirs").write_text("mine")
        yield corpus()

    with pytest.raises((IndexExistsError, NotAnIndexError)):
        build(batches(), path=tmp_path / "x", overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x" / "theirs").read_text() == "mine"


# ---- overwrite


def test_overwrite__replaces_an_index_and_open_handles_keep_theirs(
    tmp_path: Path,
) -> None:
    x = corpus()
    build(x[:50], path=tmp_path / "x").close()
    with FunnelIndex.open(tmp_path / "x") as old:
        before = old.search(x[:3], k=5, mode="exact")
        with build(x, path=tmp_path / "x", overwrite=True) as new:
            assert len(new) == ROWS
        assert [p.name for p in tmp_path.iterdir()] == ["x"]
        after = old.search(x[:3], k=5, mode="exact")
        np.testing.assert_array_equal(after.ids, before.ids)
    with FunnelIndex.open(tmp_path / "x") as index:
        assert len(index) == ROWS
        index.verify("full")


def test_overwrite__of_nothing_builds(tmp_path: Path) -> None:
    build(corpus(), path=tmp_path / "x", overwrite=True).close()
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_overwrite__through_a_link_leaves_no_litter(tmp_path: Path) -> None:
    build(corpus()[:50], path=tmp_path / "real").close()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    build(corpus(), path=tmp_path / "link", overwrite=True).close()
    assert {p.name for p in tmp_path.iterdir()} <= {"real", "link"}
    with FunnelIndex.open(tmp_path / "link") as index:
        assert len(index) == ROWS


def test_overwrite__that_fails_keeps_the_old_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(corpus()[:50], path=tmp_path / "x").close()
    before = everything_in(tmp_path)

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(faiss, "IndexHNSWFlat", fail)
    with pytest.raises(OSError, match="No space left"):
        build(corpus(), path=tmp_path / "x", overwrite=True)
    assert everything_in(tmp_path) == before


def test_build__without_a_path_leaves_one_temporary_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with build(corpus()) as index:
        assert [index.path] == list(tmp_path.iterdir())
        with FunnelIndex.open(index.path) as again:
            assert len(again) == ROWS


# ---- read-only media


def test_open__needs_no_right_to_write_and_creates_nothing(
    indexes: dict[str, Built],
) -> None:
    with reachable_folder() as folder:
        built = indexes["texts"]
        shutil.copytree(built.path, folder / "x")
        with FunnelIndex.open(built.path) as index:  # what is loaded late, is now
            expected = index.search(built.x[:3], k=5).ids.tolist()
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o555 if path.is_dir() else 0o444)
        before = everything_in(folder)
        with unprivileged():
            if os.access(folder, os.W_OK):
                pytest.skip("this user may write everywhere")
            with FunnelIndex.open(folder / "x") as index:
                assert index.search(built.x[:3], k=5).ids.tolist() == expected
                assert index.get(["doc 3"]).num_rows == 1
                index.verify("full")
        assert everything_in(folder) == before


def test_open__gives_read_only_maps(indexes: dict[str, Built]) -> None:
    with FunnelIndex.open(indexes["rows"].path) as index:
        table = index.to_arrow(vectors=True)
        hits = index.search(indexes["rows"].x[:2], k=3)
        hits.ids[:] = 0  # the answers are the caller's own
        hits.scores[:] = 0
        again = index.search(indexes["rows"].x[:2], k=3)
        assert again.scores.min() > 0
        assert index.to_arrow(vectors=True).equals(table)
        index.verify("full")


# ---- damage never crashes

DAMAGE = """
import json, os, resource, shutil, signal, sys, traceback, warnings
from pathlib import Path
import numpy as np
from funnel import FunnelError, FunnelIndex
from funnel.store.commit import newest_manifest

warnings.simplefilter("ignore")
plan = json.load(sys.stdin)
scratch = Path(plan["scratch"])
queries = {name: np.load(path) for name, path in plan["queries"].items()}
ids = {name: json.loads(Path(p).read_text()) for name, p in plan["ids"].items()}
MODES = ("funnel", "rerank", "prefix_ann", "prefix", "exact")


def use(path, name):
    outcomes = set()

    def attempt(work):
        try:
            work()
            outcomes.add("answer")
        except FunnelError:
            outcomes.add("typed")

    try:
        index = FunnelIndex.open(path)
    except FunnelError:
        return {"typed"}

    def look(mode):
        hits = index.search(queries[name], k=7, mode=mode, threads=1)
        shape = (len(queries[name]), 7)
        assert hits.ids.shape == hits.scores.shape == shape, hits
        if name == "rows":
            assert ((hits.ids >= -1) & (hits.ids < len(ids[name]))).all(), hits.ids

    for mode in MODES:
        attempt(lambda: look(mode))
    attempt(lambda: index.search(queries[name], k=5, ef_search=10**6, threads=1))
    some = ids[name][5::300]
    for one in some:
        attempt(lambda: index.get([one], vectors=True))
    attempt(lambda: [one in index for one in some])
    attempt(lambda: index.to_arrow(vectors=True))
    attempt(lambda: index.verify("full"))
    return outcomes


def damage(path, kind, seed):
    rng = np.random.default_rng(seed)
    data = np.frombuffer(path.read_bytes(), np.uint8).copy()
    body = min(4096, len(data)) if path.suffix == ".arrow" else 0
    if kind == "bit":
        data[rng.integers(len(data))] ^= 1 << rng.integers(8)
    elif kind == "bytes":
        at = rng.integers(0, len(data), 64)
        data[at] = rng.integers(0, 256, 64)
    elif kind in ("zero page", "random page", "ones page"):
        pages = -(-len(data) // 4096)
        start = 4096 * int(rng.integers(pages))
        size = len(data[start : start + 4096])
        fill = {"zero page": 0, "ones page": 255}.get(kind)
        drawn = rng.integers(0, 256, size, dtype=np.uint8)
        data[start : start + 4096] = drawn if fill is None else fill
    elif kind == "random body":
        data[body:] = rng.integers(0, 256, len(data) - body, dtype=np.uint8)
    else:
        width, value = kind
        end = body + (len(data) - body) // width * width
        data[body:end].view(f"i{width}")[:] = value
    path.write_bytes(data.tobytes())


def trial(source, name, file, kind, seed):
    copy = scratch / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(source, copy, copy_function=os.link)
    shutil.copyfile(source / file, scratch / "one")
    os.replace(scratch / "one", copy / file)
    damage(copy / file, kind, seed)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            signal.alarm(20)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            try:
                said = "/".join(sorted(use(copy, name)))
            except BaseException:
                said = "untyped: " + traceback.format_exc(limit=-1)
            os.write(write, said.encode()[:60000])
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        said = pipe.read()
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        said = "died: " + signal.Signals(os.WTERMSIG(status)).name
    return said


for name, source in plan["indexes"].items():  # compile, and see that all is well
    assert use(Path(source), name) == {"answer"}, name
for name, file, kind, seed in plan["trials"]:
    said = trial(Path(plan["indexes"][name]), name, file, kind, seed)
    print(json.dumps([name, file, kind, seed, said]), flush=True)
"""


def outcomes_of(
    trials: list[Any], indexes: dict[str, Built], folder: Path
) -> list[list[Any]]:
    plan: dict[str, Any] = {"scratch": str(folder), "trials": trials}
    plan["indexes"] = {name: str(built.path) for name, built in indexes.items()}
    plan["queries"], plan["ids"] = {}, {}
    for name, built in indexes.items():
        np.save(folder / f"{name}.npy", built.x[:3])
        (folder / f"{name}.json").write_text(json.dumps(built.ids))
        plan["queries"][name] = str(folder / f"{name}.npy")
        plan["ids"][name] = str(folder / f"{name}.json")
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(DAMAGE)],
        input=json.dumps(plan),
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )
    said = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, f"after {len(said)} trials:\n{done.stderr[-3000:]}"
    assert len(said) == len(trials)
    return said


def files_of(indexes: dict[str, Built]) -> list[tuple[str, str]]:
    found = []
    for name, built in indexes.items():
        found += [(name, "FUNNEL"), (name, f"manifest/{1:020d}.fm")]
        manifest = newest_manifest(built.path)
        found += [(name, f"data/{entry.name}") for entry in manifest.all_files()]
    return found


def crashes_of(said: list[list[Any]]) -> str:
    bad = [
        f"{name} {file.split('.', 1)[-1]} {kind} {seed}: {' '.join(what.split())}"
        for name, file, kind, seed, what in said
        if what.startswith(("died", "untyped")) or not what
    ]
    return f"{len(bad)} of {len(said)}:\n" + "\n".join(bad) if bad else ""


def test_damage__of_random_bytes_and_pages_never_crashes(
    indexes: dict[str, Built], tmp_path: Path
) -> None:
    files = files_of(indexes)
    kinds = ["bit", "bytes", "zero page", "random page", "ones page", "random body"]
    trials = [
        [*files[i % len(files)], kinds[i // len(files) % len(kinds)], i]
        for i in range(300)
    ]
    said = outcomes_of(trials, indexes, tmp_path)
    assert not crashes_of(said), crashes_of(said)
    assert {"answer" in what for *_, what in said} == {True, False}


def test_damage__to_extreme_numbers_never_crashes(
    indexes: dict[str, Built], tmp_path: Path
) -> None:
    kinds = [[4, -2], [4, 2**31 - 1], [4, -(2**31)], [4, 1 << 24]]
    kinds += [[8, 2**63 - 1], [8, -1], [8, ROWS]]
    files = [f for f in files_of(indexes) if f[1].startswith("data/")]
    trials = [[*file, kind, 0] for file in files for kind in kinds]
    said = outcomes_of(trials, indexes, tmp_path)
    assert not crashes_of(said), crashes_of(said)


def test_damage__harness_sees_a_crash_as_a_crash(
    indexes: dict[str, Built], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suicidal = DAMAGE.replace(
        "    try:\n        index = FunnelIndex.open(path)",
        "    if 'copy' in str(path): os.kill(os.getpid(), signal.SIGSEGV)\n"
        "    try:\n        index = FunnelIndex.open(path)",
    )
    assert suicidal != DAMAGE
    monkeypatch.setattr(sys.modules[__name__], "DAMAGE", suicidal)
    said = outcomes_of([["rows", "FUNNEL", "bit", 0]], indexes, tmp_path)
    assert signal.Signals.SIGSEGV.name in crashes_of(said)


# ---- handles


def test_handles__close_their_files(indexes: dict[str, Built]) -> None:
    descriptors = Path("/proc/self/fd")
    if not descriptors.exists():
        pytest.skip("open files are counted in /proc")
    built = indexes["texts"]

    def once() -> None:
        with FunnelIndex.open(built.path) as index:
            index.search(built.x[:3], k=3, threads=2)
            index.get(["doc 1"], vectors=True)

    once()
    before = len(list(descriptors.iterdir()))
    for _ in range(20):
        once()
    assert len(list(descriptors.iterdir())) <= before


def test_open__without_file_descriptors_left_is_a_typed_error(
    indexes: dict[str, Built],
) -> None:
    resource = pytest.importorskip("resource", reason="limits are POSIX's")
    descriptors = Path("/proc/self/fd")
    if not descriptors.exists():
        pytest.skip("open files are counted in /proc")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(path.name) for path in descriptors.iterdir())
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 2, hard))
    try:
        with pytest.raises(OSError, match=r"open files|descriptors") as caught:
            [FunnelIndex.open(indexes["texts"].path) for _ in range(highest + 2)]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert isinstance(caught.value, FunnelError), repr(caught.value)


def test_hits__outlive_their_index(indexes: dict[str, Built]) -> None:
    for built in indexes.values():
        with FunnelIndex.open(built.path) as index:
            table = index.to_arrow(vectors=True)
            some = index.get(built.ids[:3], vectors=True)
            hits = index.search(built.x[:3], k=3)
            kept = copy.deepcopy((hits.ids.tolist(), hits.scores.tolist()))
        del index
        table.validate(full=True)
        some.validate(full=True)
        assert some.column("id").to_pylist() == built.ids[:3]
        assert (hits.ids.tolist(), hits.scores.tolist()) == kept


@pytest.mark.parametrize("row", [ROWS, ROWS + 5, 2**62, -1, -7, -(2**62)])
@pytest.mark.parametrize("name", ["texts", "blocks"])
def test_lookup__that_names_rows_which_do_not_exist_is_damage(
    name: str, row: int, place: Callable[[str], Built]
) -> None:
    built = place(name)
    path = built.file("lookup")
    data = bytearray(path.read_bytes())
    pairs = np.frombuffer(data, np.int64, 2 * ROWS, BODY).reshape(ROWS, 2)
    pairs[:, 1] = row  # keys are kept, so that they are found
    path.write_bytes(data)
    with FunnelIndex.open(built.path) as index:
        for identifier in built.ids[:5]:
            with pytest.raises(FunnelError):
                index.get([identifier])
            with contextlib.suppress(FunnelError):
                assert identifier not in index


# ---- replacing


@pytest.mark.parametrize("exchanges", [True, False], ids=["one step", "two steps"])
@pytest.mark.parametrize("failing", [None, "rename", "sync"])
def test_overwrite__gives_the_new_index_or_keeps_the_old_one(
    exchanges: bool,
    failing: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from funnel.store import place

    path = tmp_path / "x"
    build(corpus(), path=path).close()
    few = corpus()[:40]
    with monkeypatch.context() as patch:
        if not exchanges:
            patch.setattr(place, "exchange", lambda *_: False)
        if failing == "rename":
            patch.setattr(Path, "rename", refuse_second(Path.rename))
        if failing == "sync":
            real = place.sync
            patch.setattr(
                place,
                "sync",
                lambda p: refuse() if p == tmp_path else real(p),
            )
        if failing == "sync" or (failing and not exchanges):
            with pytest.raises((StorageError, KeyboardInterrupt)):
                build(few, path=path, overwrite=True)
            wanted = ROWS
        else:
            build(few, path=path, overwrite=True).close()
            wanted = 40
    assert [p.name for p in tmp_path.iterdir()] == ["x"]
    with FunnelIndex.open(path, "rw") as index:
        index.verify()
        assert len(index) == wanted


def refuse(*_: Any) -> None:
    raise OSError(5, "broken")


def refuse_second(real: Callable[..., Any]) -> Callable[..., Any]:
    """Return a rename that is interrupted the second time, and works the third."""
    calls = []

    def rename(*given: Any) -> Any:
        calls.append(given)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*given)

    return rename
