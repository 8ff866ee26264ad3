"""What a tensor was made of, by the graph that PyTorch keeps for its gradients."""

from collections.abc import Container, Iterator
from typing import Any


def upstream(made_by: Any, ends: Container[Any] = ()) -> Iterator[Any]:
    """Yield the function that made a tensor, and all those before it, each once; nothing is looked at behind an end."""
    ahead, met = [made_by], {made_by}
    while ahead:
        node = ahead.pop()
        yield node
        if node not in ends:
            new = {before for before, _ in node.next_functions if before is not None} - met
            met |= new
            ahead.extend(new)
