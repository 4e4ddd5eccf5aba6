"""Progress of long work, in whatever way the caller asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from funnel.errors import InvalidTypeError

Report = Callable[[str, int, int | None], None]


class Progress:
    """Reports steps of long work to a bar, a callable, or nobody.

    Parameters
    ----------
    progress : bool, callable or tqdm class
        True shows tqdm bars where tqdm is installed; a callable is called with the
        step's name, what is done, and the total or None; a tqdm class is used as is.
    """

    def __init__(self, progress: Any = False) -> None:
        self._bars: Any = None
        self._report: Report | None = None
        if progress is True:
            self._bars = _installed_tqdm()
        elif isinstance(progress, type) and hasattr(progress, "update"):
            self._bars = progress
        elif callable(progress):
            self._report = progress
        elif progress is not False and progress is not None:
            raise InvalidTypeError(
                "progress must be a bool, a callable or a tqdm class, not "
                f"{type(progress).__name__}"
            )

    @contextmanager
    def step(self, name: str, total: int | None) -> Iterator[Callable[[int], None]]:
        """Yield a function that is told how much more is done."""
        if self._bars is not None:
            with self._bars(desc=name, total=total, unit="row", unit_scale=True) as bar:
                yield lambda more: bar.update(more)
            return
        done = 0

        def advance(more: int) -> None:
            nonlocal done
            done += more
            if self._report is not None:
                self._report(name, done, total)

        yield advance


def _installed_tqdm() -> Any:
    try:
        from tqdm.auto import tqdm
    except ImportError:
        return None
    return tqdm
