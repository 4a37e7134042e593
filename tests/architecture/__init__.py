"""Tests of what holds for the whole package: its floors, and what importing it does."""
