"""Write text with a causal LM: model, cache, attention, packing, the rules of acceptance."""
