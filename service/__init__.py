"""heatlens: answers over HTTP what a vision network sees and why."""

__version__ = "0.1.0"
