"""Tie the names of operations to the torch functions behind them."""
