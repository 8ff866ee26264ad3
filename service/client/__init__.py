"""For programs that ask a server: needs no PyTorch, and imports nothing else of the service."""
