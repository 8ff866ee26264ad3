"""Numbers about maps: whether a picture's pixels matter to a network as a map says. They know a network as methods do.

What they can tell and what not: on one picture, whether a map orders pixels better than maps that know nothing of the
network. They do not tell whether it shows how the network decides.
"""
