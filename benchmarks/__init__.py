"""Measure what loupe costs beside hooks written by hand: `python -m benchmarks.run`."""
