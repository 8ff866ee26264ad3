"""What layers answer, and what they look for."""
