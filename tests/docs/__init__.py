"""Tests of what the pages say: their programs are run, their tables are compared with the code."""
