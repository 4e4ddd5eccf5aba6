"""What `funnel` does not offer, said by a shim to whoever runs another suite's test.

Called by the shims; `plugin.py` reads what was said while a test ran.
"""

from __future__ import annotations

said: list[str] = []  # the reasons since the test began, swallowed ones too


class NotApplicableError(NotImplementedError):
    """A call that has no counterpart in `funnel`, and why.

    A test may expect any exception and swallow this one: so it is also noted down, and
    the test does not count as passed.

    Parameters
    ----------
    reason : str
        One plain line.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        said.append(reason)
