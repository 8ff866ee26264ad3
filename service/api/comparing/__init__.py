"""`POST /compare`: the route, and what its answers can be sent as."""
