"""The project's measuring instrument: `python -m tests.bench`."""
