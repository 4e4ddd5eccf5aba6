"""The benchmarks: `python -m benchmarks.run`. Nothing in `funnel` imports them."""
