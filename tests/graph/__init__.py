"""Tests of graphs as data: their printed form, their rules, what can be told from them without a run."""
