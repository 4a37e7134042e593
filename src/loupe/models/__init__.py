"""Offer what users construct: a wrapped module, a wrapped language model."""
