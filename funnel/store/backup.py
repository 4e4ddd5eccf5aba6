"""Copy one version of an index, whole and checked, to another directory."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from funnel.errors import CorruptIndexError
from funnel.store.commit import DATA, publish
from funnel.store.disk import storing
from funnel.store.manifest import Manifest
from funnel.store.matrix import hash_file


def copy_version(folder: Path, manifest: Manifest, target: Path) -> None:
    """Copy the files of a version to the new index directory `target`, and publish it.

    Raises
    ------
    CorruptIndexError
        Naming the first file whose bytes are not what was written.
    """
    for entry in manifest.all_files():
        copied = target / DATA / entry.name
        with storing(target):
            shutil.copyfile(folder / DATA / entry.name, copied)
        if hash_file(copied) != entry.xxh3:
            raise CorruptIndexError(f"{folder / DATA / entry.name} is damaged")
    publish(target, replace(manifest, version=1, parent=0))
