"""Gradients at the input."""
