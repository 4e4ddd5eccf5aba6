"""Other libraries' own tests, run over `funnel`: `python -m tests.compat.run`."""
