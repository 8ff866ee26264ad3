"""Methods that carry a signal back to the pixels by rules of their own."""
