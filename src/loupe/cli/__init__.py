"""Do from a shell what can be done with a graph's file: show it, run it, validate it."""
