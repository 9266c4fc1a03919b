"""Real generation with causal LMs of transformers: models, prompts, heads, training, the engine."""
