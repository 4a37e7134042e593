"""Hold what users construct to the modules and models that it wraps."""
