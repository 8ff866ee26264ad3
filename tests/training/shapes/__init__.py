"""Small networks of five tasks, trained on painted shapes: where what they see is, is known to the pixel."""
