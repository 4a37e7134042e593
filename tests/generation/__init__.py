"""Tests of generation: steps, loops, and what a run returns."""
