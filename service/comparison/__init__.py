"""Several methods on one picture, held against each other by numbers: what `POST /compare` does."""
