"""The HTTP face: wire types, routes and errors."""
