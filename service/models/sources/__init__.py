"""Where networks come from: one file a source, each found by what it is called in `SOURCE[=default|random|FILE]`."""

from service.models.sources.base import Network, Source, Wish, find, sources, split

__all__ = ["Network", "Source", "Wish", "find", "sources", "split"]
