"""Crash tests: `python -m reliability.kill` and `.powerloss`; `funnel` imports none."""
