"""The type of an array in a kernel's signature; shapes and dtypes are in the words."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]

# A norm below this is zero: its inverse would overflow.
TINY = np.finfo(np.float32).tiny
HUGE = np.finfo(np.float32).max
