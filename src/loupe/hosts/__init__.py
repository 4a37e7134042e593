"""Make models callable with what users pass as prompts; the only place that knows the model libraries."""
