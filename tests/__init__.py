"""Tests of loupe, one file a subject."""
