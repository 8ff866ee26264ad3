"""A network from a layer on: what comes before it is run once a picture, and handed on again."""
