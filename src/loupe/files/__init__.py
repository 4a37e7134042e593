"""Keep graphs past the process: what users save, load, compare and share."""
