"""Generation measured: prompts, rounds, operator times, overheads."""
