"""How each method is asked, for type checkers and editors.

What stands here when a program runs is nothing; `methods.pyi`, which `python -m tests.openapi` writes, says for each
method by which names and types its parameters go.
"""

from typing import Any


def typed(function: Any) -> Any:
    """Give a function `(self, method, picture, **options)` the signatures of all methods; it stays what it is."""
    return function
