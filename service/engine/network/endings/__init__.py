"""What a network does last: a function of its logits, and what rounds or leaves out some of its results."""
