"""Hold and question recorded programs: nodes, graphs, the allowed operations, checks and passes; no torch here."""
