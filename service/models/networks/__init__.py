"""What is done to a network before it is served: its form, its random weights, and why it cannot be."""
