"""Crash tests and others: `python -m reliability` runs all; `funnel` imports none."""
