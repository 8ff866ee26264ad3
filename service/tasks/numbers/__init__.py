"""What a network answers, as numbers alone."""
