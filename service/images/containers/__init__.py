"""What files of one kind say of their pictures, read before a decoder reads it."""
