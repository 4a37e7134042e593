"""Tests of what a harvest writes to disk, and of how it goes on."""
