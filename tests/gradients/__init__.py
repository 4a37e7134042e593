"""Tests of gradients inside a block."""
