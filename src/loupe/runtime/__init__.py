"""Read graphs and run them: plan, taps, rows, passes, and runs without data."""
