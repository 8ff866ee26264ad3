"""How notebooks show answers."""
