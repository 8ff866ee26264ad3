"""Where in what a network answers inside the picture's places are."""
