"""Lets `python -m service` stand in for the `heatlens` command."""

from service.cli import main

if __name__ == "__main__":
    main()
