"""Lay codes out as tiles: in memory, or in a file where they are many.

Tiles of all cells are a second copy of the codes. Where that is large it goes to a file
without a name, which the system may write out and read again, and which is gone with
its map. Called by `cells.py`.
"""

from __future__ import annotations

import mmap
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt

from funnel.kernels.tiles import LANES, tiles_of

Int8s = npt.NDArray[np.int8]
Int32s = npt.NDArray[np.int32]
Tiles = npt.NDArray[np.uint8]
IN_MEMORY_BYTES = 1 << 29  # of tiles; from memory they are read with fewer page walks
PIECE = 4_096  # tiles that are written at a time


def lay_out(codes: Int8s, members: Int32s, folder: Path) -> Tiles:
    """Return tiles of the codes of `members`, read-only.

    Parameters
    ----------
    codes : (n, w) int8
    members : (16 t,) int32
        The node at each place, −1 for none.
    folder : Path
        Where many tiles go: on the disk that takes the index.

    Returns
    -------
    (t, 16 w) uint8

    Raises
    ------
    OSError
        If the disk is full. A map of room that is not there would end the process.
    """
    shape = len(members) // LANES, LANES * codes.shape[1]
    if shape[0] * shape[1] <= IN_MEMORY_BYTES:
        tiles = tiles_of(codes, members)
        tiles.flags.writeable = False
        return tiles
    with tempfile.TemporaryFile(dir=folder) as file:
        for start in range(0, len(members), PIECE * LANES):
            some = members[start : start + PIECE * LANES]
            file.write(tiles_of(codes, some).tobytes())
        file.flush()
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return np.frombuffer(mapped, np.uint8).reshape(shape)
