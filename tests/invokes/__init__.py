"""Hold several prompts of one pass to what each gives alone."""
