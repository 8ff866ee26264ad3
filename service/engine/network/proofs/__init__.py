"""What a few forwards at load prove of a network by numbers, whatever its architecture is called."""
