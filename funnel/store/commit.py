"""Publish a version of an index, and find the newest one.

A version is a manifest, linked to its name when all that it names is durable.
"""

from __future__ import annotations

import os
import re
import struct
import time
import uuid as uuids
import zlib
from collections.abc import Iterable
from pathlib import Path

from funnel.errors import (
    ConflictError,
    CorruptIndexError,
    FormatVersionError,
    IndexNotFoundError,
    NotAnIndexError,
    UncertainCommitError,
    UnknownVersionError,
)
from funnel.store.disk import reading, storing
from funnel.store.layout import problems
from funnel.store.manifest import MAJOR, MINOR, Manifest
from funnel.store.matrix import FileEntry

MARKER, MANIFESTS, DATA = "FUNNEL", "manifest", "data"
VERSION = re.compile(r"[0-9]{20}\.fm")
_MARKER_FORMAT = struct.Struct("<8sHH16s32xI")  # 64 bytes; the last 4 a CRC-32
_MARKER_MAGIC = b"FUNNELv1"


def fresh_name() -> str:
    """Return a name that sorts by time and is not used twice."""
    return f"{time.time_ns():016x}{os.urandom(5).hex()}"


def sync(path: Path) -> None:
    """Make a file's bytes, or a directory's entries, durable."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_durably(path: Path, data: bytes, *, synced: bool = True) -> None:
    """Write a new small file and sync it."""
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        if synced:
            os.fsync(file.fileno())


def publish(
    folder: Path,
    manifest: Manifest,
    known: Iterable[FileEntry] = (),
    *,
    durability: str = "full",
) -> None:
    """Make `manifest` the newest version of the index in `folder`.

    Data files are made durable before it, so it is never newer than what it names.

    Parameters
    ----------
    folder : Path
    manifest : Manifest
    known : iterable of FileEntry
        Files that an earlier version made durable.
    durability : {"full", "fast"}
        "fast" syncs nothing: a power cut may take this version and later ones.

    Raises
    ------
    ConflictError
        If somebody else has published this version.
    UncertainCommitError
        If the last sync failed: the version may or may not survive a power cut.
    """
    with storing(folder):
        _publish(folder, manifest, known, full=durability == "full")


def _publish(
    folder: Path, manifest: Manifest, known: Iterable[FileEntry], *, full: bool
) -> None:
    if full:
        for entry in set(manifest.all_files()) - set(known):
            sync(folder / DATA / entry.name)
        sync(folder / DATA)
    target = folder / MANIFESTS / f"{manifest.version:020d}.fm"
    draft = folder / MANIFESTS / f".tmp-{fresh_name()}"
    try:
        write_durably(draft, manifest.to_bytes(), synced=full)
        os.link(draft, target)  # fails if somebody published this version
    except FileExistsError as error:
        raise ConflictError(
            f"version {manifest.version} of {folder} was written by somebody else: "
            "open the index again"
        ) from error
    finally:
        draft.unlink(missing_ok=True)
    if full:
        try:
            sync(folder / MANIFESTS)
        except OSError as error:
            if not manifest.parent:  # nobody can open a new index yet
                raise
            raise UncertainCommitError(
                f"version {manifest.version} of {folder} is written, but may not "
                f"survive a power cut: {error}; open the index again"
            ) from error
    if not (folder / MARKER).exists():
        write_durably(folder / MARKER, _marker(manifest.uuid), synced=full)
        if full:
            sync(folder)


def is_published(folder: Path, manifest: Manifest) -> bool:
    """Tell whether a manifest is a version of the index, as far as one can tell.

    Where it cannot be told, it is taken for one: its files are left alone.
    """
    path = folder / MANIFESTS / f"{manifest.version:020d}.fm"
    try:
        return path.read_bytes() == manifest.to_bytes()
    except FileNotFoundError:
        return False
    except OSError:
        return True


def _marker(uuid: str) -> bytes:
    fields = (_MARKER_MAGIC, MAJOR, MINOR, uuids.UUID(uuid).bytes)
    body = _MARKER_FORMAT.pack(*fields, 0)[:-4]
    return body + struct.pack("<I", zlib.crc32(body))


def read_marker(folder: Path) -> str:
    """Return the uuid of the index in `folder`, or raise what is there instead."""
    with reading(folder):
        if not os.path.lexists(folder):
            raise IndexNotFoundError(f"no index at {folder}")
        if not folder.is_dir():
            raise NotAnIndexError(f"{folder} is a file; an index is a directory")
        marker = folder / MARKER
        if not marker.is_file():
            raise NotAnIndexError(_what_is_there(folder))
        data = marker.read_bytes()
        if not data.startswith(_MARKER_MAGIC[:6]):
            raise NotAnIndexError(_what_is_there(folder))
    if len(data) != _MARKER_FORMAT.size:
        raise CorruptIndexError(f"{marker} has {len(data)} bytes, not 64")
    _, major, _, uuid, crc = _MARKER_FORMAT.unpack(data)
    if zlib.crc32(data[:-4]) != crc:
        raise CorruptIndexError(f"{marker} does not match its checksum")
    if major > MAJOR:
        raise FormatVersionError(
            f"{folder} has format {major}; this version of funnel reads up to {MAJOR}:"
            " upgrade funnel-index"
        )
    return str(uuids.UUID(bytes=uuid))


def is_marked(folder: Path) -> bool:
    """Tell whether a directory looks like an index, without reading much of it."""
    marker = folder / MARKER
    try:
        if not marker.is_file():  # reading a pipe would wait for ever
            return False
        with marker.open("rb") as file:
            return file.read(6) == _MARKER_MAGIC[:6]
    except OSError:  # where we may not look, we may not write
        return False


def _what_is_there(folder: Path) -> str:
    names = sorted(p.name for p in folder.iterdir())
    held = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
    return f"{folder} is not a funnel index: it holds {held or 'nothing'}"


def newest_manifest(folder: Path) -> Manifest:
    """Return the newest version of the index in `folder`.

    Raises
    ------
    IndexNotFoundError, NotAnIndexError, FormatVersionError
        If there is no index that this version of funnel can read.
    CorruptIndexError
        If the manifest is damaged, or a file it names is missing or has another size.
    StorageError
        If the system does not let us read.
    """
    return _read(folder, None)


def manifest_of(folder: Path, version: int) -> Manifest:
    """Return a version of the index in `folder` that is still kept.

    Raises
    ------
    UnknownVersionError
        Naming the versions that are kept; and what `newest_manifest` raises.
    """
    return _read(folder, version)


def kept_versions(folder: Path) -> list[int]:
    """Return the numbers of the versions that are kept, rising."""
    kept = folder / MANIFESTS
    names = kept.iterdir() if kept.is_dir() else []
    return sorted(int(p.stem) for p in names if VERSION.fullmatch(p.name))


def _read(folder: Path, version: int | None) -> Manifest:
    """Read a manifest; again, if the files of what was newest were just removed."""
    uuid = read_marker(folder)
    with reading(folder):
        while True:
            numbers = kept_versions(folder)
            if not numbers:
                raise CorruptIndexError(f"{folder} holds no manifest")
            if version is not None and version not in numbers:
                raise UnknownVersionError(
                    f"no version {version} of {folder}: kept are "
                    f"{', '.join(map(str, numbers))}"
                )
            number = numbers[-1] if version is None else version
            try:
                return _read_one(folder, number, uuid)
            except (CorruptIndexError, OSError):
                if kept_versions(folder)[-1:] in ([number], numbers[-1:]):
                    raise


def _read_one(folder: Path, version: int, uuid: str) -> Manifest:
    path = folder / MANIFESTS / f"{version:020d}.fm"
    if not path.is_file():  # reading a pipe would wait for ever
        raise CorruptIndexError(f"{path} is no file")
    manifest = Manifest.from_bytes(path.read_bytes(), str(path))
    if manifest.uuid != uuid or manifest.version != version:
        raise CorruptIndexError(f"{path} belongs to another index or version")
    _check_sense(manifest, path)
    for entry in manifest.all_files():
        _check_size(folder / DATA / entry.name, entry.size)
    return manifest


def _check_sense(manifest: Manifest, path: Path) -> None:
    try:
        found = next(problems(manifest), None)
    except (LookupError, TypeError, ValueError) as error:
        found = str(error)
    if found is not None:
        raise CorruptIndexError(f"{path} makes no sense: {found}")


def _check_size(file: Path, size: int) -> None:
    try:
        found = file.stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        raise CorruptIndexError(f"{file} is missing") from None
    if found != size:
        raise CorruptIndexError(f"{file} has {found:,} bytes; {size:,} were written")
