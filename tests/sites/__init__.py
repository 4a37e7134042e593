"""Hold reads, writes and op taps to what plain hooks do."""
