"""Compare every byte of an index with the checksums in its manifest."""

from __future__ import annotations

from pathlib import Path

from funnel.errors import CorruptIndexError
from funnel.store.commit import DATA
from funnel.store.manifest import Manifest
from funnel.store.matrix import hash_file


def check_hashes(folder: Path, manifest: Manifest) -> None:
    """Raise `CorruptIndexError` for the first file that is not what was written."""
    for entry in manifest.all_files():
        path = folder / DATA / entry.name
        if hash_file(path) != entry.xxh3:
            raise CorruptIndexError(f"{path} does not match its checksum")
