"""Exact rows of pictures with one box changed: only what the box can reach is computed again."""
