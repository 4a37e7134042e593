"""Measure what loupe costs beside hooks written by hand: `python benchmarks/run.py`."""
