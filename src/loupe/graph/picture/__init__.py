"""Arrange a graph for a picture, in numbers and words: what stands where, and what leads where."""
