"""What kinds of addresses there are, for all that stands before the routes and treats them apart."""

HEALTH = ("/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready")
"""Probes: asked often, without a key, by whatever name."""
PAGES = ("/", "/docs", "/openapi.json")
"""What browsers read without a key, and all below `/ui/`."""
FIRST = (
    *("predict", "explain", "compare", "models", "methods", "colormaps", "version", "health", "metrics"),
    *("v1", "v2", "docs", "ui", "openapi.json"),
)
"""What the addresses of the service's own begin with."""
