"""Stream the activations of many prompts to disk: shards of tensors, resumable, and their reader."""
