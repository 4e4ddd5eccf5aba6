"""Remove versions that are no longer kept, and files that no kept version names.

Nothing that a kept manifest names is ever removed. A reader that has mapped a file
keeps it, whatever happens to its name. Called with the writer's lock held.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from funnel.errors import FunnelError
from funnel.store.commit import DATA, MANIFESTS, kept_versions, sync
from funnel.store.disk import storing
from funnel.store.layout import NAME
from funnel.store.lock import merge_lock
from funnel.store.manifest import Manifest

STALE_S = 600.0  # a file this old that nobody names was left by a writer that died


def collect(folder: Path, keep: int) -> int:
    """Keep the newest `keep` versions; return how many bytes were freed.

    Removes nothing if a version that is to be kept cannot be read.

    Raises
    ------
    StorageError
        If the disk refuses; what is left is removed another time.
    """
    numbers = kept_versions(folder)
    old, kept = numbers[:-keep], numbers[-keep:]
    try:
        named = set().union(*(_names(folder, version) for version in kept))
    except (FunnelError, OSError):
        return 0
    with storing(folder):
        return _remove_files(folder, named, _remove_manifests(folder, old))


def _remove_manifests(folder: Path, versions: list[int]) -> set[str]:
    """Remove old manifests, durably; return the names of their files."""
    names: set[str] = set()
    for version in versions:
        with contextlib.suppress(FunnelError, OSError):  # removed once it is stale
            names |= _names(folder, version)
        _manifest_path(folder, version).unlink(missing_ok=True)
    for path in (folder / MANIFESTS).glob(".tmp-*"):
        path.unlink(missing_ok=True)
    if versions:
        sync(folder / MANIFESTS)  # before any file that they name is gone
    return names


def _remove_files(folder: Path, kept: set[str], known: set[str]) -> int:
    """Remove files that are not kept, if they are known or old; return their bytes."""
    with merge_lock(folder) as alone:  # nobody builds without the writer's lock
        return _remove_unnamed(folder, kept, known, stale=alone)


def _remove_unnamed(
    folder: Path, kept: set[str], known: set[str], *, stale: bool
) -> int:
    freed, now = 0, time.time()
    for path in (folder / DATA).iterdir():
        if path.name in kept or not NAME.fullmatch(path.name):
            continue
        with contextlib.suppress(FileNotFoundError):
            found = path.stat()
            old = stale and now - found.st_mtime > STALE_S
            if path.name in known or old:
                path.unlink()
                freed += found.st_size
    return freed


def _manifest_path(folder: Path, version: int) -> Path:
    return folder / MANIFESTS / f"{version:020d}.fm"


def _names(folder: Path, version: int) -> set[str]:
    """Return the names of the files of a version; does not look at the files."""
    path = _manifest_path(folder, version)
    manifest = Manifest.from_bytes(path.read_bytes(), str(path))
    return {entry.name for entry in manifest.all_files()}
