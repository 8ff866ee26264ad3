"""The networks that ship with the service."""
