"""Where requests come in: bodies that are packed, and the path under which a proxy shows the service."""
