"""Tests of what loupe draws."""
