"""Requests on their way: over HTTP or within the process, once and again, and what comes back of streams."""
