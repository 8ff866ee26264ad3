"""Feature maps as masks over the picture, and what those that were not tried leave open."""
