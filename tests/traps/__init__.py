"""Show, for every row of docs/traps.md, that the trap is not there, or ends in an error that says the way out."""
