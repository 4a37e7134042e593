"""Tests of the operations behind the names of the opset: what torch does, against what the table says."""
